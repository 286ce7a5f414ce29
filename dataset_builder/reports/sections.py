"""From a whole report in MIMIC-CXR's form to its FINDINGS and IMPRESSION.

A header is a known name at the start of a line, with a colon or alone on its line, or, outside of findings and
impression, any line start in capitals with a colon. A known name may have lost letters or hold a slip
(`dataset_builder.reports.headers`); the less its form says, the more its place must: after a sentence or a blank line.
The last section of a name that holds words wins, as in the MIT-LCP parser. Where no findings are headed, they are
looked for under a line that names the views ("PA AND LATERAL CHEST:") and then in paragraphs that follow another
section without a header of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dataset_builder.reports.headers import INLINE, KNOWN, exact_meaning, near_meaning, near_names, squeeze

_READ = ("findings and impression", "impression", "conclusion", "wet read", "findings", "views")
_PLAIN = re.compile(r"(?i)(?:findings?|impressions?|conclusions?)(?: and impressions?)?")
# Subheadings that belong to the text of a section.
_ANATOMY = re.compile(
    r"(?:THE )?(?:LUNGS?|LEFT|RIGHT|HEART|PLEURAL?|MEDIASTIN\w+|CARDI\w+|BON\w+|OSSEOUS|SOFT|LINES?|TUBES?|SUPPORT"
    r"|DEVICES?|UPPER|HILA|HILUM|AORTA|TRACHEA|DIAPHRAGM|ABDOMEN|MEDICAL|CATHETERS?|HARDWARE|AIRWAYS?|ETT?|NGT?|PICC"
    r"|OTHER|VASC\w+|RIBS|SKELET\w+|CHEST WALL|PULMONARY|NOTE|NB|RUL|RML|RLL|LUL|LLL)\b"
)
_VIEWS = re.compile(r"CHEST|RADIOGRAPHS?|VIEWS?|X-?RAYS?|PORTABLE|LATERAL|FILMS?|UPRIGHT|SUPINE|\bAP\b|\bPA\b")
_HEADER = re.compile(
    rf"^[ \t]*(?P<known>{KNOWN})(?:[ \t]*(?::|\.(?=[ \t]*$)|$)|[ \t]+-+[ \t]|(?<=\d)[ \t]+(?=_))"  # a known name
    r"|^[ \t]*(?P<caps>[A-Z][A-Z0-9 ()/,.&'-]{1,70}?)[ \t]*:(?!\d)"  # any line start in capitals
    r"|(?<=[.:;)_]) +(?P<inline>(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|FINDINGS?/IMPRESSIONS?|COMPARISONS?|TECHNIQUE"
    r"|INDICATION|HISTORY|WET READ|RECOMMENDATIONS?|NOTIFICATIONS?))[ \t]*:",  # a whole report on one line
    re.MULTILINE | re.IGNORECASE,
)
_COLONS = r"[ \t]*[:;\uff1a](?:[ \t]?[:;\uff1a])*"
# Forms that a cut or misspelt name may take on its line, without the indent.
_FORMS = tuple(
    (form, re.compile(rf"[^\w\n]{{0,3}}{pattern}"))
    for form, pattern in (
        ("colon", rf"(?P<name>[^\W_][^:;\uff1a_\n]{{2,80}}?){_COLONS}"),
        ("colon", rf"(?P<name>[A-Z][A-Z ]{{3,30}}?)[ \t]+VERSION[ \t]+#?\d+(?:{_COLONS})?"),
        ("alone", r"(?P<name>[^\W_][^:;\uff1a_\n]{3,60}?)[ \t.*]*$"),
        ("dash", r"(?P<name>[A-Z][A-Z/&' ]{3,60}?)[ \t]*[-\u2013\u2014]+(?=[ \t])"),
        ("bare", r"(?P<name>[A-Z]{1,20}(?: [A-Z]{1,15}){0,4})[ \t]+(?=[A-Z][a-z]|A [a-z]|\d{1,2}[.)])"),
        ("titled", r"(?P<name>[A-Z][a-z]{5,12})[ \t]+(?=[A-Z][a-z])"),
    )
)
_MORE_COLONS = re.compile(r"(?:[ \t]?:)*")
_WILDCARD = re.compile(r"(?i)findings?\s(?!and\b)\w+")
_CUT_INLINE = re.compile(r"(?<=[.:;)_?!]) +(?P<name>[A-Z][A-Z/&]{4,30}(?: [A-Z]{2,12}){0,2})[ \t]*:")
_INLINE = frozenset(squeeze(name) for name in INLINE)
_HEAD = 100  # characters of a line that may hold a header
_RULE = re.compile(r"^[ \t]*_{10,}[ \t]*$", re.MULTILINE)
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_SIGNED = re.compile(r"^[ \t]*(?:_+[ \t]*)+(?:\d{1,2}:\d\d[ \t]*(?:AM|PM)?)?[ \t]*\n", re.IGNORECASE)
_TITLE = re.compile(
    r"[^.\n]{0,120}\b(?:chest|radiographs?|views?|x-?rays?|films?|portable|report|study|addendum)\b[^.\n]{0,120}\.?",
    re.IGNORECASE,
)
_ABOUT = re.compile(  # sentences on the examination itself
    r"(?:comparison|compared) (?:is made )?(?:to|with)\b[^\n]{0,200}"
    r"|[^\n]{0,200}\b(?:submitted|obtained|provided|performed|available|acquired)\b[^.\n]{0,80}\.?",
    re.IGNORECASE,
)
# A paragraph that asks what the images are to answer: no finding.
_ASKS = re.compile(
    r"(?:\W{0,3}\?|//|r/o\b"
    r"|(?:please )?(?:r/o|rule out|evaluate|eval|assess|check|look|query|exclude)\b[^.?!]{0,200}[.?]?$"
    r"|[^.?!]{1,300}\?+\W{0,5}$"
    r"|(?:_{1,5}|\d{1,3}|patient|pt|man|woman|s/p|status post)\b[^?]{1,300}\?+\W{0,5}$"
    r"|[^?]{1,300}(?:\s//|[.;,]\s{1,3}\?)\s{0,3}\w[^.?!]{0,200}[.?!]?$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sections:
    """The parts of a report, as found (not cleaned).

    Args:
        impression (`str`): Empty where there is none.
        findings (`str`): Empty where there are none, or where they and the impression are one section.
        impression_from (`str`): What headed the impression: `impression`, `conclusion`, `findings and impression`,
            `wet read`, `last paragraph` (of a report without headers), or empty.
    """

    impression: str
    findings: str
    impression_from: str


def read_sections(report: str) -> Sections:
    """
    Finds the impression and the findings of a whole report.

    The impression is the last section headed so; else a conclusion; else findings and impression in one; else, where
    no findings are headed either, the wet read; else, where the report has no such header at all, its last paragraph.
    A report with findings alone has no impression, a line of views taken for their header.

    Args:
        report (`str`): The text of the file.

    Returns:
        [`Sections`]: Texts keep their line breaks; `clean_impression` of `dataset_builder.reports.text` cleans them.
    """
    report = report.replace("\r\n", "\n").replace("\r", "\n")
    last: dict[str, str] = {}
    loose: list[str] = []  # paragraphs that no header claims
    for name, text in _split(report):
        if name in ("other", "closing", "start"):
            own, *more = [paragraph for paragraph in _PARAGRAPHS.split(text) if re.search(r"\w", paragraph)] or [""]
            if name == "start":
                more = [own, *more]
            if name != "closing":
                more = [paragraph.strip() for paragraph in more]
                loose += [paragraph for paragraph in more if not _is_title(paragraph) and not _ASKS.match(paragraph)]
        elif _has_words(text):
            last[name] = text
    impression, origin = "", ""
    for name in ("impression", "conclusion", "findings and impression"):
        if name in last:
            impression, origin = last[name], name
            break
    findings = last.get("findings") or last.get("views") or "\n\n".join(loose)
    if not impression and "findings" not in last:
        if "wet read" in last:
            impression, origin = last["wet read"], "wet read"
        elif loose and "views" not in last:
            *_, impression = _paragraphs(findings)
            origin, findings = "last paragraph", "\n\n".join(_paragraphs(findings)[:-1])
    return Sections(impression.strip(), findings.strip(), origin)


@dataclass(frozen=True)
class _Line:
    """What is asked of a line; `breaks` where the text before it was complete, `blank` where a paragraph begins."""

    start: int
    text: str
    blank: bool
    breaks: bool
    after_capitals: bool
    hyphenated: bool


def _lines(report: str) -> Iterator[_Line]:
    start, before, blank = 0, "", True
    for line in report.split("\n"):
        text = line.lstrip(" \t")
        if text.strip():
            breaks = blank or before[-1] in ".:;!?)]_" or (":" not in before and len(before) < 50 and before.isupper())
            place, hyphenated = start + len(line) - len(text), before[-1:] == "-" and not blank
            yield _Line(place, text[:_HEAD], blank, breaks, before.isupper(), hyphenated)
            before, blank = line.strip(), not re.search(r"[^\W_]", line)
        else:
            blank = True
        start += len(line) + 1


def _split(report: str) -> list[tuple[str, str]]:
    """(meaning, text) of each section, in order; the text before the first header means `start`."""
    places: dict[int, list] = {}  # where -> exact match, line, cut header within a line
    for match in _HEADER.finditer(report):
        indent = len(match.group()) - len(match.group().lstrip(" \t"))
        places.setdefault(match.start() + indent, [None, None, None])[0] = match
    for line in _lines(report):
        places.setdefault(line.start, [None, None, None])[1] = line
    for match in _CUT_INLINE.finditer(report):
        places.setdefault(match.start("name"), [None, None, None])[2] = match
    sections = []
    name, start, after_text, capitals = "start", 0, False, False
    for place in sorted(places):
        match, line, inline = places[place]
        if place < start:
            continue
        complete = line is None or line.breaks or not capitals  # headers may all be lower case, and lines unended
        meaning, end = (_meaning(match), match.end()) if match else (None, place)
        if match and match["known"] and line and not _stands(match, line, complete):
            meaning = None
        if meaning in (None, "unknown", "views") or _WILDCARD.fullmatch(match["known"] or ""):
            near, near_end = _near(line, inline, complete, after_text)
            if near and near != meaning:
                meaning, end = near, near_end
        if meaning is None or meaning == "unknown" and name in _READ:
            continue
        sections.append((name, report[start:place]))
        name, start = "other" if meaning == "unknown" else meaning, _MORE_COLONS.match(report, end).end()
        after_text = after_text or name in _READ
        capitals = capitals or bool(line and report[place].isupper())
    sections.append((name, report[start:]))
    parted = []
    for name, text in sections:
        text, *rest = _RULE.split(text)  # a rule ends the wet read or the addendum above it
        parted.append((name, _SIGNED.sub("", text) if name == "wet read" else text))
        parted += [("start", part) for part in rest]
    return parted


def _meaning(match: re.Match) -> str | None:
    if match["inline"]:
        name = match["inline"]
        if not name.isupper():
            return None
    elif match["known"]:
        name = match["known"]
        alone = not match.group().rstrip().endswith(":")
        if alone and not name.isupper() and not (name.istitle() and _PLAIN.fullmatch(name)):
            return None
    else:
        name = match["caps"]
        if not name.isupper() or _ANATOMY.match(name):
            return None
    name = " ".join(name.upper().split())
    return exact_meaning(name) or ("views" if _VIEWS.search(name) else "unknown")


def _stands(match: re.Match, line: _Line, complete: bool) -> bool:
    """Whether a known name at the start of a line is a header and not the next word of a sentence."""
    name = match["known"]
    if match.group().rstrip().endswith(":"):
        return complete or not name[0].islower()  # "... with these\n findings: edema" goes on
    if _WILDCARD.fullmatch(name) or line.hyphenated:
        return False  # "FINDINGS SUGGEST\n edema"
    return line.breaks or not (line.after_capitals or match.group().rstrip().endswith("."))


def _near(line: _Line | None, inline: re.Match | None, complete: bool, after_text: bool) -> tuple[str | None, int]:
    """(Meaning, end) of a cut or misspelt header; no meaning where there is none."""
    if inline:
        word = squeeze(inline["name"])
        if _INLINE.issuperset(near_names(word)):
            return near_meaning(word, after_text), inline.end()
    if line and not line.hyphenated:
        for form, pattern in _FORMS:
            match = pattern.match(line.text)
            meaning = _near_at_start(form, match["name"], line, complete, after_text) if match else None
            if meaning:
                return meaning, line.start + match.end()
    return None, 0


def _near_at_start(form: str, name: str, line: _Line, complete: bool, after_text: bool) -> str | None:
    """What the name means, if there is enough of it for its form."""
    capitals = name.replace("l", "I").isupper()  # a small l is read for I
    word = squeeze(name.replace("l", "I") if capitals else name)
    meaning = near_meaning(word, after_text)
    if meaning is None:
        return None
    whole = near_names(word) == (word,)
    if meaning == "views":
        fits = form == "colon" and capitals and not whole
    elif form == "colon":
        fits = capitals or (complete and (whole or len(word) > 4))
    elif form == "alone" and not capitals:
        fits = line.blank and len(word) > 5 and meaning in _READ and not line.text.rstrip().endswith(".")
    elif form == "titled":
        fits = line.blank and word in _INLINE
    else:
        fits = capitals and line.breaks and (whole or len(word) > (5 if form == "bare" else 4))
    return meaning if fits else None


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in _PARAGRAPHS.split(text) if _has_words(paragraph)]


def _is_title(paragraph: str) -> bool:
    """A line that names the examination, or that holds no sentence."""
    if not re.search(r"[a-z]", paragraph):
        return True
    line = " ".join(paragraph.split())
    if _ABOUT.fullmatch(line):
        return len(re.findall(r"[.] [A-Z]", line)) == 0
    return bool(_TITLE.fullmatch(line)) and not re.search(r"(?i)\b(?:is|are|no|normal|clear|was|has)\b", line)


def _has_words(text: str) -> bool:
    return bool(re.search(r"[^\W_]", text))
