"""Reading a table of reports: CSV, JSON lines or Parquet, one row a study, in constant memory.

```python
for record in read_table("reports.jsonl", impression_column="impression"):
    ...  # ReportRecord; texts are raw here, `Funnel` cleans and filters them
```

Suffixes: `.csv`, `.csv.gz`, `.jsonl`, `.jsonl.gz`, `.parquet`. Every error is a `ValueError` (`FileNotFoundError` for
a missing file) whose message names the file, the row (counted from 1, the header not counted) and the remedy, and
never holds text of a report. Errors come while the rows are read, at the first bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError
from medsyn.schema import SPLIT_NAMES
from medsyn.tables import column_names, table_rows
from medsyn.texts import is_nothing, names_nobody

STUDY_COLUMNS = ("study_id", "uid", "id", "image_id")
SUBJECT_COLUMNS = ("subject_id", "patient_id")
FINDINGS_COLUMN = "findings"
_LONGEST_ID = 100  # characters
_LOOK_AHEAD = 100  # rows searched for columns, since JSON writers may leave empty ones out


def read_table(
    path: str | Path,
    *,
    impression_column: str = "impression",
    findings_column: str = FINDINGS_COLUMN,
    study_column: str | None = None,
    subject_column: str | None = None,
    split_column: str | None = None,
    view_column: str | None = None,
    report_column: str | None = None,
) -> Iterator[ReportRecord]:
    """One record a row, texts as found (an impression may be empty: the funnel decides).

    Args:
        path (`str` or `Path`): A file with one of the suffixes of `medsyn.tables.SUFFIXES`, UTF-8 where it is text.
        impression_column (`str`, *optional*, defaults to `"impression"`): Must be there.
        findings_column (`str`, *optional*, defaults to `"findings"`): May be missing under its default name only.
        study_column (`str`, *optional*): By default the first there is of `STUDY_COLUMNS`, else the row's number.
        subject_column (`str`, *optional*): By default the first there is of `SUBJECT_COLUMNS`, else the study's id.
        split_column (`str`, *optional*): Holds train / validation / test (or val, valid, validate, dev); by default no
            split is fixed.
        view_column (`str`, *optional*): Holds the view; what does not begin with PA or AP counts as unknown.
        report_column (`str`, *optional*): The whole report.

    Yields:
        `ReportRecord`: With the file's name as its source.

    Raises:
        `FileNotFoundError`: No such file.
        UserError: An unknown suffix, a missing column, a broken or wrongly encoded file, an unknown split.
    """
    path = Path(path)
    rows = table_rows(path)
    named = {
        "impression_column": impression_column,
        "findings_column": None if findings_column == FINDINGS_COLUMN else findings_column,
        "study_column": study_column,
        "subject_column": subject_column,
        "split_column": split_column,
        "view_column": view_column,
        "report_column": report_column,
    }
    first = list(islice(rows, _LOOK_AHEAD))
    if not first:
        raise UserError(f"{path} holds no rows; give a table with a header or objects and at least one report")
    columns = list(dict.fromkeys(name for row in first for name in row))
    for option, column in named.items():
        if column is not None and column not in columns:
            raise UserError(f"{path} has no column {column!r}; name one of {column_names(columns)} as {option}")
    study_column = study_column or next((name for name in STUDY_COLUMNS if name in columns), None)
    subject_column = subject_column or next((name for name in SUBJECT_COLUMNS if name in columns), None)

    for number, row in enumerate(chain(first, rows), start=1):
        study_id = _identifier(row, study_column, path, number) if study_column else str(number)
        split = view = None
        if split_column is not None:
            value = _text(row, split_column, path, number)
            if not is_nothing(value):
                split = SPLIT_NAMES.get(value.strip().lower())
                if split is None:
                    raise UserError(
                        f"{path}, row {number}: split {column_names([value])} is not one of "
                        f"{', '.join(SPLIT_NAMES)}; mend it or leave split_column out"
                    )
        if view_column is not None:
            value = (_text(row, view_column, path, number) or "").strip().upper()
            view = value[:2] if value[:2] in ("PA", "AP") else None
        yield ReportRecord(
            study_id=study_id,
            subject_id=_identifier(row, subject_column, path, number, names_nobody) if subject_column else study_id,
            impression=_text(row, impression_column, path, number) or "",
            findings=_text(row, findings_column, path, number),
            report=_text(row, report_column, path, number) if report_column else None,
            source=path.name,
            subject_known=subject_column is not None,
            split=split,
            view=view,
        )


def _text(row: dict, column: str, path: Path, number: int) -> str | None:
    value = row.get(column)
    if is_nothing(value):
        return None
    if not isinstance(value, str):
        raise UserError(
            f"{path}, row {number}: column {column!r} holds a {type(value).__name__}, not text; name another column"
        )
    return value


def _identifier(
    row: dict, column: str, path: Path, number: int, is_none: Callable[[object], bool] = is_nothing
) -> str:
    value = row.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes an integer column with a gap as floats
    text = "" if isinstance(value, bool) or not isinstance(value, (str, int)) else str(value).strip()
    if is_none(text) or len(text) > _LONGEST_ID:
        raise UserError(
            f"{path}, row {number}: column {column!r} holds no identifier of at most {_LONGEST_ID} characters; fill "
            "it or name another column"
        )
    return text
