"""What version 0.1.0 made still works: its bundle's dataset and encoders, with the scores that it gave then."""

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModel, AutoProcessor

import hub_medsyn  # noqa: F401  registers the Auto classes
from hub_medsyn.publishing.publish import publish_dataset, publish_model
from medsyn.schema import read_manifest
from spaces_app.bundled import BUNDLE

# `logits_per_image` of two test images with two texts, computed by 0.1.0.
SCORES = {
    "convirt-small": [[6.939399242401123, 6.301263332366943], [-1.6891463994979858, -5.186954498291016]],
    "gloria-small": [[1.4129245281219482, 0.6429497003555298], [1.5468735694885254, -0.4288356900215149]],
}


@pytest.mark.parametrize("name", SCORES)
def test_encoders_give_the_same_scores(name):
    rows = load_dataset(str(BUNDLE / "medsyn-cxr"), split="test").select(range(2))
    folder = BUNDLE / "models" / name
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    texts = ["left pleural effusion", "no pleural effusion"]
    inputs = processor(text=texts, images=rows["image"][:], return_tensors="pt", padding=True)
    with torch.no_grad():
        scores = model(**inputs).logits_per_image
    torch.testing.assert_close(scores, torch.tensor(SCORES[name]), rtol=1e-4, atol=1e-4)


def test_dataset_and_model_are_published(hub, tmp_path):
    assert list(read_manifest(BUNDLE / "medsyn-cxr")["configs"]) == ["phantom"]
    assert publish_dataset(BUNDLE / "medsyn-cxr", "your-org/before").verdict.allowed
    assert load_dataset("your-org/before", split="test").num_rows == 112
    assert publish_model(BUNDLE / "models" / "gloria-small", "your-org/gloria-before", private=True).verdict.allowed
