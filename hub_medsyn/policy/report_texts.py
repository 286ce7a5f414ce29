"""Finding sentences of reports in what is about to leave: cards, manifests, names of files."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

import numpy as np

_SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$)|\n\s*\n|[\n\r]\s*(?=\d{1,2}[.)]\s|[-*\u2022]\s)")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrtbf\"/\\])")  # of JSON
_WORD = re.compile(r"[^\W_]+")
MIN_WORDS = 3
_BLOCK = 12  # words; of a longer sentence each block of so many is known


class ReportTexts:
    """
    Sentences of reports, to be looked for in other texts.

    What is held is two numbers of 8 bytes for each distinct sentence of 3 words or more (for each 12 words of a long
    one), never the words. Case, punctuation, spacing, line breaks, accents, Markdown, HTML entities, JSON and URL
    escapes make no difference.

    Args:
        texts (`Iterable[str]`): Impressions, findings, whole reports; read once.
    """

    def __init__(self, texts: Iterable[str]):
        self._starts = _Numbers()  # of the first words of each sentence
        self._sentences = _Numbers()
        for text in texts:
            for sentence in _SENTENCE_END.split(text):
                if len(sentence.split()) >= MIN_WORDS:
                    self._learn([word for word, _ in _words(sentence)])

    def _learn(self, words: list[str]) -> None:
        blocks = [words[start : start + _BLOCK] for start in range(0, len(words), _BLOCK)]
        for block in blocks[:1] + [block for block in blocks[1:] if len(block) == _BLOCK]:
            if len(block) >= MIN_WORDS:
                self._starts.add(_number(block[:MIN_WORDS]))
                self._sentences.add(_number(block))

    def __len__(self) -> int:
        return len(self._sentences)

    def find_in(self, text: str) -> list[int]:
        """
        Where sentences of the reports stand in a text, also in the middle of one and across its line breaks.

        Args:
            text (`str`): A card, a manifest, a list of file names.

        Returns:
            `list[int]`: The lines, counted from 1, on which a sentence begins.
        """
        found = set()
        words = [
            (word, number)
            for number, line in enumerate(text.split("\n"), start=1)
            for word, number in _words(line, number)
        ]
        for place in range(len(words) - MIN_WORDS + 1):
            block = [word for word, _ in words[place : place + _BLOCK]]
            if _number(block[:MIN_WORDS]) in self._starts:
                if any(_number(block[:length]) in self._sentences for length in range(MIN_WORDS, len(block) + 1)):
                    found.add(words[place][1])
        return sorted(found)


class _Numbers:
    """A set of 64-bit numbers in an eighth of the memory of Python's: sorted, with the latest in a heap beside it."""

    def __init__(self) -> None:
        self._sorted, self._latest = np.empty(0, np.uint64), array("Q")

    def add(self, number: int) -> None:
        self._latest.append(number)
        if len(self._latest) > max(2**16, len(self._sorted)):
            self._sort()

    def _sort(self) -> None:
        if self._latest:
            self._sorted = np.union1d(self._sorted, np.frombuffer(self._latest, np.uint64))
            self._latest = array("Q")

    def __contains__(self, number: int) -> bool:
        self._sort()
        place = np.searchsorted(self._sorted, np.uint64(number))
        return bool(place < len(self._sorted) and self._sorted[place] == np.uint64(number))

    def __len__(self) -> int:
        self._sort()
        return len(self._sorted)


def _words(text: str, line: int = 0) -> Iterator[tuple[str, int]]:
    """Normalised words, each with `line`."""
    text = unquote(html.unescape(_ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else " ", text)))
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(each for each in plain if unicodedata.category(each) not in ("Mn", "Cf"))
    return ((word, line) for word in _WORD.findall(plain))


def _number(words: Iterable[str]) -> int:
    return int.from_bytes(
        hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
