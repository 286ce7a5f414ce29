"""From a whole report in MIMIC-CXR's form to its FINDINGS and IMPRESSION.

A header is a known name at the start of a line, with a colon or alone on its line, also with letters cut off (see
`cut_headers`), or, outside of findings and impression, any line start in capitals with a colon. The last section of a
name that holds words wins, as in the MIT-LCP parser. Where no findings are headed, they are looked for under a line
that names the views ("PA AND LATERAL CHEST:") and then in paragraphs that follow another section without a header of
their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dataset_builder.reports.cut_headers import cut_header

# What a header's name means. Names are matched in capitals with single blanks; the first pattern that fits wins.
_MEANING: tuple[tuple[str, str], ...] = (
    (
        "findings and impression",
        r"(?:PRELIMINARY |PROVISIONAL )?FINDINGS?(?: ?/ ?| AND | & | )IMPRESSIONS?(?: \(PFI\))?"
        r"|IMPRESSIONS?(?: ?/ ?| AND | & | )FINDINGS?",
    ),
    (
        "impression",
        r"(?:FINAL |OVERALL |PRELIMINARY |CHEST )?(?:IMPRESSIONS?|IMPRESS|IMPRESSON|IMPRESION|IMPRSSION|IMPESSION"
        r"|IMPRRESSION|IMPRESSIOIN|IMPRESSIION|IMPRESSSION|IMP)",
    ),
    ("conclusion", r"CONCLUSIONS?|SUMMARY|OPINION"),
    ("wet read", r"(?:PRELIMINARY |PROVISIONAL )?WET READ(?:ING)?(?: VERSION #\d+)?|PRELIMINARY (?:READ|REPORT)"),
    ("findings", r"(?:CHEST |RADIOGRAPHIC )?(?:FINDINGS?|FINDNGS|FINIDNGS|FIDINGS|FINDIGNS|FINDING'S)|FINDINGS? \w+"),
    (
        "closing",  # follows the impression; paragraphs after it are not of the image
        r"NOTIFICATIONS?(?: OF CRITICAL FINDINGS)?|RECOMMENDATIONS?|RECOMMENDATION\(S\)|(?:FINAL )?ADDENDUM|ADDENDA"
        r"|ATTENDING|DICTATED BY|SIGNED BY|ATTESTATION",
    ),
    (
        "other",
        r"EXAMINATIONS?|EXAMS?|STUDY|STUDIES|PROCEDURES?|TYPE OF EXAM(?:INATION)?|INDICATIONS?|INDICATION FOR EXAM"
        r"|HISTORY|CLINICAL (?:HISTORY|INDICATIONS?|INFORMATION|DATA|QUESTION|STATEMENT)|PATIENT HISTORY"
        r"|MEDICAL HISTORY|REASON(?: FOR (?:THE |THIS )?(?:EXAM|EXAMINATION|STUDY|FILM|CONSULT))?|DIAGNOSIS"
        r"|COMPARISONS?(?: EXAM(?:INATION)?S?| STUDY| STUDIES| FILMS?)?|REFERENCE EXAM|PRIOR(?:S| STUDIES| EXAM)?"
        r"|TECHNIQUES?|VIEWS?|DOSE|CONTRAST|DATE(?: OF EXAM)?|NO COMPARISONS?|UNDERLYING MEDICAL CONDITION"
        r"|FINAL REPORT|REPORT|SIGNS? AND SYMPTOMS|SYMPTOMS|HX|INFORMATION|TITLE|CONTEXT",
    ),
)
_MEANS = [(name, re.compile(pattern)) for name, pattern in _MEANING]
_KNOWN = "|".join(pattern for _, pattern in _MEANING)
_READ = ("findings and impression", "impression", "conclusion", "wet read", "findings", "views")
_PLAIN = re.compile(r"(?i)(?:findings?|impressions?|conclusions?)(?: and impressions?)?")
# Subheadings that belong to the text of a section.
_ANATOMY = re.compile(
    r"(?:THE )?(?:LUNGS?|LEFT|RIGHT|HEART|PLEURAL?|MEDIASTIN\w+|CARDI\w+|BON\w+|OSSEOUS|SOFT|LINES?|TUBES?|SUPPORT"
    r"|DEVICES?|PORT|UPPER|HILA|HILUM|AORTA|TRACHEA|DIAPHRAGM|ABDOMEN|MEDICAL|CATHETERS?|HARDWARE|AIRWAYS?|ETT?|NGT?|PICC"
    r"|OTHER|VASC\w+|RIBS|SKELET\w+|CHEST WALL|PULMONARY|NOTE|NB|RUL|RML|RLL|LUL|LLL)\b"
)
_VIEWS = re.compile(r"CHEST|RADIOGRAPHS?|VIEWS?|X-?RAYS?|PORTABLE|LATERAL|FILMS?|UPRIGHT|SUPINE|\bAP\b|\bPA\b")
_HEADER = re.compile(
    rf"^[ \t]*(?P<known>{_KNOWN})[ \t]*(?::|\.?(?=[ \t]*$)|[ \t]+-+[ \t]|(?<=\d)[ \t]+(?=_))"  # a known name
    r"|^[ \t]*(?P<caps>[A-Z][A-Z0-9 ()/,.&'-]{1,70}?)[ \t]*:(?!\d)"  # any line start in capitals
    r"|^[ \t]*(?P<alone>[A-Z][A-Z /]{4,30})(?=[ \t]*$)"  # maybe a header that is cut
    r"|(?<=[.:;)_]) +(?P<inline>(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|FINDINGS?/IMPRESSIONS?|COMPARISONS?|TECHNIQUE"
    r"|INDICATION|HISTORY|WET READ|RECOMMENDATIONS?|NOTIFICATIONS?))[ \t]*:",  # a whole report on one line
    re.MULTILINE | re.IGNORECASE,
)
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
_REQUEST = re.compile(
    r"(?:\?|//|question\b|query\b|(?:please )?(?:evaluate|eval|assess|check)\b|rule out\b|r/o\b|concern for\b)",
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
                loose += [paragraph.strip() for paragraph in more if not _is_title(paragraph.strip())]
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


def _split(report: str) -> list[tuple[str, str]]:
    """(meaning, text) of each section, in order; the text before the first header means `start`."""
    sections = []
    name, start = "start", 0
    for match in _HEADER.finditer(report):
        meaning = _meaning(match)
        if meaning is None or meaning == "unknown" and name in _READ:
            continue
        sections.append((name, report[start : match.start()]))
        name, start = "other" if meaning == "unknown" else meaning, match.end()
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
    elif match["alone"]:
        return cut_header(match["alone"].strip()) if match["alone"].isupper() and len(match["alone"]) >= 5 else None
    else:
        name = match["caps"]
        if _ANATOMY.match(name):
            return None
        if not name.isupper():
            return cut_header(name)
    name = " ".join(name.upper().split())
    for meaning, pattern in _MEANS:
        if pattern.fullmatch(name):
            return meaning
    return cut_header(name) or ("views" if _VIEWS.search(name) else "unknown")


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in _PARAGRAPHS.split(text) if _has_words(paragraph)]


def _is_title(paragraph: str) -> bool:
    """A line that names the examination, or that holds no sentence, or asks what the examination should answer."""
    if not re.search(r"[a-z]", paragraph):
        return True
    line = " ".join(paragraph.split())
    if line.endswith("?") or _REQUEST.match(line):
        return True
    if _ABOUT.fullmatch(line):
        return len(re.findall(r"[.] [A-Z]", line)) == 0
    return bool(_TITLE.fullmatch(line)) and not re.search(r"(?i)\b(?:is|are|no|normal|clear|was|has)\b", line)


def _has_words(text: str) -> bool:
    return bool(re.search(r"[^\W_]", text))
