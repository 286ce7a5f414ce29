import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medsyn.tables import column_names, first_few, numbered_rows, table_columns, table_rows

ROWS = [{"id": "a", "text": 'one, "two"'}, {"id": "b", "text": "three"}]


def write(path, rows=ROWS):
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    lines = [json.dumps(row) for row in rows]
    if ".csv" in path.name:
        lines = [
            ",".join(rows[0]),
            *(",".join(f'"{cell}"'.replace('"two"', '""two""') for cell in row.values()) for row in rows),
        ]
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert list(table_rows(write(tmp_path / f"table{suffix}"))) == ROWS


def test_rows_are_numbered_stripped_and_their_columns_checked(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id , text\n a , x \n\n b , y \n")
    assert list(numbered_rows(path, "id")) == [(1, {"id": "a", "text": "x"}), (2, {"id": "b", "text": "y"})]
    assert table_columns(path) == ["id", "text"]
    with pytest.raises(ValueError, match="table.csv has no column 'patient'; it has 'id', 'text'"):
        list(numbered_rows(path, "id", "patient"))


def test_messages_never_hold_what_may_be_a_report():
    assert column_names(["id", "No acute disease is seen in the lungs."]).startswith("'id', 1 that may hold text")
    assert first_few(list("abcdefg")) == "a, b, c, d, e, ..." and first_few(["a"]) == "a"
