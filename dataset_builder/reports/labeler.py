"""A rule-based reader: from the words of a report to the findings they assert, deny or leave open.

Sentence by sentence: the lexicon marks what is named; words of place and size go to the finding they stand with; cues
of denial and doubt reach as far as the sentence lets them. What the sentences say is then joined: of two statements on
the same thing the fuller one stays, and a present finding beats an uncertain one, which beats a denial.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from dataset_builder.findings import ABSENT, DENIES, KINDS, PRESENT, UNCERTAIN, Finding, chexpert_labels
from dataset_builder.reports import lexicon as lex
from dataset_builder.reports.join_findings import SIDED, join_findings

# Up to a stop that no digit follows, or a blank line; what runs on longer than any sentence is read in pieces.
_SENTENCE = re.compile(r"(?:[^.!?;\n]|\.(?=\d)|(?<=\bvs)\.|(?<=\bdr)\.|\n(?![ \t\r]{0,40}\n)){1,800}", re.IGNORECASE)
_DEVICES = ("endotracheal tube", "central venous catheter", "nasogastric tube", "pacemaker")
_ZONED = ("pneumothorax", "consolidation", "pneumonia", "opacity", "atelectasis", "nodule", "mass")
_UNGRADED = (*_DEVICES, "fracture")


def read_findings(text: str) -> tuple[Finding, ...]:
    """The findings that a text states, in its order.

    Args:
        text (`str`): FINDINGS, IMPRESSION or both.

    Returns:
        `tuple[Finding, ...]`: Each with its side, zone and severity where they are told and mean something for its
        kind (edema, cardiomegaly and emphysema have a severity only; devices have no zone or severity; effusions no
        zone; a denied finding a side at most), a certainty, and as `evidence` the `(start, end)` of the words in
        `text`. What the vocabulary of `dataset_builder.findings` has no kind for is passed over.
    """
    found = []
    for match in _SENTENCE.finditer(text):
        start = match.start()
        for finding in _read_sentence(match.group()):
            span = finding.evidence
            found.append(replace(finding, evidence=(start + span[0], start + span[1])))
    return join_findings(found)


def is_normal(text: str) -> bool:
    """Whether the text calls the image normal: it says so or denies findings, and states none but support devices."""
    findings = read_findings(text)
    if any(finding.certainty != ABSENT and finding.kind not in _DEVICES for finding in findings):
        return False
    return any(finding.certainty == ABSENT and finding.kind not in _DEVICES for finding in findings) or any(
        lex.NORMAL.search(match.group().lower()) for match in _SENTENCE.finditer(text)
    )


def report_labels(text: str) -> dict[str, int | None]:
    """The 14 CheXpert labels of a text: 1 present, 0 absent, -1 uncertain, `None` unmentioned."""
    return chexpert_labels(
        read_findings(text), is_normal(text), [statements[:2] for statements in _named_labels(text)]
    )


def label_evidence(text: str) -> dict[str, tuple[int, int]]:
    """For each label that `report_labels` gives a value, but `No Finding`: the first `(start, end)` that says so."""
    labels = report_labels(text)
    statements = [
        (name, finding.certainty, finding.evidence)
        for finding in read_findings(text)
        for name in ((DENIES.get(finding.kind),) if finding.certainty == ABSENT else KINDS[finding.kind])
    ]
    statements = sorted(statements + _named_labels(text), key=lambda statement: statement[2])
    evidence: dict[str, tuple[int, int]] = {}
    for name, certainty, span in statements:
        if name is not None and labels[name] == certainty:
            evidence.setdefault(name, span)
    return evidence


def _named_labels(text: str) -> list[tuple[str, int, tuple[int, int]]]:
    """(label, certainty, span) of what is named and not drawn."""
    return [
        (name, certainty, (match.start() + start, match.start() + end))
        for match in _SENTENCE.finditer(text)
        for name, certainty, start, end in _read_labels(match.group())
    ]


@dataclass
class _Mention:
    kind: str | None
    start: int
    end: int
    before: int = 0  # the words that belong to it reach from here
    after: int = 0  # to here
    certainty: int | None = PRESENT  # None: not said of this image
    cue: tuple[int, int] | None = None
    places: list[tuple[str | None, str | None, str | None]] | None = None  # (side, zone, severity)


@lru_cache(maxsize=20_000)
def _read_sentence(sentence: str) -> tuple[Finding, ...]:
    """The findings of one sentence; spans count from its start. Stock sentences are read once."""
    text = lex.NOT_MEANT.sub(_blank, sentence.lower())
    stated = []
    for kind, pattern in lex.STATEMENTS:
        for match in pattern.finditer(text):
            side = _one_side(match.group()) if kind in SIDED else None
            stated.append(Finding(kind, side=side, certainty=ABSENT, evidence=match.span()))
        if stated and stated[-1].kind == kind:
            text = pattern.sub(_blank, text)
    mentions = [
        _Mention(lex.TERMS[int(match.lastgroup[1:])][0], match.start(), match.end())
        for match in lex.TERM.finditer(text)
    ]
    if mentions:
        _share_out(text, mentions)
        for mention in mentions:
            mention.places = _places(text, mention)
        _judge(text, mentions)
        _inherit(text, mentions)
    for mention in mentions:
        if mention.kind is not None and mention.certainty is not None:
            stated.extend(_findings(mention))
    return tuple(sorted(stated, key=lambda finding: finding.evidence))


@lru_cache(maxsize=20_000)
def _read_labels(sentence: str) -> tuple[tuple[str, int, int, int], ...]:
    """(label, certainty, start, end) of what one sentence names that is not drawn."""
    text = lex.NOT_LABELLED.sub(_blank, lex.NOT_MEANT.sub(_blank, sentence.lower()))
    if not lex.ANY_LABEL.search(text):
        return ()
    drawn = [(_Mention(None, match.start(), match.end()), None) for match in lex.TERM.finditer(text)]
    named = [
        (_Mention(None, match.start(), match.end()), name)
        for name, pattern in lex.LABEL_TERM.items()
        for match in pattern.finditer(text)
    ]
    statements = sorted(drawn + named, key=lambda pair: (pair[0].start, pair[0].end))
    _judge(text, [mention for mention, _ in statements])
    return tuple(
        (name, mention.certainty, mention.start, mention.end)
        for mention, name in statements
        if name and mention.certainty is not None
    )


def _blank(match: re.Match) -> str:
    return " " * len(match.group())


def _one_side(text: str) -> str | None:
    sides = {name for name in ("left", "right") if re.search(rf"\b{name}\b", text)}
    return sides.pop() if len(sides) == 1 else None


def _share_out(text: str, mentions: list[_Mention]) -> None:
    """Sets which stretch of the sentence each mention takes its place and size from."""
    first, last = mentions[0], mentions[-1]
    cut = 0
    for boundary in reversed(list(lex.BOUNDARY.finditer(text, 0, first.start))):
        if not lex.FORM_ONLY.fullmatch(text, boundary.end(), cut or first.start):
            cut = cut or boundary.end()
            break
        cut = boundary.start()
    else:
        cut = 0
    first.before = cut
    for left, right in zip(mentions, mentions[1:], strict=False):
        boundaries = list(lex.BOUNDARY.finditer(text, left.end, right.start))
        links = list(lex.LINK.finditer(text, left.end, right.start))
        if boundaries:
            split = boundaries[-1].start()
            for boundary in reversed(boundaries[:-1]):
                if not lex.ADJECTIVES_ONLY.fullmatch(text, boundary.end(), split):
                    break
                split = boundary.start()
        elif links:
            split = links[-1].start()
        else:
            preposition = re.compile(r"\s*(?:is |are |seen |noted )?(?:in|at|on|within|of|involving)\b")
            split = right.start if preposition.match(text, left.end, right.start) else left.end
        left.after = right.before = split
    last.after = len(text)
    for boundary in lex.BOUNDARY.finditer(text, last.end):
        following = lex.BOUNDARY.search(text, boundary.end())
        end = following.start() if following else len(text)
        if not lex.FORM_ONLY.fullmatch(text, boundary.end(), end):
            last.after = boundary.start()
            break


def _places(text: str, mention: _Mention) -> list[tuple[str | None, str | None, str | None]]:
    """Each (side, zone, severity) that a mention's words name; several where sides or zones are told apart."""
    side = zone = severity = None
    groups = []  # [side, zone, severity]
    compared = False
    for match in lex.MODIFIER.finditer(text, mention.before, mention.after):
        name = match.lastgroup
        if name not in lex.PLACES:
            severity = name
            if groups and groups[-1][2] is None and match.start() > mention.end:
                groups[-1][2] = name
            continue
        new_side, new_zone = lex.PLACES[name]
        if new_side is not None:
            compared = compared or bool(re.search(r"\bthan\b", text[mention.before : match.start()]))
            side, zone = new_side, new_zone
            groups.append([side, zone, severity])
        elif groups and groups[-1][1] is None:
            groups[-1][1] = zone = new_zone
        elif groups and groups[-1][1] != new_zone:
            groups.append([side, new_zone, severity])
        elif not groups:
            groups.append([None, new_zone, severity])
    if not groups:
        return [(None, None, severity)]
    sides = {group[0] for group in groups}
    zones = {group[1] for group in groups} - {None}
    severities = {group[2] for group in groups}
    if compared or "bilateral" in sides or (sides >= {"left", "right"} and len(zones) < 2 and len(severities) < 2):
        both = "bilateral" if {"left", "right"} <= sides or "bilateral" in sides else next(iter(sides))
        return [(both, zone, groups[0][2] or severity) for zone in (sorted(zones) or [None])]
    if sides >= {"left", "right"} and len(zones) == 1 and None in {group[1] for group in groups}:
        groups = [[side, next(iter(zones)), size] for side, _, size in groups]  # "right and left lower lobes"
    return [tuple(group) for group in groups]


def _judge(text: str, mentions: list[_Mention]) -> None:
    """Sets how sure the sentence is of each mention."""
    doubts = [(match.start(), match.end(), match.group()) for match in lex.UNSURE_NOT.finditer(text)]
    plain = lex.UNSURE_NOT.sub(_blank, text)
    hypothetical = [match.end() for match in lex.HYPOTHETICAL.finditer(plain)]
    denials = list(lex.DENIED_AHEAD.finditer(plain))
    for index, mention in enumerate(mentions):
        if any(end <= mention.start for end in hypothetical):
            mention.certainty = None
            continue
        cue = next(
            (cue for cue in reversed(denials) if cue.end() <= mention.start and _reaches(plain, cue, mention)), None
        )
        if cue is None:
            behind = lex.DENIED_BEHIND.search(plain, mention.end)
            if (
                behind
                and not lex.TURN.search(plain, mention.end, behind.start())
                and not _parted(plain, mention.end, behind.start())
            ):
                cue = behind
        if cue is not None:
            mention.certainty, mention.cue = ABSENT, cue.span()
            continue
        doubt = _doubt(plain, doubts, mention, mentions[index - 1] if index else None)
        if doubt:
            mention.certainty, mention.cue = UNCERTAIN, doubt
    for left, right in zip(mentions, mentions[1:], strict=False):
        alternative = lex.ALTERNATIVE.search(text, left.end, right.start)
        if not alternative or {left.kind, right.kind} & set(_DEVICES):
            continue
        gap = text[left.end : alternative.start()] + " " + text[alternative.end() : right.start]
        if lex.FORM_ONLY.fullmatch(gap.replace(",", " ")):
            for mention in (left, right):
                if mention.certainty == PRESENT:
                    mention.certainty, mention.cue = UNCERTAIN, alternative.span()


def _reaches(text: str, cue: re.Match, mention: _Mention) -> bool:
    """Whether a denial ahead of a mention still holds where the mention stands."""
    if lex.TURN.search(text, cue.end(), mention.start):
        return False
    if lex.WITH.search(text, cue.end(), mention.start):
        return False
    for boundary in re.finditer(r",|\band\b", text[cue.end() : mention.start]):
        after = cue.end() + boundary.end()
        listed = re.search(r"\bn?or\b", text[after:])
        if not listed and lex.ANEW.match(text, after):
            return False
    return True


def _parted(text: str, start: int, end: int) -> bool:
    return bool(re.search(r",|\bwith\b|\bthere\b", text[start:end])) and not re.search(r"\bor\b", text[start:end])


def _doubt(text: str, doubts: list, mention: _Mention, previous: _Mention | None) -> tuple[int, int] | None:
    """The span of the cue that leaves a mention open, or `None`."""
    for start, end, _ in doubts:
        between = (mention.end, start) if mention.end <= start else (end, mention.start)
        if between[0] <= between[1] and not lex.TURN_OF_DOUBT.search(text, *between) and not _parted(text, *between):
            return start, end
    floor = previous.end if previous else 0
    for match in lex.UNSURE_WORD.finditer(text, 0, mention.end):
        stretch = text[match.end() : mention.start]
        if match.start() >= mention.start or (
            not lex.TURN_OF_DOUBT.search(stretch) and (match.start() >= floor or _only_alternatives(stretch))
        ):
            if match.start() >= floor and re.search(r",|\band\b|\bwith\b", stretch) and not _modifiers_only(stretch):
                continue
            return match.span()
    for match in lex.UNSURE_AHEAD.finditer(text, 0, mention.start):
        stretch = text[match.end() : mention.start]
        if not lex.TURN_OF_DOUBT.search(stretch) and not (
            lex.WITH.search(stretch) or re.search(r", (?:and )?(?:there|small|mild|moderate)\b", stretch)
        ):
            return match.span()
    behind = lex.UNSURE_BEHIND.search(text, mention.end)
    if (
        behind
        and not lex.TURN_OF_DOUBT.search(text, mention.end, behind.start())
        and not _parted(text, mention.end, behind.start())
    ):
        return behind.span()
    return None


def _only_alternatives(stretch: str) -> bool:
    return bool(re.search(r"\bor\b|\bversus\b|/", stretch)) and not re.search(r"\band\b|\bwith\b", stretch)


def _modifiers_only(stretch: str) -> bool:
    return bool(lex.FORM_ONLY.fullmatch(re.sub(r",|\band\b", " ", stretch)))


def _inherit(text: str, mentions: list[_Mention]) -> None:
    """A finding told together with another stands where that one does, if it names no place of its own."""
    for left, right in zip(mentions, mentions[1:], strict=False):
        if left.kind is None or right.kind is None:
            continue
        gap = text[left.end : right.start]
        joined = lex.FORM_ONLY.fullmatch(lex.BOUNDARY.sub(" ", gap)) or lex.LINK.search(gap)
        if not joined or "," in gap and not lex.LINK.search(gap):
            continue
        if _placeless(right) and not _placeless(left):
            right.places = [(side, zone, right.places[0][2]) for side, zone, _ in left.places]
        elif _placeless(left) and not _placeless(right) and lex.MODIFIER.search(text, right.end, right.after):
            left.places = [(side, zone, left.places[0][2]) for side, zone, _ in right.places]


def _placeless(mention: _Mention) -> bool:
    return all(side is None and zone is None for side, zone, _ in mention.places)


def _findings(mention: _Mention) -> list[Finding]:
    kind = mention.kind
    evidence = (mention.start, mention.end)
    if mention.cue is not None:
        evidence = (min(evidence[0], mention.cue[0]), max(evidence[1], mention.cue[1]))
    findings = []
    for side, zone, severity in mention.places:
        absent = mention.certainty == ABSENT
        finding = Finding(
            kind,
            side=side if kind in SIDED else None,
            zone=zone if kind in _ZONED and not absent else None,
            severity=severity if kind not in _UNGRADED and not absent else None,
            certainty=mention.certainty,
            evidence=evidence,
        )
        if finding not in findings:
            findings.append(finding)
    return findings
