"""What a finished image still shows of each finding: a later one may have covered an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataset_builder.generators.phantom.exposure import Exposure
from dataset_builder.generators.phantom.layer import Layer, redraw
from dataset_builder.generators.phantom.patient import Patient
from dataset_builder.generators.phantom.scene import Drawing


@dataclass(eq=False)
class Drawn:
    """A finding in an image: what was drawn, its layer, and the grey levels that it has to change in its mask."""

    drawing: Drawing
    extent: float
    layer: Layer
    least: float


def covered(
    drawn: Sequence[Drawn], hidden: Sequence[Drawn], patient: Patient, exposure: Exposure, attenuation: torch.Tensor
) -> list[Drawn]:
    """Finds what later findings cover.

    Each finding that a later one overlaps is measured as the change from the image without it. What is hidden already
    is left out of the latter too, so that of two findings that cover each other the later one is seen, not none.

    Args:
        drawn (`Sequence[Drawn]`): All layers, in the order drawn.
        hidden (`Sequence[Drawn]`): Those that could not be seen when they were drawn.
        attenuation (`torch.Tensor` of shape `(height, width)`): The patient's with all layers, in nepers.

    Returns:
        `list[Drawn]`: Findings that change too little in their mask; none of `hidden`.
    """
    found: list[Drawn] = []
    grey = None
    for place, entry in enumerate(drawn):
        later = drawn[place + 1 :]
        if entry in hidden or not any((entry.layer.mask & other.layer.mask).any() for other in later):
            continue
        if grey is None:
            grey = exposure.develop(attenuation, noise=False).astype(np.float32)
        left_out = [entry, *hidden, *found]
        without = exposure.develop(_without(left_out, drawn, patient, attenuation), noise=False).astype(np.float32)
        if entry.layer.change(without, grey) < entry.least:
            found.append(entry)
    return found


def _without(
    left_out: Sequence[Drawn], drawn: Sequence[Drawn], patient: Patient, attenuation: torch.Tensor
) -> torch.Tensor:
    """The attenuation of the image had these findings not been drawn, `(height, width)`."""
    attenuation = attenuation - sum(entry.layer.nepers for entry in left_out if entry.layer.box is None)
    for side in ("right", "left"):
        chain = [entry for entry in drawn if entry.layer.box is not None and entry.drawing.finding.side == side]
        while chain and chain[0] not in left_out:
            chain.pop(0)
        if chain:  # what a finding adds depends on what was drawn into the same lung before
            kept = [(entry.drawing, entry.extent) for entry in chain if entry not in left_out]
            attenuation = attenuation - sum(entry.layer.nepers for entry in chain)
            attenuation = attenuation + redraw(kept, patient, chain[0].layer)
    return attenuation
