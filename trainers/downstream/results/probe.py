"""Metrics of a linear probe: macro AUROC, AUROC per label, and accuracy of mutually exclusive classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hub_medsyn.metrics.macro_auroc import bootstrap_macro_auroc, macro_auroc, patient_draws
from trainers.downstream.images.labelled_images import LabelledImages
from trainers.downstream.results.rows import MeasuredRun, measured_rows, results_table, weighted_means, write_results

__all__ = ["ProbeRun", "result_rows", "results_table", "write_results"]


@dataclass(frozen=True)
class ProbeRun:
    """The test scores of one head on one encoder.

    Args:
        encoder (`str`): The encoder's name.
        weights (`str`): The first digits of its weights' hash.
        budget (`float`): Percent of the training patients.
        seed (`int`): Seed of the sample of training patients.
        scores (`np.ndarray` of shape `(test images, labels)`): The head's scores on the test split.
        n_train (`int`): Number of training images.
        penalty (`float`, *optional*): The selected `C` of a logistic head.
        constant (`tuple[str, ...]`): Labels with a constant score, for lack of training cases.
    """

    encoder: str
    weights: str
    budget: float
    seed: int
    scores: np.ndarray
    n_train: int
    penalty: float | None
    constant: tuple[str, ...]


def result_rows(
    images: LabelledImages, runs: list[ProbeRun], resamples: int = 1000, seed: int = 0, exclusive: bool = False
) -> list[dict]:
    """Computes the metrics of probes as rows of [`measured_rows`]; `resamples` and `seed` are those of the bootstrap.

    The metric is `macro_auroc`, with `auroc:<label>` as details; for `exclusive` classes, `accuracy` comes first: the
    share of test images whose class has the highest score.

    A label that some sample of training patients could not teach takes part in no macro AUROC, so that all encoders
    and budgets are compared over the same labels; rows `left_out:<label>` count the samples of the budget. A run that
    could learn no label has no macro AUROC (NaN).
    """
    test = images.rows("test")
    targets, patients = images.targets[test], images.patients[test]
    draws = patient_draws(patients, resamples, seed) if exclusive else None
    learners = [run for run in runs if len(run.constant) < len(images.labels)]
    left_out = [label for label in images.labels if any(label in run.constant for run in learners)]
    if len(left_out) == len(images.labels):  # no label is learnt in every run
        learners, left_out = [], []
    kept = [column for column, label in enumerate(images.labels) if label not in left_out]
    names = [images.labels[column] for column in kept]
    measured = []
    for run in runs:
        areas = macro_auroc(targets, run.scores, images.labels)
        metrics, samples = {}, {}
        if exclusive:
            right = run.scores.argmax(axis=1) == targets.argmax(axis=1)  # (test images,)
            metrics["accuracy"], samples["accuracy"] = float(right.mean()), weighted_means(right, draws)
        metrics["macro_auroc"] = float("nan")
        if run in learners:
            metrics["macro_auroc"] = macro_auroc(targets[:, kept], run.scores[:, kept], names).value
            if np.ptp(run.scores[:, kept], axis=0).any():  # resamples of constant scores are one half each
                samples["macro_auroc"] = bootstrap_macro_auroc(
                    targets[:, kept], run.scores[:, kept], patients, resamples, seed
                )
        details = {f"auroc:{label}": area for label, area in areas.per_label.items() if label not in run.constant}
        unlearnt = tuple(label for label in run.constant if label in left_out)
        base = (run.encoder, run.weights, run.budget, run.seed, run.n_train)
        measured.append(MeasuredRun(*base, metrics, samples, details, run.penalty, unlearnt))
    return measured_rows(images, "classification", measured)
