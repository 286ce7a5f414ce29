"""The contract of an image generator: what it returns, and what the build requires of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dataset_builder.findings import Finding
from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError


@dataclass
class Radiograph:
    """One generated image.

    Args:
        image (`np.ndarray` of shape `(height, width)`, uint8): Patient's left is on the viewer's right.
        view (`str`, *optional*): `PA` or `AP` where the generator knows it.
        labels (`dict[str, int | None]`, *optional*): The 14 CheXpert labels as they can be seen, where the generator
            knows.
        masks (`list[tuple[Finding, np.ndarray]]`): A finding and the `(height, width)` bool mask of its pixels.
        boxes (`list[tuple[Finding, tuple[float, float, float, float]]]`): A finding and its box, absolute
            `x0, y0, x1, y1` in pixels.
        occult (`list[Finding]`): Findings that were asked for but cannot be seen: they change the image too little, or
            the generator has no way to draw them.
        made_with (`str`, *optional*): What may have changed the rounding of pixels beside the settings, such as the
            batch size that memory allowed; the manifest counts it.
    """

    image: np.ndarray
    view: str | None = None
    labels: dict[str, int | None] | None = None
    masks: list[tuple[Finding, np.ndarray]] = field(default_factory=list)
    boxes: list[tuple[Finding, tuple[float, float, float, float]]] = field(default_factory=list)
    occult: list[Finding] = field(default_factory=list)
    made_with: str | None = None


class GenerationError(UserError):
    """An image cannot be made, and the user can do something about it; the message says what."""


class ImageGenerator(Protocol):
    """
    What `medsyn build` requires of an image generator; any class with these members will do.

    An image depends on its report, its seed and `settings()` alone: never on the order of the records, on what else is
    in the batch, on the process or on the number of threads. A generator must pickle, since several processes render.
    """

    name: str  # the config of the dataset, and the `generator` column
    batch_size: int  # images generated in one call
    localizes: bool  # whether a Radiograph has masks, boxes and occult findings, which adds their columns

    def settings(self) -> dict:
        """Returns everything that the pixels depend on beside report and seed, as JSON for the manifest."""

    def condition(self, record: ReportRecord) -> str:
        """Returns the text that the image is generated from: equal conditions and seeds give equal images."""

    def overlong(self, conditions: Sequence[str]) -> int:
        """Returns how many of these texts are truncated because they exceed what the generator reads."""

    def __call__(self, records: Sequence[ReportRecord], seeds: Sequence[int]) -> list[Radiograph]:
        """
        Returns one image for each record.

        Raises:
            GenerationError: If an image cannot be generated; names the study and the remedy.
        """
