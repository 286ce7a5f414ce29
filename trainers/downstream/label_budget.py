"""Which training images a probe may see under a budget of labels."""

from __future__ import annotations

import numpy as np

from trainers.downstream.labelled_images import LabelledImages


def budget_rows(images: LabelledImages, percent: float, seed: int) -> np.ndarray:
    """Draws `percent` of the training patients, with all their images, and returns the rows in order.

    The draw is systematic: patients are ordered by the rarest label that they show, at random within it, and taken at
    even steps from a random start. So a label with enough patients is there in proportion, and one with few may be
    missing, as it would be in truth.

    Raises:
        ValueError: `percent` is not above 0 and at most 100.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a budget of {percent:g} % is not above 0 and at most 100")
    rows = images.rows("train")
    if percent == 100:
        return rows
    patients, index = np.unique(images.patients[rows], return_inverse=True)
    present = np.zeros((len(patients), len(images.labels)), dtype=bool)
    np.logical_or.at(present, index, images.targets[rows] == 1)
    frequency = present.sum(axis=0)
    stratum = np.where(present, frequency, len(patients) + 1).min(axis=1)  # of its rarest label; unlabelled ones last
    rng = np.random.default_rng([seed, round(percent * 1000)])
    order = np.lexsort((rng.random(len(patients)), stratum))
    count = max(1, round(len(patients) * percent / 100))
    taken = order[((np.arange(count) + rng.random()) * len(patients) / count).astype(int)]
    return rows[np.isin(index, taken)]
