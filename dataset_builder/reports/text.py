"""Cleaning of a report's section into the text that stands in a dataset."""

from __future__ import annotations

import re

_MARKS = r"(?:\[\*\*.{0,80}?\*\*\]|_{2,}|X{4,}|\bX{3}\b)"
# "x-XXXX" is Open-i's own slip for "x-ray": its de-identification took the second half of the word for a name.
_X_RAY = re.compile(r"\b([xX])-X{3,}\b")
# A mark goes together with the word that has nothing left to point at: "seen on ___." becomes "seen."
_DANGLING = re.compile(
    rf"(?:\s(?:on|at|by|from|since|dated|to|with|via|and|Dr\.?)){{0,2}}"
    rf"\s{_MARKS}(?:[ ,/:-]{{1,3}}(?:(?:at|on|by|and) )?{_MARKS}){{0,8}}(?=\s?(?:[.,;:)]|$))"
)
_MARK = re.compile(rf"{_MARKS}[-/]?")
_BROKEN = re.compile(r"[\ufffd\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")  # surrogates fit no UTF-8
_BLANKS = re.compile(r"[^\S\n]+")
_PARAGRAPH = re.compile(r" ?\n ?(?:\n\s*|(?=[-*\u2022]\s)|(?=\(?\d{1,2}[.)](?:\s|[A-Za-z])))")
_BULLET = re.compile(r"(^|[.!?;:]\s+)[-*\u2022]\s+")
# A number with "." or ")" that opens a sentence, or one in mid-sentence that a capital follows (it must count on).
_ENUMERATOR = re.compile(r"(^\s*|[.!?;:]\s+|\s)\(?(\d{1,2})[.)](?:\s+(?=\S)|(?=[A-Za-z]))")
_SPACE_BEFORE_STOP = re.compile(r"\s+([.,;:!?)])")
_DOUBLE_STOP = re.compile(r"([.!?])(?:\s*\.|\s[,;:])+")
_COMMAS = re.compile(r"([,;:])(?:\s?[,;:])+")
_COMMA_STOP = re.compile(r"[,;:](?=\s?\.|$)")
_EMPTY_BRACKETS = re.compile(r"[(\[][\s()\[\]]{0,20}[)\]]")
_LEADING = re.compile(r"^[\s.,;:!?)-]+")
_WORD = re.compile(r"\w+")


def clean_impression(text: str | None) -> str:
    """The section as running text: white space normalised, lists turned into sentences, de-identification marks gone.

    `1. Small effusion 2. No pneumothorax.` becomes `Small effusion. No pneumothorax.`, while decimals (`2.5 cm`) and
    one-word sentences (`Normal.`) survive. MIMIC's `___` and Open-i's `XXXX` go, with the preposition they leave bare.
    Case and wording stay. Cleaning what is clean changes nothing.

    Args:
        text (`str`, *optional*): An IMPRESSION or FINDINGS section.

    Returns:
        `str`: The cleaned text; empty where nothing but marks and punctuation stood there.
    """
    if not text:
        return ""
    text = _BLANKS.sub(" ", _BROKEN.sub(" ", text))
    text = _X_RAY.sub(r"\1-ray", text)
    text = _PARAGRAPH.sub(_end_sentence, text.strip())
    text = " ".join(text.split())
    for _ in range(10):  # what goes may bring more of it together; reports need two passes, only litter needs all
        cleaned = _tidy(text)
        if cleaned == text:
            break
        text = cleaned
    return text if _WORD.search(text) else ""


def count_tokens(text: str) -> int:
    """The number of words (`\\w+`), as the official GLoRIA and MGCA readers count them."""
    return sum(1 for _ in _WORD.finditer(text))


def _tidy(text: str) -> str:
    text = _EMPTY_BRACKETS.sub(" ", _MARK.sub(" ", _DANGLING.sub("", text)))
    text = _remove_enumerators(_BULLET.sub(r"\1", " ".join(text.split())))
    text = _DOUBLE_STOP.sub(r"\1", text)
    text = _SPACE_BEFORE_STOP.sub(r"\1", text)
    text = _COMMA_STOP.sub("", _COMMAS.sub(r"\1", text))
    return _LEADING.sub("", " ".join(text.split()))


def _end_sentence(match: re.Match) -> str:
    """A blank line, or a line that opens a list item, ends the sentence before it."""
    return " " if match.string[: match.start()].rstrip()[-1:] in ".!?;:" else ". "


def _remove_enumerators(text: str) -> str:
    last = 0

    def replace(match: re.Match) -> str:
        nonlocal last
        before, number = match.group(1), int(match.group(2))
        if before.strip() or match.start() == 0:  # opens a sentence
            last = number
            return before
        if last and number == last + 1 and match.string[match.end() : match.end() + 1].isupper():
            last = number
            return ". "
        return match.group()

    return _ENUMERATOR.sub(replace, text)
