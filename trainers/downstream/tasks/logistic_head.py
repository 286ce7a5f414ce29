"""A linear head on frozen features: logistic regression by label or over exclusive classes, its penalty chosen on the
validation split."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hub_medsyn.metrics.macro_auroc import macro_auroc

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NEVER = -1e4  # the logit of a class that was never seen, far below any other and still finite


@dataclass(frozen=True)
class LogisticHead:
    """`scores = ((features - mean) / scale) @ weight + bias`, the log-odds of each label, or the logits of a softmax.

    Args:
        mean (`np.ndarray` of shape `(features,)`): Of the training features.
        scale (`np.ndarray` of shape `(features,)`): Their standard deviation; 1 where a feature never varies.
        weight (`np.ndarray` of shape `(features, labels)`): The coefficients.
        bias (`np.ndarray` of shape `(labels,)`): The intercepts.
        penalty (`float`): The inverse strength `C` of the L2 penalty that the validation split chose.
        constant (`tuple[int, ...]`): Labels without positives or without negatives in training, whose score is
            constant: results leave them out by name.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    constant: tuple[int, ...]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores `(n, labels)` of features `(n, features)`."""
        return ((features - self.mean) / self.scale) @ self.weight + self.bias

    def plain(self) -> tuple[np.ndarray, np.ndarray]:
        """`(weight, bias)` of the same head on features as they are: `features @ weight + bias`."""
        weight = self.weight / self.scale[:, None]
        return weight, self.bias - self.mean @ weight


def fit_head(
    features: np.ndarray,
    targets: np.ndarray,
    validation_features: np.ndarray,
    validation_targets: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES,
    exclusive: bool = False,
) -> LogisticHead:
    """Fits the head at each of `penalties` and keeps the one with the highest validation macro AUROC, or, of exclusive
    classes, the highest validation accuracy.

    One penalty serves all labels, since a single label has too few validation positives to choose by; the strongest
    penalty wins a tie. A target of NaN leaves its row out of that label.

    Args:
        features (`np.ndarray` of shape `(n, features)`): Of the training images.
        targets (`np.ndarray` of shape `(n, labels)`): 1 present, 0 absent, NaN masked.
        validation_features (`np.ndarray` of shape `(m, features)`): Of the validation images.
        validation_targets (`np.ndarray` of shape `(m, labels)`): Alike.
        penalties (`tuple[float, ...]`, *optional*): The values of `C`, rising.
        exclusive (`bool`, *optional*, defaults to `False`): Each image has exactly one of the labels: one softmax over
            them instead of a regression a label. A class that no training image has is never chosen.

    Returns:
        [`LogisticHead`]

    Raises:
        ValueError: No label has positives and negatives in the validation split.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    standard = (features - mean) / scale  # (n, features)
    weight = np.zeros((len(penalties), features.shape[1], targets.shape[1]))
    bias = np.zeros((len(penalties), targets.shape[1]))
    fit = _fit_classes if exclusive else _fit_labels
    constant = fit(standard, targets, penalties, weight, bias)
    judged = []
    for step in range(len(penalties)):
        scores = ((validation_features - mean) / scale) @ weight[step] + bias[step]  # (m, labels)
        right = scores.argmax(axis=1) == validation_targets.argmax(axis=1)
        judged.append(right.mean() if exclusive else macro_auroc(validation_targets, scores).value)
    best = int(np.argmax(judged))
    return LogisticHead(mean, scale, weight[best], bias[best], penalties[best], tuple(constant))


def _fit_labels(standard: np.ndarray, targets: np.ndarray, penalties, weight: np.ndarray, bias: np.ndarray) -> list:
    """Fills `weight` `(penalties, features, labels)` and `bias`; returns the labels with nothing to learn from."""
    constant = []
    for label in range(targets.shape[1]):
        known = ~np.isnan(targets[:, label])
        truth = targets[known, label]
        if len(np.unique(truth)) < 2:
            constant.append(label)
            continue
        for step, regression in _path(standard if known.all() else standard[known], truth, penalties):
            weight[step, :, label], bias[step, label] = regression.coef_[0], regression.intercept_[0]
    return constant


def _fit_classes(standard: np.ndarray, targets: np.ndarray, penalties, weight: np.ndarray, bias: np.ndarray) -> list:
    """The same for a softmax over the columns of `targets`."""
    truth = targets.argmax(axis=1)
    present = np.unique(truth)
    absent = sorted(set(range(targets.shape[1])) - set(present.tolist()))
    bias[:, absent] = NEVER
    if len(present) > 1:
        for step, regression in _path(standard, truth, penalties):
            coefficients, intercepts = regression.coef_, regression.intercept_
            if len(present) == 2:  # scikit-learn gives the one row of their difference
                coefficients, intercepts = (
                    np.vstack([-coefficients, coefficients]) / 2,
                    np.array([-1, 1]) * intercepts / 2,
                )
            weight[step][:, present], bias[step, present] = coefficients.T, intercepts
    return absent


def _path(rows: np.ndarray, truth: np.ndarray, penalties: tuple[float, ...]):
    """Logistic regressions from strong to weak penalties, each starting where the last one ended."""
    regression = LogisticRegression(warm_start=True, max_iter=300)
    for step, penalty in enumerate(penalties):
        regression.C = penalty
        with warnings.catch_warnings():
            # Weak penalties on few rows may not converge in the steps allowed; the validation split judges each.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(rows, truth)
        yield step, regression
