"""A YOLOv3 detector whose image encoder is frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, TimmWrapperConfig
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel
from transformers.utils import ModelOutput

from .configuration_detection import MedSynDetectionConfig
from .configuration_medsyn import MedSynConfig
from .encoder_weights import load_image_encoder
from .loss_yolo import decode, yolo_loss

STRIDES = (32, 16, 8)
PRIOR = 0.01  # objectness at the start (Lin et al. 2017, section 3.3)


@dataclass
class DetectionOutput(ModelOutput):
    """The output of a detector; candidates are the anchors of every cell, coarsest scale first.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` are given):
            The sum over the three scales.
        loss_dict (`dict`, *optional*, likewise): Its parts `x`, `y`, `w`, `h`, `conf`, `cls`, summed over the scales.
        logits (`torch.FloatTensor` of shape `(images, candidates, classes)`): Of the classes, before a sigmoid.
        objectness (`torch.FloatTensor` of shape `(images, candidates)`): Before a sigmoid.
        pred_boxes (`torch.FloatTensor` of shape `(images, candidates, 4)`):
            Centre x and y, width and height as shares of the square image.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    objectness: torch.FloatTensor | None = None
    pred_boxes: torch.FloatTensor | None = None


def detection_stages(encoder: nn.Module) -> tuple[list[int] | None, list[int]]:
    """Which maps of a timm encoder a detector looks at, coarsest first, and their channels.

    They are the deepest map of a thirty-second, a sixteenth and an eighth of the image: `layer4`, `layer3` and
    `layer2` of a ResNet. `None` and one number stand for an encoder whose maps all have one size, as of a ViT.

    Raises:
        ValueError: timm tells nothing of the encoder's maps, or one of the three is missing.
    """
    stages = list(getattr(encoder, "feature_info", None) or ())
    if stages and len({stage["reduction"] for stage in stages}) == 1:
        return None, [stages[-1]["num_chs"]]
    deepest = {stage["reduction"]: index for index, stage in enumerate(stages)}
    if not deepest.keys() >= set(STRIDES):
        raise ValueError(
            f"the image encoder {type(encoder).__name__} has maps of 1/{', 1/'.join(map(str, deepest))} of the image"
            f" and a detector needs 1/{', 1/'.join(map(str, STRIDES))}; choose one such as resnet50 or a ViT"
        )
    indices = [deepest[stride] for stride in STRIDES]
    return indices, [stages[index]["num_chs"] for index in indices]


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, leaky ReLU of slope 0.1; the map keeps its size."""

    def __init__(self, channels: int, width: int, kernel: int):
        super().__init__(
            nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.1),
        )


class FeaturePyramid(nn.Module):
    """Three maps, coarsest first, of one, as for plain ViTs (Li et al. 2022, section 3): `(images, channels, h, w)`
    to half, once and twice its size."""

    def __init__(self, channels: int):
        super().__init__()
        self.coarse = nn.MaxPool2d(2)
        self.fine = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2, bias=False)  # a BatchNorm follows
        self.channels = [channels, channels, channels // 2]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.coarse(maps[0]), maps[0], self.fine(maps[0])]


class YoloOutput(nn.Conv2d):
    """1 x 1 convolution to 5 numbers and the classes of each anchor; `prior` is the objectness it starts with, where
    given."""

    def __init__(self, channels: int, anchors: int, classes: int, prior: float | None = None):
        self.anchors, self.prior = anchors, prior  # reset_parameters, which super().__init__ calls, reads them
        super().__init__(channels, anchors * (5 + classes), 1)

    @torch.no_grad()
    def reset_parameters(self):
        super().reset_parameters()
        if self.prior is not None:
            self.bias.view(self.anchors, -1)[:, 4] = -math.log(1 / self.prior - 1)


class YoloScale(nn.Module):
    """Six convolutions, 1 x 1 and 3 x 3 in turn, and the output; the fifth is the route to the next scale."""

    def __init__(self, channels: int, width: int, output: YoloOutput):
        super().__init__()
        self.route = nn.Sequential(
            ConvNorm(channels, width, 1),
            ConvNorm(width, 2 * width, 3),
            ConvNorm(2 * width, width, 1),
            ConvNorm(width, 2 * width, 3),
            ConvNorm(2 * width, width, 1),
        )
        self.last = ConvNorm(width, 2 * width, 3)
        self.output = output

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        route = self.route(features)  # (images, width, h, w)
        return self.output(self.last(route)), route


class YoloHead(nn.Module):
    """YOLOv3 on three maps, coarsest first (Redmon and Farhadi 2018, section 2.3)."""

    def __init__(self, channels: list[int], width: int, anchors: int, classes: int, prior: float | None = None):
        super().__init__()
        widths = [width, width // 2, width // 4]
        laterals = [0, width // 2, width // 4]
        self.laterals = nn.ModuleList([ConvNorm(widths[scale - 1], laterals[scale], 1) for scale in (1, 2)])
        outputs = [YoloOutput(2 * width, anchors, classes, prior) for width in widths]
        self.scales = nn.ModuleList(
            [YoloScale(channels[scale] + laterals[scale], widths[scale], outputs[scale]) for scale in range(3)]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        output, route = self.scales[0](maps[0])
        outputs = [output]
        for lateral, scale, features in zip(self.laterals, self.scales[1:], maps[1:], strict=True):
            # to the size of the finer map, which is twice the coarser one unless the image does not divide evenly
            route = nn.functional.interpolate(lateral(route), size=features.shape[2:])
            output, route = scale(torch.cat([route, features], 1))
            outputs.append(output)
        return outputs


class MedSynForObjectDetection(PreTrainedModel):
    """YOLOv3's neck and heads on a frozen image encoder.

    The encoder asks for no gradient and stays in eval mode, BatchNorm included, whatever `train` is told. Since
    nothing changes it, its maps can be computed once: `model(feature_maps=model.encode_maps(pixel_values))` equals
    `model(pixel_values)`.
    """

    # differs from HKU-MedAI/MGCA: there the statistics of the frozen encoder's BatchNorm keep changing

    config_class = MedSynDetectionConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False

    def __init__(self, config: MedSynDetectionConfig):
        super().__init__(config)
        self.vision_model = TimmWrapperModel(config.vision_config)
        self.stages, channels = detection_stages(self.vision_model.timm_model)
        self.pyramid = FeaturePyramid(*channels) if self.stages is None else None
        self.register_buffer("map_scale", torch.ones(len(channels)))
        # differs from HKU-MedAI/MGCA: there half of all candidates of a new head are above the threshold of 0.5, and
        # the chance hits among them can outdo the first epochs that find anything
        prior = PRIOR if config.preset == "fixed" else None
        channels = self.pyramid.channels if self.pyramid else channels
        self.head = YoloHead(channels, config.neck_width, len(config.anchors[0]), config.num_labels, prior)
        self.post_init()
        self.eval()

    def _init_weights(self, module: nn.Module):
        """As torch makes them, but for objectness, see [`YoloOutput`]."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            module.reset_parameters()

    def train(self, mode: bool = True):
        super().train(mode)
        self.vision_model.eval().requires_grad_(False)  # from_pretrained makes parameters anew and calls eval
        return self

    @classmethod
    def from_encoder(
        cls, encoder: nn.Module | str | Path, vision_config: TimmWrapperConfig | None = None, **settings
    ) -> MedSynForObjectDetection:
        """Puts a new neck and head on an encoder.

        Args:
            encoder (`nn.Module`, `str` or `Path`):
                A timm encoder without a head, which is used as it is and not copied; or the folder of a checkpoint of
                ours; or what [`~hub_medsyn.encoder_weights.load_image_encoder`] takes.
            vision_config (`TimmWrapperConfig`, *optional*): Architecture and arguments of an encoder given as module.
            settings: Any of [`MedSynDetectionConfig`].

        Raises:
            ValueError: A module comes without its configuration, an encoder is unknown or has no maps to look at.
        """
        if isinstance(encoder, nn.Module):
            if vision_config is None:
                raise ValueError("an encoder given as a module needs its vision_config, to be saved and built anew")
            module = encoder
        elif (Path(encoder) / "config.json").is_file() and isinstance(
            AutoConfig.from_pretrained(encoder), MedSynConfig
        ):
            vision_model = AutoModel.from_pretrained(encoder).vision_model
            module, vision_config = vision_model.timm_model, vision_model.config
        else:
            module, vision_config = load_image_encoder(str(encoder), settings.get("image_size", 224))
        model = cls(cls.config_class(vision_config=vision_config, **settings))
        model.vision_model.timm_model = module.requires_grad_(False)
        return model.eval()

    @torch.no_grad()
    def encode_maps(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The frozen encoder's maps, coarsest first; of an encoder with maps of one size, the last, normalised.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, image_size, image_size)`): Processed images.

        Returns:
            `tuple[torch.Tensor, ...]`: Three maps, or one, of shape `(images, channels, h, w)`.

        Raises:
            ValueError: If the images have another size than the anchors are for.
        """
        side = self.config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[2:] != (side, side):
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} are not images of {side} x {side} pixels; process "
                f"them with MedSynDetectionImageProcessor(size={side})"
            )
        if self.stages is None:
            last = len(self.vision_model.timm_model.feature_info) - 1
            output = self.vision_model(pixel_values, output_hidden_states=[last], do_pooling=False, norm=True)
            return tuple(output.hidden_states)
        rising = sorted(self.stages)
        output = self.vision_model(pixel_values, output_hidden_states=rising, do_pooling=False)
        maps = dict(zip(rising, output.hidden_states, strict=True))
        return tuple(maps[index] for index in self.stages)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        feature_maps: tuple[Tensor, ...] | None = None,
    ) -> DetectionOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, image_size, image_size)`, *optional*):
                Processed images.
            labels (`list[dict[str, torch.Tensor]]`, *optional*):
                For each image `class_labels` `(n,)` and `boxes` `(n, 4)`, centre x and y, width and height as shares
                of the square image; `n` may be 0.
            feature_maps (`tuple[torch.Tensor, ...]`, *optional*):
                What `encode_maps` returns for the images, in their place.

        Raises:
            ValueError: If there are neither images nor maps, or both, or not one `labels` an image.
        """
        if (pixel_values is None) == (feature_maps is None):
            raise ValueError("pass either pixel_values or feature_maps, one of the two")
        maps = self.encode_maps(pixel_values) if feature_maps is None else feature_maps
        maps = [one / scale for one, scale in zip(maps, self.map_scale, strict=True)]
        outputs = self.head(maps if self.pyramid is None else self.pyramid(maps))
        side = self.config.image_size
        anchors = torch.tensor(self.config.anchors, device=outputs[0].device)  # (scales, anchors, 2)
        candidates = torch.cat([decode(*pair, side) for pair in zip(outputs, anchors, strict=True)], 1)
        loss = parts = None
        if labels is not None:
            if len(labels) != len(maps[0]):
                raise ValueError(f"{len(labels)} labels for {len(maps[0])} images: one each is needed, empty or not")
            losses = self._losses(outputs, anchors, labels)
            loss = sum(scale["total"] for scale in losses)
            parts = {name: sum(scale[name] for scale in losses).detach() for name in losses[0] if name != "total"}
        return DetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=candidates[..., 5:],
            objectness=candidates[..., 4],
            pred_boxes=candidates[..., :4] / side,
        )

    def _losses(self, outputs: list[Tensor], anchors: Tensor, labels: list[dict[str, Tensor]]) -> list[dict]:
        device = outputs[0].device
        counts = torch.tensor([len(label["boxes"]) for label in labels], device=device)
        images = torch.arange(len(labels), device=device).repeat_interleave(counts)  # (boxes,)
        boxes = torch.cat([label["boxes"].reshape(-1, 4) for label in labels])
        classes = torch.cat([label["class_labels"].reshape(-1) for label in labels]).long()
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.config.num_labels:
            raise ValueError(f"class_labels {classes.unique().tolist()} are not all within {self.config.num_labels}")
        return [
            yolo_loss(output, images, boxes, classes, three, self.config.image_size, self.config.preset)
            for output, three in zip(outputs, anchors, strict=True)
        ]
