"""When two texts count as one, and which spellings mean that there is none.

```python
normal_form("No change since 3/4/2019.") == normal_form("no change since ___")  # True
normal_form("Nodule of 3 mm.") == normal_form("Nodule of 8 mm.")  # False: a size is what the report says
is_nothing("n/a")  # True
```
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence

# Without case, and without the blanks, stops and brackets of `_AROUND` and `_INSIDE`.
_NOTHING = frozenset(
    "na nan nat none null nil undefined missing notavailable notapplicable notprovided notreported".split()
)
# These need their signs: a label or an id may be called "value" or "n".
_NOTHING_AS_IT_STANDS = frozenset(
    r"#n/a n/a|\n|1.#ind|-1.#ind|1.#qnan|-1.#qnan|#ref!|#value!|#div/0!|#name?|#num!|#null!".split("|")
)
_NOBODY = frozenset(
    "unknown unk unnamed anonymous anonymized anonymised anonym anon deidentified redacted removed nobody".split()
)
_SIGNS = " \t\r\n\u00a0\u200b\ufeff-\u2010\u2011\u2012\u2013\u2014\u2212_.,;:?!/*~#\"'`\u2018\u2019\u201c\u201d"
_AROUND = _SIGNS + "<>()[]{}"
_INSIDE = re.compile(r"[\s./_-]+")
_LONGEST_NOTHING = 40  # characters; texts are longer

# What de-identification leaves in place of a name, date or number: MIMIC's `___` and `[** **]`, Open-i's `XXXX`.
_MARK = re.compile(r"(?:\[\*\*.{0,80}?\*\*\]|_{2,}|x{4,}|\bx{3}\b)[-/]?", re.IGNORECASE)
_X_RAY = re.compile(r"\bx-x{3,}\b", re.IGNORECASE)  # Open-i's own slip for "x-ray"
# A mark goes with the words that point at it, as in `clean_impression` of `dataset_builder.reports.text`.
_POINTING = re.compile(
    r"(?:(?:^| )(?:on|at|by|from|since|dated|to|with|via|and|in|dr\.?)){0,2}"
    r"(?:^| )___(?:[ ,/:-]{1,3}(?:(?:at|on|by|and) )?___)*"
)
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\b(?:\.(?=,? \d))?"
)
_OR_MAY = rf"(?:{_MONTH}|may\b)"  # "2 may reflect ..." is no date: without a year, May takes a preposition
_AFTER = r"(?:(?<=\bon )|(?<=\bfrom )|(?<=\bsince )|(?<=\bdated ))"
_YEAR = r"(?:19|20)\d\d"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DAY_OF = rf"{_DAY}(?:st|nd|rd|th)?\b"
_MONTH_NUMBER = r"(?:0?[1-9]|1[0-2])"
_NO_UNIT = r"(?![.,]?\d)(?! ?(?:[cm]?m|m?l|cc|hu|g|of|views?|images?|films?)\b)"
# Never a bare number below 10,000 that is no year: "3 mm", "ribs 4 and 5", "T12" and "grade 3/6" are content.
_IDENTIFYING = re.compile(
    "|".join(
        (
            r"[\[<({](?:date|time|name|doctor|hospital|location|address|phone|mrn|id|age|redacted|removed|"
            r"de-?identified)[\]>)}]",  # <DATE>, [NAME]
            rf"\b{_YEAR}([-/.]){_MONTH_NUMBER}\1{_DAY}(?:t(?=\d)|(?!\d))",  # 2019-03-04
            rf"\b(?:{_DAY}([-/.]){_MONTH_NUMBER}|{_MONTH_NUMBER}([-/.]){_DAY})(?:\2|\3)(?:{_YEAR}|\d\d)\b(?![./-]?\d)",
            rf"\b{_DAY_OF}(?: of)?[ -]{_OR_MAY},?[ -]{_YEAR}\b",  # 4 May 2019
            rf"\b{_DAY_OF}(?: of)?[ -]{_MONTH}(?:[ -]\d\d\b{_NO_UNIT})?",  # 4-Mar-19
            rf"\b{_OR_MAY} {_DAY_OF},? {_YEAR}\b",  # May 4, 2019
            rf"\b{_MONTH} {_DAY_OF}{_NO_UNIT}",
            rf"{_AFTER}may {_DAY_OF}{_NO_UNIT}",
            rf"\b{_OR_MAY},? {_YEAR}\b",
            rf"{_AFTER}{_MONTH_NUMBER}[/-]{_DAY}\b{_NO_UNIT}",  # from 3/4
            r"(?<!ratio )(?<!ratio of )(?:\b|(?<=t))(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
            r"(?: ?(?:[ap]\.?m|hours|hrs|h)\b)?",  # 10:32
            r"\b(?:0?[1-9]|1[0-2]) ?[ap]\.?m\b",  # 5 p.m.
            r"\b(?:[01]\d|2[0-3])[0-5]\d ?(?:hours|hrs)\b",  # 1430 hours
            rf"(?<![\d.,])\b{_YEAR}\b{_NO_UNIT}",
            r"\b(?:mrn|accession|pager|telephone|phone|patient id|study id)(?: number| no\.?)?[ .:#]*"
            r"(?=[a-z-]{0,8}\d)[a-z\d-]{1,40}",
            r"\b(?:clip|acc|exam|study|order|case) ?(?:#|number)[ .:#]*[a-z-]{0,8}\d[a-z\d-]{0,40}",
            r"#\s?\d{4,}",
            r"(?<!\w)\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}\b",  # a telephone
            r"\b[a-z]{0,4}-?\d{5,}\b(?![.,]\d)",  # no size and no count is so long
        )
    )
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff'\u2019]")  # and apostrophes
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NO_ZERO = re.compile(r"(?<![\w.])\.(?=\d)")  # .5 cm
# All but letters, digits, the point of a decimal, and signs without which a number says something else.
_PUNCTUATION = re.compile(r"(?!(?<=\d)\.(?=\d))(?:[^\w<>≤≥%+=°]|_)")
_JOINT = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)|(?<=[<>≤≥%+=°])|(?=[<>≤≥%+=°])")


def is_nothing(value: object) -> bool:
    """
    Returns whether a cell holds nothing: null, NaN, or text that spells either, such as `nan`, `N/A`, `<NA>` or `-`.

    What pandas reads as missing counts, and what Excel, SQL and people write for it. An empty list, `[]`, does not: in
    columns of boxes it says that nothing was found.
    """
    text = "" if value is None else str(value).strip().casefold()  # str of each NaN and NA spells it
    if len(text) > _LONGEST_NOTHING:
        return False
    return not text.strip(_SIGNS) or text in _NOTHING_AS_IT_STANDS or _INSIDE.sub("", text.strip(_AROUND)) in _NOTHING


def names_nobody(value: object) -> bool:
    """Returns whether an id of a patient is none: nothing, a mark of de-identification, `unknown`, `anonymous`."""
    if is_nothing(value):
        return True
    text = str(value).strip()
    return len(text) <= 2 * _LONGEST_NOTHING and (
        _INSIDE.sub("", text.strip(_AROUND).casefold()) in _NOBODY or _MARK.fullmatch(text) is not None
    )


def normal_form(text: str) -> str:
    """
    Returns what two texts share that say the same: words and measures, without case, punctuation and white space.

    Marks of de-identification (`___`, `XXXX`, `[**...**]`) and what they stand for are left out: dates, times, years,
    telephone numbers, and numbers of patients, orders and studies, which have five digits or more or follow a word
    such as MRN. Other numbers stay with their signs: sizes, counts, levels, grades and shares. `3 mm` is not `8 mm`,
    `<3 mm` or `.3 mm`.

    Args:
        text (`str`): A report or a section of one.

    Returns:
        `str`: Equal for near-duplicates; never text to show.
    """
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).replace("×", "x")
    text = " ".join(_MARK.sub(" ___ ", _X_RAY.sub("x-ray", text)).split()).casefold()
    text = " ".join(_IDENTIFYING.sub(" ___ ", text).split())
    text = _POINTING.sub(" ", text)
    text = _NO_ZERO.sub("0.", _THOUSANDS.sub("", text))
    return " ".join(_JOINT.sub(" ", _PUNCTUATION.sub(" ", text)).split())


def shared_groups(*keys: Sequence[Hashable]) -> list[int]:
    """
    The group of each row: rows that have one key in common are in one group, and so are those they have one with.

    Args:
        keys (`Sequence`): One key a row; several sequences where rows may be joined by one key or another.

    Returns:
        `list[int]`: The number of the first row of each row's group.
    """
    parent = list(range(len(keys[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for column in keys:
        first: dict[Hashable, int] = {}
        for row, key in enumerate(column):
            low, high = sorted((root(first.setdefault(key, row)), root(row)))
            parent[high] = low
    return [root(row) for row in range(len(parent))]


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
