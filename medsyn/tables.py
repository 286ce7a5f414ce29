"""Rows of CSV, JSON lines and Parquet tables, in constant memory.

```python
for row in table_rows(Path("reports.jsonl")):
    ...  # dict of column to value: str in a CSV, what was written in JSON and Parquet
```

Every message names the file, the row (counted from 1, the header not counted) and the remedy. It never contains text
of a report, which any cell may be.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from medsyn.errors import UserError

SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_LONGEST_NAME = 40  # characters; what is longer is taken for text


def table_rows(path: Path) -> Iterator[dict]:
    """Returns the rows of a table in one of the formats of `SUFFIXES`, UTF-8 where it is text.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The suffix is unknown; while rows are read, the file is damaged or wrongly encoded.
    """
    name = path.name.lower()
    if not path.exists():
        raise FileNotFoundError(f"there is no table {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one table ({', '.join(SUFFIXES)})")
    if name.endswith((".csv", ".csv.gz")):
        return csv_rows(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _json_rows(path)
    if name.endswith(".parquet"):
        return _parquet_rows(path)
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
                    raise UserError(
                        f"{path} has more than one column {column_names(repeated[:1])}; rename all but one"
                    )
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


def table_columns(path: Path) -> list[str]:
    """Returns the columns of a CSV as its first row with values shows them, blanks around names removed."""
    return [name.strip() for name in next(csv_rows(path), {})]


def numbered_rows(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a CSV with their numbers, counted from 1; blanks around names and values are removed.

    Raises:
        UserError: One of `columns` is missing, or the file is not CSV.
    """
    rows = tqdm(csv_rows(path), desc=f"reading {path.name}", unit="row", delay=2, leave=False)
    for number, row in enumerate(rows, start=1):
        row = {name.strip(): value.strip() for name, value in row.items()}
        for column in columns if number == 1 else ():
            if column not in row:
                raise UserError(f"{path} has no column {column!r}; it has {column_names(list(row))}")
        yield number, row


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


def column_names(found: list[str]) -> str:
    """Names in quotes for a message; what reads like a sentence stays out, since it may be a report's."""
    shown = [
        repr(name) for name in found if len(name) <= _LONGEST_NAME and len(name.split()) <= 3 and name[-1:] != "."
    ]
    if len(shown) < len(found):
        shown.append(f"{len(found) - len(shown)} that may hold text of a report (is there a header?)")
    return ", ".join(shown)


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """Returns the first few of a list of names as text for a message."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
