"""What becomes of the reports on their way in: each filter, the count after it, and what was left out.

```python
funnel = Funnel(min_tokens=3)
for record in funnel(read_table("reports.jsonl")):  # cleaned and kept, in the order they came
    ...
funnel.summary()  # counts, skipped ids, sha256 of the id list, share of repeated prompts; goes into the manifest
```

`summary()` is complete once the records are exhausted, and stands for those read so far before that. A funnel is used
once. Records stream through it; what it remembers grows with the ids (about 150 bytes a study), never with the text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from dataset_builder.reports.record import ReportRecord
from dataset_builder.reports.text import clean_impression, count_tokens
from medsyn.errors import UserError
from medsyn.texts import is_nothing, quoted_id

SHOWN_IDS = 10
MAX_CHARACTERS = 100_000  # of impression and findings; the longest real reports have a tenth of it
NO_FRONTAL_FILM = "no_frontal_film"


class Funnel:
    """Cleans the records and keeps those fit for use: all -> readable -> frontal -> impression -> length -> unique.

    What cannot be read, and what has no frontal image, is marked by the reader (`ReportRecord.unfit`).

    Args:
        min_tokens (`int`, *optional*, defaults to 3): The fewest words a cleaned impression may have (the paper's 3).
        on_duplicate (`str`, *optional*, defaults to `"error"`): `"error"` refuses a study id that comes a second time,
            `"skip"` keeps the first one and counts the rest.

    Attributes:
        counts (`dict[str, int]`): How many records were left after each step, in order: `all`, `readable`, `frontal`
            (not known to lack a PA or AP image), `with_impression`, `long_enough`, `unique`.
        skipped (`dict[str, dict]`): Reason (`no_impression`, `too_short`, `too_long`, `duplicate_study` and those of
            the readers) -> `count` and the first `SHOWN_IDS` `study_ids`.
        impressions_from (`dict[str, int]`): What headed the impressions of the kept records, where the reader says.

    Raises:
        UserError: A second study of the same id under `on_duplicate="error"`; a bad argument; a second use.
    """

    def __init__(self, min_tokens: int = 3, on_duplicate: str = "error"):
        if min_tokens < 1:
            raise UserError(f"min_tokens {min_tokens} is below 1; an impression needs at least one word")
        if on_duplicate not in ("error", "skip"):
            raise UserError(f"on_duplicate {on_duplicate!r} is neither 'error' nor 'skip'")
        self.min_tokens = min_tokens
        self.on_duplicate = on_duplicate
        self.counts = dict.fromkeys(("all", "readable", "frontal", "with_impression", "long_enough", "unique"), 0)
        self.skipped = {
            reason: {"count": 0, "study_ids": []} for reason in ("no_impression", "too_short", "duplicate_study")
        }
        self.impressions_from: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._prompts: set[bytes] = set()
        self._id_list = hashlib.sha256()
        self._started = False

    def __call__(self, records: Iterable[ReportRecord]) -> Iterator[ReportRecord]:
        """The kept records, `impression` and `findings` cleaned (`findings` `None` where nothing is left)."""
        if self._started:
            raise UserError("this Funnel has counted other records already; make a new one")
        self._started = True
        return self._keep(records)

    def _keep(self, records: Iterable[ReportRecord]) -> Iterator[ReportRecord]:
        for record in records:
            self.counts["all"] += 1
            unfit = record.unfit
            if unfit is None and len(record.impression) + len(record.findings or "") > MAX_CHARACTERS:
                unfit = "too_long"
            if unfit not in (None, NO_FRONTAL_FILM):
                self._skip(unfit, record)
                continue
            self.counts["readable"] += 1
            if unfit is not None:
                self._skip(unfit, record)
                continue
            self.counts["frontal"] += 1
            impression = clean_impression(record.impression)
            if is_nothing(impression):
                self._skip("no_impression", record)
                continue
            self.counts["with_impression"] += 1
            if count_tokens(impression) < self.min_tokens:
                self._skip("too_short", record)
                continue
            self.counts["long_enough"] += 1
            if record.study_id in self._ids:
                if self.on_duplicate == "error":
                    raise UserError(
                        f"study id {quoted_id(record.study_id)} of {record.source or 'the records'} comes twice "
                        f"(record {self.counts['all']}); name the column of unique ids, or take the later ones out"
                    )
                self._skip("duplicate_study", record)
                continue
            self.counts["unique"] += 1
            self._ids.add(record.study_id)
            if record.impression_from:
                self.impressions_from[record.impression_from] += 1
            self._id_list.update(record.study_id.encode() + b"\n")
            self._prompts.add(hashlib.sha256(impression.encode()).digest()[:16])
            findings = clean_impression(record.findings)
            yield replace(record, impression=impression, findings=None if is_nothing(findings) else findings)

    def _skip(self, reason: str, record: ReportRecord) -> None:
        entry = self.skipped.setdefault(reason, {"count": 0, "study_ids": []})
        entry["count"] += 1
        if len(entry["study_ids"]) < SHOWN_IDS:
            entry["study_ids"].append(record.study_id)

    def summary(self) -> dict:
        """What the manifest says of the reports, as JSON.

        Returns:
            `dict`: `counts`, `skipped` and `impressions_from` (see the class), `min_tokens`, `on_duplicate`,
            `study_ids_sha256` (over the kept ids in order, each with a line end), `distinct_prompts`, and
            `repeated_prompt_share`: the share of kept records whose cleaned impression stood in an earlier one.
        """
        kept = self.counts["unique"]
        return {
            "counts": dict(self.counts),
            "skipped": {
                reason: dict(entry, study_ids=list(entry["study_ids"])) for reason, entry in self.skipped.items()
            },
            "impressions_from": dict(self.impressions_from.most_common()),
            "min_tokens": self.min_tokens,
            "on_duplicate": self.on_duplicate,
            "study_ids_sha256": self._id_list.hexdigest(),
            "distinct_prompts": len(self._prompts),
            "repeated_prompt_share": round(1 - len(self._prompts) / kept, 6) if kept else 0.0,
        }
