"""A linear head trained by gradient descent on a frozen encoder, as MGCA's `ssl_finetuner` trains it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PrinterCallback, Trainer

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.image_processing_medsyn import to_grey
from trainers.downstream.encoders import FrozenEncoder
from trainers.downstream.images.labelled_images import LabelledImages
from trainers.downstream.tasks.head_training import EpochOf, LowestLoss, check_training, training_arguments
from trainers.downstream.tasks.logistic_head import NEVER

MARGIN = 256 / 224  # images are this much larger than the crop that training takes of them


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained; the defaults are MGCA's.

    Args:
        epochs (`int`, *optional*, defaults to 50): At most.
        patience (`int`, *optional*, defaults to 10): Epochs without a lower validation loss that end the training. The
            head of the lowest is kept.
        batch_size (`int`, *optional*, defaults to 48): The last, smaller batch of an epoch is trained on too.
        learning_rate (`float`, *optional*, defaults to 5e-4): Of AdamW, constant.
        weight_decay (`float`, *optional*, defaults to 1e-6): Of AdamW.
        augment (`bool`, *optional*, defaults to `False`): Encode training images anew in every epoch, each a random
            crop of the image made 256 / 224 as large; otherwise features are computed once.
        device (`str`, *optional*, defaults to `cpu`): `cpu` or `cuda`.

    Raises:
        ValueError: Epochs, patience or batch size are not positive, or there is no such device.
    """

    epochs: int = 50
    patience: int = 10
    batch_size: int = 48
    learning_rate: float = 5e-4
    weight_decay: float = 1e-6
    augment: bool = False
    device: str = "cpu"

    def __post_init__(self):
        check_training(self)


@dataclass(frozen=True)
class TrainedHead:
    """`scores = features @ weight + bias`, as in [`LogisticHead`] without scaling.

    Args:
        weight (`np.ndarray` of shape `(features, labels)`): The coefficients.
        bias (`np.ndarray` of shape `(labels,)`): The intercepts.
        constant (`tuple[int, ...]`): Labels without positives or without negatives in training, whose score is
            constant; of exclusive classes those that no training image has, which are never chosen.
        validation_losses (`tuple[float, ...]`): After each epoch.
    """

    weight: np.ndarray
    bias: np.ndarray
    constant: tuple[int, ...]
    validation_losses: tuple[float, ...]
    penalty: None = None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores `(n, labels)` of features `(n, features)`."""
        return features @ self.weight + self.bias

    def plain(self) -> tuple[np.ndarray, np.ndarray]:
        """`(weight, bias)`."""
        return self.weight, self.bias


def train_head(
    encoder: FrozenEncoder,
    images: LabelledImages,
    features: np.ndarray,
    rows: np.ndarray,
    seed: int,
    settings: HeadSettings,
    exclusive: bool = False,
) -> TrainedHead:
    """Trains the head with transformers' `Trainer`: binary cross-entropy a label (masked where a target is NaN), or
    cross-entropy over exclusive classes.

    Args:
        encoder ([`FrozenEncoder`]): Nothing in it changes. It runs only with `settings.augment`.
        images ([`LabelledImages`]): Whose training and validation splits are used.
        features (`np.ndarray` of shape `(n, features)`): Of all images, from
            [`~trainers.downstream.encoders.cached_features`].
        rows (`np.ndarray`): The training rows, all of them or a budget's.
        seed (`int`): Of the head's first weights, the order of the images and their crops.
        settings ([`HeadSettings`]): The rest.
        exclusive (`bool`, *optional*, defaults to `False`): Each image has exactly one of the labels.

    Returns:
        [`TrainedHead`]

    Raises:
        ValueError: The validation loss is not finite.
    """
    targets = torch.from_numpy(images.targets.astype(np.float32))  # (n, labels)
    pooled = torch.from_numpy(features)  # (n, features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(pooled.shape[1], targets.shape[1])
    train = Crops(encoder, images, rows, targets, seed) if settings.augment else Rows(pooled, targets, rows)
    best = LowestLoss(lambda: {name: value.clone() for name, value in head.state_dict().items()}, settings.patience)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=ProbeWithLoss(encoder, head, exclusive),
            args=training_arguments(
                folder,
                settings,
                seed,
                per_device_eval_batch_size=256,
                label_names=["targets"],
                prediction_loss_only=True,
            ),
            data_collator=train.batch,
            train_dataset=train,
            eval_dataset=Rows(pooled, targets, images.rows("validation")),
            optimizers=(
                torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay),
                None,
            ),
            callbacks=[best, EpochOf(train)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    known = images.targets[rows]
    values_of = [set(known[~np.isnan(known[:, column]), column]) for column in range(known.shape[1])]
    constant = [
        column for column, values in enumerate(values_of) if 1 not in values or (len(values) < 2 and not exclusive)
    ]
    weight = best.state["weight"].cpu().numpy().T.astype(np.float64)  # (features, labels)
    bias = best.state["bias"].cpu().numpy().astype(np.float64)
    weight[:, constant] = 0  # else they would rank images by the first, random weights
    if exclusive:
        bias[constant] = NEVER
    return TrainedHead(weight, bias, tuple(constant), tuple(best.losses))


class ProbeWithLoss(nn.Module):
    """What the `Trainer` takes: the head, and, as no part of it, the encoder that makes its features of pixels."""

    def __init__(self, encoder: FrozenEncoder, head: nn.Linear, exclusive: bool):
        super().__init__()
        self.head, self.exclusive = head, exclusive
        self.encode = encoder.pooled  # no submodule: `train()` does not reach it

    def forward(self, targets: Tensor, features: Tensor | None = None, pixel_values: Tensor | None = None) -> dict:
        logits = self.head(self.encode(pixel_values) if features is None else features)  # (batch, labels)
        if self.exclusive:
            return {"loss": F.cross_entropy(logits, targets.argmax(dim=1)), "logits": logits}
        known = ~targets.isnan()
        losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
        return {"loss": (losses * known).sum() / known.sum().clamp(min=1), "logits": logits}


class Rows(torch.utils.data.Dataset):
    """Features and targets of some rows."""

    def __init__(self, features: Tensor, targets: Tensor, rows: np.ndarray):
        self.features, self.targets = features[rows], targets[rows]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"features": self.features[place], "targets": self.targets[place]}

    def batch(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class Crops(Rows):
    """Random crops of images; which is a function of the seed, the `epoch` and the row alone."""

    def __init__(self, encoder: FrozenEncoder, images: LabelledImages, rows: np.ndarray, targets: Tensor, seed: int):
        self.images, self.rows, self.targets, self.seed, self.epoch = images, rows, targets, seed, 0
        self.processor: MedSynImageProcessor = encoder.processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        row, side = int(self.rows[place]), self.processor.output_size
        square = self.processor.resize_and_pad(to_grey(self.images.open(row)), round(side * MARGIN))
        rng = np.random.default_rng([self.seed, self.epoch, row])
        top, left = rng.integers(0, len(square) - side + 1, 2)
        pixels = self.processor.normalize_squares(square[None, top : top + side, left : left + side])[0]
        return {"pixel_values": torch.from_numpy(pixels), "targets": self.targets[row]}
