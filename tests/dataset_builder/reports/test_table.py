import csv
import gzip
import json
import tracemalloc

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder.reports.funnel import Funnel
from dataset_builder.reports.table import read_table

SECRET = "Confidential lung"
ROWS = [
    {
        "uid": 7,
        "subject_id": "p1",
        "findings": "Clear.",
        "impression": "No acute process.",
        "split": "train",
        "view": "PA",
    },
    {"uid": 8, "subject_id": "p2", "findings": None, "impression": "", "split": "valid", "view": "LATERAL"},
    {
        "uid": 9,
        "subject_id": "p2",
        "findings": "Déjà, vu\nline",
        "impression": 'A "quote".',
        "split": "",
        "view": "AP erect",
    },
]


def write(path, rows=ROWS):
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".jsonl" in name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (gzip.open if name.endswith("gz") else open)(path, "wt", encoding="utf-8").write(text)
    else:
        with (gzip.open if name.endswith("gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.parquet", "T.JSONL"])
def test_every_format_reads_the_same(tmp_path, name):
    path = tmp_path / name
    write(tmp_path / name.lower(), ROWS).rename(path)
    records = list(read_table(path, split_column="split", view_column="view"))
    assert [record.study_id for record in records] == ["7", "8", "9"]
    assert [record.subject_id for record in records] == ["p1", "p2", "p2"]
    assert [record.impression for record in records] == ["No acute process.", "", 'A "quote".']
    assert [record.findings or None for record in records] == ["Clear.", None, "Déjà, vu\nline"]
    assert [record.split for record in records] == ["train", "validation", None]
    assert [record.view for record in records] == ["PA", None, "AP"]
    assert {record.source for record in records} == {name}


def test_columns_can_be_named(tmp_path):
    rows = [{"key": "a", "who": "x", "text": "No change.", "body": "Clear.", "all": "FINDINGS: Clear."}]
    (record,) = read_table(
        write(tmp_path / "t.csv", rows),
        impression_column="text",
        findings_column="body",
        study_column="key",
        subject_column="who",
        report_column="all",
    )
    assert (record.study_id, record.subject_id, record.impression) == ("a", "x", "No change.")
    assert (record.findings, record.report) == ("Clear.", "FINDINGS: Clear.")


def test_without_ids_rows_are_numbered_and_are_their_own_subject(tmp_path):
    records = list(read_table(write(tmp_path / "t.csv", [{"impression": "a"}, {"impression": "b"}])))
    assert [(record.study_id, record.subject_id) for record in records] == [("1", "1"), ("2", "2")]


def test_ids_that_pandas_made_floats_are_whole_again(tmp_path):
    (record,) = read_table(write(tmp_path / "t.parquet", [{"study_id": 50414267.0, "impression": "a"}]))
    assert record.study_id == "50414267"


def test_json_rows_may_leave_columns_out(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a"}\n\n{"id": "b", "impression": "Clear lungs."}\n')
    assert [record.impression for record in read_table(path)] == ["", "Clear lungs."]


def test_byte_order_mark_and_carriage_returns_are_no_text(tmp_path):
    table, lines = tmp_path / "t.csv", tmp_path / "t.jsonl"
    table.write_bytes(b"\xef\xbb\xbfimpression,id\r\nClear lungs,a\r\n\r\n")
    lines.write_bytes(b'\xef\xbb\xbf{"impression": "Clear lungs", "id": "a"}\r\n')
    for path in (table, lines):
        assert [(record.study_id, record.impression) for record in read_table(path)] == [("a", "Clear lungs")]


def test_a_field_of_a_megabyte_is_read(tmp_path):
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        (record,) = read_table(write(tmp_path / name, [{"id": "a", "impression": "lung " * 200_000}]))
        assert len(record.impression) == 1_000_000


def test_memory_does_not_grow_with_the_table(tmp_path):
    rows = [{"id": str(number), "impression": "lung " * 400} for number in range(4000)]  # 8 MB
    for name in ("t.csv", "t.jsonl"):
        path = write(tmp_path / name, rows)
        tracemalloc.start()
        assert sum(1 for _ in read_table(path)) == 4000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


def broken(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def message(path, **options):
    with pytest.raises(ValueError) as caught:
        list(read_table(path, **options))
    text = str(caught.value)
    assert str(path) in text
    assert SECRET not in text
    return text


GOOD = f'{{"id": "a", "impression": "{SECRET}"}}\n'.encode()


@pytest.mark.parametrize(
    ("name", "content", "output"),
    [
        ("t.csv", b"", "no rows"),
        ("t.jsonl", b"\n\n", "no rows"),
        ("t.csv", b"id,impression\n", "no rows"),
        ("t.csv", f"id,impression\na,{SECRET}\nb,x,y\n".encode(), "row 2 (ends on line 3) has 3 fields"),
        ("t.csv", f'id,impression\na,"{SECRET}\nb,x\n'.encode(), "row 1"),
        ("t.csv", f"id,impression,id\na,{SECRET},b\n".encode(), "more than one column 'id'"),
        ("t.csv", f"id,impression\na,{SECRET}\nb,{SECRET} caf\xe9\n".encode("latin-1"), "byte 57, on line 3"),
        ("t.jsonl", GOOD + GOOD[:20] + b"\n", "row 2 (line 2) is not JSON"),
        ("t.jsonl", GOOD + b"[1]\n", "row 2 (line 2) holds a list"),
        ("t.jsonl", GOOD.decode().encode("utf-16"), "not UTF-8: byte 0"),
        ("t.jsonl", b'{"id": "", "impression": "a"}\n', "row 1: column 'id' holds no identifier"),
        (
            "t.jsonl",
            b'{"id": "' + b"long " * 40 + b'", "impression": "a"}\n',
            "row 1: column 'id' holds no identifier",
        ),
        ("t.jsonl", GOOD + b'{"id": ' + b"1" * 5000 + b"}\n", "row 2 (line 2) is no JSON that can be read"),
        ("t.jsonl", b"[" * 100_000 + b"\n", "row 1 (line 1) is no JSON that can be read"),
        ("t.csv", f"1,In all of the {SECRET}.\n2,x\n".encode(), "name one of '1', 1 that may hold text"),
        ("t.csv", f"{SECRET} is clear.,{SECRET} is clear.\n".encode(), "more than one column 1 that may hold text"),
        ("t.jsonl", b'{"id": "a", "impression": ["b"]}\n', "row 1: column 'impression' holds a list"),
        ("t.jsonl.gz", gzip.compress(GOOD * 1000)[:-20], "breaks off or is damaged"),
        ("t.jsonl.gz", GOOD, "breaks off or is damaged"),
        ("t.parquet", b"PAR1 and no more", "damaged or not Parquet"),
        ("t.parquet", b"", "damaged or not Parquet"),
        ("t.xlsx", b"PK", "convert or rename it"),
    ],
)
def test_broken_tables_are_named_with_their_row(tmp_path, name, content, output):
    assert output in message(broken(tmp_path, name, content))


def test_a_truncated_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "t.parquet", [{"id": str(number), "impression": SECRET} for number in range(500)])
    path.write_bytes(path.read_bytes()[:-50])
    assert "copy or download it again" in message(path)


def test_rows_before_the_break_are_kept(tmp_path):
    path = broken(tmp_path, "t.jsonl", b"".join(GOOD.replace(b'"a"', b'"%d"' % i) for i in range(150)) + b"{\n")
    read = []
    with pytest.raises(ValueError, match="row 151"):
        for record in read_table(path):
            read.append(record.study_id)
    assert len(read) == 150


@pytest.mark.parametrize(
    "option", ["impression_column", "findings_column", "study_column", "split_column", "report_column"]
)
def test_a_missing_column_is_named_beside_those_there_are(tmp_path, option):
    path = broken(tmp_path, "t.jsonl", GOOD)
    text = message(path, **{option: "nowhere"})
    assert "'nowhere'" in text and "'id', 'impression'" in text and option in text


def test_an_unknown_split_is_named(tmp_path):
    path = write(tmp_path / "t.csv", [{"id": "a", "impression": "b", "part": "holdout"}])
    assert "row 1: split 'holdout'" in message(path, split_column="part")
    path = write(tmp_path / "u.csv", [{"id": "a", "impression": "b", "part": f"{SECRET} is clear"}])
    assert "row 1: split 1 that may hold text of a report" in message(path, split_column="part")


def test_no_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no table"):
        list(read_table(tmp_path / "none.csv"))
    assert "not a file" in message(tmp_path)


@pytest.mark.real
def test_open_i_reads_without_options(real_data):
    records = list(read_table(real_data / "openi_iu" / "reports.jsonl"))
    assert len(records) == len({record.study_id for record in records}) == 3600
    assert sum(bool(record.impression.strip()) for record in records) > 3500


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("nothing", ["nan", "None", "null", "N/A", "<NA>", " NaN "])
def test_spellings_of_nothing_are_empty_in_every_format(tmp_path, suffix, nothing):
    rows = [
        {"id": "a", "impression": nothing, "findings": "Clear lungs.", "split": "train"},
        {"id": "b", "impression": "No edema.", "findings": nothing, "split": nothing},
    ]
    path = tmp_path / f"reports.{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    funnel = Funnel(min_tokens=1)
    (kept,) = funnel(read_table(path, split_column="split"))
    assert kept.study_id == "b" and kept.findings is None and kept.split is None and not kept.subject_known
    assert funnel.skipped["no_impression"]["count"] == 1
    frame["id"] = ["a", nothing]
    frame.to_csv(tmp_path / "ids.csv", index=False)
    with pytest.raises(ValueError, match="row 2: column 'id' holds no identifier"):
        list(read_table(tmp_path / "ids.csv"))
    frame = frame.assign(id=["a", "b"], patient_id=["p", nothing])
    frame.to_csv(tmp_path / "patients.csv", index=False)
    with pytest.raises(ValueError, match="row 2: column 'patient_id' holds no identifier"):
        list(read_table(tmp_path / "patients.csv"))


@pytest.mark.parametrize("nobody", [None, "unknown", "ANONYMOUS", "___", "XXXX"])
def test_a_patient_who_is_nobody_is_refused_with_the_row(tmp_path, nobody):
    rows = [{"id": f"s{n}", "subject_id": who, "impression": "a b c"} for n, who in enumerate(["p", nobody])]
    assert "row 2: column 'subject_id' holds no identifier" in message(write(tmp_path / "t.jsonl", rows))
