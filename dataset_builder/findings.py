"""Findings that a report states and the phantom draws: the vocabulary of grammar, report reader and renderer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from medsyn.errors import UserError
from medsyn.schema import CHEXPERT_LABELS

# Kind of finding -> the CheXpert labels that hold when it is present. Emphysema has none of its own in CheXpert.
KINDS: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("Pleural Effusion",),
    "pneumothorax": ("Pneumothorax",),
    "consolidation": ("Consolidation", "Lung Opacity"),
    "pneumonia": ("Pneumonia", "Lung Opacity"),
    "opacity": ("Lung Opacity",),
    "edema": ("Edema", "Lung Opacity"),
    "atelectasis": ("Atelectasis", "Lung Opacity"),
    "nodule": ("Lung Lesion",),
    "mass": ("Lung Lesion",),
    "cardiomegaly": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "emphysema": (),
    "fracture": ("Fracture",),
    "endotracheal tube": ("Support Devices",),
    "central venous catheter": ("Support Devices",),
    "nasogastric tube": ("Support Devices",),
    "pacemaker": ("Support Devices",),
}
# The one label that a finding's absence denies: "no consolidation" leaves Lung Opacity open.
DENIES: dict[str, str] = {
    "pleural effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "consolidation": "Consolidation",
    "pneumonia": "Pneumonia",
    "opacity": "Lung Opacity",
    "edema": "Edema",
    "atelectasis": "Atelectasis",
    "nodule": "Lung Lesion",
    "mass": "Lung Lesion",
    "cardiomegaly": "Cardiomegaly",
    "fracture": "Fracture",
    "endotracheal tube": "Support Devices",
    "central venous catheter": "Support Devices",
    "nasogastric tube": "Support Devices",
    "pacemaker": "Support Devices",
}
SIDES = ("left", "right", "bilateral")
ZONES = ("upper", "middle", "lower")
SEVERITIES = ("mild", "moderate", "severe")
PRESENT, ABSENT, UNCERTAIN = 1, 0, -1


@dataclass(frozen=True)
class Finding:
    """One statement of a report about an image.

    Args:
        kind (`str`): A key of `KINDS`.
        side (`str`, *optional*): The patient's `left` or `right`, or `bilateral`; `None` where midline or unstated.
        zone (`str`, *optional*): `upper`, `middle` or `lower` third of the lung; `None` where unstated.
        severity (`str`, *optional*): `mild` (small, minimal, trace), `moderate`, or `severe` (large, extensive).
        certainty (`int`, *optional*, defaults to 1): 1 present, 0 absent, -1 uncertain, as CheXpert codes them.
        evidence (`tuple[int, int]`, *optional*): The span of the text that says so; takes no part in equality.
    """

    kind: str
    side: str | None = None
    zone: str | None = None
    severity: str | None = None
    certainty: int = PRESENT
    evidence: tuple[int, int] | None = field(default=None, compare=False)

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("side", SIDES), ("zone", ZONES), ("severity", SEVERITIES)):
            value = getattr(self, name)
            if value not in allowed and not (value is None and name != "kind"):
                raise UserError(f"{name} {value!r} of a finding is not one of {', '.join(allowed)}")
        if self.certainty not in (PRESENT, ABSENT, UNCERTAIN):
            raise UserError(f"certainty {self.certainty!r} is not 1 (present), 0 (absent) or -1 (uncertain)")


def chexpert_labels(
    scene: Iterable[Finding], normal: bool = False, named: Iterable[tuple[str, int]] = ()
) -> dict[str, int | None]:
    """The 14 CheXpert labels that a list of findings amounts to.

    Args:
        scene (`Iterable[Finding]`): The findings; present beats uncertain beats absent where they disagree.
        normal (`bool`, *optional*, defaults to `False`): The text calls the image normal, or no finding is present.
        named (`Iterable[tuple[str, int]]`, *optional*): Labels, with their certainty, told beside the findings.

    Returns:
        `dict[str, int | None]`: 1 present, 0 absent, -1 uncertain, `None` unmentioned, in the order of
        `CHEXPERT_LABELS`. `No Finding` is 1 when `normal` holds and nothing but support devices is present or
        uncertain, 0 when something else is present, `None` otherwise, as the CheXpert labeler has it.
    """
    labels: dict[str, int | None] = dict.fromkeys(CHEXPERT_LABELS)
    rank = {None: 0, ABSENT: 1, UNCERTAIN: 2, PRESENT: 3}
    statements = list(named)
    for finding in scene:
        if finding.certainty == ABSENT:
            names = (DENIES[finding.kind],) if finding.kind in DENIES else ()
        else:
            names = KINDS[finding.kind]
        statements += [(name, finding.certainty) for name in names]
    for name, certainty in statements:
        if rank[certainty] > rank[labels[name]]:
            labels[name] = certainty
    pathology = [labels[name] for name in CHEXPERT_LABELS if name not in ("No Finding", "Support Devices")]
    if PRESENT in pathology:
        labels["No Finding"] = ABSENT
    elif normal and UNCERTAIN not in pathology:
        labels["No Finding"] = PRESENT
    return labels
