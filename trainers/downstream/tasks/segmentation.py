"""A decoder trained on a frozen encoder, and the Dice of the masks that it draws."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.image_processing_medsyn import to_grey
from hub_medsyn.inference.grounding import shown_box
from hub_medsyn.loss_segmentation import mixed_loss
from hub_medsyn.metrics.dice import dice, mask_counts, official_dice
from medsyn.errors import UserError
from trainers.downstream.encoders import FrozenEncoder
from trainers.downstream.images.annotated_images import AnnotatedImages
from trainers.downstream.tasks.head_training import EpochOf, LowestLoss, check_training, training_arguments
from trainers.downstream.tasks.segmentation_models import build_segmenter, decoder_state

TURN, ZOOM, SHARE = 10.0, 0.1, 0.5  # degrees, relative size, and how often: ShiftScaleRotate as MGCA sets it


@dataclass(frozen=True)
class SegmentationSettings:
    """How a decoder is trained; the defaults are MGCA's.

    Args:
        epochs (`int`, *optional*, defaults to 50): At most.
        patience (`int`, *optional*, defaults to 10): Epochs without a lower validation loss that end the training.
            The decoder of the lowest validation loss is kept.
        batch_size (`int`, *optional*, defaults to 16): MGCA takes 16 for RSNA and 8 for SIIM.
        learning_rate (`float`, *optional*, defaults to 5e-4): Of AdamW, constant.
        weight_decay (`float`, *optional*, defaults to 0.05): Of AdamW, on every parameter of the decoder.
        augment (`bool`, *optional*, defaults to `True`): Turn every other training image by up to 10 degrees and scale
            it by up to a tenth, its mask alike.
        decoder_channels (`tuple[int, ...]`, *optional*): For [`build_segmenter`].
        device (`str`, *optional*, defaults to `cpu`): `cpu` or `cuda`.

    Raises:
        UserError: Epochs, patience or batch size are not positive, or there is no such device.
    """

    epochs: int = 50
    patience: int = 10
    batch_size: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    augment: bool = True
    decoder_channels: tuple[int, ...] | None = None
    device: str = "cpu"

    def __post_init__(self):
        check_training(self)


@dataclass(frozen=True)
class SegmentationRun:
    """A trained segmenter and how well it does on the test split.

    Args:
        dice (`np.ndarray` of shape `(test images,)`): Of each image in the order of `images.rows("test")`, at the
            image's own size; 1 or 0 where its true mask is empty.
        metrics (`dict[str, float]`): `dice_per_image`, the mean of `dice`; `dice_dataset`, of the pixels of all test
            images together; `dice_official`, at the network's size, as the mean of batch means.
        model (`nn.Module`): The `smp.Unet` or `smp.DPT`, in eval mode.
        processor ([`MedSynImageProcessor`]): What makes its input; `save_pretrained` beside the model's.
        validation_losses (`tuple[float, ...]`): After each epoch.
    """

    dice: np.ndarray
    metrics: dict[str, float]
    model: nn.Module
    processor: MedSynImageProcessor
    validation_losses: tuple[float, ...]


def train_segmenter(
    encoder: FrozenEncoder, images: AnnotatedImages, rows: np.ndarray, seed: int, settings: SegmentationSettings
) -> SegmentationRun:
    """Trains a decoder on the frozen encoder and measures it on the test split.

    Images and masks are decoded once and kept in memory at the network's size, two bytes a pixel (100 kB an image at
    224 pixels). The encoder's maps are not kept: those of a ResNet-50 take 9 MB an image, and turned images have
    others every epoch.

    Args:
        encoder ([`FrozenEncoder`]): Nothing in it changes.
        images ([`AnnotatedImages`]): With masks.
        rows (`np.ndarray`): The training rows, all of them or a budget's.
        seed (`int`): Of the decoder's first weights, the order of the images, and how they are turned.
        settings ([`SegmentationSettings`]): The rest.

    Returns:
        [`SegmentationRun`]

    Raises:
        UserError: The set has no masks, or one of another size than its image; no training mask has a pixel inside;
            or the loss is not finite.
    """
    if images.mask is None:
        raise UserError(f"{images.name} has boxes and no masks: a segmenter needs masks")
    processor = whole_images(encoder.processor)
    train = ImagesAndMasks(images, rows, processor, seed if settings.augment else None)
    if not train.masks.any():
        raise UserError(
            f"{images.name}: all {len(rows)} training masks are empty (image {images.ids[rows[0]]} is the first), so "
            "there is nothing to learn; take a larger budget, or another finding"
        )
    validation = ImagesAndMasks(images, images.rows("validation"), processor)
    model = build_segmenter(encoder, seed, settings.decoder_channels)
    best = LowestLoss(lambda: decoder_state(model), settings.patience)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=SegmenterWithLoss(model),
            args=training_arguments(
                folder,
                settings,
                seed,
                per_device_eval_batch_size=settings.batch_size,
                label_names=["masks"],
                prediction_loss_only=True,
            ),
            data_collator=train.batch,
            train_dataset=train,
            eval_dataset=validation,
            optimizers=(
                torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay),
                None,
            ),
            callbacks=[best, EpochOf(train)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(OneBar(f"{encoder.name}, {len(rows)} images, seed {seed}"))
        trainer.train()
    model.load_state_dict(best.state, strict=False)
    per_image, metrics = measure(model.eval(), images, processor, settings.batch_size)
    return SegmentationRun(per_image, metrics, model, processor, tuple(best.losses))


def whole_images(processor: MedSynImageProcessor) -> MedSynImageProcessor:
    """The same image processor without a centre crop: what a crop cuts off could not be segmented."""
    return MedSynImageProcessor(
        size=processor.output_size,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        num_channels=processor.num_channels,
    )


@torch.no_grad()
def predict(model: nn.Module, processor: MedSynImageProcessor, images: Sequence) -> tuple[Tensor, list[Tensor]]:
    """What a segmenter says of some images.

    Args:
        model (`smp.Unet` or `smp.DPT`): In eval mode.
        processor ([`MedSynImageProcessor`]): As in [`SegmentationRun`].
        images (`Sequence`): As the processor takes them.

    Returns:
        `tuple[Tensor, list[Tensor]]`: The probability of each pixel of the padded squares `(images, side, side)`, and
        of each pixel of each image `(height, width)`: the square without its padding, brought to the image's size.
    """
    greys = [to_grey(image) for image in images]
    pixels = processor(greys, return_tensors="pt")["pixel_values"]  # (images, channels, side, side)
    squares = model(pixels.to(next(model.parameters()).device))[:, 0].sigmoid().float().cpu()  # (images, side, side)
    probabilities = []
    for square, grey in zip(squares, greys, strict=True):
        left, top, right, bottom = map(int, shown_box(processor, *grey.shape))
        shown = square[None, None, top:bottom, left:right]
        probabilities.append(F.interpolate(shown, grey.shape, mode="bilinear", antialias=True)[0, 0])
    return squares, probabilities


def measure(
    model: nn.Module, images: AnnotatedImages, processor: MedSynImageProcessor, batch_size: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Dice of each test image at its own size, and the metrics of [`SegmentationRun`]."""
    rows, at_image_size, at_network_size = images.rows("test"), [], []
    for start in tqdm(range(0, len(rows), batch_size), desc="measuring Dice", unit="batch", delay=2):
        read = [read_masked_image(images, row, processor) for row in rows[start : start + batch_size]]
        squares, probabilities = predict(model, processor, [one.image for one in read])
        at_image_size.append(mask_counts(probabilities, [one.mask for one in read]))
        at_network_size.append(mask_counts(squares, [one.square_mask for one in read]))
    counts, squares = np.concatenate(at_image_size), np.concatenate(at_network_size)  # (n, 3)
    per_image = dice(counts)
    return per_image, {
        "dice_per_image": float(per_image.mean()),
        "dice_dataset": float(dice(counts.sum(axis=0))),
        "dice_official": official_dice(dice(squares), np.arange(len(rows)) // batch_size),
    }


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask, at their own size and as the network sees them.

    Args:
        image (`np.ndarray` of shape `(height, width)`, uint8): Grey.
        mask (`np.ndarray` of shape `(height, width)`, bool): Inside or not.
        square_image (`np.ndarray` of shape `(side, side)`, uint8): Shrunk and padded.
        square_mask (`np.ndarray` of shape `(side, side)`, bool): Alike; a pixel is inside if half of it is.
    """

    image: np.ndarray
    mask: np.ndarray
    square_image: np.ndarray
    square_mask: np.ndarray


def read_masked_image(images: AnnotatedImages, row: int, processor: MedSynImageProcessor) -> MaskedImage:
    """Decodes the radiograph and the mask of a row.

    Raises:
        UserError: The radiograph cannot be used, or its mask has another size; the radiograph is named.
    """
    image, mask = images.open(row), images.mask(row)
    try:
        radiograph = to_grey(image)
        square = processor.resize_and_pad(radiograph)
    except ValueError as error:
        raise UserError(f"{images.name}: image {images.ids[row]}: {error}") from error
    if mask.shape != radiograph.shape:
        sizes = [f"{one.shape[1]} x {one.shape[0]}" for one in (radiograph, mask)]
        raise UserError(
            f"{images.name}: image {images.ids[row]} has {sizes[0]} pixels, its mask {sizes[1]}; "
            "bring the mask to the size of its image"
        )
    return MaskedImage(radiograph, mask, square, processor.resize_and_pad(mask.astype(np.uint8) * 255) > 127)


class ImagesAndMasks(torch.utils.data.Dataset):
    """Images and masks as padded squares.

    Args:
        images ([`AnnotatedImages`]): Where they come from.
        rows (`np.ndarray`): Which of them.
        processor ([`MedSynImageProcessor`]): Without a crop.
        seed (`int`, *optional*): Turns and scales images; how is a function of it, the `epoch` and the row alone. By
            default they stay as they are.
    """

    def __init__(
        self, images: AnnotatedImages, rows: np.ndarray, processor: MedSynImageProcessor, seed: int | None = None
    ):
        side = processor.output_size
        self.rows, self.processor, self.seed, self.epoch = rows, processor, seed, 0
        self.images = np.empty((len(rows), side, side), dtype=np.uint8)
        self.masks = np.empty((len(rows), side, side), dtype=bool)
        for place, row in enumerate(tqdm(rows, desc=f"reading {images.name}", unit="image", delay=2)):
            read = read_masked_image(images, row, processor)
            self.images[place], self.masks[place] = read.square_image, read.square_mask

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.images[place], self.masks[place]
        if self.seed is not None:
            image, mask = turned(image, mask, np.random.default_rng([self.seed, self.epoch, int(self.rows[place])]))
        return image, mask

    def batch(self, items: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
        """`pixel_values` `(batch, channels, side, side)` and `masks` `(batch, side, side)`, both float32."""
        images, masks = map(np.stack, zip(*items, strict=True))  # (batch, side, side)
        pixels = self.processor.normalize_squares(images)
        return {"pixel_values": torch.from_numpy(pixels), "masks": torch.from_numpy(masks).float()}


def turned(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the images turned about their middle and scaled, black where nothing was; their masks alike."""
    if rng.random() >= SHARE:
        return image, mask
    angle, scale = rng.uniform(-TURN, TURN), 1 + rng.uniform(-ZOOM, ZOOM)
    moved = [
        v2.functional.affine(
            kind(torch.from_numpy(pixels[None])),  # (1, side, side)
            angle=angle,
            translate=[0, 0],
            scale=scale,
            shear=[0.0, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,  # of images; masks take the nearest pixel
            fill=0,
        )
        for kind, pixels in ((tv_tensors.Image, image), (tv_tensors.Mask, mask.astype(np.uint8)))
    ]
    return moved[0][0].numpy(), moved[1][0].numpy().astype(bool)


class SegmenterWithLoss(nn.Module):
    """What the `Trainer` takes: a segmenter that gives its loss along with its log-odds."""

    def __init__(self, segmenter: nn.Module):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, pixel_values: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits = self.segmenter(pixel_values)[:, 0]  # (batch, side, side)
        return {"loss": mixed_loss(logits, masks), "logits": logits}


class OneBar(ProgressCallback):
    """A bar for each training and nothing else: 50 epochs of several encoders, budgets and seeds would bury it."""

    def __init__(self, description: str):
        super().__init__()
        self.description = description

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.description)

    def on_prediction_step(self, args, state, control, **kwargs):
        pass

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass
