"""Macro AUROC over the labels of a radiograph, with a bootstrap by patient, vectorised over the resamples.

`evaluate.load("path/to/macro_auroc.py")` loads it as an `evaluate` module, and so does
`from hub_medsyn.metrics.macro_auroc import MacroAUROCMetric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
The area under the ROC curve of each label, ties counting half, and its plain mean over the labels that have positives
and negatives; the others are named.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: scores `(n, labels)`; larger means more likely present.
    references: `(n, labels)`; 1 present, 0 absent, NaN where the label takes no part.
    names: the labels' names, by default their column numbers.
    patients: whose image each row is; given, a 95 % bootstrap interval over patients is computed.
    resamples: of that bootstrap, by default 1000.
    seed: of that bootstrap, by default 0.

Returns:
    `macro_auroc`; `auroc`, the area of each label; `left_out`, why each other label has none; with `patients`,
    `ci_low` and `ci_high`.
"""
_CITATION = """
@article{hanley1982meaning,
  title={The meaning and use of the area under a receiver operating characteristic (ROC) curve},
  author={Hanley, James A. and McNeil, Barbara J.},
  journal={Radiology}, volume={143}, number={1}, pages={29--36}, year={1982}
}
"""


@dataclass(frozen=True)
class MacroAUROC:
    """The area under the ROC curve, a label at a time and as their plain mean.

    Args:
        value (`float`): The mean over the labels in `per_label`.
        per_label (`dict[str, float]`): The area of each label that has positives and negatives.
        left_out (`dict[str, str]`): Each label that has no area, and why; it takes no part in `value`.
    """

    value: float
    per_label: dict[str, float]
    left_out: dict[str, str]


def macro_auroc(targets: np.ndarray, scores: np.ndarray, names: Sequence[str] | None = None) -> MacroAUROC:
    """Macro AUROC; tied scores count half, as in the Mann-Whitney statistic.

    Args:
        targets (`np.ndarray` of shape `(n, labels)`): 1 present, 0 absent, NaN where the label takes no part.
        scores (`np.ndarray` of shape `(n, labels)`): Larger means more likely present.
        names (`Sequence[str]`, *optional*): The labels' names, by default their column numbers.

    Returns:
        [`MacroAUROC`]

    Raises:
        ValueError: Shapes differ, a target is none of 1, 0 and NaN, a score is not finite, or no label has an area.
    """
    targets, scores, names = _checked(targets, scores, names)
    areas = _weighted_areas(targets, scores, np.ones((1, len(targets))))[0]  # (labels,)
    per_label, left_out = {}, {}
    for column, name in enumerate(names):
        if np.isnan(areas[column]):
            known = targets[:, column][~np.isnan(targets[:, column])]
            left_out[name] = "no positives" if not (known == 1).any() else "no negatives"
        else:
            per_label[name] = float(areas[column])
    if not per_label:
        raise ValueError(f"none of the labels {', '.join(names)} has both positives and negatives: no AUROC exists")
    return MacroAUROC(float(np.mean(list(per_label.values()))), per_label, left_out)


def bootstrap_macro_auroc(
    targets: np.ndarray,
    scores: np.ndarray | Sequence[np.ndarray],
    patients: Sequence,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Macro AUROC of bootstrap resamples that draw whole patients with replacement.

    A label without positives or negatives in a resample takes no part in that resample's mean. Equal `patients`,
    `resamples` and `seed` draw equal resamples, so that two calls on the same test set can be subtracted: that is the
    paired comparison of two encoders.

    Args:
        targets (`np.ndarray` of shape `(n, labels)`): As in [`macro_auroc`].
        scores (`np.ndarray` of shape `(n, labels)`, or a list of them): A list, say of one fit a seed, gives the mean
            of their macro AUROCs on the same resample.
        patients (`Sequence` of length `n`): Whose image each row is.
        resamples (`int`, *optional*, defaults to 1000): How many resamples.
        seed (`int`, *optional*, defaults to 0): Of the draw.

    Returns:
        `np.ndarray` of shape `(resamples,)`; NaN where a resample left no label with an area, which only a handful of
        patients can bring about.
    """
    several = [scores] if isinstance(scores, np.ndarray) else list(scores)
    if len(patients) != len(targets):
        raise ValueError(f"{len(patients)} patients for {len(targets)} rows of targets: one a row is needed")
    weights = patient_draws(patients, resamples, seed)
    total = np.zeros(resamples)
    for one in several:
        checked_targets, checked_scores, _ = _checked(targets, one, None)
        areas = _weighted_areas(checked_targets, checked_scores, weights)  # (resamples, labels)
        defined = ~np.isnan(areas)
        number = defined.sum(axis=1)  # (resamples,)
        total += np.where(defined, areas, 0).sum(axis=1) / np.where(number > 0, number, np.nan)
    return total / len(several)


def patient_draws(patients: Sequence, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap resamples of whole patients.

    Args:
        patients (`Sequence` of length `n`): Whose image each row is.
        resamples (`int`): How many.
        seed (`int`): Equal seeds draw equal resamples of equal patients.

    Returns:
        `np.ndarray` of shape `(resamples, n)`, float: How often each row stands in each resample.
    """
    index = np.unique(np.asarray(patients), return_inverse=True)[1].reshape(-1)  # (n,)
    drawn = int(index.max()) + 1
    draws = np.random.default_rng(seed).multinomial(drawn, np.full(drawn, 1 / drawn), size=resamples)
    return draws[:, index].astype(np.float64)


def confidence_interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap `samples`, those without a value apart."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def _weighted_areas(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of each label `(resamples, labels)` where row `i` counts `weights[:, i]` times; NaN where undefined."""
    areas = np.full((len(weights), targets.shape[1]), np.nan)
    for column in range(targets.shape[1]):
        known = np.flatnonzero(~np.isnan(targets[:, column]))
        order = known[np.argsort(scores[known, column], kind="stable")]
        if not len(order):
            continue
        ranked, positive = scores[order, column], targets[order, column] == 1
        negatives = np.cumsum(weights[:, order[~positive]], axis=1)  # (resamples, negatives), in rising order of score
        negatives = np.pad(negatives, ((0, 0), (1, 0)))
        below = np.searchsorted(ranked[~positive], ranked[positive], side="left")  # (positives,)
        up_to = np.searchsorted(ranked[~positive], ranked[positive], side="right")
        credit = (negatives[:, below] + negatives[:, up_to]) / 2  # (resamples, positives)
        share = weights[:, order[positive]]
        pairs = share.sum(axis=1) * negatives[:, -1]  # (resamples,)
        np.divide((share * credit).sum(axis=1), pairs, out=areas[:, column], where=pairs > 0)
    return areas


def _checked(targets, scores, names) -> tuple[np.ndarray, np.ndarray, list[str]]:
    targets, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"targets {targets.shape} and scores {scores.shape} are not both of one shape (n, labels)")
    names = [str(column) for column in range(targets.shape[1])] if names is None else list(names)
    if len(names) != targets.shape[1]:
        raise ValueError(f"{len(names)} names for {targets.shape[1]} labels")
    known = targets[~np.isnan(targets)]
    if not np.isin(known, (0, 1)).all():
        odd = known[~np.isin(known, (0, 1))][0]
        raise ValueError(f"target {odd:g} is none of 1, 0 and NaN: map uncertain labels before scoring")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{int((~np.isfinite(scores)).sum())} scores are not finite: the head that made them diverged"
        )
    return targets, scores, names


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MacroAUROCMetric(evaluate.Metric):
    """[`macro_auroc`] as an `evaluate` module."""

    def _info(self):
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )

    def _compute(self, predictions, references, names=None, patients=None, resamples: int = 1000, seed: int = 0):
        targets, scores = np.asarray(references, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
        result = macro_auroc(targets, scores, names)
        found = {"macro_auroc": result.value, "auroc": result.per_label, "left_out": result.left_out}
        if patients is not None:
            samples = bootstrap_macro_auroc(targets, scores, patients, resamples, seed)
            found["ci_low"], found["ci_high"] = confidence_interval(samples)
        return found
