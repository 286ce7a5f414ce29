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

import csv
import gzip
import json
import math
import sys
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError

SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
STUDY_COLUMNS = ("study_id", "uid", "id", "image_id")
SUBJECT_COLUMNS = ("subject_id", "patient_id")
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
FINDINGS_COLUMN = "findings"
_LONGEST_NAME, _LONGEST_ID = 40, 100  # characters; what is longer is taken for text
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
        path (`str` or `Path`): A file with one of the suffixes of `SUFFIXES`, UTF-8 where it is text.
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
    read_rows = _reader(path)
    named = {
        "impression_column": impression_column,
        "findings_column": None if findings_column == FINDINGS_COLUMN else findings_column,
        "study_column": study_column,
        "subject_column": subject_column,
        "split_column": split_column,
        "view_column": view_column,
        "report_column": report_column,
    }
    rows = read_rows(path)
    first = list(islice(rows, _LOOK_AHEAD))
    if not first:
        raise UserError(f"{path} holds no rows; give a table with a header or objects and at least one report")
    columns = list(dict.fromkeys(name for row in first for name in row))
    for option, column in named.items():
        if column is not None and column not in columns:
            raise UserError(f"{path} has no column {column!r}; name one of {_names(columns)} as {option}")
    study_column = study_column or next((name for name in STUDY_COLUMNS if name in columns), None)
    subject_column = subject_column or next((name for name in SUBJECT_COLUMNS if name in columns), None)

    for number, row in enumerate(chain(first, rows), start=1):
        study_id = _identifier(row, study_column, path, number) if study_column else str(number)
        split = view = None
        if split_column is not None:
            value = _text(row, split_column, path, number)
            if value is not None and value.strip():
                split = SPLITS.get(value.strip().lower())
                if split is None:
                    raise UserError(
                        f"{path}, row {number}: split {_names([value])} is not one of {', '.join(SPLITS)}; mend it "
                        "or leave split_column out"
                    )
        if view_column is not None:
            value = (_text(row, view_column, path, number) or "").strip().upper()
            view = value[:2] if value[:2] in ("PA", "AP") else None
        yield ReportRecord(
            study_id=study_id,
            subject_id=_identifier(row, subject_column, path, number) if subject_column else study_id,
            impression=_text(row, impression_column, path, number) or "",
            findings=_text(row, findings_column, path, number),
            report=_text(row, report_column, path, number) if report_column else None,
            source=path.name,
            split=split,
            view=view,
        )


def _reader(path: Path):
    name = path.name.lower()
    if not path.exists():
        raise FileNotFoundError(f"there is no table {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one table ({', '.join(SUFFIXES)})")
    if name.endswith((".csv", ".csv.gz")):
        return csv_rows
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _json_rows
    if name.endswith(".parquet"):
        return _parquet_rows
    raise UserError(f"{path} is none of the tables that can be read ({', '.join(SUFFIXES)}); convert or rename it")


def text_lines(path: Path) -> Iterator[str]:
    """Decoded lines with their ends; a byte that is not UTF-8, or a gzip that breaks off, is named."""
    offset = 0
    number = 0
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                offset += len(line)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {offset + error.start}, on line {number}; convert it, for example with "
            f"`iconv -f latin1 -t utf-8`"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path} breaks off or is damaged after line {number} ({type(error).__name__}); copy or download it again"
        ) from None


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a `.csv` or `.csv.gz` with a header; a broken one raises a `ValueError` that names file and row."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # reports may be longer than the module's 128 KiB
    rows = csv.reader(text_lines(path), strict=True)
    header = None
    number = 0
    try:
        for fields in rows:
            if not fields:
                continue
            if header is None:
                header = fields
                repeated = sorted({name for name in header if header.count(name) > 1})
                if repeated:
                    raise UserError(f"{path} has more than one column {_names(repeated[:1])}; rename all but one")
                continue
            number += 1
            if len(fields) != len(header):
                raise UserError(
                    f"{path}, row {number} (ends on line {rows.line_num}) has {len(fields)} fields where the header "
                    f'has {len(header)}; put fields that hold commas or line ends in "quotes"'
                )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}, row {number + 1} (line {rows.line_num}) is not CSV: {error}; look for a quote that is not closed"
        ) from None


def _json_rows(path: Path) -> Iterator[dict]:
    number = 0
    for line_number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, row {number} (line {line_number}) is not JSON: {error.msg} at character {error.pos}; "
                "each line must hold one whole object"
            ) from None
        except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
            raise UserError(
                f"{path}, row {number} (line {line_number}) is no JSON that can be read ({type(error).__name__}); "
                "each line must hold one plain object"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, row {number} (line {line_number}) holds a {type(row).__name__}, not an object; "
                'write one {"column": value} a line'
            )
        yield row


def _parquet_rows(path: Path) -> Iterator[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            nested = [field.name for field in file.schema_arrow if pa.types.is_nested(field.type)]
            flat = [name for name in file.schema_arrow.names if name not in nested]  # an image column is never read
            for batch in file.iter_batches(batch_size=256, columns=flat):
                for row in batch.to_pylist():
                    number += 1
                    yield row
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(
            f"{path} is damaged or not Parquet after row {number} ({type(error).__name__}); copy or download it again"
        ) from None


def _names(found: list[str]) -> str:
    """Names in quotes for a message; what reads like a sentence stays out, since it may be a report's."""
    shown = [
        repr(name) for name in found if len(name) <= _LONGEST_NAME and len(name.split()) <= 3 and name[-1:] != "."
    ]
    if len(shown) < len(found):
        shown.append(f"{len(found) - len(shown)} that may hold text of a report (is there a header?)")
    return ", ".join(shown)


def _text(row: dict, column: str, path: Path, number: int) -> str | None:
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise UserError(
            f"{path}, row {number}: column {column!r} holds a {type(value).__name__}, not text; name another column"
        )
    return value


def _identifier(row: dict, column: str, path: Path, number: int) -> str:
    value = row.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes an integer column with a gap as floats
    text = "" if isinstance(value, bool) or not isinstance(value, (str, int)) else str(value).strip()
    if not 0 < len(text) <= _LONGEST_ID:
        raise UserError(
            f"{path}, row {number}: column {column!r} holds no identifier of at most {_LONGEST_ID} characters; fill "
            "it or name another column"
        )
    return text
