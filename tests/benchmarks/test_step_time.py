"""The benchmark of training steps at tiny sizes: every method and way gets a whole line."""

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import step_time
from trainers.method_trainers import METHODS

NUMBERS = "step_seconds step_seconds_min step_seconds_max pairs_per_second".split()


def run(folder: Path, *options: str) -> tuple[list[dict], list[str]]:
    out = folder / "steps.csv"
    argv = ["--device", "cpu", "--sizes", "tiny", "--steps", "1", "--out", str(out), *options]
    assert step_time.main(argv) == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["outcome"], row["device"], row["sizes"]) for row in rows} == {("ran", "cpu", "tiny")}
    assert all(float(row[name]) > 0 for row in rows for name in NUMBERS)
    return rows, out.with_suffix(".md").read_text().splitlines()


def test_every_method_and_way_gets_a_whole_line(tmp_path):
    ways = ["plain", "bf16+channels_last"]
    rows, lines = run(tmp_path, "--ways", *ways)
    assert [(row["method"], row["way"]) for row in rows] == [(method, way) for method in METHODS for way in ways]
    assert all(float(row["times_faster"]) > 0 for row in rows[1::2])
    assert len(lines) == 2 + len(rows) and lines[2].startswith("| convirt | plain | 4 | 12 | ran | ")


@pytest.mark.slow
def test_compiled_steps_run(tmp_path, monkeypatch):
    compiled, original = [], torch.compile

    def compile_without_generating_code(model):  # which takes a compiler and minutes
        compiled.append(model)
        return original(model, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_without_generating_code)
    run(tmp_path, "--methods", "convirt", "--ways", "bf16+channels_last+compile")
    assert len(compiled) == 1


def test_films_and_texts_have_the_shapes_of_real_ones():
    model = step_time.make_model("gloria", True, 32)
    batch = step_time.make_batch(model, 3, 12, seed=0)
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    lengths = batch["attention_mask"].sum(1)
    assert lengths[0] == 12 and (lengths >= 4).all() and (batch["input_ids"][:, 0] == model.config.cls_token_id).all()
    last = batch["input_ids"].gather(1, lengths[:, None] - 1)[:, 0]
    assert (last == model.config.sep_token_id).all() and not batch["input_ids"][batch["attention_mask"] == 0].any()
    features = model(**batch, features_only=True)
    assert (features["word_mask"].sum(1) < lengths).all()  # some pieces continue words


def test_a_batch_of_one_is_bad_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        step_time.main(["--batch-size", "1"])
    assert stopped.value.code == 2 and "--batch-size 1" in capsys.readouterr().err
