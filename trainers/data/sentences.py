"""The sentences of a report, as each method's published code cuts them and as they should be cut."""

from __future__ import annotations

import re
from typing import Literal

from medsyn.errors import UserError

SentenceRule = Literal["fixed", "convirt", "gloria", "mgca"]


def fixed_sentences(text: str) -> list[str]:
    """Cuts at a full stop, question or exclamation mark before white space, or at an empty line or list item, so that
    "2.5 cm" stays whole; pieces without a word are dropped, case and punctuation stay."""
    pieces = re.split(r"(?<=[.!?])\s+|\n\s*\n|\n\s*(?=[-*]|\d+[.)]\s)", text)
    return [" ".join(piece.split()) for piece in pieces if re.search(r"[^\W\d_]{2}", piece)]


def convirt_sentences(text: str) -> list[str]:
    """Deletes line breaks and cuts at every full stop, so that "2.5 cm" becomes "2" and "5 cm"."""
    # differs from edreisMD/ConVIRT-pytorch: there one empty piece of several is dropped, and others can be drawn
    return [piece.strip() for piece in text.replace("\n", "").split(".") if piece.strip()]


def gloria_sentences(text: str) -> list[str]:
    """Cuts at every number with a full stop and at every full stop; lower case, words alone, and at least two of them.

    "2.5 cm nodule" becomes "5 cm nodule", "Normal." vanishes, and letters outside ASCII are dropped from their words.
    """
    # differs from marshuang80/gloria: there a report ends after the sentence that brings it to exactly five words
    pieces = [piece for part in re.split(r"[0-9]+\.", text.replace("\n", " ")) for piece in part.split(".")]
    sentences = []
    for piece in pieces:
        words = re.findall(r"\w+", piece.replace("\ufffd\ufffd", " ").lower())
        if len(words) > 1:
            plain = (word.encode("ascii", "ignore").decode() for word in words)
            sentences.append(" ".join(word for word in plain if word))
    # differs from marshuang80/gloria: there a sentence of which no letter is left can be drawn
    return [sentence for sentence in sentences if sentence]


def mgca_sentences(text: str) -> list[str]:
    """Those of [`gloria_sentences`]; none for a report of fewer than three words in all."""
    sentences = gloria_sentences(text)
    return sentences if sum(len(sentence.split()) for sentence in sentences) >= 3 else []


RULES = {
    "fixed": fixed_sentences,
    "convirt": convirt_sentences,
    "gloria": gloria_sentences,
    "mgca": mgca_sentences,
}
# What these leave is all that the published code learns from: a full text is their sentences, joined, and a report
# without any is left out.
CLEANING_RULES = ("gloria", "mgca")


def split_sentences(text: str, rule: SentenceRule = "fixed") -> list[str]:
    """The sentences of a report.

    Args:
        text (`str`): Plain text.
        rule (`str`, *optional*, defaults to `"fixed"`):
            `fixed` keeps decimals whole; `convirt`, `gloria` and `mgca` cut as edreisMD/ConVIRT-pytorch,
            marshuang80/gloria and HKU-MedAI/MGCA do.

    Raises:
        UserError: If there is no such rule.
    """
    if rule not in RULES:
        raise UserError(f"sentence rule {rule!r} is not one of {', '.join(RULES)}")
    return RULES[rule](text)
