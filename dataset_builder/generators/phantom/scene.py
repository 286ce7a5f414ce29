"""What is drawn of a scene: which findings, on which side and zone, how large, and in which order."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from dataset_builder.findings import ABSENT, SEVERITIES, UNCERTAIN, Finding
from dataset_builder.generators.phantom.geometry import stream

# Later findings are drawn over earlier ones.
ORDER = (
    "cardiomegaly",
    "emphysema",
    "opacity",
    "consolidation",
    "pneumonia",
    "edema",
    "mass",
    "nodule",
    "atelectasis",
    "pneumothorax",
    "pleural effusion",
    "endotracheal tube",
    "nasogastric tube",
    "central venous catheter",
    "pacemaker",
)
BOTH_LUNGS = ("edema", "emphysema")  # where no side is stated
MIDLINE = ("cardiomegaly", "endotracheal tube", "nasogastric tube")
# Probability of left where no side is stated; catheters enter from the right, pacemakers sit on the left.
LEFT = {"central venous catheter": 0.2, "pacemaker": 0.85}
ZONES = {  # probabilities of lower, middle, upper where none is stated
    "consolidation": (0.60, 0.22, 0.18),
    "pneumonia": (0.65, 0.22, 0.13),
    "opacity": (0.55, 0.25, 0.20),
    "atelectasis": (0.85, 0.15, 0.0),
    "nodule": (0.25, 0.35, 0.40),
    "mass": (0.25, 0.40, 0.35),
}


@dataclass(frozen=True)
class Drawing:
    """One finding to be drawn on one side.

    Args:
        asked (`Finding`): As the scene has it.
        finding (`Finding`): With the side, zone and severity that are drawn.
        extent (`float`): 0-1, the size within its severity.
        key (`int`): Seeds everything else that is random about it.
    """

    asked: Finding
    finding: Finding
    extent: float
    key: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.key)


def statement(finding: Finding) -> str:
    """A finding as JSON, without the place in the text that it came from."""
    return json.dumps({name: value for name, value in asdict(finding).items() if name != "evidence"}, sort_keys=True)


def normal_extent(seed: int) -> float:
    """0-1, the place of an image's normal heart within the normal range."""
    return float(stream(seed, "finding").random(2)[1])


def plan(scene: Sequence[Finding], seed: int) -> tuple[list[Drawing], list[Finding]]:
    """Settles what the scene leaves open; independent of the order of the scene.

    Returns:
        `tuple[list[Drawing], list[Finding]]`: What to draw, in order, and the findings that cannot be drawn.
    """
    present = sorted({finding for finding in scene if finding.certainty != ABSENT}, key=statement)
    root = int(stream(seed, "finding").integers(2**62))
    drawings, undrawable = [], []
    counts: Counter[tuple] = Counter()
    for finding in present:
        if finding.kind not in ORDER:
            undrawable.append(finding)
            continue
        # Severity and certainty take no part, so that the same place grows with the severity.
        place = (finding.kind, finding.side, finding.zone)
        name = "/".join(map(str, (*place, counts[place])))
        counts[place] += 1
        rng = np.random.default_rng(_key(root, name))
        drawn = str(rng.choice(SEVERITIES, p=(0.35, 0.45, 0.20)))
        severity = finding.severity or drawn
        if finding.certainty == UNCERTAIN:
            severity = "mild"
        side = finding.side or _side(finding.kind, rng)
        zone = finding.zone
        if finding.kind in ZONES:
            zone = zone or str(rng.choice(("lower", "middle", "upper"), p=ZONES[finding.kind]))
        for one in ("right", "left") if side == "bilateral" and finding.kind not in MIDLINE else (side,):
            key = _key(root, f"{name}/{one}")
            settled = replace(finding, side=one, zone=zone, severity=severity)
            drawings.append(Drawing(finding, settled, float(np.random.default_rng(key).random()), _key(key, "recipe")))
    return sorted(drawings, key=lambda drawing: ORDER.index(drawing.finding.kind)), undrawable


def _side(kind: str, rng: np.random.Generator) -> str | None:
    left = rng.random() < LEFT.get(kind, 0.48)
    if kind in MIDLINE:
        return None
    return "bilateral" if kind in BOTH_LUNGS else "left" if left else "right"


def _key(root: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{root}/{name}".encode()).digest()[:8], "little")
