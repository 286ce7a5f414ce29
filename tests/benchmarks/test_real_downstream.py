"""Frozen encoders downstream: each part's command is one that `medsyn evaluate` takes, and the report joins them."""

import json

import pandas as pd
import pytest

from benchmarks.real_downstream import NOTES, arguments_of, covid_or_normal, main, parse, write_report
from trainers.downstream.options import parser


@pytest.fixture
def real_data(tmp_path):
    for name, labels in (("hannover_covid", "COVID-19"), ("nih_cxr14", "No Finding")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        rows = [
            {"file": f"{number}.png", "split": "train", "patient_id": f"{name}{number}", "labels": label}
            for number, label in enumerate((labels, "Mass"))
        ]
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    return tmp_path / "data"


def test_the_covid_set_takes_one_class_from_each_hospital(real_data, tmp_path):
    table = pd.read_csv(covid_or_normal(real_data, tmp_path / "out"))
    assert list(table["labels"]) == ["COVID-19", "No Finding"]
    assert list(table["file"]) == [str(real_data / name / "0.png") for name in ("hannover_covid", "nih_cxr14")]


@pytest.mark.parametrize("part", [part for part in NOTES if part != "detect-phantom_boxes"])
def test_each_part_is_a_command(part, real_data, tmp_path):
    args = parse(["--real-data", str(real_data), "--encoder", "a=resnet18", "--out", str(tmp_path / "out")])
    words = [str(word) for word in arguments_of(part, args)]
    assert parser().parse_args([*words, "--encoder", "a=resnet18"]).task == part.split("-")[0]


def test_the_report_joins_what_is_there_and_says_what_to_read_with_care(tmp_path, capsys):
    argv = ["--encoder", "a=resnet18", "--out", str(tmp_path), "--report-only"]
    assert main(argv) == 1 and "holds no results" in capsys.readouterr().err
    for part in ("segment-lungs", "classify-openi_iu"):
        (tmp_path / part).mkdir()
        pd.DataFrame([{"value": 0.5}]).to_csv(tmp_path / part / "results.csv", index=False)
        (tmp_path / part / "results.md").write_text(f"| table of {part} |")
    write_report(parse(argv))
    page = (tmp_path / "real_downstream.md").read_text()
    assert page.index("| table of classify-openi_iu |") < page.index("| table of segment-lungs |")
    assert NOTES["segment-lungs"] in page and NOTES["detect-nih_boxes"] not in page
    assert list(pd.read_csv(tmp_path / "real_downstream.csv")["part"]) == ["classify-openi_iu", "segment-lungs"]


def test_a_part_that_is_done_is_not_measured_again(tmp_path):
    argv = ["--encoder", "a=nothing-that-exists", "--out", str(tmp_path), "--parts", "segment-lungs"]
    args = parse(argv)
    done = tmp_path / "segment-lungs"
    done.mkdir()
    (done / "results.json").write_text("{}")
    asked = [*args.encoder, args.image_size, args.epochs, args.seeds, args.seed, args.phantoms]
    (done / "asked.json").write_text(json.dumps(asked))
    pd.DataFrame([{"value": 0.5}]).to_csv(done / "results.csv", index=False)
    (done / "results.md").write_text("| x |")
    assert main(argv) == 0
    assert main([*argv, "--seed", "1"]) == 1  # other settings are measured, and this encoder does not exist
