"""Dice of masks, an image at a time and pooled, as an `evaluate` module.

`evaluate.load("path/to/dice.py")` loads it, and so does `from hub_medsyn.metrics.dice import Dice`. Only counts of
pixels are kept of what is added, so images may be of any and of different sizes, and a test set of any length.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch

THRESHOLD = 0.5
RULES = ("all", "official")

_DESCRIPTION = """
The Dice coefficient `2 |A and B| / (|A| + |B|)` of predicted and true masks. Where the true mask is empty it is 1 if
the predicted one is empty too and 0 otherwise.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: masks or probabilities, `(images, height, width)` or a list of `(height, width)`; torch or NumPy. A
        pixel above 0.5 is inside.
    references: the true masks, of the same shapes.
    rule: `all` (default) or `official`.
    batch_size: with `rule="official"`, cut what was added into batches of this many images, in order; by default each
        `add_batch` was a batch.

Returns:
    `dice_per_image`, the mean over the images, and `dice_dataset`, that of all pixels of all images together; under
    `rule="official"` instead `dice_official`, the mean over batches of the mean over the images of each, as GLoRIA and
    MGCA report it: the images of a short last batch weigh more.
"""
_CITATION = """
@article{dice1945measures,
  title={Measures of the amount of ecologic association between species},
  author={Dice, Lee R.},
  journal={Ecology}, volume={26}, number={3}, pages={297--302}, year={1945}
}
"""


def mask_counts(predictions: Sequence, references: Sequence) -> np.ndarray:
    """Counts the pixels that Dice is made of.

    Args:
        predictions (`Sequence` of length `n`): Masks or probabilities, each `(height, width)` or `(1, height, width)`,
            torch or NumPy; above 0.5 is inside.
        references (`Sequence` of length `n`): The true masks, likewise, of the same shapes.

    Returns:
        `np.ndarray` of shape `(n, 3)`, int64: Pixels in both, in the prediction, in the truth.

    Raises:
        ValueError: Numbers or shapes differ, or a prediction is not finite; the image's position is named.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predicted masks and {len(references)} true ones are not pairs")
    counts = np.empty((len(predictions), 3), dtype=np.int64)
    for place, (predicted, true) in enumerate(zip(predictions, references, strict=True)):
        predicted, true = torch.as_tensor(predicted), torch.as_tensor(true)
        if predicted.shape != true.shape:
            raise ValueError(
                f"image {place}: the predicted mask is {tuple(predicted.shape)}, the true one {tuple(true.shape)}; "
                "bring the prediction to the size of its image"
            )
        if not predicted.isfinite().all():
            raise ValueError(f"image {place}: the prediction is not finite; the model that made it diverged")
        predicted, true = predicted > THRESHOLD, true > THRESHOLD  # (height, width), bool
        counts[place] = [int((predicted & true).sum()), int(predicted.sum()), int(true.sum())]
    return counts


def dice(counts: np.ndarray) -> np.ndarray:
    """Dice `(...)` of counts `(..., 3)` as [`mask_counts`] gives them; 1 where both masks are empty."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts[..., 1] + counts[..., 2]
    return np.where(total > 0, 2 * counts[..., 0] / np.where(total > 0, total, 1), 1.0)


def official_dice(per_image: np.ndarray, batches: np.ndarray) -> float:
    """The mean over batches of the mean over images, `batches` being the batch of each image."""
    per_image, batches = np.asarray(per_image), np.asarray(batches)
    return float(np.mean([per_image[batches == batch].mean() for batch in np.unique(batches)]))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Dice(evaluate.Metric):
    """Counts pixels as masks are added, and makes Dice of the counts."""

    def _info(self):
        numbers = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )

    def add_batch(self, *, predictions, references):
        """Adds the masks of some images, as [`mask_counts`] takes them."""
        counts = mask_counts(predictions, references)
        self.batches = self.batches + 1 if self.writer is not None else 0  # a writer is there once something was added
        batch = np.full((len(counts), 1), self.batches)
        super().add_batch(predictions=counts[:, :2], references=np.hstack([counts[:, 2:], batch]))

    def add(self, *, prediction, reference):
        """Adds the mask of one image, a batch of its own."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(self, predictions, references, rule: str = "all", batch_size: int | None = None):
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is none of {', '.join(RULES)}")
        if batch_size is not None and (rule != "official" or batch_size < 1):
            raise ValueError(f"batch_size {batch_size} is not a positive number of images for rule 'official'")
        predictions, references = np.asarray(predictions), np.asarray(references)
        counts = np.hstack([predictions, references[:, :1]])  # (n, 3)
        per_image = dice(counts)
        if rule == "official":
            batches = references[:, 1] if batch_size is None else np.arange(len(counts)) // batch_size
            return {"dice_official": official_dice(per_image, batches)}
        return {"dice_per_image": float(per_image.mean()), "dice_dataset": float(dice(counts.sum(axis=0)))}
