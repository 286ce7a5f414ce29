"""The configuration of a detector on a frozen image encoder."""

from __future__ import annotations

from transformers import PreTrainedConfig, TimmWrapperConfig

# Width and height in pixels of an image of 416, three a scale, large ones first (Redmon and Farhadi 2018, section 2.3)
COCO_ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
COCO_SIDE = 416


class MedSynDetectionConfig(PreTrainedConfig):
    """Configuration of a [`MedSynForObjectDetection`].

    Args:
        vision_config (`TimmWrapperConfig` or `dict`, *optional*, defaults to a ResNet-50):
            The image encoder: any timm architecture with maps of an eighth, a sixteenth and a thirty-second of the
            image, or with maps of one size, as a ViT.
        image_size (`int`, *optional*, defaults to 224): Side of the square images, in pixels.
        neck_width (`int`, *optional*, defaults to 512):
            Channels of the coarsest scale's 1 x 1 convolutions; the next have a half and a quarter, the 3 x 3
            convolutions twice as many. A multiple of 4.
        anchors (`list`, *optional*, defaults to COCO's, scaled):
            Width and height in pixels of `image_size`, the same number of anchors at each of the three scales, that of
            the coarsest map first.
        preset (`str`, *optional*, defaults to `"fixed"`):
            `official`, the published code, or `fixed`, with the known bugs mended: the rule of
            [`~hub_medsyn.loss_yolo.yolo_loss`], and whether a new head finds nothing (`fixed`) or half of all
            candidates.
        kwargs: `id2label` and whatever else a `PreTrainedConfig` takes; one class, `finding`, by default.

    Raises:
        ValueError: `neck_width`, `anchors` or `preset` is none of these.
    """

    model_type = "medsyn-detection"
    sub_configs = {"vision_config": TimmWrapperConfig}
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ["loss_dict"]

    def __init__(
        self,
        vision_config: TimmWrapperConfig | dict | None = None,
        image_size: int = 224,
        neck_width: int = 512,
        anchors: list | None = None,
        preset: str = "fixed",
        **kwargs,
    ):
        if neck_width < 4 or neck_width % 4:
            raise ValueError(f"neck_width {neck_width} is not a multiple of 4, whose quarter the finest scale has")
        if preset not in ("official", "fixed"):
            raise ValueError(f"preset {preset!r} of {self.model_type} is not one of official, fixed")
        if anchors is None:
            scale = image_size / COCO_SIDE
            anchors = [[[width * scale, height * scale] for width, height in three] for three in COCO_ANCHORS]
        if len(anchors) != 3 or not len(anchors[0]) == len(anchors[1]) == len(anchors[2]) > 0:
            raise ValueError(f"anchors {anchors} are not three lists of equally many (width, height)")
        if not isinstance(vision_config, TimmWrapperConfig):
            # from_dict reads what timm and transformers write; it wants a number of classes even where no head is
            vision_config = TimmWrapperConfig.from_dict({"num_classes": 2, **(vision_config or {})})
        self.vision_config = vision_config
        self.image_size = image_size
        self.neck_width = neck_width
        self.anchors = [[[float(side) for side in anchor] for anchor in scale] for scale in anchors]
        self.preset = preset
        if kwargs.get("id2label") is None and kwargs.get("num_labels") is None:
            kwargs |= {"id2label": {0: "finding"}, "label2id": {"finding": 0}}
        super().__init__(**kwargs)
