"""The whole way with the real phantom: grammar, images, folder, `load_dataset`, and the builder's equal rows."""

import json

import numpy as np
from datasets import Image, load_dataset

from dataset_builder.build import main
from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.medsyn_cxr import MedSynCXR


def test_phantom_from_grammar_to_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--num-samples", "8", "--image-size", "64", "--num-proc", "1", "--splits", "0.5", "0", "0.5"]) == 0
    assert "8 rows: train " in capsys.readouterr().out
    dataset = load_dataset("medsyn-cxr")
    rows = [row for split in dataset.values() for row in split]
    assert len(rows) == len({row["study_id"] for row in rows}) == 8
    for row in rows:
        assert row["image"].size == (64, 64) and row["image"].mode == "L"
        assert np.asarray(row["image"]).std() > 10, "an image of one grey"
        assert list(row["labels"]) == list(CHEXPERT_LABELS)
        assert row["generator"] == "phantom" and row["source"] == "grammar" and row["prompt"] and row["findings"]
        assert all(entry["mask"].size == (64, 64) for entry in row["finding_masks"])
        boxes = np.array([entry["box"] for entry in row["boxes"]]).reshape(-1, 4)
        assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min(initial=0) >= 0 and boxes.max(initial=0) <= 64
    manifest = json.loads((tmp_path / "medsyn-cxr" / "manifest.json").read_text())
    assert manifest["text_policy"] == "public"
    assert "MIT licence" in (tmp_path / "medsyn-cxr" / "README.md").read_text()

    # A report of the grammar depends on its own number alone, so two of them are the first two of eight.
    builder = MedSynCXR(num_samples=2, image_size=64, splits=(0.5, 0, 0.5), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    same = [row for split in builder.as_dataset().values() for row in split.cast_column("image", Image(decode=False))]
    there = [row for split in dataset.values() for row in split.cast_column("image", Image(decode=False))]
    assert len(same) == 2
    for row in same:
        (other,) = [each for each in there if each["study_id"] == row["study_id"]]
        for column in row.keys() - {"finding_masks"}:
            assert row[column] == other[column], column
