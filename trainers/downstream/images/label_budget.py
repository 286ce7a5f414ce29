"""Samples of the training patients for label budgets such as 1 or 10 %."""

from __future__ import annotations

import numpy as np

from medsyn.errors import UserError
from trainers.downstream.images.image_set import ImageSet


def budget_rows(images: ImageSet, percent: float, seed: int) -> np.ndarray:
    """Samples `percent` of the training patients, at least one, and returns the rows of all their images in order.

    Systematic sampling of patients, stratified by their rarest label (or by whether they have a box or mask): patients
    are sorted by stratum, shuffled within it, and taken at even steps from a random start. Frequent labels are thus
    represented in proportion; a rare label may be absent, as in a simple random sample.

    Raises:
        UserError: `percent` is not above 0 and at most 100.
    """
    if not 0 < percent <= 100:
        raise UserError(f"a budget of {percent:g} % is not above 0 and at most 100")
    rows = images.rows("train")
    if percent == 100:
        return rows
    patients, index = np.unique(images.patients[rows], return_inverse=True)
    shown = images.shown[rows]  # (rows, labels)
    present = np.zeros((len(patients), shown.shape[1]), dtype=bool)
    np.logical_or.at(present, index, shown)
    frequency = present.sum(axis=0)
    stratum = np.where(present, frequency, len(patients) + 1).min(axis=1)  # rarest label; unlabelled patients last
    rng = np.random.default_rng([seed, round(percent * 1000)])
    order = np.lexsort((rng.random(len(patients)), stratum))
    count = max(1, round(len(patients) * percent / 100))
    taken = order[((np.arange(count) + rng.random()) * len(patients) / count).astype(int)]
    return rows[np.isin(index, taken)]


def budget_notes(images: ImageSet, percent: float, draws: dict[int, np.ndarray]) -> list[str]:
    """Returns remarks on the samples of a budget, one sentence each.

    Args:
        images (`ImageSet`): The set that was sampled.
        percent (`float`): The budget.
        draws (`dict[int, np.ndarray]`): The sampled rows by seed.

    Returns:
        `list[str]`: Whether the budget is less than one patient, and which labels of the training split are absent
        from a sample.
    """
    patients = len(np.unique(images.patients[images.rows("train")]))
    notes = []
    if patients * percent < 100:
        notes.append(f"{percent:g} % of {patients} training patients is less than one: one was taken")
    names = np.array(images.shown_names)
    somewhere = images.shown[images.rows("train")].any(axis=0)
    for seed, rows in draws.items():
        lacking = names[somewhere & ~images.shown[rows].any(axis=0)]
        if len(lacking):
            notes.append(f"{percent:g} %, seed {seed}: none of {len(rows)} images shows {', '.join(lacking)}")
    return notes
