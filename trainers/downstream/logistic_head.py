"""A linear head on frozen features: one logistic regression a label, its penalty chosen on the validation split."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hub_medsyn.metrics.macro_auroc import macro_auroc

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class LogisticHead:
    """`scores = ((features - mean) / scale) @ weight + bias`, the log-odds of each label.

    Args:
        mean (`np.ndarray` of shape `(features,)`): Of the training features.
        scale (`np.ndarray` of shape `(features,)`): Their standard deviation; 1 where a feature never varies.
        weight (`np.ndarray` of shape `(features, labels)`): The coefficients.
        bias (`np.ndarray` of shape `(labels,)`): The intercepts.
        penalty (`float`): The inverse strength `C` of the L2 penalty that the validation split chose.
        constant (`tuple[int, ...]`): Labels without positives or without negatives in training: their score is
            constant and their AUROC one half.
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


def fit_head(
    features: np.ndarray,
    targets: np.ndarray,
    validation_features: np.ndarray,
    validation_targets: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES,
) -> LogisticHead:
    """Fits the head at each of `penalties` and keeps the one with the highest validation macro AUROC.

    One penalty serves all labels, since a single label has too few validation positives to choose by; the strongest
    penalty wins a tie. A target of NaN leaves its row out of that label.

    Args:
        features (`np.ndarray` of shape `(n, features)`): Of the training images.
        targets (`np.ndarray` of shape `(n, labels)`): 1 present, 0 absent, NaN masked.
        validation_features (`np.ndarray` of shape `(m, features)`): Of the validation images.
        validation_targets (`np.ndarray` of shape `(m, labels)`): Alike.
        penalties (`tuple[float, ...]`, *optional*): The values of `C`, rising.

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
    constant = []
    for label in range(targets.shape[1]):
        known = ~np.isnan(targets[:, label])
        truth = targets[known, label]
        if len(np.unique(truth)) < 2:
            constant.append(label)
            continue
        rows = standard if known.all() else standard[known]
        regression = LogisticRegression(warm_start=True, max_iter=300)
        for step, penalty in enumerate(penalties):  # from strong to weak, each starting where the last one ended
            regression.C = penalty
            with warnings.catch_warnings():
                # Weak penalties on few rows may not converge in the steps allowed; the validation split judges each.
                warnings.simplefilter("ignore", ConvergenceWarning)
                regression.fit(rows, truth)
            weight[step, :, label], bias[step, label] = regression.coef_[0], regression.intercept_[0]
    judged = [
        macro_auroc(validation_targets, ((validation_features - mean) / scale) @ weight[step] + bias[step]).value
        for step in range(len(penalties))
    ]
    best = int(np.argmax(judged))
    return LogisticHead(mean, scale, weight[best], bias[best], penalties[best], tuple(constant))
