import csv
import hashlib
import json
import re

import pyarrow.parquet as pq
import pytest

from dataset_builder.build import build, summary
from dataset_builder.build import main as build_main
from dataset_builder.generators.diffusion import DiffusionGenerator
from dataset_builder.pipeline import render as images_module
from dataset_builder.reports.record import ReportRecord
from tests.fixtures.launch import launch
from tests.fixtures.tiny_diffusion import IMPRESSIONS, Spoiled, save_tiny_pipeline, tiny_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")


def repeated_records(number: int) -> list[ReportRecord]:
    """Every third report says the same; two studies a subject."""
    texts = [IMPRESSIONS[1] if index % 3 == 0 else f"Image {index}: {IMPRESSIONS[0]}" for index in range(number)]
    return [
        ReportRecord(f"s{index:03d}", f"p{index // 2:03d}", text, source="made") for index, text in enumerate(texts)
    ]


def image_hashes(out, config="tiny") -> dict[str, str]:
    hashes = {}
    for path in sorted((out / "data" / config).glob("*.parquet")):
        for row in pq.read_table(path, columns=["study_id", "image"]).to_pylist():
            hashes[row["study_id"]] = hashlib.sha256(row["image"]["bytes"]).hexdigest()
    return hashes


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(images_module, "PART_IMAGES", 4)


def test_a_build_does_not_depend_on_order_or_interruptions(folder, tmp_path, monkeypatch, small_parts):
    records = repeated_records(14)
    manifest = build(records, tiny_generator(folder), tmp_path / "one")
    entry = manifest["configs"]["tiny"]
    assert entry["made_with"] == {"batch of 4 on cpu": 14} and entry["settings"]["generator"]["batch_size"] == 4
    assert entry["images"]["num_distinct"] == 14, "a study has a seed of its own"
    assert entry["reports"]["prompts_over_text_limit"] == 0
    assert "| scheduler | `DDIMScheduler` |" in (tmp_path / "one" / "README.md").read_text()

    original, calls = images_module._write_part, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(images_module, "_write_part", stop)
    with pytest.raises(KeyboardInterrupt):
        build(records[::-1], tiny_generator(folder), tmp_path / "two")
    with pytest.raises(ValueError, match="generator.guidance_scale .there 7.5, asked for 3.0"):
        build(records[::-1], tiny_generator(folder, guidance_scale=3.0), tmp_path / "two")
    build(records[::-1], tiny_generator(folder), tmp_path / "two")
    assert len(calls) == 3 + 2, "two of four parts were kept"
    assert image_hashes(tmp_path / "one") == image_hashes(tmp_path / "two")


@pytest.mark.parametrize("seed_mode", ["prompt", "fixed"])
def test_equal_prompts_are_drawn_once(folder, tmp_path, monkeypatch, small_parts, seed_mode):
    spoiled = Spoiled(monkeypatch)
    records = repeated_records(9)
    build(records, tiny_generator(folder), tmp_path / "d", seed_mode=seed_mode, allow_cross_split_repeats=True)
    assert sum(spoiled.batches) == 8, "seven different texts, filled up to whole batches"
    hashes = image_hashes(tmp_path / "d")
    assert len(set(hashes.values())) == 7
    assert hashes["s000"] == hashes["s003"] == hashes["s006"]


def test_mixed_batches_are_told(folder, tmp_path, monkeypatch, small_parts):
    original, shorts = DiffusionGenerator._draw, []

    def run_short(self, prompts, seeds, on_step):
        if self._fitting == 4 and len(shorts) == 1:
            return None
        shorts.append(1)
        return original(self, prompts, seeds, on_step)

    monkeypatch.setattr(DiffusionGenerator, "_draw", run_short)
    entry = build(repeated_records(8), tiny_generator(folder), tmp_path / "d")["configs"]["tiny"]
    assert entry["made_with"] == {"batch of 4 on cpu": 4, "batch of 2 on cpu": 4}
    assert "rendered in different ways" in summary(tmp_path / "d", entry)


def test_two_ranks_of_the_command(folder, tmp_path, capsys):
    table = tmp_path / "reports.jsonl"
    long = ReportRecord("s900", "p900", "Lines and tubes " * 8)
    table.write_text(
        "".join(
            json.dumps({"study_id": record.study_id, "subject_id": record.subject_id, "impression": record.impression})
            + "\n"
            for record in [*repeated_records(29), long]
        )
    )
    options = ["--reports", str(table), "--generator", str(folder), "--image-size", "64", "--batch-size", "4"]
    options += ["--num-inference-steps", "2", "--seed-mode", "prompt", "--allow-cross-split-repeats"]
    ended = launch(2, "-m", "dataset_builder.build", *options, "--out", str(tmp_path / "two"))
    assert [process.returncode for process in ended] == [0, 0], ended
    assert "30 rows" in ended[0].stdout and ended[1].stdout == ""
    assert "1 impressions are longer than the generator reads" in ended[0].stdout
    assert build_main([*options, "--out", str(tmp_path / "one")]) == 0
    for path in (tmp_path / "one").glob("data/**/*.parquet"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    assert len(image_hashes(tmp_path / "two")) == 30


def test_command_errors(folder, tmp_path, capsys, monkeypatch):
    table = tmp_path / "reports.jsonl"
    table.write_text('{"impression": "Small left effusion."}\n')
    options = ["--reports", str(table), "--out", str(tmp_path / "d"), "--image-size", "64", "--generator", str(folder)]
    assert build_main([*options[:-1], str(tmp_path / "nowhere")]) == 1
    assert "medsyn build: no folder" in capsys.readouterr().err
    assert build_main([*options, "--scheduler", "PNDM"]) == 1
    assert "scheduler 'PNDM' does not fit" in capsys.readouterr().err
    Spoiled(monkeypatch, change=blank_first)
    assert build_main([*options, "--num-inference-steps", "2"]) == 1
    printed = capsys.readouterr().err
    assert re.search(r"medsyn build: study \S+: the image is blank", printed) and "Traceback" not in printed
    with pytest.raises(SystemExit) as ended:
        build_main(["--num-samples", "3", "--lora", "x", "--out", str(tmp_path / "d")])
    assert ended.value.code == 2 and "--lora is for diffusion pipelines" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build_main(["--num-samples", "3", "--no-safety-checker", "--out", str(tmp_path / "d")])
    assert "--no-safety-checker is for diffusion pipelines" in capsys.readouterr().err


def test_a_missing_package_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dataset_builder.generators.options.find_spec", lambda name: None)
    assert build_main(["--num-samples", "3", "--generator", "sd", "--out", str(tmp_path / "d")]) == 1
    assert "--generator sd needs the packages diffusers and peft: pip install" in capsys.readouterr().err


def blank_first(output):
    output.images[0] = 0.0
    return output


def test_the_benchmark_runs(tmp_path, capsys):
    from benchmarks.diffusion_speed import main

    table = tmp_path / "speed.csv"
    assert main(f"--image-size 64 --num-inference-steps 1 --batch-sizes 2 --dtypes float32 --ways plain --batches 1 "
                f"--out {table}".split()) == 0  # fmt: skip
    (row,) = csv.DictReader(table.open())
    assert (row["batch_size"], row["images"], row["device"]) == ("2", "2", "cpu")
    assert float(row["images_per_second"]) == pytest.approx(2 / float(row["seconds"]), rel=0.05)
