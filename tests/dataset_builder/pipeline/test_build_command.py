import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from dataset_builder import build as build_module
from dataset_builder.build import main
from medsyn.errors import DiskFullError
from tests.fixtures.generators import FakeGenerator, fake_records

SECRET = "Widespread metastases from Mr Quixote's melanoma"


@pytest.fixture(autouse=True)
def fake_phantom(monkeypatch):
    """The command draws with the fake generator under the phantom's name."""
    monkeypatch.setattr(
        "dataset_builder.generators.phantom.PhantomGenerator",
        lambda image_size: FakeGenerator(image_size=image_size, name="phantom", localizes=False),
        raising=False,
    )


def write_table(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table_rows(number: int) -> list[dict]:
    return [
        {"uid": record.study_id, "patient_id": record.subject_id, "impression": record.impression}
        for record in fake_records(number)
    ]


def build_table(tmp_path, *options: str, rows: list[dict] | None = None) -> int:
    table = write_table(tmp_path / "reports.jsonl", table_rows(30) if rows is None else rows)
    return main(
        ["--reports", table, "--out", str(tmp_path / "medsyn-cxr"), "--image-size", "32", "--num-proc", "1", *options]
    )


def test_a_table_becomes_a_dataset(tmp_path, capsys, monkeypatch):
    rows = table_rows(30) + [
        {"uid": "empty", "patient_id": "x", "impression": ""},
        {"uid": "short", "patient_id": "y", "impression": "Normal."},
    ]
    assert build_table(tmp_path, rows=rows) == 0
    output = capsys.readouterr()
    assert "30 rows: train " in output.out
    assert "skipped 1 (no impression): empty" in output.out and "skipped 1 (too short): short" in output.out
    assert "text policy: credentialed" in output.out
    assert f'load_dataset("medsyn-cxr")   # in {tmp_path}' in output.out
    assert "image/s" in output.err
    monkeypatch.chdir(tmp_path)
    assert sum(map(len, load_dataset("medsyn-cxr").values())) == 30
    assert main(["--reports", "reports.jsonl", "--image-size", "32"]) == 0
    output = capsys.readouterr()
    assert "already complete" in output.out and output.out.endswith('next: load_dataset("medsyn-cxr")\n')
    assert "image/s" not in output.err


def test_the_folder_at_hand_goes_by_its_name(tmp_path, capsys, monkeypatch):
    table = write_table(tmp_path / "reports.jsonl", table_rows(6))
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "images")
    assert main(["--reports", table, "--out", ".", "--image-size", "32", "--num-proc", "1"]) == 0
    assert f'load_dataset("images")   # in {tmp_path}' in capsys.readouterr().out
    assert 'load_dataset("images")' in Path("README.md").read_text()


def test_limit_and_columns(tmp_path, capsys):
    rows = [{"id": row["uid"], "who": row["patient_id"], "text": row["impression"]} for row in table_rows(30)]
    assert (
        build_table(tmp_path, "--impression-column", "text", "--subject-column", "who", "--limit", "7", rows=rows) == 0
    )
    manifest = json.loads((tmp_path / "medsyn-cxr" / "manifest.json").read_text())
    entry = manifest["configs"]["phantom"]
    assert entry["images"]["num_rows"] == entry["reports"]["counts"]["unique"] == 7
    assert entry["settings"]["source"] == {
        "table": "reports.jsonl",
        "impression_column": "text",
        "subject_column": "who",
    }


@pytest.mark.parametrize("mode", ["prompt", "fixed"])
def test_repeats_over_splits_fail_unless_allowed(tmp_path, capsys, mode):
    rows = [row | {"impression": SECRET} for row in table_rows(60)]
    assert build_table(tmp_path, "--seed-mode", mode, rows=rows) == 1
    output = capsys.readouterr().err
    assert "1 images appear in more than one split (60 of 60 rows)" in output
    assert "--allow-cross-split-repeats" in output and "Quixote" not in output
    assert build_table(tmp_path, "--seed-mode", mode, "--allow-cross-split-repeats", rows=rows) == 0
    assert "1 images appear in more than one split (60 rows)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows, options, named",
    [
        ([{"uid": "1", "report": SECRET}], [], "has no column 'impression'"),
        ([{"uid": "1", "impression": SECRET}] * 2, [], "comes twice"),
        ([{"uid": "1", "impression": 7, "x": SECRET}], [], "row 1"),
        ([{"uid": "1", "impression": "Normal."}], [], "no report is left"),
        ([], [], "holds no rows"),
        ([{"uid": "1", "impression": SECRET}], ["--splits", "0.5", "0.1", "0.1"], "add up to 1"),
        ([{"uid": "1", "impression": SECRET}], ["--num-proc", "0"], "num_proc 0"),
        ([{"uid": "1", "impression": SECRET}], ["--seed", "-1"], "seed -1"),
        ([{"uid": "1", "impression": SECRET}], ["--min-tokens", "0"], "min_tokens 0"),
        ([{"uid": "1", "impression": SECRET}], ["--limit", "0"], "limit 0"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, rows, options, named):
    assert build_table(tmp_path, *options, rows=rows) == 1
    output = capsys.readouterr()
    assert output.err.startswith("medsyn build: ") and output.err.count("\n") == 1 and named in output.err
    assert "Quixote" not in output.err + output.out
    assert not (tmp_path / "medsyn-cxr").exists()


def test_other_bad_tables(tmp_path, capsys):
    (tmp_path / "latin.csv").write_bytes("uid,impression\n1,Fièvre depuis trois jours\n".encode("latin1"))
    for name, named in (("latin.csv", "not UTF-8"), ("absent.csv", "no table"), ("latin.xlsx", "no table")):
        assert main(["--reports", str(tmp_path / name), "--out", str(tmp_path / "d")]) == 1
        output = capsys.readouterr().err
        assert output.count("\n") == 1 and named in output and "vre depuis" not in output


def test_a_full_disk_is_one_sentence(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise DiskFullError("the disk is full: no room for films-000001.arrow; 20 of 30 images are kept")

    monkeypatch.setattr(build_module, "build", full)
    assert build_table(tmp_path) == 1
    assert capsys.readouterr().err.startswith("medsyn build: the disk is full: no room for films-000001.arrow")


def test_ctrl_c_is_one_sentence(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeGenerator, "__call__", interrupted)
    assert build_table(tmp_path) == 130
    output = capsys.readouterr().err
    assert "interrupted; finished parts are kept" in output and "Traceback" not in output


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--reports", "a.csv", "--num-samples", "3"],
        ["--num-samples", "3", "--impression-column", "text"],
        ["--num-samples", "3", "--seed-mode", "weekly"],
        ["--num-samples", "many"],
    ],
)
def test_bad_usage_exits_2(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert "usage: medsyn build" in capsys.readouterr().err


def test_help_is_quick_and_complete():
    code = (
        "import sys, dataset_builder.build as b\n"
        "try: b.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'datasets' in sys.modules, 'pyarrow' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("False False False\n")
    for option in ("--reports", "--num-samples", "--seed-mode", "--splits", "--allow-cross-split-repeats"):
        assert option in output


def test_a_real_full_disk(tmp_path, capsys, monkeypatch):
    """`/dev/full` stands in for the disk: every byte written there fails as it does on a full one."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    from medsyn import files

    original = open

    def on_a_full_disk(path, mode="r", **kwargs):
        return original("/dev/full" if "films-000000" in str(path) else path, mode, **kwargs)

    monkeypatch.setattr(files, "open", on_a_full_disk, raising=False)
    assert build_table(tmp_path) == 1
    output = capsys.readouterr().err
    assert f"the disk is full: no room for {tmp_path}/medsyn-cxr/.build/phantom/films-000000.arrow" in output
    assert "0 of 30 images are kept" in output
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "medsyn-cxr")


@pytest.mark.parametrize("column", ["study", "subject", "split"])
def test_a_column_of_text_in_the_place_of_ids_is_never_printed(tmp_path, capsys, column):
    sentence = "Zebedee has no acute disease"
    rows = [row | {"impression": f"{sentence} {number % 3}."} for number, row in enumerate(table_rows(12))]
    table = write_table(tmp_path / "reports.jsonl", rows)
    arguments = ["--reports", str(table), "--out", str(tmp_path / "out"), f"--{column}-column", "impression"]
    main(arguments)
    main([*arguments, "--seed-mode", "prompt"])
    printed = capsys.readouterr()
    assert "Zebedee" not in printed.out + printed.err
