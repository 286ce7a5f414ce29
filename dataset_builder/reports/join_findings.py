"""Joins what the sentences of a report state of the same finding."""

from __future__ import annotations

from dataclasses import replace

from dataset_builder.findings import ABSENT, PRESENT, UNCERTAIN, Finding

SIDED = (
    "pleural effusion",
    "pneumothorax",
    "consolidation",
    "pneumonia",
    "opacity",
    "atelectasis",
    "nodule",
    "mass",
    "fracture",
    "central venous catheter",
    "pacemaker",
)
_RANK = {ABSENT: 0, UNCERTAIN: 1, PRESENT: 2}


def join_findings(found: list[Finding]) -> tuple[Finding, ...]:
    """
    Joins statements on the same thing into the surest and fullest one, in the order of the text.

    Args:
        found (`list[Finding]`): The findings of each sentence.
    """
    kept: list[Finding] = []
    for finding in found:
        for index, other in enumerate(kept):
            joined = _same(finding, other)
            if joined is not None:
                kept[index] = joined
                break
        else:
            kept.append(finding)
    return tuple(finding for finding in kept if not _outdone(finding, kept))


def _same(a: Finding, b: Finding) -> Finding | None:
    """One finding for two statements that can mean the same thing, else `None`."""
    if a.kind != b.kind or (a.certainty == ABSENT) != (b.certainty == ABSENT):
        return None
    for name in ("side", "zone", "severity"):
        if None not in (getattr(a, name), getattr(b, name)) and getattr(a, name) != getattr(b, name):
            if a.kind in SIDED or name != "severity":
                return None
    first, second = (a, b) if _RANK[a.certainty] > _RANK[b.certainty] else (b, a)
    return replace(
        first,
        side=first.side or second.side,
        zone=first.zone or second.zone,
        severity=first.severity or second.severity,
    )


def _outdone(finding: Finding, others: list[Finding]) -> bool:
    rivals = [other for other in others if other is not finding and other.kind == finding.kind]
    if finding.certainty == ABSENT:
        return any(
            other.certainty != ABSENT and (None in (finding.side, other.side) or finding.side == other.side)
            for other in rivals
        )
    if finding.side == "bilateral" and finding.zone is None and finding.severity is None:
        sides = {other.side for other in rivals if other.certainty == finding.certainty}
        return sides >= {"left", "right"}
    return False
