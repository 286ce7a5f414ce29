"""Checkpoints of the published layouts come out computing what the published code computes."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, TimmWrapperConfig, pipeline

from hub_medsyn.checkpoints.convert import convert_checkpoint, main
from tests.fixtures.cards import check_card
from tests.hub_medsyn.checkpoints.official_checkpoints import (
    TEXTS,
    WIDTH,
    OfficialConVIRT,
    OfficialGLoRIA,
    OfficialMGCA,
    write_text_encoder,
)

SEGMENTS = "text_model.embeddings.token_type_embeddings.weight"


@pytest.fixture
def text(tmp_path):
    write_text_encoder(tmp_path / "bert")
    return str(tmp_path / "bert")


def text_config(folder):
    return AutoConfig.from_pretrained(folder)


def batch_of(folder, images, side=64):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = tokenizer(TEXTS[:images], padding=True, return_tensors="pt")
    return torch.randn(images, 3, side, side), dict(words), tokenizer


def equal_features(model, official, pixels, words, tokenizer, cosine_only=()):
    expected = official.features(pixels, words, tokenizer)
    with torch.no_grad():
        got = model.encode({**words, "pixel_values": pixels})
    assert len(expected) >= 2
    for name, value in expected.items():
        here = got[name]
        if name in cosine_only:
            value, here = F.normalize(value, dim=-1), F.normalize(here, dim=-1)
        assert value.std() > 1e-4, name  # a constant would agree with anything
        torch.testing.assert_close(here, value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def accounted(report, names):
    """Every name of the file stands in the report once, and nothing is missing."""
    output = [*report.placed, *report.not_needed, *report.unknown]
    assert sorted(output) == sorted(names) and not report.missing


def test_gloria_from_a_lightning_checkpoint_of_a_resnet50(text, tmp_path, capsys):
    torch.manual_seed(0)
    official = OfficialGLoRIA(text_config(text))
    checkpoint = official.lightning()
    checkpoint["state_dict"]["gloria.extra.weight"] = torch.ones(1)
    path, out = tmp_path / "chexpert_resnet50.ckpt", tmp_path / "gloria"
    torch.save(checkpoint, path)
    assert main(["--checkpoint", str(path), "--text-encoder", text, "--out", str(out)]) == 0
    printed = capsys.readouterr().out

    model = AutoModel.from_pretrained(out).eval()
    assert type(model).__name__ == "GLoRIAModel" and not model.config.departures()
    assert model.config.preset == "official" and model.config.vision_config.architecture == "resnet50"
    # the published mean over 97 places is another length than the mean over words, and no other direction
    equal_features(model, official, *batch_of(text, 1), cosine_only=["text_embeds"])

    report = json.loads((out / "conversion.json").read_text())
    assert len(report["placed"]) == len(official.state_dict()) - 2  # all but weight and bias of the pooler
    assert report["placed"]["gloria.img_encoder.global_embedder.bias"] == "image_head.bias"
    assert report["unknown"] == ["gloria.extra.weight"] and report["missing"] == []
    assert report["not_needed"].keys() == {
        "gloria.text_encoder.model.embeddings.position_ids",
        "gloria.text_encoder.model.pooler.dense.weight",
        "gloria.text_encoder.model.pooler.dense.bias",
    }
    assert report["made"] == {"continues_word": "from the tokenizer"}
    assert "optimizer_states" in report["other_entries"] and "hyper_parameters" in report["other_entries"]
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    for output in (printed, (out / "README.md").read_text()):
        assert "unknown, not read: 1\n  gloria.extra.weight" in output and "chexpert_resnet50.ckpt" in output
        assert str(tmp_path) not in output.replace(str(out), "")
    assert report["sha256"] in (out / "README.md").read_text()
    card = ModelCard.load(out / "README.md")
    check_card(card, "model")
    assert card.data.medsyn["text_policy"] is None and not card.data.medsyn["vocabulary_from_reports"]
    assert str(tmp_path) not in (out / "config.json").read_text() + json.dumps(report)

    processor = AutoProcessor.from_pretrained(out)
    assert processor.tokenizer.model_max_length == 64  # of 97, as many as this text encoder has places for
    images = processor.image_processor
    assert (images.size, images.crop_size) == ({"longest_edge": 256}, {"height": 224, "width": 224})
    assert (images.image_mean, images.image_std) == ([0.5] * 3, [0.5] * 3)
    classify = pipeline("zero-shot-image-classification", model=str(out))
    image = Image.fromarray(np.arange(300 * 200, dtype=np.uint8).reshape(300, 200))
    scores = classify(image, candidate_labels=["edema", "no edema"], hypothesis_template="{}")
    assert sum(score["score"] for score in scores) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_mgca_with_the_names_of_its_module(kind, text, tmp_path):
    torch.manual_seed(1)
    tiny_vit = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    vit = timm.create_model("vit_base_patch16_224", num_classes=0, **tiny_vit) if kind == "vit" else None
    official = OfficialMGCA(text_config(text), vit)
    state = official.published_state()
    torch.save({"state_dict": state, "epoch": 20}, tmp_path / "mgca.ckpt")
    image = TimmWrapperConfig(architecture="vit_base_patch16_224", model_args=tiny_vit) if kind == "vit" else None
    model, processor, report = convert_checkpoint(
        tmp_path / "mgca.ckpt", text, image_encoder=image, image_size=32 if kind == "vit" else 224
    )
    assert report.method == "mgca" and report.image_encoder == ("resnet18" if image is None else image.architecture)
    equal_features(model, official, *batch_of(text, 2, side=32))
    accounted(report, state)
    assert not report.unknown and report.other_entries == ["epoch"]
    # the two values of every reason: cross-attention in 6 layers of 10 tensors, two attention layers of 4 tensors
    reasons = list(report.not_needed.values())
    assert sorted(reasons.count(why) for why in set(reasons)) == [1, 8, 60]
    assert model.config.departures() == {"projection_dim": 16, "head_dim": 24, "num_prototypes": 12}
    assert model.get_parameter(SEGMENTS).abs().max() == 0 and SEGMENTS in report.made
    assert processor.tokenizer.model_max_length == 64 and not model.training


def test_mgca_keeps_the_layers_of_the_file_under_any_preset(tmp_path):
    write_text_encoder(tmp_path / "bert", max_position_embeddings=128)
    six, path = text_config(tmp_path / "bert"), tmp_path / "mgca.ckpt"
    torch.save({"state_dict": OfficialMGCA(six).published_state()}, path)
    six.num_hidden_layers = 12  # as of the BERT that the published encoder takes its lower half from
    six.save_pretrained(tmp_path / "bert")
    for preset, departures in (("official", 3), ("fixed", 4)):
        model, processor, report = convert_checkpoint(path, str(tmp_path / "bert"), preset=preset)
        assert report.text_layers == 6 == len(model.text_model.encoder.layer)
        assert len(model.config.departures()) == departures
        assert any("299" in note for note in report.notes) == (preset == "fixed")
        assert processor.tokenizer.model_max_length == 112


def test_convirt_with_numbered_children_wrapped_and_in_half_precision(text, tmp_path):
    torch.manual_seed(2)
    official = OfficialConVIRT(text_config(text)).half().float()  # values that half precision holds
    state = {f"module.{name}": v.half() if v.is_floating_point() else v for name, v in official.state_dict().items()}
    del state["module.res_features.1.num_batches_tracked"]  # as of torch before 0.4.1
    torch.save(state, tmp_path / "model.pth")
    model, processor, report = convert_checkpoint(tmp_path / "model.pth", text)
    assert report.method == "convirt" and report.image_encoder == "resnet18" and model.dtype == torch.float32
    equal_features(model, official, *batch_of(text, 2))
    accounted(report, official.state_dict().keys() - {"res_features.1.num_batches_tracked"})
    assert report.made.keys() == {"continues_word", "vision_model.timm_model.bn1.num_batches_tracked"}
    assert set(report.not_needed) == {"bert_model.pooler.dense.weight", "bert_model.pooler.dense.bias"}
    assert model.config.departures() == {"projection_dim": 16}
    images = processor.image_processor
    assert images.crop_size is None and images.output_size == 224
    assert images.image_mean == [0.485, 0.456, 0.406] and images.image_std == [0.229, 0.224, 0.225]
    assert any("stretches" in note for note in report.notes)


def test_texts_are_lower_cased_where_the_published_code_does_it_itself(tmp_path):
    config = write_text_encoder(tmp_path / "cased", lower_case=False)
    text = str(tmp_path / "cased")
    torch.save(OfficialMGCA(config).published_state(), tmp_path / "mgca.pt")
    torch.save(OfficialConVIRT(config).state_dict(), tmp_path / "convirt.pt")
    tokenizers = {}
    for name in ("mgca", "convirt"):
        out = tmp_path / f"{name}-out"
        assert main(["--checkpoint", str(tmp_path / f"{name}.pt"), "--text-encoder", text, "--out", str(out)]) == 0
        tokenizers[name] = AutoTokenizer.from_pretrained(out)
    assert tokenizers["mgca"].tokenize("Small Edema") == ["small", "edema"]
    assert tokenizers["convirt"].tokenize("Small Edema") == ["[UNK]", "[UNK]"]
