"""The grammar's wording of single findings, written for this project and taken from no corpus.

Every phrase is one that `dataset_builder.reports.labeler` reads back to the finding it was made from.
"""

from __future__ import annotations

import random

from dataset_builder.findings import Finding

SIZES: dict[str, dict[str, tuple[str, ...]]] = {
    "pleural effusion": {
        "mild": ("small", "small", "small", "trace", "tiny", "minimal"),
        "moderate": ("moderate", "moderate", "moderate-sized"),
        "severe": ("large", "large", "massive"),
    },
    "pneumothorax": {
        "mild": ("small", "small", "tiny", "trace"),
        "moderate": ("moderate", "moderate-sized"),
        "severe": ("large",),
    },
    "nodule": {"mild": ("small", "tiny"), "severe": ("large",)},
    "mass": {"severe": ("large",)},
}
LUNG_SIZES = {
    "mild": ("mild", "minimal", "subtle", "slight", "faint"),
    "moderate": ("moderate",),
    "severe": ("extensive", "severe", "marked"),
}
PLAIN_SIZES = {"mild": ("mild", "mild", "minimal"), "moderate": ("moderate",), "severe": ("severe", "marked")}

# (side, zone) -> what stands before the finding, and what stands after it.
BEFORE: dict[tuple[str | None, str | None], tuple[str, ...]] = {
    ("right", "upper"): ("right upper lobe", "right upper lung", "right upper zone", "right apical"),
    ("right", "middle"): ("right middle lobe", "right mid lung", "right mid zone", "right perihilar"),
    ("right", "lower"): ("right lower lobe", "right basilar", "right lower lung", "right base", "right infrahilar"),
    ("left", "upper"): ("left upper lobe", "left upper lung", "left upper zone", "left apical"),
    ("left", "middle"): ("lingular", "left mid lung", "left mid zone", "left perihilar"),
    ("left", "lower"): ("left lower lobe", "left basilar", "left lower lung", "left base", "retrocardiac"),
    ("bilateral", "upper"): ("bilateral upper lobe", "biapical", "bilateral upper zone"),
    ("bilateral", "middle"): ("bilateral perihilar", "bilateral mid lung"),
    ("bilateral", "lower"): ("bibasilar", "bilateral lower lobe", "bilateral basilar", "bibasal"),
}
AFTER: dict[tuple[str | None, str | None], tuple[str, ...]] = {
    ("right", "upper"): ("in the right upper lobe", "in the right upper lung", "at the right apex"),
    ("right", "middle"): ("in the right middle lobe", "in the right mid lung", "in the right mid zone"),
    ("right", "lower"): (
        "in the right lower lobe",
        "at the right base",
        "at the right lung base",
        "in the right lower lung",
    ),
    ("left", "upper"): ("in the left upper lobe", "in the left upper lung", "at the left apex"),
    ("left", "middle"): ("in the lingula", "in the left mid lung", "in the left mid zone"),
    ("left", "lower"): (
        "in the left lower lobe",
        "at the left base",
        "at the left lung base",
        "in the left lower lung",
    ),
    ("bilateral", "upper"): ("in both upper lobes", "at both lung apices"),
    ("bilateral", "middle"): ("in the mid zones of both lungs", "in both mid lungs"),
    ("bilateral", "lower"): ("in both lower lobes", "at both lung bases", "at both bases"),
}
# Kind -> adjectives that say nothing of size, and (singular, plural) nouns.
LUNG_WORDS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "consolidation": (
        ("", "", "focal", "dense", "confluent", "patchy"),
        (("consolidation", "consolidations"), ("airspace consolidation", "airspace consolidations")),
    ),
    "pneumonia": (
        ("",),
        (("pneumonia", "pneumonia"), ("pneumonia", "pneumonia"), ("bronchopneumonia", "bronchopneumonia")),
    ),
    "opacity": (
        ("", "patchy", "hazy", "ill-defined", "streaky", "focal"),
        (
            ("opacity", "opacities"),
            ("opacity", "opacities"),
            ("opacification", "opacification"),
            ("airspace opacity", "airspace opacities"),
            ("infiltrate", "infiltrates"),
        ),
    ),
    "atelectasis": (
        ("", "", "linear", "streaky", "subsegmental", "discoid", "bandlike"),
        (
            ("atelectasis", "atelectasis"),
            ("atelectasis", "atelectasis"),
            ("atelectatic changes", "atelectatic changes"),
        ),
    ),
    "nodule": (
        ("", "", "round", "well-defined", "solitary"),
        (("nodule", "nodules"), ("pulmonary nodule", "nodules")),
    ),
    "mass": (("", "spiculated", "lobulated", "round", "ill-defined"), (("mass", "masses"), ("lung mass", "masses"))),
}


def lung_phrase(finding: Finding, rng: random.Random, terse: bool) -> tuple[str, bool]:
    adjectives, nouns = LUNG_WORDS[finding.kind]
    sizes = SIZES.get(finding.kind, LUNG_SIZES)
    noun = nouns[0] if terse and rng.random() < 0.6 else rng.choice(nouns)
    many = finding.side == "bilateral" and noun[0] != noun[1]
    words = [rng.choice(sizes[finding.severity])] if finding.severity else []
    adjective = "" if terse else rng.choice(adjectives)  # FINDINGS and IMPRESSION would differ in it
    words += [adjective] if adjective else []
    place = (finding.side, finding.zone)
    name = noun[1] if many else noun[0]
    if finding.side is None:
        return " ".join([*words, name]), _plural(name, many)
    if rng.random() < (0.8 if terse else 0.55):
        before = BEFORE[place][0] if terse and rng.random() < 0.6 else rng.choice(BEFORE[place])
        return " ".join([*words, before, name]), _plural(name, many)
    return " ".join([*words, name, rng.choice(AFTER[place])]), _plural(name, many)


def _plural(name: str, many: bool) -> bool:
    return many or name.endswith("changes")


def pleural_phrase(finding: Finding, rng: random.Random, terse: bool) -> tuple[str, bool]:
    size = rng.choice(SIZES[finding.kind][finding.severity]) + " " if finding.severity else ""
    if finding.kind == "pneumothorax":
        side = finding.side
        if finding.zone == "upper":
            forms = (f"{size}{side} apical pneumothorax", f"{size}pneumothorax at the {side} apex")
        else:
            forms = (
                f"{size}{side} pneumothorax",
                f"{size}{side}-sided pneumothorax",
                f"{size}pneumothorax on the {side}",
            )
        return rng.choice(forms), False
    if finding.side == "bilateral":
        return (
            rng.choice(
                (
                    f"{size}bilateral pleural effusions",
                    f"bilateral {size}pleural effusions",
                    f"{size}pleural effusions bilaterally",
                    f"{size}bilateral effusions",
                )
            ),
            True,
        )
    side = finding.side
    forms = (
        f"{size}{side} pleural effusion",
        f"{size}{side} pleural effusion",
        f"{size}{side}-sided pleural effusion",
        f"{size}{side} effusion",
        f"{size}pleural effusion on the {side}",
        f"{size}layering {side} pleural effusion",
    )
    return rng.choice(forms[:4] if terse else forms), False


def heart_phrase(finding: Finding, rng: random.Random, terse: bool) -> tuple[str, bool]:
    size = rng.choice(PLAIN_SIZES[finding.severity]) + " " if finding.severity else ""
    forms = (
        f"{size}cardiomegaly",
        f"{size}cardiomegaly",
        f"{size}enlargement of the cardiac silhouette",
        f"{size}cardiac enlargement",
    )
    return rng.choice(forms[: 2 if terse and rng.random() < 0.6 else 4]), False


def edema_phrase(finding: Finding, rng: random.Random, terse: bool) -> tuple[str, bool]:
    size = rng.choice(PLAIN_SIZES[finding.severity]) + " " if finding.severity else ""
    forms = ["pulmonary edema", "pulmonary edema", "interstitial pulmonary edema", "interstitial edema"]
    if finding.severity in ("moderate", "severe"):
        forms = ["pulmonary edema", "pulmonary edema", "alveolar pulmonary edema"]
    elif finding.severity == "mild":
        forms += ["pulmonary vascular congestion"]
    return size + rng.choice(forms), False


def emphysema_phrase(finding: Finding, rng: random.Random, terse: bool) -> tuple[str, bool]:
    size = rng.choice(PLAIN_SIZES[finding.severity]) + " " if finding.severity else ""
    if rng.random() < 0.3:
        return f"{size}emphysematous changes", True
    if rng.random() < 0.3:
        return f"{size}hyperinflation of the lungs consistent with emphysema", False
    return f"{size}emphysema", False


def noun_phrase(finding: Finding, rng: random.Random, terse: bool = False) -> tuple[str, bool]:
    """The finding as a noun phrase without article and certainty, and whether it is plural.

    Args:
        finding (`Finding`): Any but a device.
        rng (`random.Random`): Chooses the words.
        terse (`bool`, *optional*, defaults to `False`): As an impression has it.
    """
    if finding.kind in LUNG_WORDS:
        return lung_phrase(finding, rng, terse)
    if finding.kind in ("pleural effusion", "pneumothorax"):
        return pleural_phrase(finding, rng, terse)
    form = {"cardiomegaly": heart_phrase, "edema": edema_phrase, "emphysema": emphysema_phrase}[finding.kind]
    return form(finding, rng, terse)


# Nothing here says more of a device than the vocabulary holds: not which vein a line takes, nor which model it is.
DEVICES: dict[str, tuple[str, ...]] = {
    "endotracheal tube": (
        "Endotracheal tube in standard position.",
        "The endotracheal tube ends above the carina.",
        "ET tube tip projects over the trachea.",
        "The tip of the endotracheal tube is in satisfactory position.",
        "An endotracheal tube is in place.",
        "The patient is intubated, with the endotracheal tube tip above the carina.",
        "ETT tip is above the carina.",
    ),
    "nasogastric tube": (
        "A nasogastric tube courses below the diaphragm.",
        "The enteric tube passes into the stomach.",
        "NG tube extends into the stomach.",
        "An enteric tube is seen below the diaphragm.",
        "The nasogastric tube passes below the diaphragm.",
        "Nasogastric tube in place.",
    ),
    "central venous catheter": (
        "A {side} central venous catheter ends in the superior vena cava.",
        "{Side} central venous catheter tip projects over the superior vena cava.",
        "{Side} central line with its tip in the SVC.",
        "The {side} central venous catheter is in standard position.",
        "{Side}-sided central venous line in place.",
        "A {side}-sided central venous catheter terminates in the SVC.",
        "{Side} central venous catheter is in place.",
    ),
    "pacemaker": (
        "A {side} chest wall pacemaker is in place with leads in expected position.",
        "{Side}-sided pacemaker leads end in the expected locations.",
        "{Side} pectoral pacemaker with intact leads.",
        "A {side}-sided pacemaker is seen, its leads in standard position.",
        "{Side}-sided pacemaker is in place.",
    ),
}


def device_sentence(finding: Finding, rng: random.Random) -> str:
    """A sentence on a tube, a catheter or a pacemaker."""
    side = finding.side or ""
    return rng.choice(DEVICES[finding.kind]).format(side=side, Side=side.title())
