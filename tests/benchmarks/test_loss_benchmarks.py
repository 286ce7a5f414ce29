"""The benchmarks of the losses: their references are the published losses, and what they write is whole."""

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import gloria_local_loss, mgca_losses
from benchmarks.record import replace_table
from benchmarks.side_by_side import peak_mib, processor_seconds

PUBLISHED = Path(__file__).parents[1] / "hub_medsyn" / "data"
forks = pytest.mark.skipif(torch.cuda.is_available(), reason="torch cannot derive in a fork after it did on a GPU")


def test_the_reference_of_gloria_is_the_published_loss():
    with np.load(PUBLISHED / "gloria_local_sum.npz") as numbers:
        regions = torch.tensor(numbers["img"]).flatten(2).transpose(1, 2)
        words = torch.tensor(numbers["words"]).transpose(1, 2)
        mask = torch.arange(words.shape[1]) < torch.tensor(numbers["cap_lens"])[:, None]
        both = gloria_local_loss.plain_local_loss(regions, words, mask)
        np.testing.assert_allclose(both, [numbers["loss_i2t"], numbers["loss_t2i"]], rtol=1e-6)


def test_the_reference_of_mgca_is_the_published_loss():
    with np.load(PUBLISHED / "mgca_resnet_50.npz") as numbers:
        word, patch, image, report, prototypes = (
            F.normalize(torch.tensor(numbers[name]), dim=-1)
            for name in ("word", "patch", "img", "report", "proto_weight_raw")
        )
        mask = torch.arange(word.shape[1]) < torch.tensor(numbers["n_words"])[:, None]
        tokens = mgca_losses.plain_token_loss(word, patch, mask, torch.tensor(numbers["word_attn"]))
        np.testing.assert_allclose(tokens, numbers["loss_word"] + numbers["loss_patch"], rtol=1e-6)
        loss = mgca_losses.plain_prototype_loss(image @ prototypes.T, report @ prototypes.T)
        np.testing.assert_allclose(loss, numbers["loss_proto"], rtol=1e-6)


def run(benchmark, folder: Path, name: str, *options: str) -> tuple[list[dict], str]:
    document, out = folder / "performance.md", folder / "out.csv"
    if not document.exists():
        document.write_text(f"Before.\n<!-- {name}: made -->\nold\n<!-- /{name} -->\nAfter.\n")
    argv = ["--repeats", "1", "--out", str(out), "--document", str(document), *options]
    assert benchmark.main(argv) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file)), document.read_text()


@forks
def test_gloria_is_compared_and_large_batches_measured(tmp_path):
    sizes = "--batch-size 3 --regions 9 --dim 8 --words 2 5 --batch-size-small 2 --batch-size-large 4".split()
    rows, said = run(gloria_local_loss, tmp_path, "gloria_local_loss", *sizes)
    assert [(row["part"], row["way"], row["batch_size"]) for row in rows] == [
        ("speed", "reference", "3"),
        ("speed", "medsyn", "3"),
        ("batch", "reference", "2"),
        ("batch", "kept", "2"),
        ("batch", "computed again", "4"),
    ]
    assert float(rows[1]["region_gradient_difference"]) < 1e-5 and float(rows[1]["word_gradient_difference"]) < 1e-5
    assert all(float(row["peak_mib"]) > 0 for row in rows)
    ratio = float(rows[0]["cpu_seconds"]) / float(rows[1]["cpu_seconds"])
    assert float(rows[1]["times_faster"]) == pytest.approx(ratio, abs=0.01)
    assert said.startswith("Before.\n") and said.endswith("After.\n") and "old" not in said
    assert f"| {rows[1]['times_faster']} |" in said
    again, _ = run(gloria_local_loss, tmp_path, "gloria_local_loss", *sizes, "--parts", "speed")
    assert again[2:] == rows[2:] and again[1] != rows[1]  # the part that was not asked for stays as it was


@forks
def test_mgca_is_compared(tmp_path):
    sizes = "--batch-size 3 --patches 9 4 --words 8 --dim 8 --prototypes 5".split()
    rows, said = run(mgca_losses, tmp_path, "mgca_losses", *sizes)
    assert [row["part"] for row in rows[1::2]] == ["tokens, 9 patches, 8 words", "tokens, 4 patches, 8 words"] + [
        "prototypes, 5"
    ]
    for row in rows[1::2]:
        assert row["way"] == "medsyn" and row["part"] in said
        assert float(row["loss_difference"]) < 1e-5 and float(row["gradient_difference"]) < 1e-4


@forks
def test_peak_memory_is_what_a_function_holds_at_most():
    def held_and_freed():
        torch.ones(2**24)
        return torch.ones(2**23)

    assert 64 <= peak_mib(held_and_freed) < 160
    with pytest.raises(RuntimeError, match="ended with 7"):
        peak_mib(lambda: __import__("os")._exit(7))


def test_functions_take_turns_and_the_first_round_does_not_count():
    calls = []

    def busy():
        calls.append("busy")
        start = time.process_time()
        while time.process_time() - start < (0.01 if len(calls) > 2 else 0.05):
            pass

    seconds = processor_seconds({"busy": busy, "idle": lambda: calls.append("idle")}, repeats=2, least=0.02)
    idle = calls[3 : calls.index("busy", 3)]  # as often in a turn as a busy call takes longer
    assert calls == ["busy", "idle", *["busy", *idle] * 2] and len(idle) > 1
    assert len(seconds["busy"]) == 2 and 0.05 > min(seconds["busy"]) >= 0.01 > max(seconds["idle"])


def test_a_document_without_a_place_for_the_table_is_named(tmp_path):
    document = tmp_path / "text.md"
    document.write_text("<!-- other -->\n<!-- /other -->\n")
    with pytest.raises(ValueError, match="text.md has no place"):
        replace_table(document, "gloria_local_loss", "")
