"""When two texts count as one, and which spellings mean that there is none."""

from __future__ import annotations

import math
import re

# Compared without case, blanks around and a full stop behind.
NOTHING = frozenset(
    ("", "nan", "-nan", "none", "null", "nil", "na", "n/a", "n.a", "<na>", "<null>", "(null)", "#na", "#n/a", "nat")
    + ("-", "--", "---", "undefined")
)
_MONTHS = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    + (r"|nov(?:ember)?|dec(?:ember)?)\.?")
)
_CHANGING = re.compile(
    r"\[\*\*.{0,80}?\*\*\]|_{2,}|\bx{3,}\b"  # marks of de-identification
    r"|\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b|\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})\b"  # dates of numbers
    r"|(?<=\bon )\d{1,2}/\d{1,2}\b|(?<=\bfrom )\d{1,2}/\d{1,2}\b|(?<=\bsince )\d{1,2}/\d{1,2}\b"
    r"|(?<=\bdated )\d{1,2}/\d{1,2}\b"
    rf"|\b{_MONTHS} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?\b|\b\d{{1,2}}(?:st|nd|rd|th)? {_MONTHS}(?:,? \d{{4}})?\b"
    rf"|\b{_MONTHS},? \d{{4}}\b"
    r"|\b\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]\.?m\b\.?)?|\b\d{1,2} ?[ap]\.?m\b\.?|\b\d{3,4} hours\b"  # times
    r"|\b(?=[a-z]*\d)[a-z\d]*\d{6,}[a-z\d]*\b"  # numbers of patients, orders and studies
)
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")


def is_nothing(value: object) -> bool:
    """Returns whether a cell holds nothing: null, NaN, or text that spells either, such as `nan`, `N/A` or `<NA>`."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return True
    return isinstance(value, str) and value.strip().rstrip(".").strip().lower() in NOTHING


def normal_form(text: str) -> str:
    """Returns what two texts share that say the same: words and measures, without case, punctuation and white space.

    Dates, times, marks of de-identification (`___`, `XXXX`, `[**...**]`) and numbers of six digits and more, which
    name a patient, an order or a study, are left out. Other numbers stay: `3 mm` is not `8 mm`.

    Args:
        text (`str`): A report or a section of one.

    Returns:
        `str`: Equal for near-duplicates; never text to show.
    """
    text = " ".join(text.lower().split())
    return " ".join(_TOKEN.findall(_CHANGING.sub(" ", text)))


def vetted(value: object, quoted: bool = False, most_words: int = 2) -> str:
    """Returns a value of a table for a message, unless it may be text of a report.

    Shown is what one identifier, number or label would be: at most 64 characters without blanks, and no row of words
    joined by other signs. Names of files have `most_words` of 12.
    """
    text = str(value)
    words = sum(len(_WORD_OF_ID.findall(part)) for part in re.split(r"[._/:+-]", text) if part.isalpha())
    if _IDENTIFIER.fullmatch(text) and words <= most_words:
        return repr(text) if quoted else text
    return "a value that is not shown, since it may be text of a report,"


def quoted_id(value: object) -> str:
    """[`vetted`] in quotes."""
    return vetted(value, quoted=True)


def quoted_path(value: object) -> str:
    """[`vetted`] in quotes, for the name of a file."""
    return vetted(value, quoted=True, most_words=12)


_IDENTIFIER = re.compile(r"[\w./:+-]{1,64}")
_WORD_OF_ID = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
