"""What an image generator returns, and what the build asks of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dataset_builder.findings import Finding
from dataset_builder.reports.record import ReportRecord


@dataclass
class Radiograph:
    """One generated film.

    Args:
        image (`np.ndarray` of shape `(height, width)`, uint8): The film; the patient's left is on the viewer's right.
        view (`str`, *optional*): `PA` or `AP` where the generator knows it.
        labels (`dict[str, int | None]`, *optional*): The 14 CheXpert labels as they can be seen, where the generator
            knows.
        masks (`list[tuple[Finding, np.ndarray]]`): A finding and the `(height, width)` bool mask of its pixels.
        boxes (`list[tuple[Finding, tuple[float, float, float, float]]]`): A finding and its box, absolute
            `x0, y0, x1, y1` in pixels.
        occult (`list[Finding]`): Findings that were asked for but cannot be seen: they change the film too little, or
            the generator has no way to draw them.
        made_with (`str`, *optional*): What may have moved the last bits of the pixels beside the generator's settings,
            such as the batch that memory allowed; the manifest counts it.
    """

    image: np.ndarray
    view: str | None = None
    labels: dict[str, int | None] | None = None
    masks: list[tuple[Finding, np.ndarray]] = field(default_factory=list)
    boxes: list[tuple[Finding, tuple[float, float, float, float]]] = field(default_factory=list)
    occult: list[Finding] = field(default_factory=list)
    made_with: str | None = None


class GenerationError(RuntimeError):
    """An image cannot be made, and the user can do something about it; the message says what."""


class ImageGenerator(Protocol):
    """What `medsyn build` asks of an image generator. An image depends on its report and its seed alone."""

    name: str  # the config of the dataset and the `generator` column
    batch_size: int  # images are made this many at a time
    localizes: bool  # whether a Radiograph tells masks, boxes and occult findings, which adds their columns

    def settings(self) -> dict:
        """All that the pixels depend on beside report and seed, as JSON; stands in the manifest."""

    def condition(self, record: ReportRecord) -> str:
        """The text that the image is drawn from: equal conditions and equal seeds give equal images."""

    def overlong(self, conditions: Sequence[str]) -> int:
        """How many of these texts are cut because they are longer than the generator reads."""

    def __call__(self, records: Sequence[ReportRecord], seeds: Sequence[int]) -> list[Radiograph]:
        """One film a record."""
