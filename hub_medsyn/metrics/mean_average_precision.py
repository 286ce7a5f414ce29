"""Mean average precision of boxes over IoU thresholds from 0.40 to 0.75, as an `evaluate` module.

`evaluate.load("path/to/mean_average_precision.py")` loads it, and so does
`from hub_medsyn.metrics.mean_average_precision import MeanAveragePrecision`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import evaluate
import numpy as np
import torch
import torchmetrics.detection

IOU_THRESHOLDS = (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75)
MAX_DETECTIONS = 100

_DESCRIPTION = """
The area under the curve of precision over recall (interpolated at 101 points, as for COCO, by pycocotools), its mean
over IoU thresholds of 0.40 to 0.75 in steps of 0.05. Boxes have one class. Every image counts: one on which nothing
was found has its boxes missed, and what is found on one without boxes is wrong.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: for each image `{"boxes": (n, 4), "scores": (n,)}`, corners x0, y0, x1, y1 in pixels; `n` may be 0. Of
        more than 100 boxes of an image the 100 of the highest score count.
    references: for each image `{"boxes": (m, 4)}`, the true boxes; `m` may be 0.

Returns:
    `map`, the mean over the thresholds; `map_50` and `map_75`, at one of them; `map_official`, as MGCA's detector
    counts, only the images that have both a prediction and a box, 0 if there is none; `images` and `images_official`,
    how many images each has counted. All are floats.
"""
_CITATION = """
@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common Objects in Context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and
          Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle={European Conference on Computer Vision}, year={2014}
}
"""


def _corners(boxes, where: str) -> torch.Tensor:
    corners = np.asarray(boxes, dtype=np.float32)
    if corners.size == 0:
        return torch.zeros(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"{where}: boxes of shape {corners.shape} are not (n, 4), corners x0, y0, x1, y1")
    odd = ~np.isfinite(corners).all(1) | (corners[:, 2:] < corners[:, :2]).any(1)
    if odd.any():
        raise ValueError(f"{where}: {corners[odd][0].tolist()} are not corners x0, y0, x1, y1 in rising order")
    return torch.from_numpy(corners)


def _average_precision(predictions: list[dict], references: list[dict]) -> dict[str, float]:
    metric = torchmetrics.detection.MeanAveragePrecision(
        iou_thresholds=list(IOU_THRESHOLDS), max_detection_thresholds=[1, 10, MAX_DETECTIONS], backend="pycocotools"
    )
    metric.warn_on_many_detections = False  # the cut is stated above
    metric.update(predictions, references)
    computed = metric.compute()
    return {name: float(computed[name]) for name in ("map", "map_50", "map_75")}


def mean_average_precision(
    predictions: Sequence[Mapping[str, Sequence]], references: Sequence[Mapping[str, Sequence]]
) -> dict[str, float]:
    """Mean average precision over `IOU_THRESHOLDS`, over every image and as the published code counts.

    Args:
        predictions (`Sequence[Mapping]`): For each image `boxes` `(n, 4)`, corners in pixels, and `scores` `(n,)`.
        references (`Sequence[Mapping]`): For each image, in the same order, `boxes` `(m, 4)`.

    Returns:
        `dict[str, float]`: `map`, `map_50`, `map_75`, `map_official`, `images`, `images_official`.

    Raises:
        ValueError: There are not equally many of both, an image's boxes or scores are malformed, or no image has a
            box: then no precision exists.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references: one an image is needed")
    found, true = [], []
    for image, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        boxes = _corners(prediction["boxes"], f"prediction {image}")
        scores = torch.as_tensor(np.asarray(prediction["scores"], dtype=np.float32)).reshape(-1)
        if len(scores) != len(boxes) or not scores.isfinite().all():
            raise ValueError(f"prediction {image}: {len(boxes)} boxes need as many finite scores, not {len(scores)}")
        found.append({"boxes": boxes, "scores": scores, "labels": torch.zeros(len(boxes), dtype=torch.long)})
        boxes = _corners(reference["boxes"], f"reference {image}")
        true.append({"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.long)})
    if not any(len(reference["boxes"]) for reference in true):
        raise ValueError(f"none of the {len(true)} images has a box to find: no average precision exists")
    # differs from HKU-MedAI/MGCA: there images without prediction or without box do not count (map_official)
    both = [image for image in range(len(true)) if len(found[image]["boxes"]) and len(true[image]["boxes"])]
    official = 0.0
    if both:
        official = _average_precision([found[image] for image in both], [true[image] for image in both])["map"]
    return {
        **_average_precision(found, true),
        "map_official": official,
        "images": float(len(true)),
        "images_official": float(len(both)),
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MeanAveragePrecision(evaluate.Metric):
    """[`mean_average_precision`] of what was added."""

    def _info(self):
        boxes = datasets.List(datasets.List(datasets.Value("float32")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {"boxes": boxes, "scores": datasets.List(datasets.Value("float32"))},
                    "references": {"boxes": boxes},
                }
            ),
        )

    def _compute(self, predictions, references):
        return mean_average_precision(predictions, references)
