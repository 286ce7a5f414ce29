"""A grammar that writes chest radiograph reports in MIMIC-CXR's form, together with the findings they state.

A scene is sampled first (`scenes.py`) and then put into words (`phrases.py`), so the truth is known and not read off
the text. What is present or uncertain stands in FINDINGS with side, zone and size, and all but some devices stand in
IMPRESSION too; what the scene holds as absent is denied in the text. Normal images share a small stock of impressions,
as they do in hospitals.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator
from dataclasses import replace

from dataset_builder.findings import UNCERTAIN, Finding
from dataset_builder.reports.phrases import DEVICES, device_sentence, noun_phrase
from dataset_builder.reports.record import ReportRecord
from dataset_builder.reports.scenes import Scene, pick, sample_scene
from dataset_builder.reports.text import count_tokens
from medsyn.errors import UserError

# Impressions of normal images, how often each comes, and the kinds it denies.
STOCK: dict[tuple[str, tuple[str, ...]], float] = {
    ("No acute cardiopulmonary process.", ()): 24,
    ("No acute cardiopulmonary abnormality.", ()): 12,
    ("No evidence of acute cardiopulmonary disease.", ()): 8,
    ("No acute intrathoracic process.", ()): 7,
    ("Normal chest radiograph.", ()): 6,
    ("No acute cardiopulmonary disease.", ()): 6,
    ("No evidence of pneumonia.", ("pneumonia",)): 5,
    ("No acute findings.", ()): 4,
    ("No acute cardiopulmonary findings.", ()): 4,
    ("No acute process.", ()): 3,
    ("No acute intrathoracic abnormality.", ()): 3,
    ("The lungs are clear.", ("opacity",)): 2.5,
    ("No acute pulmonary process identified.", ()): 2,
    ("No radiographic evidence of pneumonia.", ("pneumonia",)): 2,
    ("Normal radiographs of the chest.", ()): 1.5,
    ("Unremarkable chest radiograph.", ()): 1.5,
    ("No active disease in the chest.", ()): 1.2,
    ("No acute cardiac or pulmonary process.", ()): 1,
    ("Normal chest radiograph. No pneumothorax.", ("pneumothorax",)): 1,
    ("No pneumonia or pleural effusion.", ("pneumonia", "pleural effusion")): 1,
    ("No focal consolidation to suggest pneumonia.", ("consolidation", "pneumonia")): 1,
    ("Clear lungs without acute abnormality.", ("opacity",)): 0.8,
    ("No evidence of active cardiopulmonary disease.", ()): 0.8,
    ("No pneumothorax or pleural effusion.", ("pneumothorax", "pleural effusion")): 0.7,
    ("No acute cardiopulmonary process. No pulmonary edema.", ("edema",)): 0.6,
    ("Clear lungs and normal heart size.", ("opacity", "cardiomegaly")): 0.6,
    ("No pneumonia, pleural effusion or pulmonary edema.", ("pneumonia", "pleural effusion", "edema")): 0.5,
    ("No acute cardiopulmonary process, specifically no pneumonia.", ("pneumonia",)): 0.5,
}
REST = (
    "Otherwise, no acute abnormality.",
    "No other acute abnormality.",
    "No other acute cardiopulmonary process.",
    "Remainder of the chest is stable.",
)
DENIED_NAMES = {
    "consolidation": ("focal consolidation", "focal consolidation", "consolidation", "focal airspace consolidation"),
    "pleural effusion": ("pleural effusion", "pleural effusion", "effusion", "large pleural effusion"),
    "pneumothorax": ("pneumothorax",),
    "edema": ("pulmonary edema", "overt pulmonary edema", "pulmonary vascular congestion"),
    "pneumonia": ("pneumonia", "lobar pneumonia"),
}
DENIALS = (
    "No {}.",
    "There is no {}.",
    "There is no evidence of {}.",
    "No {} is seen.",
    "No {} is identified.",
    "No evidence of {}.",
    "Negative for {}.",
    "No {} seen.",
)
CLEAR_LUNGS = (
    "The lungs are clear.",
    "Lungs are clear.",
    "Both lungs are clear.",
    "The lungs are well expanded and clear.",
    "Lungs are clear bilaterally.",
    "The lungs are normally inflated and clear.",
    "Clear lungs.",
)
NORMAL_HEART = (
    "The heart size is normal.",
    "Heart size is within normal limits.",
    "The cardiomediastinal silhouette is within normal limits.",
    "The cardiac and mediastinal contours are normal.",
    "The cardiomediastinal silhouette is unremarkable.",
    "Cardiac silhouette is normal in size.",
    "The heart is not enlarged.",
    "Normal heart size and mediastinal contours.",
    "Heart and mediastinum are within normal limits.",
)
FILLERS = (
    "The bones are intact.",
    "The trachea is midline.",
    "The mediastinal and hilar contours are unremarkable.",
    "Imaged upper abdomen is unremarkable.",
    "No acute osseous abnormality.",
    "The osseous structures are unremarkable.",
    "Hilar contours are unremarkable.",
)
COUNTED = ("pleural effusion", "pneumothorax", "nodule", "mass", "opacity")
ENLARGED = {
    None: ("enlarged",),
    "mild": ("mildly enlarged", "slightly enlarged"),
    "moderate": ("moderately enlarged",),
    "severe": ("severely enlarged", "markedly enlarged"),
}
SEEN = (
    "There {is} {a}{np}.",
    "There {is} {a}{np}.",
    "{Np} {is} present.",
    "{Np} {is} seen.",
    "{Np} {is} noted.",
    "{Np}.",
)
# What has become of a finding since the image before: sentences of FINDINGS, and of IMPRESSION.
CHANGES = {"unchanged": 0.5, "new": 0.2, "worse": 0.15, "better": 0.15}
CHANGED = {
    "unchanged": (
        "{Np}, unchanged.",
        "Unchanged {np}.",
        "Persistent {np}.",
        "{Np} {is} unchanged since the prior study.",
        "Again seen {is} {a}{np}.",
    ),
    "new": ("Interval development of {a}{np}.", "{Np} {is} new since the prior study.", "There {is} {a}new {np}."),
    "worse": ("{Np} {has} increased since the prior study.", "Increased {np}.", "{Np} {has} worsened."),
    "better": (
        "{Np} {has} decreased in the interval.",
        "Decreased {np}.",
        "{Np} {has} improved since the prior study.",
    ),
}
CHANGED_TERSE = {
    "unchanged": ("{Np}.", "{Np}.", "Stable {np}.", "Unchanged {np}.", "{Np}, unchanged."),
    "new": ("{Np}.", "New {np}.", "New {np}."),
    "worse": ("{Np}.", "Worsening {np}.", "Increased {np}."),
    "better": ("{Np}.", "Improved {np}.", "Decreased {np}."),
}
UNSURE = (
    "Possible {np}.",
    "Possible {np}.",
    "There may be {a}{np}.",
    "{A}{np} cannot be excluded.",
    "{A}{np} {is} possible.",
    "Probable {np}.",
    "Questionable {np}.",
    "{A}{np} {is} suspected.",
    "Findings suggest {a}{np}.",
)
UNSURE_TERSE = ("Possible {np}.", "Possible {np}.", "Probable {np}.", "{A}{np} cannot be excluded.", "Suspected {np}.")
AND_ITS_CAUSE = {
    UNCERTAIN: (
        "{np} concerning for pneumonia",
        "{np} suspicious for pneumonia",
        "{np}, which may represent pneumonia",
        "{np}, possibly pneumonia",
        "{np}, which could reflect pneumonia",
    ),
    1: ("{np} consistent with pneumonia", "{np} compatible with pneumonia"),
}
UNPLACED_PNEUMONIA = ("Findings are concerning for pneumonia.", "Pneumonia cannot be excluded.", "Possible pneumonia.")
INDICATIONS = {
    "PA": (
        "___ year old {man} with cough and fever",
        "___ year old {man} with chest pain",
        "___ year old {man} with shortness of breath",
        "{Man} with positive skin test, screening film",
        "Preoperative film",
        "___F with dyspnea on exertion",
        "___M with productive cough for ___ days",
    ),
    "AP": (
        "___ year old {man} with respiratory failure",
        "___ year old {man} with hypoxia",
        "___ year old {man} after line placement",
        "___ year old {man} with altered mental status",
        "___M with acute shortness of breath",
        "___F in the intensive care unit, interval change",
    ),
}
EXAMINATIONS = {
    "PA": ("CHEST (PA AND LAT)", "CHEST (PA)", "CHEST RADIOGRAPH, PA VIEW"),
    "AP": ("CHEST (PORTABLE AP)", "CHEST (AP)", "PORTABLE AP CHEST RADIOGRAPH"),
}
# Subjects of six consecutive records: how many studies each has.
SHARED = ((1, 1, 1, 1, 1, 1), (1, 1, 2, 1, 1), (2, 1, 1, 2), (1, 3, 1, 1), (1, 2, 3))


def write_reports(num_samples: int, seed: int = 0) -> Iterator[ReportRecord]:
    """Reports of sampled scenes; record `i` depends on `seed` and `i` alone.

    Args:
        num_samples (`int`): How many.
        seed (`int`, *optional*, defaults to 0): Another seed, other reports under the same ids.

    Yields:
        `ReportRecord`: `scene` holds every finding that the text asserts, leaves open or denies; `view`, `subject_id`
        (1 to 3 studies each) and the whole `report` are set, `impression` and `findings` are clean already.

    Raises:
        UserError: `num_samples` is below 0.
    """
    if num_samples < 0:
        raise UserError(f"num_samples {num_samples} is below 0; ask for one report or more")
    return (write_report(index, seed) for index in range(num_samples))


def write_report(index: int, seed: int = 0) -> ReportRecord:
    """Record `index` (counted from 0) of `write_reports`."""
    rng = random.Random(f"medsyn report {seed} {index}")
    scene = sample_scene(rng)
    compared = rng.random() < (0.75 if scene.view == "AP" else 0.45)
    changes = {_place(group[0]): pick(rng, CHANGES) for group in scene.stated if compared and rng.random() < 0.55}
    impression = _impression(scene, rng, changes)
    findings = _findings_section(scene, rng, changes)
    return ReportRecord(
        study_id=f"g{index + 1:07d}",
        subject_id=_subject(index, seed),
        impression=" ".join(impression),
        findings=" ".join(findings),
        report=_layout(scene, findings, impression, rng, compared),
        source="grammar",
        view=scene.view,
        scene=scene.findings(),
    )


def _subject(index: int, seed: int) -> str:
    block, place = divmod(index, 6)
    sizes = random.Random(f"medsyn subjects {seed} {block}").choice(SHARED)
    owners = [number for number, size in enumerate(sizes) for _ in range(size)]
    return f"gp{block + 1:06d}{owners[place]}"


def _place(finding: Finding) -> tuple[str, str | None, str | None]:
    return finding.kind, finding.side, finding.zone


def _impression(scene: Scene, rng: random.Random, changes: dict) -> list[str]:
    """The sentences of the impression; what a stock impression denies is added to the scene."""
    devices = [group for group in scene.stated if group[0].kind in DEVICES]
    others = [group for group in scene.stated if group[0].kind not in DEVICES]
    sentences = []
    if not others:
        text, denied = pick(rng, STOCK)
        scene.denied += [kind for kind in denied if kind not in scene.denied]
        sentences.append(text)
    single = {group[0].kind for group in others if sum(g[0].kind == group[0].kind for g in others) == 1}
    waiting = [
        tuple(_loosened(f, rng) if f.kind in single and len(group) == 1 else f for f in group) for group in others
    ]
    while waiting:
        group = waiting.pop(0)
        if waiting and _can_join(group) and _can_join(waiting[0]) and rng.random() < 0.4:
            first, _ = noun_phrase(group[0], rng, terse=True)
            second, _ = noun_phrase(waiting.pop(0)[0], rng, terse=True)
            sentences.append(_capital(f"{first} with {second}."))
        else:
            sentences.append(_told(group, rng, changes, terse=True))
    if devices and (not others or rng.random() < 0.5) and rng.random() < 0.7:
        sentences += [device_sentence(finding, rng) for group in devices for finding in group]
    sayable = [kind for kind in scene.denied if kind in DENIED_NAMES]
    if others and sayable and rng.random() < 0.3:
        sentences.append(f"No {rng.choice(DENIED_NAMES[rng.choice(sayable)])}.")
    if count_tokens(" ".join(sentences)) < 3 or (others and rng.random() < 0.06):
        sentences.append(rng.choice(REST))
    return sentences


def _loosened(finding: Finding, rng: random.Random) -> Finding:
    """Impressions leave the size out now and then; the findings section has it."""
    return replace(finding, severity=None) if rng.random() < 0.15 else finding


def _can_join(group: tuple[Finding, ...]) -> bool:
    finding = group[0]
    placed = finding.side is not None or finding.kind in ("cardiomegaly", "edema", "emphysema")
    return len(group) == 1 and finding.certainty == 1 and placed


def _findings_section(scene: Scene, rng: random.Random, changes: dict) -> list[str]:
    parts = [[_told(group, rng, changes)] for group in scene.stated]
    rng.shuffle(parts)
    denied = list(scene.denied)
    if "cardiomegaly" in denied:
        parts.insert(rng.randrange(len(parts) + 1), [rng.choice(NORMAL_HEART)])
    if "opacity" in denied:
        parts.insert(rng.choice((0, len(parts))), [rng.choice(CLEAR_LUNGS)])
    listed = [kind for kind in ("consolidation", "pleural effusion", "pneumothorax") if kind in denied]
    rng.shuffle(listed)
    if rng.random() < 0.25:
        alone = [[kind] for kind in listed]
    else:
        alone = [listed] if listed else []
    alone += [[kind] for kind in ("edema", "pneumonia") if kind in denied]
    for kinds in alone:
        parts.append([_denial(kinds, rng)])
    if rng.random() < 0.55:
        parts.append([rng.choice(FILLERS)])
    if not parts:
        parts.append([rng.choice(FILLERS)])
    return [sentence for part in parts for sentence in part]


def _denial(kinds: list[str], rng: random.Random) -> str:
    names = [rng.choice(DENIED_NAMES[kind]) for kind in kinds]
    if len(names) > 2:
        listed = ", ".join(names[:-1]) + rng.choice((", or ", " or ")) + names[-1]
    else:
        listed = " or ".join(names)
    return rng.choice(DENIALS).format(listed)


def _told(group: tuple[Finding, ...], rng: random.Random, changes: dict, terse: bool = False) -> str:
    first = group[0]
    change = changes.get(_place(first))
    if first.kind in DEVICES:
        return device_sentence(first, rng)
    if len(group) == 2 and group[1].kind == first.kind:  # two sides of unlike size
        words = {"mild": "small", "moderate": "moderate", "severe": "large"}
        sides = " and ".join(f"{words[finding.severity]} {finding.side}" for finding in group)
        return _frame(SEEN if not terse else ("{Np}.",), f"{sides} pleural effusions", True, first, rng)
    if len(group) == 2:
        phrase, plural = noun_phrase(first, rng, terse)
        phrase = rng.choice(AND_ITS_CAUSE[group[1].certainty]).format(np=phrase)
        return _frame(("{Np}.",) if terse else ("{Np}.", "There {is} {a}{np}."), phrase, plural, first, rng)
    if first.kind == "pneumonia" and first.side is None:
        return rng.choice(UNPLACED_PNEUMONIA)
    if first.certainty != UNCERTAIN and not terse and change is None:
        if first.kind == "cardiomegaly" and rng.random() < 0.6:
            subject = rng.choice(("The heart is {}.", "Heart size is {}.", "The cardiac silhouette is {}."))
            return subject.format(rng.choice(ENLARGED[first.severity]))
        if first.kind == "emphysema" and first.severity is None and rng.random() < 0.5:
            return rng.choice(
                ("The lungs are hyperinflated.", "The lungs are hyperexpanded, in keeping with emphysema.")
            )
    phrase, plural = noun_phrase(first, rng, terse)
    if first.certainty == UNCERTAIN:
        frames = UNSURE_TERSE if terse else UNSURE
    elif change is not None:
        frames = (CHANGED_TERSE if terse else CHANGED)[change]
    else:
        frames = ("{Np}.",) if terse else SEEN
    return _frame(frames, phrase, plural, first, rng)


def _frame(frames: tuple[str, ...], phrase: str, plural: bool, finding: Finding, rng: random.Random) -> str:
    article = ""
    if finding.kind in COUNTED and not plural and "opacification" not in phrase:
        article = "an " if phrase[0] in "aeiou" else "a "
    frame = rng.choice(frames)
    if article and "{a}new" in frame:
        article = "a "
    sentence = frame.format(
        np=phrase,
        Np=_capital(phrase),
        a=article,
        A=article,
        **{"is": "are" if plural else "is", "has": "have" if plural else "has"},
    )
    return _capital(sentence)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _layout(scene: Scene, findings: list[str], impression: list[str], rng: random.Random, compared: bool) -> str:
    man = rng.choice(("man", "woman"))
    if len(impression) > 1 and rng.random() < 0.45:
        impression = [f"{number}. {sentence}" for number, sentence in enumerate(impression, start=1)]
    sections = [
        ("EXAMINATION", rng.choice(EXAMINATIONS[scene.view])),
        ("INDICATION", rng.choice(INDICATIONS[scene.view]).format(man=man, Man=man.title()) + "."),
        (
            "COMPARISON",
            rng.choice(("Chest radiograph from ___.", "___.", "Prior film dated ___.")) if compared else "None.",
        ),
        ("FINDINGS", " ".join(findings)),
        ("IMPRESSION", " ".join(impression)),
    ]
    lines = [" " * 33 + "FINAL REPORT"]
    for header, body in sections:
        wrapped = textwrap.fill(
            f"{header}:  {body}", 78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
        )
        lines += [wrapped, " "]
    return "\n".join(lines) + "\n"
