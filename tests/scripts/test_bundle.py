"""What the Space starts with: whole, small, of clean origin, and better than chance on images it has not seen."""

from __future__ import annotations

import json
import re
import shutil

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor

import hub_medsyn  # noqa: F401  registers the models
from dataset_builder.reports.grammar import write_reports
from scripts import bundle as make_bundle
from scripts.bundle_scores import measure
from spaces_app import bundled
from spaces_app.bundled import BUNDLE, bundle_paths

MODELS = sorted(make_bundle.MODELS)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return datasets.load_dataset(
        str(BUNDLE / "medsyn-cxr"), split="test", cache_dir=str(tmp_path_factory.mktemp("hf"))
    )


def test_the_bundle_is_small():
    sizes = {path: path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 9e6
    assert max(sizes.values()) < 5e6
    assert {path.suffix for path in sizes} == {".json", ".md", ".parquet", ".png", ".safetensors"}


def test_the_bundle_is_listed_and_a_finished_demo_after_it(tmp_path):
    (bundle,) = bundle_paths(tmp_path)
    assert bundle.name == "bundle" and sorted(bundle.models) == MODELS
    demo = tmp_path / "demo-results"
    shutil.copytree(BUNDLE / "models" / MODELS[0], demo / "encoder")
    shutil.copytree(BUNDLE / "medsyn-cxr", demo / "medsyn-cxr")
    assert len(bundle_paths(tmp_path)) == 1  # not finished
    (demo / "results.md").write_text("")
    assert bundle_paths(tmp_path)[1] == bundled.Openable("demo", {"demo": demo / "encoder"}, demo / "medsyn-cxr")


def test_a_bundle_that_is_not_there_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "BUNDLE", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m scripts.bundle"):
        bundle_paths(tmp_path)


def test_images_are_public_phantoms_of_many_findings(rows):
    manifest = json.loads((BUNDLE / "medsyn-cxr" / "manifest.json").read_text())
    entry = manifest["configs"]["phantom"]
    assert manifest["text_policy"] == "public" and entry["reports"]["sources"] == ["grammar"]
    assert len(rows) == make_bundle.IMAGES and rows[0]["image"].size == (256, 256)
    assert sum(any(labels[name] == 1 for name in labels if name != "No Finding") for labels in rows["labels"]) > 70
    kinds = [{box["finding"] for box in boxes} for boxes in rows["boxes"]]
    for kind in ("pleural effusion", "pneumothorax", "consolidation", "cardiomegaly", "edema", "pacemaker"):
        assert sum(kind in found for found in kinds) >= 5, kind


def test_no_report_of_the_bundle_was_learnt_from(rows):
    learnt = {(one.findings, one.impression) for one in write_reports(make_bundle.TRAINING_IMAGES, seed=1)}
    assert not learnt & set(zip(rows["findings"], rows["impression"], strict=True))
    assert all(re.fullmatch(r"b\d+", study) for study in rows["study_id"])  # the grammar's are g...
    wanted = make_bundle.varied_reports(make_bundle.IMAGES, 0, 1)
    assert [one.impression for one in wanted] == list(rows["impression"])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_stored_in_halves_and_beats_chance_as_its_card_says(name, rows):
    folder = BUNDLE / "models" / name
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        stored = {file.get_tensor(key).dtype for key in file.keys()}
    assert torch.float16 in stored and torch.float32 not in stored
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.dtype == torch.float32
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    scores = measure(model, processor, rows)
    assert scores.zero_shot.interval[0] > 0.6  # chance is 0.5
    output = {(one.metric_name, one.dataset_name): one.metric_value for one in card.data.eval_results}
    assert output["macro AUROC by prompts", "medsyn-cxr of the bundle"] == pytest.approx(
        scores.zero_shot.macro, abs=0.005
    )
    assert f"macro AUROC {scores.zero_shot.macro:.2f}"[:-1] in card.text
    assert scores.retrieval["image_to_text_median_rank"] < scores.retrieval_chance["image_to_text_median_rank"] / 2
    if scores.hits is not None:
        assert scores.hits > scores.chance
        assert scores.finds_places == ("tell little of where" not in card.text)
        assert output["hits of the pointing game", "medsyn-cxr of the bundle"] == pytest.approx(scores.hits, abs=0.01)


def test_the_whole_command_from_nothing(tmp_path, monkeypatch, capsys):
    small = make_bundle.Small("mgca", 1, (8, 8, 16, 16), (1, 1, 1, 1), 64, {"head_dim": 16, "num_prototypes": 8})
    monkeypatch.setattr(make_bundle, "MODELS", {"tiny": small})
    monkeypatch.setattr(make_bundle, "IMAGES", 8)
    monkeypatch.setattr(make_bundle, "TRAINING_IMAGES", 60)
    monkeypatch.setattr(make_bundle, "IMAGE_SIZE", 64)
    arguments = ["--out", tmp_path / "bundle", "--work", tmp_path / "work", "--num-proc", 1]
    arguments = [str(argument) for argument in arguments]
    assert make_bundle.main(arguments) == 0
    card = (tmp_path / "bundle" / "models" / "tiny" / "README.md").read_text()
    assert "In single precision, as it was trained" in card and "Where a finding is" in card
    assert make_bundle.main([*arguments, "--measure"]) == 0  # in the place of the earlier numbers
    assert (tmp_path / "bundle" / "models" / "tiny" / "README.md").read_text() == card
    assert make_bundle.main([*arguments, "--measure", "--real-data", str(tmp_path / "none")]) == 1
    assert "openi_iu.csv" in capsys.readouterr().err
