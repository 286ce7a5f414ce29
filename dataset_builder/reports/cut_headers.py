"""Recognises headers of report sections of which letters are missing: `NDICATION:`, `IMPRESSIO:`, `I MPRESSION:`.

De-identification and copying cut headers at a line's start. Taken for text, a cut header would put an indication into
the impression, or lose the impression. What is left of a header has to be a beginning or an end of it, and the header
that misses the fewest letters is meant. Where that leaves two meanings, nothing is recognised.
"""

from __future__ import annotations

import difflib
import functools
import re

# The headers that reports use, by what follows them.
HEADERS: dict[str, tuple[str, ...]] = {
    "findings and impression": ("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "IMPRESSION AND FINDINGS"),
    "impression": ("IMPRESSION", "IMPRESSIONS", "FINAL IMPRESSION"),
    "conclusion": ("CONCLUSION", "CONCLUSIONS", "SUMMARY", "OPINION"),
    "wet read": ("WET READ", "WET READING", "PRELIMINARY READ", "PRELIMINARY REPORT"),
    "findings": ("FINDINGS", "FINDING", "CHEST FINDINGS"),
    "closing": (
        *("NOTIFICATION", "NOTIFICATIONS", "RECOMMENDATION", "RECOMMENDATIONS", "RECOMMENDATION(S)", "ADDENDUM"),
        *("FINAL ADDENDUM", "ATTENDING", "DICTATED BY", "SIGNED BY", "ATTESTATION"),
    ),
    "other": (
        *("EXAMINATION", "EXAMINATIONS", "EXAM", "EXAMS", "STUDY", "STUDIES", "PROCEDURE", "PROCEDURES"),
        *("TYPE OF EXAMINATION", "TYPE OF EXAM", "INDICATION", "INDICATIONS", "INDICATION FOR EXAM", "HISTORY"),
        *("CLINICAL HISTORY", "CLINICAL INDICATION", "CLINICAL INFORMATION", "CLINICAL DATA", "CLINICAL QUESTION"),
        *("PATIENT HISTORY", "MEDICAL HISTORY", "REASON FOR EXAM", "REASON FOR EXAMINATION", "REASON FOR THIS EXAM"),
        *("REASON FOR STUDY", "DIAGNOSIS", "COMPARISON", "COMPARISONS", "COMPARISON STUDY", "REFERENCE EXAM"),
        *("PRIOR STUDIES", "TECHNIQUE", "TECHNIQUES", "UNDERLYING MEDICAL CONDITION", "FINAL REPORT"),
        *("SIGNS AND SYMPTOMS", "SYMPTOMS", "CONTRAST"),
    ),
}
LEAST = 4  # letters that must be left; 3 where they are most of the header
_SQUEEZED = [(re.sub(r"[^A-Z]", "", name), meaning) for meaning, names in HEADERS.items() for name in names]
_MEANINGS = dict(_SQUEEZED)


@functools.lru_cache(maxsize=4096)
def cut_header(name: str) -> str | None:
    """Returns what follows a header that is cut, has a blank within, or has one wrong letter.

    Args:
        name (`str`): The start of a line before a colon, or a line. In capitals anything that is left counts;
            otherwise at least five letters have to be left and at most two be cut.

    Returns:
        `str`, *optional*: One of `HEADERS`, or `None` if it is not recognised.
    """
    left = re.sub(r"[^A-Z]", "", name.upper())
    if not 3 <= len(left) <= 40 or len(left) < 0.8 * len(name.replace(" ", "")):
        return None
    capitals = sum(map(str.isupper, name)) >= len(left) - 1  # a capital I may be read as l
    if left in _MEANINGS:
        return _MEANINGS[left] if capitals else None
    fits = [
        (len(header) - len(left), meaning)
        for header, meaning in _SQUEEZED
        if (header.startswith(left) or header.endswith(left)) and _enough(left, header, capitals)
    ]
    if not fits:
        near = difflib.get_close_matches(left, _MEANINGS, n=1, cutoff=0.87) if len(left) >= 7 and capitals else []
        return _MEANINGS[near[0]] if near else None
    missing = min(fits)[0]
    meanings = {meaning for cut, meaning in fits if cut == missing}
    if meanings == {"impression", "conclusion"}:
        return "conclusion"  # which counts as the impression where there is none
    if meanings == {"other", "closing"}:
        return "other"
    return meanings.pop() if len(meanings) == 1 else None


def _enough(left: str, header: str, capitals: bool) -> bool:
    if not capitals:
        return len(left) >= 5 and len(header) - len(left) <= 2
    return len(left) >= LEAST or len(left) > 0.6 * len(header)
