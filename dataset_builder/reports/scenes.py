"""Which findings stand in an image together, how often, and what the report will deny: the scenes of the grammar.

The shares are round numbers for a mixed hospital, set by hand: a little under half of the images are normal, bedside
images seldom are; failing hearts bring edema, a large heart and effusions on both sides; intubated patients have
several devices at once. Nothing is fitted to a corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dataset_builder.findings import ABSENT, UNCERTAIN, Finding

BEDSIDE_SHARE = 0.4
NORMAL_SHARE = {"PA": 0.6, "AP": 0.22}
LUNG_KINDS = ("consolidation", "pneumonia", "opacity", "atelectasis", "edema", "nodule", "mass")


@dataclass
class Scene:
    """What a report is to say.

    Args:
        view (`str`): `PA`, or `AP` at the bedside.
        told (`list[tuple[Finding, ...]]`): Groups of present or uncertain findings; a group is told in one breath.
        denied (`list[str]`): Kinds that the report denies.
    """

    view: str
    stated: list[tuple[Finding, ...]] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)

    def findings(self) -> tuple[Finding, ...]:
        present = [finding for group in self.stated for finding in group]
        return (*present, *(Finding(kind, certainty=ABSENT) for kind in self.denied))


def pick(rng: random.Random, weighted: dict):
    """One key of a table of weights."""
    return rng.choices(list(weighted), list(weighted.values()))[0]


def _side(rng: random.Random) -> str:
    return pick(rng, {"right": 0.53, "left": 0.47})


def _size(rng: random.Random, mild: float = 0.5, moderate: float = 0.22, severe: float = 0.08) -> str | None:
    return pick(
        rng, {"mild": mild, "moderate": moderate, "severe": severe, None: max(0.0, 1.0 - mild - moderate - severe)}
    )


def _zone(rng: random.Random) -> str:
    return pick(rng, {"lower": 0.58, "middle": 0.19, "upper": 0.23})


def _effusions(rng: random.Random, both: float) -> list[tuple[Finding, ...]]:
    if rng.random() >= both:
        return [(Finding("pleural effusion", _side(rng), severity=_size(rng, 0.5, 0.25, 0.12)),)]
    if rng.random() < 0.25:
        first, second = rng.choice([("moderate", "mild"), ("severe", "mild"), ("severe", "moderate")])
        sides = rng.choice([("right", "left"), ("left", "right")])
        return [
            (
                Finding("pleural effusion", sides[0], severity=first),
                Finding("pleural effusion", sides[1], severity=second),
            )
        ]
    return [(Finding("pleural effusion", "bilateral", severity=_size(rng, 0.55, 0.25, 0.05)),)]


def _bases(rng: random.Random) -> Finding:
    return Finding(
        "atelectasis", pick(rng, {"bilateral": 0.45, "left": 0.3, "right": 0.25}), "lower", _size(rng, 0.45, 0.1, 0.02)
    )


def _heart(rng: random.Random) -> tuple[Finding, ...]:
    return (Finding("cardiomegaly", severity=_size(rng, 0.42, 0.2, 0.06)),)


def _heart_failure(rng: random.Random) -> list[tuple[Finding, ...]]:
    stated = [(Finding("edema", severity=_size(rng, 0.5, 0.25, 0.1)),)]
    if rng.random() < 0.85:
        stated.append(_heart(rng))
    if rng.random() < 0.62:
        stated += _effusions(rng, both=0.8)
    if rng.random() < 0.3:
        stated.append((_bases(rng),))
    return stated


def _pneumonia(rng: random.Random) -> list[tuple[Finding, ...]]:
    place = {"side": _side(rng), "zone": _zone(rng)}
    size = _size(rng, 0.15, 0.08, 0.1)
    form = pick(rng, {"plain": 0.35, "seen": 0.2, "asked": 0.3, "consistent": 0.15})
    opaque = rng.choice(["consolidation", "opacity"])
    if form == "plain":
        stated = [(Finding("pneumonia", **place),)]
    elif form == "seen":
        stated = [(Finding("consolidation", **place, severity=size),)]
    elif form == "asked":
        stated = [(Finding(opaque, **place, severity=size), Finding("pneumonia", **place, certainty=UNCERTAIN))]
    else:
        stated = [(Finding(opaque, **place, severity=size), Finding("pneumonia", **place))]
    if rng.random() < 0.22:
        stated.append((Finding("pleural effusion", place["side"], severity=_size(rng, 0.7, 0.12, 0.03)),))
    return stated


def _several_opacities(rng: random.Random) -> list[tuple[Finding, ...]]:
    kind = rng.choice(["opacity", "opacity", "consolidation"])
    places = rng.sample([(side, zone) for side in ("left", "right") for zone in ("upper", "middle", "lower")], 2)
    stated = [(Finding(kind, *place),) for place in sorted(places)]
    if rng.random() < 0.35:
        stated.append((Finding("pneumonia", certainty=UNCERTAIN),))
    return stated


def _opacity(rng: random.Random) -> list[tuple[Finding, ...]]:
    side = pick(rng, {"left": 0.4, "right": 0.4, "bilateral": 0.2})
    return [(Finding("opacity", side, _zone(rng), _size(rng, 0.25, 0.08, 0.05)),)]


def _effusion(rng: random.Random) -> list[tuple[Finding, ...]]:
    stated = _effusions(rng, both=0.4)
    if rng.random() < 0.55:
        stated.append((Finding("atelectasis", stated[0][0].side if len(stated[0]) == 1 else "bilateral", "lower"),))
    return stated


def _atelectasis(rng: random.Random) -> list[tuple[Finding, ...]]:
    if rng.random() < 0.85:
        return [(_bases(rng),)]
    return [(Finding("atelectasis", _side(rng), pick(rng, {"upper": 0.4, "middle": 0.6}), _size(rng, 0.3, 0.1, 0.0)),)]


def _pneumothorax(rng: random.Random) -> list[tuple[Finding, ...]]:
    side = _side(rng)
    size = _size(rng, 0.55, 0.2, 0.15)
    stated = [(Finding("pneumothorax", side, "upper" if size != "severe" and rng.random() < 0.45 else None, size),)]
    if rng.random() < 0.2:
        stated.append((Finding("pleural effusion", side, severity="mild"),))
    if rng.random() < 0.2:
        stated.append((Finding("atelectasis", side, "lower"),))
    return stated


def _nodule(rng: random.Random) -> list[tuple[Finding, ...]]:
    if rng.random() < 0.3:
        stated = [(Finding("mass", _side(rng), _zone(rng), pick(rng, {"severe": 0.3, None: 0.7})),)]
        if rng.random() < 0.3:
            stated.append((Finding("pleural effusion", stated[0][0].side, severity=_size(rng, 0.5, 0.3, 0.1)),))
        return stated
    zone = pick(rng, {"upper": 0.42, "middle": 0.23, "lower": 0.35})
    return [(Finding("nodule", _side(rng), zone, pick(rng, {"mild": 0.4, "severe": 0.06, None: 0.54})),)]


def _emphysema(rng: random.Random) -> list[tuple[Finding, ...]]:
    stated = [(Finding("emphysema", severity=_size(rng, 0.25, 0.17, 0.15)),)]
    if rng.random() < 0.12:
        stated.append((Finding("nodule", _side(rng), "upper"),))
    return stated


def _intensive_care(rng: random.Random) -> list[tuple[Finding, ...]]:
    stated = [(Finding("endotracheal tube"),)]
    if rng.random() < 0.75:
        stated.append((Finding("nasogastric tube"),))
    if rng.random() < 0.6:
        stated.append((_catheter(rng),))
    lungs = pick(
        rng, {_heart_failure: 0.3, _effusion: 0.2, _atelectasis: 0.25, _pneumonia: 0.15, _several_opacities: 0.1}
    )
    return stated + lungs(rng)


def _catheter(rng: random.Random) -> Finding:
    return Finding("central venous catheter", pick(rng, {"right": 0.72, "left": 0.28}))


def _pacemaker(rng: random.Random) -> Finding:
    return Finding("pacemaker", pick(rng, {"left": 0.86, "right": 0.14}))


PATTERNS: dict[str, dict[Callable[[random.Random], list[tuple[Finding, ...]]], float]] = {
    "PA": {
        _atelectasis: 0.2,
        _pneumonia: 0.17,
        _opacity: 0.11,
        _effusion: 0.11,
        lambda rng: [_heart(rng)]: 0.13,
        _heart_failure: 0.06,
        _nodule: 0.13,
        _emphysema: 0.09,
        _pneumothorax: 0.07,
        _several_opacities: 0.04,
    },
    "AP": {
        _heart_failure: 0.23,
        _intensive_care: 0.2,
        _atelectasis: 0.17,
        _effusion: 0.14,
        _pneumonia: 0.1,
        _opacity: 0.06,
        _several_opacities: 0.06,
        _pneumothorax: 0.09,
        lambda rng: [_heart(rng)]: 0.05,
        _nodule: 0.04,
        _emphysema: 0.02,
    },
}


def sample_scene(rng: random.Random) -> Scene:
    """A scene: view, findings present or uncertain, and the kinds that will be denied."""
    scene = Scene("AP" if rng.random() < BEDSIDE_SHARE else "PA")
    bedside = scene.view == "AP"
    if rng.random() >= NORMAL_SHARE[scene.view]:
        scene.stated = pick(rng, PATTERNS[scene.view])(rng)
        if rng.random() < 0.12 and "cardiomegaly" not in _kinds(scene):
            scene.stated.append(_heart(rng))
        scene.stated = [_doubted(group, rng) for group in scene.stated]
    if "central venous catheter" not in _kinds(scene) and rng.random() < (0.2 if bedside else 0.04):
        scene.stated.append((_catheter(rng),))
    if rng.random() < (0.12 if "cardiomegaly" in _kinds(scene) else 0.03):
        scene.stated.append((_pacemaker(rng),))
    if bedside and "endotracheal tube" not in _kinds(scene) and rng.random() < 0.06:
        scene.stated.append((Finding("nasogastric tube"),))
    scene.denied = _denials(_kinds(scene), rng)
    return scene


def _kinds(scene: Scene) -> set[str]:
    return {finding.kind for group in scene.stated for finding in group}


def _doubted(group: tuple[Finding, ...], rng: random.Random) -> tuple[Finding, ...]:
    """Now and then the image leaves a lone finding open."""
    (first, *rest) = group
    if rest or first.severity in ("moderate", "severe") or rng.random() >= 0.1:
        return group
    if first.kind in ("pleural effusion", "opacity", "atelectasis", "pneumonia", "nodule", "edema", "pneumothorax"):
        return (replace(first, certainty=UNCERTAIN),)
    return group


def _denials(kinds: set[str], rng: random.Random) -> list[str]:
    shares = {"pneumothorax": 0.85, "pleural effusion": 0.82, "consolidation": 0.65, "edema": 0.22, "pneumonia": 0.07}
    if kinds & {"pneumonia", "consolidation"}:
        shares |= {"consolidation": 0.0, "pneumonia": 0.0}
    if "opacity" in kinds:
        shares["pneumonia"] = 0.0
    denied = [kind for kind, share in shares.items() if kind not in kinds and rng.random() < share]
    if not kinds & {*LUNG_KINDS, "pleural effusion", "pneumothorax"} and rng.random() < 0.65:
        denied.append("opacity")
    if "cardiomegaly" not in kinds and rng.random() < 0.75:
        denied.append("cardiomegaly")
    return denied
