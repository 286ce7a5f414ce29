"""Mean average precision under bootstrap resamples of the test images, from matches made once an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

RECALLS = np.array(torch.linspace(0, 1, 101).tolist())  # rounded to float32, as torchmetrics has them
EXACT = 1e-9  # an IoU this little below a threshold meets it, as in pycocotools


@dataclass(frozen=True)
class Matches:
    """Which predicted boxes are right, at each of several IoU thresholds; nothing in it depends on other images.

    Args:
        image (`np.ndarray` of shape `(boxes,)`, int): The image of each predicted box, highest score first.
        right (`np.ndarray` of shape `(thresholds, boxes)`, bool): Whether it finds a box that none of higher score
            has found.
        to_find (`np.ndarray` of shape `(images,)`, int): How many boxes each image has.
    """

    image: np.ndarray
    right: np.ndarray
    to_find: np.ndarray


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU `(n, m)` of boxes `(n, 4)` and `(m, 4)`, corners x0, y0, x1, y1."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    start = np.maximum(one[:, None, :2], other[None, :, :2])
    end = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(end - start, 0, None).prod(axis=2)  # (n, m)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match(
    predictions: Sequence[tuple[np.ndarray, np.ndarray]],
    references: Sequence[np.ndarray],
    thresholds: Sequence[float],
    max_detections: int = 100,
) -> Matches:
    """Matches predicted and true boxes image by image, as pycocotools does: in falling order of score, each predicted
    box takes the free true box that it overlaps most, if by at least the threshold.

    Args:
        predictions (`Sequence`): For each image boxes `(n, 4)` and scores `(n,)`; the `max_detections` of the highest
            score count.
        references (`Sequence[np.ndarray]`): For each image its boxes `(m, 4)`.
        thresholds (`Sequence[float]`): Of IoU.

    Returns:
        [`Matches`]
    """
    images, scores, right = [], [], []
    for image, ((boxes, confidence), true) in enumerate(zip(predictions, references, strict=True)):
        order = np.argsort(-np.asarray(confidence), kind="stable")[:max_detections]
        shared = overlaps(np.asarray(boxes).reshape(-1, 4)[order], np.asarray(true).reshape(-1, 4))  # (n, m)
        found = np.zeros((len(thresholds), len(order)), dtype=bool)
        for number, threshold in enumerate(thresholds):
            free = shared.copy()
            for place in range(len(order) if len(true) else 0):
                best = len(true) - 1 - int(free[place, ::-1].argmax())  # the last of equal ones, as pycocotools takes
                if free[place, best] >= threshold - EXACT:
                    found[number, place] = True
                    free[:, best] = -1
        images.append(np.full(len(order), image))
        scores.append(np.asarray(confidence)[order])
        right.append(found)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    to_find = np.array([len(boxes) for boxes in references])
    return Matches(np.concatenate(images)[order].astype(int), np.concatenate(right, axis=1)[:, order], to_find)


def resampled_map(matches: Matches, draws: np.ndarray) -> np.ndarray:
    """Mean average precision over the thresholds, interpolated at 101 recalls, in each resample.

    Args:
        matches ([`Matches`]): Of the test images.
        draws (`np.ndarray` of shape `(resamples, images)`): How often each image stands in each resample; a row of
            ones gives the plain value.

    Returns:
        `np.ndarray` of shape `(resamples,)`; NaN where a resample has no box to find.
    """
    values = np.full(len(draws), np.nan)
    for number, draw in enumerate(draws):
        total = draw @ matches.to_find
        if not total:
            continue
        count = draw[matches.image]  # (boxes,)
        seen = count > 0
        count, right = count[seen], matches.right[:, seen]
        hits = np.cumsum(right * count, axis=1)  # (thresholds, boxes)
        recall, precision = hits / total, hits / np.cumsum(count)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or beyond
        precision = np.pad(precision, ((0, 0), (0, 1)))  # 0 where a recall is never reached
        areas = [
            precision[threshold, np.searchsorted(recall[threshold], RECALLS, side="left")].mean()
            for threshold in range(len(precision))
        ]
        values[number] = np.mean(areas)
    return values
