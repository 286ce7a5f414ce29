"""The benchmark of cached features: it runs, and what the docs say is what its CSV holds."""

import csv
from pathlib import Path

from benchmarks import feature_cache

DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {row["way"]: row for row in csv.DictReader(file)}


def test_it_measures_both_ways(tmp_path, capsys):
    arguments = ["--encoder", "test_resnet", "--image-size", "32", "--source-size", "48", "--images", "12", "4", "4"]
    assert feature_cache.main([*arguments, "--epochs", "20", "--out", str(tmp_path / "out.csv")]) == 0
    rows = rows_of(tmp_path / "out.csv")
    again, cached = rows["encoded in every epoch"], rows["cached"]
    assert cached["epochs"] == "20" and again["of_head"] == cached["of_head"]
    assert float(again["cpu_seconds"]) > float(cached["cpu_seconds"]) > 0
    assert f"cached features: {cached['times_faster']} times faster" in capsys.readouterr().out


def test_the_docs_say_what_was_measured():
    rows, text = rows_of(feature_cache.OUT), DOCUMENT.read_text(encoding="utf-8")
    assert float(rows["cached"]["times_faster"]) >= 20 and rows["cached"]["epochs"] == "50"
    for way, row in rows.items():
        assert f"| {way} | {row['cpu_seconds']} | {row['of_head']} |" in text
    assert f"{rows['cached']['times_faster']} times" in text
