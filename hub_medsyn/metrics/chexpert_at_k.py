"""CheXpert@k: how many of the k nearest texts of an image are of its class, as an `evaluate` module.

CheXpert 5x200 holds 200 images and reports of each of five findings (Atelectasis, Cardiomegaly, Consolidation, Edema,
Pleural Effusion), each showing that one alone. Its list was never released (marshuang80/gloria, issues 2 and 21), nor
is "@k" defined there in code. Taken here as GLoRIA's article (section 4.2) describes its retrieval: an image asks for
reports, and a report is right if its class is the image's. `evaluate.load("path/to/chexpert_at_k.py")` loads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

CUTS = (5, 10, 100)

_DESCRIPTION = """
Retrieval by class: precision@k, the share of the k most similar candidates that have the query's class, averaged over
queries; and accuracy@k, the share of queries with at least one such candidate among the k. Ties count as chance has
them: the expected value over their order.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: similarities `(queries, candidates)`, such as a model's `logits_per_image`.
    references: the class of each query, an integer.
    candidate_classes: the class of each candidate; by default that of the queries, candidate i belonging to query i.
    k: how many of the nearest, by default (5, 10, 100); larger ones than there are candidates are an error.
    names: the names of classes 0, 1, ...; given, precision@k is told for each class too.

Returns:
    `precision@k` and `accuracy@k` for each k, and with `names` `precision@k:<name>`.
"""
_CITATION = """
@inproceedings{huang2021gloria,
  title={GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient Medical Image
         Recognition},
  author={Huang, Shih-Cheng and Shen, Liyue and Lungren, Matthew P. and Yeung, Serena},
  booktitle={ICCV}, pages={3942--3951}, year={2021}
}
"""


def hits_at_k(similarities: np.ndarray, right: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Looks at the `k` most similar candidates of each query.

    Args:
        similarities (`np.ndarray` of shape `(queries, candidates)`): Larger is nearer.
        right (`np.ndarray` of shape `(queries, candidates)`, bool): Whether a candidate answers a query.
        k (`int`): How many are looked at. Of candidates as near as the k-th, some find no room: each of them is as
            likely to.

    Returns:
        `tuple[np.ndarray, np.ndarray]`, `(queries,)` each: The expected share of right ones among the `k`, and the
        chance that there is one.
    """
    level = -np.partition(-similarities, k - 1, axis=1)[:, k - 1 : k]  # (queries, 1): of the k-th nearest
    above, tied = similarities > level, similarities == level
    sure = (above & right).sum(axis=1)  # (queries,)
    room, ties, tied_right = k - above.sum(axis=1), tied.sum(axis=1), (tied & right).sum(axis=1)
    precision = (sure + room * tied_right / ties) / k
    missed = np.ones(len(similarities))  # the chance that all places left go to wrong ones, drawn one after the other
    for place in range(int(room.max())):
        wrong = np.clip(ties - tied_right - place, 0, None)
        missed *= np.where(place < room, wrong / np.clip(ties - place, 1, None), 1)
    return precision, np.where(sure > 0, 1.0, 1 - missed)


def chexpert_at_k(
    similarities: np.ndarray,
    classes: Sequence[int],
    candidate_classes: Sequence[int] | None = None,
    k: Sequence[int] = CUTS,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Precision and accuracy at each `k`, as the module's description says.

    Raises:
        ValueError: Shapes do not fit, a similarity is not finite, or a `k` is below 1 or above the candidates.
    """
    similarities, classes = np.asarray(similarities, dtype=np.float64), np.asarray(classes)
    candidates = classes if candidate_classes is None else np.asarray(candidate_classes)
    if similarities.shape != (len(classes), len(candidates)):
        raise ValueError(
            f"similarities {similarities.shape} do not fit {len(classes)} queries and {len(candidates)} candidates"
        )
    if not np.isfinite(similarities).all():
        raise ValueError(f"{int((~np.isfinite(similarities)).sum())} similarities are not finite")
    if names is not None and not np.isin(classes, np.arange(len(names))).all():
        raise ValueError(
            f"class {classes[~np.isin(classes, np.arange(len(names)))][0]} has none of {len(names)} names"
        )
    right, found = classes[:, None] == candidates[None], {}
    for cut in k:
        if not 1 <= cut <= len(candidates):
            raise ValueError(f"k {cut} is not between 1 and the {len(candidates)} candidates")
        precision, accuracy = hits_at_k(similarities, right, cut)
        found |= {f"precision@{cut}": float(precision.mean()), f"accuracy@{cut}": float(accuracy.mean())}
        for number, name in enumerate(names or ()):
            if (classes == number).any():
                found[f"precision@{cut}:{name}"] = float(precision[classes == number].mean())
    return found


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CheXpertAtK(evaluate.Metric):
    """[`chexpert_at_k`] as an `evaluate` module."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, candidate_classes=None, k=CUTS, names=None):
        return chexpert_at_k(predictions, references, candidate_classes, k, names)
