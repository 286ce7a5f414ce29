"""Hashes that prove who holds a report, keyed by the report itself."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Sequence

# Distinct words that a report needs beside its prompt to be a key. Of 1,551 Open-i reports of findings and impression,
# someone who has the 1,000 commonest of each from 1,551 others guesses 354 without a minimum, 85 at 25 and none at 35;
# with indication and comparison it takes 40 to end at none (benchmarks/report_hash_guessing.csv).
MIN_OTHER_WORDS = 40

_WORD = re.compile(r"[^\W_]+")
# Words of a report's form, which every report has: no part of a key.
_FORM = frozenset(
    "final report examination exam type study chest pa ap lat lateral and view views portable radiograph radiographs "
    "x ray indication history clinical reason for comparison none technique findings impression".split()
)


def report_hash(report: str | None, prompt: str, study_id: str) -> str | None:
    """
    Proves that someone holds a report, to anyone else who holds it, and tells nothing to those who do not.

    HMAC-SHA256 keyed by the bytes of the whole report, over the study's id and the prompt. Such a hash is as strong as
    the report is hard to guess, so there is none for a report with too little beside its prompt: `MIN_OTHER_WORDS`
    distinct words that neither the prompt nor every report's form (headings) holds.

    Args:
        report (`str`, *optional*): The whole report as found.
        prompt (`str`): The cleaned impression.
        study_id (`str`): The study's id in the dataset.

    Returns:
        `str`, *optional*: 64 hexadecimal digits.
    """
    if report is None or len(_other_words(report, prompt)) < MIN_OTHER_WORDS:
        return None
    message = json.dumps([study_id, prompt]).encode()  # JSON keeps the two apart
    return hmac.new(report.encode("utf-8", "surrogatepass"), message, hashlib.sha256).hexdigest()


def report_hashes(reports: Sequence[tuple[str | None, str, str, str]]) -> list[str | None]:
    """
    [`report_hash`] of every report of a dataset; none where another subject's report says the same beside the prompt.

    What stands twice is a stock text, and whoever knows the stock could try it under every common impression.

    Args:
        reports (`Sequence[tuple]`): Report, prompt, study id and subject id of each row.
    """
    digests: list[bytes | None] = []
    subjects: dict[bytes, str | None] = {}  # digest of what stands beside the prompt -> its one subject
    for report, prompt, _, subject in reports:
        digests.append(None)
        if report is not None:
            words = sorted(_other_words(report, prompt).items())
            digest = digests[-1] = hashlib.sha256(repr(words).encode()).digest()
            if subjects.setdefault(digest, subject) != subject:
                subjects[digest] = None
    return [
        None if digest is None or subjects[digest] is None else report_hash(report, prompt, study)
        for (report, prompt, study, _), digest in zip(reports, digests, strict=True)
    ]


def _other_words(report: str, prompt: str) -> Counter[str]:
    """The words of a report that its prompt and its form leave over, with their numbers."""
    left = Counter(_WORD.findall(report.casefold())) - Counter(_WORD.findall(prompt.casefold()))
    return Counter({word: number for word, number in left.items() if word not in _FORM})
