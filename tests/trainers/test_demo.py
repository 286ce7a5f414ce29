import csv
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

import trainers.demo
from tests.fixtures.generators import FakeGenerator

LEFT = {"results.md", "results.csv", "results.json", "samples.png", "training_curve.png", "encoder", "medsyn-cxr"}


def check(folder: Path, shown: str):
    assert LEFT <= {path.name for path in folder.iterdir()}
    for picture in ("samples.png", "training_curve.png"):
        pixels = Image.open(folder / picture).convert("L")
        assert min(pixels.size) > 300 and len(pixels.getcolors(256)) > 20  # drawn, not blank
    with open(folder / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "macro_auroc" and row["seed"] == "mean"]
    assert {(row["encoder"], row["budget"]) for row in rows} >= {("pre-trained", "100"), ("random", "100")}
    table = (folder / "results.md").read_text()
    assert "| pre-trained | " in table and table.strip() in shown
    assert [line for line in shown.splitlines() if line.startswith("[")] == [
        line for line in shown.splitlines() if line.startswith(("[1/4] ", "[2/4] ", "[3/4] ", "[4/4] "))
    ]
    assert "'loss'" not in shown and "'eval_loss'" not in shown  # the dictionaries of the trainer are in the log
    log = (folder / "demo.log").read_text()
    for command in ("build", "pretrain", "probe"):
        assert f"$ medsyn {command} " in log
    assert "'eval_loss'" in log and not list((folder / "encoder").glob("checkpoint-*"))
    check_card_of(folder)


def check_card_of(folder: Path):
    """The probe's numbers stand in the card, once."""
    with open(folder / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "macro_auroc" and row["seed"] == "mean"]
    card = ModelCard.load(folder / "encoder" / "README.md")
    aurocs = [result for result in card.data.eval_results if result.metric_type == "roc_auc"]
    assert len(aurocs) == 2  # at 10 and 100 % of the labels
    full = next(row for row in rows if row["encoder"] == "pre-trained" and row["budget"] == "100")
    result = next(result for result in aurocs if "at 100 % of the labels" in result.metric_name)
    assert result.metric_value == pytest.approx(float(full["value"]), abs=1e-4)
    assert f"n {full['n']}" in result.metric_name
    assert "| pre-trained | " in card.text and "not on patients" in card.text
    assert card.text.count("## Linear probe") == 1


def test_the_demo_from_reports_to_card(tmp_path, monkeypatch, capsys):
    """With a fast generator in the phantom's place."""
    monkeypatch.setattr("dataset_builder.generators.phantom.PhantomGenerator", FakeGenerator)
    folder = tmp_path / "demo"
    arguments = ["--num-samples", "160", "--image-size", "32", "--train-size", "32", "--num-proc", "1"]
    arguments += ["--epochs", "1", "--out", str(folder)]
    assert trainers.demo.main(arguments) == 0
    check(folder, capsys.readouterr().out)
    assert trainers.demo.main(arguments) == 1
    assert "holds results already" in capsys.readouterr().err
    (folder / "results.md").unlink()  # as if it had been interrupted before the last step
    assert trainers.demo.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "[3/4]" not in shown and (folder / "results.md").exists()
    check_card_of(folder)


def test_the_demo_goes_on_before_and_after_the_probe(tmp_path, monkeypatch, capsys):
    """Stopped once between the model and its card, once between the probe and its place in the card."""
    monkeypatch.setattr("dataset_builder.generators.phantom.PhantomGenerator", FakeGenerator)
    folder = tmp_path / "demo"
    arguments = ["--num-samples", "160", "--image-size", "32", "--train-size", "32", "--num-proc", "1"]
    arguments += ["--epochs", "1", "--out", str(folder)]

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainers.training_card.write_card", stop)
        assert trainers.demo.main(arguments) == 130
    assert (folder / "encoder" / "model.safetensors").is_file() and not (folder / "encoder" / "README.md").exists()
    with monkeypatch.context() as patch:
        patch.setattr("trainers.demo.add_metrics_to_card", stop)
        assert trainers.demo.main(arguments) == 130
    assert (folder / "results.md").is_file()
    capsys.readouterr()
    assert trainers.demo.main(arguments) == 0
    assert "[3/4]" not in capsys.readouterr().out
    check_card_of(folder)
    assert trainers.demo.main(arguments) == 1


def test_a_step_that_fails_ends_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dataset_builder.build.main", lambda arguments: 1)
    assert trainers.demo.main(["--out", str(tmp_path / "demo")]) == 1
    shown = capsys.readouterr().out
    assert "[1/4]" in shown and "[2/4]" not in shown and "Done" not in shown


@pytest.mark.slow
def test_the_demo_on_phantoms(tmp_path, capsys):
    folder = tmp_path / "demo"
    arguments = ["--num-samples", "120", "--image-size", "64", "--train-size", "64", "--epochs", "1"]
    assert trainers.demo.main([*arguments, "--out", str(folder)]) == 0
    check(folder, capsys.readouterr().out)
