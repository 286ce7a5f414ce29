"""The benchmarks of publishing at small sizes: both ways get a line, and memory stays where the imports left it."""

import csv

import pytest

from benchmarks import publish_memory, publish_scale


def rows_of(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_publishing_holds_little_more_than_its_libraries(hub, tmp_path):
    """One process publishes 600 rows without their text, then 2,400: the peak stays nearly the same."""
    peaks = []
    for rows in (600, 2400):
        folder = publish_memory.write_dataset(tmp_path / f"medsyn-cxr-{rows}", rows)
        peaks.append(publish_memory.publish(folder, f"you/rows-{rows}", closed=False))
    assert [each["files"] for each in peaks] == [6, 6]
    assert peaks[0]["peak_mb"] < peaks[0]["imported_mb"] + 60
    assert peaks[1]["peak_mb"] < peaks[1]["imported_mb"] + 10


def test_scale_is_scaled_from_what_was_measured(tmp_path):
    assert publish_scale.main(["--films", "2", "--image-size", "64", "--out", str(tmp_path / "scale.csv")]) == 0
    png, jpeg = rows_of(tmp_path / "scale.csv")
    assert (png["image_format"], jpeg["image_format"]) == ("png", "jpeg")
    assert 0 < float(jpeg["image_kb"]) < float(jpeg["row_kb"])
    overhead = [float(row["row_kb"]) - float(row["image_kb"]) for row in (png, jpeg)]
    assert overhead[0] == pytest.approx(overhead[1], abs=1), "masks and text take the same beside either"


def test_shards_at_scale():
    told = publish_scale.at_scale(100_000)  # 10 MB a row group, 45 row groups a shard
    assert told["gigabytes"] == 21.3 and told["hours_at_100_mbit"] == 0.5
    assert told["shards"] == 38 + 5 + 5 and told["commits"] == 1
