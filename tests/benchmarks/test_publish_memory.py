"""Memory that does not grow with what is published, and the benchmarks of publishing at small sizes."""

import csv
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import publish_memory, publish_scale
from hub_medsyn.publishing.repository import Repository
from hub_medsyn.publishing.staging_dataset import DatasetStaging


def rows_of(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def held_while_staged(folder: Path) -> float:
    """The most that Python and Arrow held at a time, in MB, while a dataset was made ready to be sent."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        with DatasetStaging(folder) as staging:
            staging.files(Repository("you/images", "dataset"))
        return (tracemalloc.get_traced_memory()[1] + pool.max_memory()) / 1e6
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.parametrize("policy", ["ids-only", "credentialed"])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, policy):
    monkeypatch.setattr(publish_memory, "SIDE", 128)  # 16 kB an image, 1.6 MB a row group
    held = {}
    for rows in (300, 1200):
        folder = publish_memory.write_dataset(tmp_path / str(rows), rows)
        if policy == "credentialed":
            folder = publish_memory.as_credentialed(folder, tmp_path / f"{rows}-with-text")
        held[rows] = held_while_staged(folder)
    assert held[300] < 15, "a few row groups"
    assert held[1200] < held[300] + 3, "15 MB more of images"


def test_a_line_of_the_benchmark(hub, tmp_path):
    folder = publish_memory.write_dataset(tmp_path / "medsyn-cxr", 50)
    output = publish_memory.publish(folder, "you/images", closed=False)
    assert output["files"] == 6 and output["peak_mb"] >= output["imported_mb"] > 100 and output["megabytes"] > 0


def test_scale_is_scaled_from_what_was_measured(tmp_path):
    assert publish_scale.main(["--images", "2", "--image-size", "64", "--out", str(tmp_path / "scale.csv")]) == 0
    png, jpeg = rows_of(tmp_path / "scale.csv")
    assert (png["image_format"], jpeg["image_format"]) == ("png", "jpeg")
    assert 0 < float(jpeg["image_kb"]) < float(jpeg["row_kb"])
    overhead = [float(row["row_kb"]) - float(row["image_kb"]) for row in (png, jpeg)]
    assert overhead[0] == pytest.approx(overhead[1], abs=3), "masks and text take the same beside either"


def test_shards_at_scale():
    output = publish_scale.at_scale(100_000)  # 10 MB a row group, 45 row groups a shard
    assert output["gigabytes"] == 21.3 and output["hours_at_100_mbit"] == 0.5
    assert output["shards"] == 38 + 5 + 5 and output["commits"] == 1
