"""The text of each study, whether it may be joined to a row of a dataset without text, and the joined rows."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medsyn.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_COLUMNS = ("prompt", "prompt_sha256", "findings", "impression", "labels", "source")
NEEDED = ("study_id", "report_hash")
SHOWN_STUDIES = 5


@dataclass(frozen=True)
class StudyText:
    """What is attached to a row, and the hash that the whole report keys here."""

    prompt: str
    findings: str | None
    labels: dict[str, int | None]
    source: str
    report_hash: str | None


@dataclass
class AttachResult:
    """
    What became of the rows.

    Args:
        attached (`int`): Rows that got their text: verified by their hash, or without a hash to verify (see
            `unverified`).
        missing (`int`): Rows whose study is not among the reports, or has no impression there.
        differing (`int`): Rows whose hash is not that of the report: another version of it, or another study's. They
            get no text.
        unverified (`int`): Rows among the attached that have no hash, since their report was short or stock. They were
            matched by their study's id alone.
        studies (`dict[str, list[str]]`): The first few study ids of each of the last three.
    """

    attached: int = 0
    missing: int = 0
    differing: int = 0
    unverified: int = 0
    studies: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def rows(self) -> int:
        return self.attached + self.missing + self.differing

    @property
    def complete(self) -> bool:
        """Whether every row got its text, and no hash spoke against it."""
        return not (self.missing or self.differing)

    def lines(self) -> list[str]:
        """The counts, for a person to read."""
        meanings = {
            "missing": "not among the reports",
            "differing": "whose report is not the one the image was drawn from (the hash differs): left without text",
            "unverified": "without a hash, matched by study id alone",
        }
        lines = [f"{self.attached:,} of {self.rows:,} rows have their text"]
        for name, what in meanings.items():
            if number := getattr(self, name):
                more = ", ..." if number > len(self.studies[name]) else ""
                lines.append(f"{number:,} {what}: {', '.join(self.studies[name])}{more}")
        return lines

    def match(self, study_id: str, report_hash: str | None, texts: dict[str, StudyText]) -> StudyText | None:
        """The text of one row, counted; `None` where it may not be attached."""
        text = texts.get(study_id)
        if text is None:
            self._count("missing", study_id)
            return None
        if report_hash is None:
            self._count("unverified", study_id)
        elif text.report_hash != report_hash:
            self._count("differing", study_id)
            return None
        self.attached += 1
        return text

    def _count(self, name: str, study_id: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
        if len(self.studies[name]) < SHOWN_STUDIES:
            self.studies[name].append(study_id)


def read_texts(
    reports: str | Path,
    wanted: Iterable[str],
    *,
    per: str | None = None,
    any_view: bool | None = None,
    columns: dict[str, str] | None = None,
) -> dict[str, StudyText]:
    """
    The texts of some studies, cleaned as `medsyn build` cleans them.

    Args:
        reports, per, columns: As in [`~dataset_builder.reports.sources.open_reports`].
        wanted (`Iterable[str]`): Study ids.
        any_view (`bool`, *optional*): Of MIMIC-CXR alone. By default its views do not matter, so that no metadata are
            needed, unless a row is an image.

    Returns:
        `dict[str, StudyText]`: Those that are there. About 1 kB a study is held, never a whole report.
    """
    from tqdm import tqdm

    from dataset_builder.pipeline.rows import text_labels
    from dataset_builder.reports.funnel import Funnel
    from dataset_builder.reports.mimic_cxr import find_mimic_cxr
    from dataset_builder.reports.sources import open_reports
    from hub_medsyn.policy.report_hashes import report_hash

    reports = Path(reports)
    if any_view is None:
        folder = reports.is_dir() or reports.suffix == ".zip"
        any_view = folder and per != "image" and find_mimic_cxr(reports) is not None
    records, _ = open_reports(reports, per=per, any_view=any_view, columns=columns)
    wanted = set(wanted)
    texts = {}
    for record in tqdm(Funnel(min_tokens=1)(records), desc="reading reports", unit="report", delay=2):
        if record.study_id in wanted:
            texts[record.study_id] = StudyText(
                record.impression,
                record.findings,
                text_labels(record),
                record.source,
                report_hash(record.report, record.impression, record.study_id),
            )
    return texts


def text_values(matches: Iterable[StudyText | None]) -> dict[str, list]:
    """`TEXT_COLUMNS` of some rows; nulls where there is no text."""
    from dataset_builder.findings import CHEXPERT_LABELS

    unknown = dict.fromkeys(CHEXPERT_LABELS)
    values: dict[str, list] = {name: [] for name in TEXT_COLUMNS}
    for text in matches:
        digest = None if text is None else hashlib.sha256(text.prompt.encode()).hexdigest()
        row: tuple = (None, None, None, None, unknown, None)
        if text is not None:
            row = (text.prompt, digest, text.findings, text.prompt, text.labels, text.source)
        for name, value in zip(TEXT_COLUMNS, row, strict=True):
            values[name].append(value)
    return values


def join_text(table: pa.Table, texts: dict[str, StudyText], result: AttachResult, keep_all: bool) -> pa.Table:
    """Rows of a dataset without text, such as one row group, with it; rows that get none are left out by default."""
    import pyarrow as pa
    from datasets import Features

    from dataset_builder.pipeline.rows import row_features

    rows = zip(*(table.column(name).to_pylist() for name in NEEDED), strict=True)
    matches = [result.match(study, hashed, texts) for study, hashed in rows]
    if not keep_all:
        kept = [place for place, text in enumerate(matches) if text is not None]
        table, matches = table.take(pa.array(kept, pa.int64())), [matches[place] for place in kept]
    features = row_features(localizes=False)
    types = Features.from_arrow_schema(table.schema) | {name: features[name] for name in TEXT_COLUMNS}
    for name, values in text_values(matches).items():
        table = table.append_column(
            name, pa.array(values, Features({name: types[name]}).arrow_schema.field(name).type)
        )
    names = in_order(table.column_names)
    return table.select(names).cast(Features({name: types[name] for name in names}).arrow_schema)


def in_order(names: Iterable[str]) -> list[str]:
    """Columns in the order of a row of `medsyn build`, others behind."""
    from dataset_builder.pipeline.rows import row_features

    names = list(names)
    return [name for name in row_features(True) if name in names] + [n for n in names if n not in row_features(True)]


def check_columns(names: Iterable[str], dataset: str) -> None:
    names = list(names)
    for name in NEEDED:
        if name not in names:
            raise UserError(f"{dataset} has no column {name!r}; it was not published by medsyn without its text")
    present = [name for name in TEXT_COLUMNS if name in names]
    if present:
        raise UserError(f"{dataset} has a column {present[0]!r} already: it holds its text, and needs none attached")
