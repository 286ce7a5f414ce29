"""A checkpoint that learnt from a published dataset, published and loaded in each way."""

import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, AutoTokenizer, pipeline

from hub_medsyn.checkpoints.export_encoders import aligned, export_encoders
from hub_medsyn.publishing.publish import main, publish_encoders, publish_model

LABELS = ["small left pleural effusion", "no pneumothorax", "heart size normal"]

# Runs where the package cannot be imported, and knows the Hub by its address alone.
STRANGER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hub_medsyn", "trainers", "dataset_builder", "tests"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())

import torch
torch.set_num_threads(1)
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor, pipeline

name, radiograph, out, *labels = sys.argv[1:]
model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
radiograph = Image.open(radiograph)
with torch.no_grad():
    logits = model(**processor(text=labels, images=[radiograph], padding=True, return_tensors="pt")).logits_per_image
classify = pipeline("zero-shot-image-classification", model=name, trust_remote_code=True)
found = {row["label"]: row["score"] for row in classify(radiograph, candidate_labels=labels, hypothesis_template="{}")}
save_file({"logits": logits.contiguous(), "scores": torch.tensor([found[label] for label in labels])}, out)
"""


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory):
    pixels = torch.randint(0, 256, (40, 30), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    path = tmp_path_factory.mktemp("radiograph") / "radiograph.png"
    Image.fromarray(pixels.numpy()).save(path)
    return path


@torch.no_grad()
def logits_of(name, radiograph, kind=AutoModel) -> torch.Tensor:
    batch = AutoProcessor.from_pretrained(name)(
        text=LABELS, images=[Image.open(radiograph)], padding=True, return_tensors="pt"
    )
    return kind.from_pretrained(name).eval()(**batch).logits_per_image


def test_the_card_knows_the_published_dataset(dataset, trained, model):
    commit = HfApi().dataset_info(dataset).sha
    info = HfApi().model_info(model)
    assert info.card_data.datasets == [dataset] and info.pipeline_tag == "zero-shot-image-classification"
    card = ModelCard.load(model)
    assert commit in card.text and str(trained) not in str(card) and f'from_pretrained("{model}")' in card.text
    result = info.card_data.eval_results[0]
    assert result.dataset_type == dataset and result.dataset_revision == commit
    recorded = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    measured = [entry["eval_loss"] for entry in recorded if "eval_loss" in entry]
    assert float(result.metric_value) > 0 and measured
    assert {"trainer_state.json", "training_args.bin"}.isdisjoint(one.rfilename for one in info.siblings)


def test_the_package_loads_it_by_its_name(model, trained, radiograph):
    expected = logits_of(trained, radiograph)
    for kind in (AutoModel, AutoModelForZeroShotImageClassification):
        torch.testing.assert_close(logits_of(model, radiograph, kind), expected, rtol=1e-6, atol=1e-6)
    classify = pipeline("zero-shot-image-classification", model=model)
    rows = classify(str(radiograph), candidate_labels=LABELS, hypothesis_template="{}")
    scores = {row["label"]: row["score"] for row in rows}
    assert [scores[label] for label in LABELS] == pytest.approx(expected.softmax(-1)[0].tolist(), rel=1e-5)


def test_a_process_without_the_package_loads_it_with_its_code(hub, model, trained, radiograph, tmp_path):
    out = tmp_path / "answer.safetensors"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-P", "-c", STRANGER, model, str(radiograph), str(out), *LABELS]
    hub.log.clear()
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert hub.asked("GET", "resolve/.*/modeling_convirt.py") and not any(seen.token for seen in hub.log)
    answer, expected = load_file(out), logits_of(trained, radiograph)
    torch.testing.assert_close(answer["logits"], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(answer["scores"], expected.softmax(-1)[0], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_encoders_are_read_by_timm_and_transformers(hub, trained, model, tmp_path):
    out = export_encoders(trained, tmp_path / "encoders")
    image, text = publish_encoders(out, "your-org/medsyn-tiny")
    assert (image.repo_id, text.repo_id) == ("your-org/medsyn-tiny-image", "your-org/medsyn-tiny-text")
    whole = AutoModel.from_pretrained(trained).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = whole.vision_model(pixels).pooler_output
    by_timm = aligned(timm.create_model(f"hf-hub:{image.repo_id}", pretrained=True).eval())
    by_transformers = aligned(AutoModel.from_pretrained(image.repo_id).eval())
    torch.testing.assert_close(by_timm(pixels), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_transformers(pixels).pooler_output, expected, rtol=1e-5, atol=1e-6)
    words = AutoTokenizer.from_pretrained(text.repo_id)(LABELS, padding=True, return_tensors="pt")
    states = AutoModel.from_pretrained(text.repo_id).eval()(**words).last_hidden_state
    torch.testing.assert_close(states, whole.text_model(**words).last_hidden_state, rtol=1e-5, atol=1e-6)
    for one in (image, text):
        assert f'"{one.repo_id}"' in one.card or f"hf-hub:{one.repo_id}" in one.card
        assert "local-dir:" not in one.card and str(tmp_path) not in one.card
    hub.log.clear()
    assert [one.commit for one in publish_encoders(out, "your-org/medsyn-tiny")] == [None, None]
    assert hub.uploads == []


def test_the_second_time_sends_nothing(hub, model, trained, capsys):
    hub.log.clear()
    assert main(["model", str(trained), "--repo", model]) == 0
    assert "nothing to do" in capsys.readouterr().out and hub.uploads == []


def test_a_private_model_is_for_its_owners(hub, trained, radiograph):
    name = "your-org/private-tiny"
    assert publish_model(trained, name, private=True).private
    assert logits_of(name, radiograph).shape == (1, 3)
    with pytest.raises(OSError, match="not a valid model identifier|is not a local folder"):
        AutoModel.from_pretrained(name, token=hub.somebody_elses_token, force_download=True)
