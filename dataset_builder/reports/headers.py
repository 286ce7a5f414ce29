"""Names of report sections, recognised whole, cut short or misspelt.

Exports and scanners lose the first or last letters of a line, so `NDICATION` and `IMPRES` are headers too. A name is
compared in capitals without blanks: as a whole, then as a name with letters missing at one end, then with two missing
at both ends at most, then with one letter wrong, missing, doubled or swapped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache, lru_cache

# What a header's name means. Names are matched in capitals with single blanks; the first pattern that fits wins.
MEANING: tuple[tuple[str, str], ...] = (
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
    (
        "findings",
        r"(?:CHEST |RADIOGRAPHIC )?(?:FINDINGS?|FINDNGS|FINIDNGS|FIDINGS|FINDIGNS|FINDING'S)"
        r"|FINDINGS? (?!AN?D?\b|IM?P?R?E?S?S?I?O?\b)\w+",  # not what a cut leaves of FINDINGS AND IMPRESSION
    ),
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
        r"|FINAL REPORT|REPORT|QUESTIONS?|SIGNS? AND SYMPTOMS|SYMPTOMS|HX|INFORMATION|TITLE|CONTEXT",
    ),
)
KNOWN = "|".join(pattern for _, pattern in MEANING)
_MEANS = [(name, re.compile(pattern)) for name, pattern in MEANING]

# The names that a cut or misspelt header is compared with.
NAMES: dict[str, tuple[str, ...]] = {
    "findings and impression": (
        "FINDINGS AND IMPRESSION",
        "FINDINGS AND IMPRESSIONS",
        "FINDINGS IMPRESSION",
        "IMPRESSION AND FINDINGS",
        "PRELIMINARY FINDINGS AND IMPRESSION",
        "PROVISIONAL FINDINGS AND IMPRESSION",
        "PROVISIONAL FINDINGS IMPRESSION (PFI)",
    ),
    "impression": (
        "IMPRESSION",
        "IMPRESSIONS",
        "FINAL IMPRESSION",
        "OVERALL IMPRESSION",
        "PRELIMINARY IMPRESSION",
        "CHEST IMPRESSION",
    ),
    "conclusion": ("CONCLUSION", "CONCLUSIONS", "SUMMARY", "OPINION"),
    "wet read": ("WET READ", "WET READING", "PRELIMINARY WET READ", "PRELIMINARY READ", "PRELIMINARY REPORT"),
    "views": ("CHEST", "RADIOGRAPH", "RADIOGRAPHS"),
    "findings": ("FINDINGS", "FINDING", "CHEST FINDINGS", "RADIOGRAPHIC FINDINGS"),
    "closing": (
        "NOTIFICATION",
        "NOTIFICATIONS",
        "NOTIFICATION OF CRITICAL FINDINGS",
        "RECOMMENDATION",
        "RECOMMENDATIONS",
        "ADDENDUM",
        "FINAL ADDENDUM",
        "ADDENDA",
        "ATTENDING",
        "DICTATED BY",
        "SIGNED BY",
        "ATTESTATION",
    ),
    "other": (
        "EXAMINATION",
        "EXAMINATIONS",
        "EXAM",
        "EXAMS",
        "STUDY",
        "STUDIES",
        "PROCEDURE",
        "PROCEDURES",
        "TYPE OF EXAM",
        "TYPE OF EXAMINATION",
        "INDICATION",
        "INDICATIONS",
        "INDICATION FOR EXAM",
        "HISTORY",
        "CLINICAL HISTORY",
        "CLINICAL INDICATION",
        "CLINICAL INFORMATION",
        "CLINICAL DATA",
        "CLINICAL QUESTION",
        "CLINICAL STATEMENT",
        "PATIENT HISTORY",
        "MEDICAL HISTORY",
        "REASON",
        *(f"REASON FOR {of}{what}" for of in ("", "THE ", "THIS ") for what in ("EXAM", "EXAMINATION", "STUDY")),
        "REASON FOR FILM",
        "REASON FOR CONSULT",
        "DIAGNOSIS",
        "COMPARISON",
        "COMPARISONS",
        "COMPARISON EXAM",
        "COMPARISON EXAMINATION",
        "COMPARISON STUDY",
        "COMPARISON STUDIES",
        "COMPARISON FILMS",
        "REFERENCE EXAM",
        "PRIOR",
        "PRIORS",
        "PRIOR STUDIES",
        "PRIOR EXAM",
        "TECHNIQUE",
        "TECHNIQUES",
        "VIEW",
        "VIEWS",
        "DOSE",
        "CONTRAST",
        "DATE",
        "DATE OF EXAM",
        "NO COMPARISONS",
        "UNDERLYING MEDICAL CONDITION",
        "FINAL REPORT",
        "REPORT",
        "SIGNS AND SYMPTOMS",
        "SYMPTOMS",
        "INFORMATION",
        "TITLE",
        "CONTEXT",
        "QUESTION",
    ),
}
# Names that are looked for within a line as well.
INLINE = ("FINDINGS", "IMPRESSION", "CONCLUSION", "COMPARISON", "TECHNIQUE", "INDICATION", "HISTORY", "WET READ")
INLINE += ("FINDINGS AND IMPRESSION", "RECOMMENDATION", "RECOMMENDATIONS", "NOTIFICATION", "NOTIFICATIONS")
FEWEST = 4  # letters that must be left of a name
# Words that are what a cut or a slip makes of a name, but that head a line in their own right.
_WORDS = frozenset(
    "PORT TEXT STORY MARY ENDING TENDING ATTEND RECOMMEND RECOMMENDED FORMATION SIGN SIGNS NATION RATION STATION "
    "OVER UNDER RADIO RADIOGRAPH REFER DIES DICT BINDING BINDINGS WINDING FUNDING CONTENT CONTRACT".split()
)
_ALIKE = str.maketrans("015|!8", "OISIIB")  # what character recognition takes for letters


def exact_meaning(name: str) -> str | None:
    """Returns what a correctly spelt name in capitals means, or `None`."""
    for meaning, pattern in _MEANS:
        if pattern.fullmatch(name):
            return meaning
    return None


def squeeze(name: str) -> str:
    """Returns the name in capitals without blanks and marks, "/" and "&" read as AND."""
    name = re.sub(r" ?[/&] ?", "AND", name.upper().translate(_ALIKE).replace("(S)", "S"))
    return re.sub(r"[^A-Z]+", "", name)


@lru_cache(maxsize=4096)
def near_names(squeezed: str) -> tuple[str, ...]:
    """The known names, squeezed, that a squeezed header may stand for; the closest kind only.

    Args:
        squeezed (`str`): A result of [`squeeze`].

    Returns:
        `tuple[str, ...]`: Empty where it is no header; several where a cut left what they share.
    """
    if squeezed in meanings():
        return (squeezed,)
    if len(squeezed) < FEWEST or squeezed in _WORDS or squeezed in _whole_words():
        return ()
    cut = _fragments().get(squeezed)
    if cut:
        return cut
    return tuple(name for name in meanings() if len(name) > 6 and _one_slip(squeezed, name))


def near_meaning(squeezed: str, after_text: bool) -> str | None:
    """What a squeezed header means, or `None` where it is none or may mean several things.

    Args:
        squeezed (`str`): A result of [`squeeze`].
        after_text (`bool`): Whether findings or an impression came before: it separates NOTIFICATION from INDICATION
            where only ICATION is left.
    """
    found = {meanings()[name] for name in near_names(squeezed)}
    if found == {"impression", "conclusion"}:
        return "impression"
    if found == {"other", "closing"}:
        return "closing" if after_text else "other"
    return found.pop() if len(found) == 1 else None


@cache
def meanings() -> dict[str, str]:
    """Squeezed name -> meaning."""
    return {squeeze(name): meaning for meaning, names in NAMES.items() for name in names}


@cache
def _whole_words() -> frozenset[str]:
    """What is left of longer names where whole words are gone, and is no sign of a cut: FINAL, OVERALL, THIS STUDY."""
    found = {"CRITICALFINDINGS", "MEDICALCONDITION"}
    for name in (name for names in NAMES.values() for name in names):
        words = name.split()
        found.update(words[:1] + words[-1:] if len(words) > 1 else ())
        found.update("".join(words[place:]) for place, word in enumerate(words) if word in ("THE", "THIS"))
    return frozenset(found - {"CLINICAL"})


@cache
def _fragments() -> dict[str, tuple[str, ...]]:
    """Fragment -> names. Names of fewer words win: INDINGS is FINDINGS, not NOTIFICATION OF CRITICAL FINDINGS."""
    found: dict[str, dict[str, tuple[bool, int]]] = {}
    for names in NAMES.values():
        for name in names:
            for both, part in _cuts(squeeze(name)):
                found.setdefault(part, {}).setdefault(squeeze(name), (both, len(name.split())))
    best = {part: min(owners.values()) for part, owners in found.items()}
    return {part: tuple(n for n, rank in owners.items() if rank == best[part]) for part, owners in found.items()}


def _cuts(name: str) -> Iterator[tuple[bool, str]]:
    """(Cut at both ends, what is left)."""
    for lost in range(1, len(name) - FEWEST + 1):
        yield False, name[lost:]
        yield False, name[:-lost]
    for first in (1, 2):
        for last in (1, 2):
            if len(name) - first - last > 5:
                yield True, name[first:-last]


def _one_slip(a: str, b: str) -> bool:
    """Whether one letter is wrong, missing, added or swapped with its neighbour."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = len(os.path.commonprefix((a, b)))
    a, b = a[start:], b[start:]
    end = len(os.path.commonprefix((a[::-1], b[::-1])))
    a, b = a[: len(a) - end], b[: len(b) - end]
    return max(len(a), len(b)) == 1 or (len(a) == len(b) == 2 and a == b[::-1])
