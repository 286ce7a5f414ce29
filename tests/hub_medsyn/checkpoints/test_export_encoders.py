"""A checkpoint's encoders on their own: read by timm and transformers with equal features, by the probe, and told."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard, ModelCardData, constants
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    ElectraConfig,
    TimmWrapperModel,
    VisionTextDualEncoderProcessor,
    pipeline,
)

from hub_medsyn import ConVIRTModel, MedSynImageProcessor
from hub_medsyn.cards.render import origin_of_weights
from hub_medsyn.checkpoints.export_encoders import PROCESSOR_NAME, aligned, export_encoders, main, timm_preprocessing
from tests.fixtures.cards import check_card
from tests.fixtures.tiny_models import (
    side_of,
    tiny_convirt,
    tiny_gloria,
    tiny_mgca,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)
from trainers.downstream.encoders import load_encoder

KINDS = ["resnet", "vit", "swin", "convnext", "mobilenet"]
TEXTS = ["small left pleural effusion.", "no pneumothorax. heart normal"]


def random_statistics(model: torch.nn.Module) -> None:
    """Gives BatchNorms statistics that are not the ones they start with, so that losing them shows, and that let a
    image's signal through to the last layer."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.01, 0.1, generator=generator)


def save_checkpoint(folder: Path, model, processor: MedSynImageProcessor) -> Path:
    random_statistics(model)
    model.save_pretrained(folder)
    VisionTextDualEncoderProcessor(processor, tiny_tokenizer()).save_pretrained(folder)
    return folder


def draw_image(height: int, width: int) -> Image.Image:
    """Smooth shades with a bright disc, a letter's sharpness at its rim."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = 90 + 60 * np.sin(5 * rows) + 40 * np.cos(7 * columns)
    pixels[(rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.04] = 230
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_timm_and_transformers_read_equal_features(kind, tmp_path):
    maker = {"vit": tiny_mgca, "convnext": tiny_gloria}.get(kind, tiny_convirt)
    side = side_of(kind)
    model = maker(kind).eval()
    save_checkpoint(tmp_path / "checkpoint", model, MedSynImageProcessor(size=side, image_mean=0.4, image_std=0.2))
    image = export_encoders(tmp_path / "checkpoint", tmp_path / "out") / "image"
    assert {path.name for path in image.iterdir()} == {"README.md", "config.json", "model.safetensors", PROCESSOR_NAME}

    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2))
    expected = model.vision_model(pixels).pooler_output
    by_timm = aligned(timm.create_model(f"local-dir:{image}", pretrained=True))
    by_transformers = aligned(AutoModel.from_pretrained(image))
    assert isinstance(by_transformers, TimmWrapperModel)
    assert torch.equal(by_timm(pixels), expected)
    assert torch.equal(by_transformers(pixels).pooler_output, expected)
    assert expected.std() > 1e-4 and not torch.equal(expected[0], expected[1])
    assert not torch.equal(timm.create_model(f"local-dir:{image}", pretrained=False).eval()(pixels), expected)

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(by_timm))
    square = draw_image(side, side)
    ours = AutoImageProcessor.from_pretrained(tmp_path / "checkpoint")(square, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(transform(square.convert("RGB"))[None], ours, rtol=0, atol=1e-6)
    timms = AutoImageProcessor.from_pretrained(image)(square.convert("RGB"))["pixel_values"]
    torch.testing.assert_close(timms, ours, rtol=0, atol=1e-6)


@torch.no_grad()
def test_one_channel_and_a_centre_crop(tmp_path):
    vision = tiny_vision_config("resnet")
    vision.model_args["in_chans"] = 1
    config = ConVIRTModel.config_class(
        vision_config=vision, text_config=tiny_text_config(), image_size=32, frozen_text_layers=0
    )
    model = ConVIRTModel(config).eval()
    model.set_vocabulary(tiny_tokenizer())
    processor = MedSynImageProcessor(size=40, crop_size=32, num_channels=1, image_mean=[0.3, 0.4, 0.5])
    save_checkpoint(tmp_path / "checkpoint", model, processor)
    image = export_encoders(tmp_path / "checkpoint", tmp_path / "out") / "image"
    encoder = aligned(timm.create_model(f"local-dir:{image}", pretrained=True))
    square = draw_image(40, 40)
    pixels = processor(square, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 1, 32, 32)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
    torch.testing.assert_close(transform(square)[None], pixels, rtol=0, atol=1e-6)
    expected = model.vision_model(pixels).pooler_output
    assert torch.equal(encoder(pixels), expected)
    assert torch.equal(aligned(AutoModel.from_pretrained(image))(pixels).pooler_output, expected)
    timms = AutoImageProcessor.from_pretrained(image)(square)["pixel_values"]
    torch.testing.assert_close(timms, pixels, rtol=0, atol=1e-6)
    assert 'convert("L")' in (image / "README.md").read_text()


def test_how_far_timms_transforms_are_from_ours():
    """Square images of other sizes: a grey level in the mean. Others: the borders, grey for black."""
    processor = MedSynImageProcessor(size=64)
    settings = timm_preprocessing(processor)
    transform = timm.data.create_transform(**{**settings, "input_size": tuple(settings["input_size"])})

    def differences(image: Image.Image) -> np.ndarray:  # (64, 64) grey levels
        ours = processor(image, return_tensors="np")["pixel_values"][0, 0]
        return np.abs(ours - transform(image.convert("RGB")).numpy()[0]) * 127.5

    assert 0 < differences(draw_image(200, 200)).mean() < 1
    wide = differences(draw_image(150, 200))  # 48 rows of 64
    assert wide[9:55].mean() < 2
    assert wide[:8].min() == wide[-8:].min() == pytest.approx(128, abs=0.1)


@pytest.mark.parametrize("size", [25, 28, 29, 224, 256, 299, 512])
def test_timm_finds_the_size_before_the_crop(size):
    for crop in range(16, size + 1):
        settings = timm_preprocessing(MedSynImageProcessor(size=size, crop_size=crop))
        assert int(crop / settings["crop_pct"]) == size and settings["input_size"] == [3, crop, crop]


@torch.no_grad()
def test_the_text_encoder_and_what_a_card_inherits(tmp_path):
    model = tiny_mgca(text_layers=1, text_changes={"num_hidden_layers": 3}).eval()
    checkpoint = save_checkpoint(tmp_path / "run-7", model, MedSynImageProcessor(size=32))
    origin = origin_of_weights("credentialed", vocabulary_from_reports=True)
    output = ModelCardData(
        license="other", license_name="mimic", datasets=["medsyn-cxr"], language="en", medsyn=origin
    )
    ModelCard(f"---\n{output.to_yaml()}\n---\n# A model").save(checkpoint / "README.md")
    out = export_encoders(checkpoint, tmp_path / "deep" / "out")
    text = out / "text"
    tokenizer = AutoTokenizer.from_pretrained(text)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert batch.input_ids.tolist() == tiny_tokenizer()(TEXTS, padding=True).input_ids
    expected = model.text_model(**batch).last_hidden_state
    encoder = aligned(AutoModel.from_pretrained(text, add_pooling_layer=False))
    assert torch.equal(encoder(**batch).last_hidden_state, expected)
    assert torch.equal(aligned(AutoModel.from_pretrained(text))(**batch).last_hidden_state, expected)
    piped = pipeline("feature-extraction", model=str(text))(TEXTS[0], return_tensors=True)
    torch.testing.assert_close(piped, model.text_model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state)
    config = json.loads((text / "config.json").read_text())
    assert config["num_hidden_layers"] == 1 and config["model_type"] == "bert"
    assert "processor_class" not in json.loads((text / "tokenizer_config.json").read_text())

    for part, library in (("image", "timm"), ("text", "transformers")):
        card = ModelCard.load(out / part / "README.md")
        assert card.data.library_name == library and card.data.license_name == "mimic"
        assert card.data.datasets == ["medsyn-cxr"] and card.data.language == "en"
        assert card.data.medsyn == origin | {
            "vocabulary_from_reports": part == "text"
        }  # an image encoder has no words
        assert "run-7" in card.text and "MGCA" in card.text and "Not for clinical use" in card.text
        assert f"out/{part}" in card.text and "{{" not in card.text and "revision" not in card.text
    assert " 1 layers of 32" in (text / "README.md").read_text().replace("\n", " ")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors", ".txt"} - (
        set() if (text / "vocab.txt").exists() else {".txt"}
    )
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]
    assert {path.name for path in out.parent.iterdir()} == {"out"}


@torch.no_grad()
def test_half_precision_is_written_as_single(tmp_path):
    model = tiny_convirt("vit").eval().bfloat16()
    checkpoint = save_checkpoint(tmp_path / "half", model, MedSynImageProcessor(size=32))
    out = export_encoders(checkpoint, tmp_path / "out")
    pixels = torch.randn(2, 3, 32, 32)
    expected = model.float().vision_model(pixels).pooler_output
    assert torch.equal(aligned(timm.create_model(f"local-dir:{out}/image", pretrained=True))(pixels), expected)
    assert json.loads((out / "text" / "config.json").read_text())["dtype"] == "float32"


@torch.no_grad()
def test_the_probe_and_from_encoders_take_the_folder(tmp_path):
    processor = MedSynImageProcessor(size=40, crop_size=32, image_mean=0.4, image_std=0.2)
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_gloria().eval(), processor)
    out = export_encoders(checkpoint, tmp_path / "out")
    whole, alone = load_encoder(str(checkpoint)), load_encoder(str(out / "image"))
    assert whole.weights_hash() == alone.weights_hash()
    image = draw_image(50, 70)
    pixels = [encoder.processor([image], return_tensors="pt")["pixel_values"] for encoder in (whole, alone)]
    features = aligned(whole.model)(pixels[0])
    assert torch.equal(*pixels) and torch.equal(aligned(alone.model)(pixels[1]), features)

    (out / "image" / PROCESSOR_NAME).unlink()  # as timm's own folders: its mean, the size from the command line
    assert load_encoder(str(out / "image"), image_size=48).settings()["image_mean"] == [0.4, 0.4, 0.4]

    model = ConVIRTModel.from_encoders(str(out / "image"), str(out / "text"), image_size=32).eval()
    assert torch.equal(model.vision_model.timm_model(pixels[0]), features)
    assert model.config.vision_config.pretrained_cfg["mean"] == [0.4, 0.4, 0.4]


def test_the_command_and_its_errors(tmp_path, capsys):
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_gloria(upsample_size=48), MedSynImageProcessor(size=32))
    out = tmp_path / "out"
    assert main([str(checkpoint), "--out", str(out)]) == 0
    assert f"local-dir:{out}/image" in capsys.readouterr().out
    assert "enlarged to 48 px" in (out / "image" / "README.md").read_text()
    assert main([str(checkpoint), "--out", str(out)]) == 1
    assert f"medsyn export-encoders: {out} exists" in capsys.readouterr().err

    def refused(folder: Path | str, what: str) -> None:
        assert main([str(folder), "--out", str(tmp_path / "other")]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("medsyn export-encoders: ") and what in error
        assert not (tmp_path / "other").exists()

    refused(out / "text", "is a bert model, not a ConVIRT, GLoRIA or MGCA")
    refused(tmp_path / "nowhere", "nowhere")
    VisionTextDualEncoderProcessor(MedSynImageProcessor(size=32, num_channels=1), tiny_tokenizer()).save_pretrained(
        checkpoint
    )
    refused(checkpoint, "takes 3 channels and its processor makes 1")
    (checkpoint / "model.safetensors").unlink()
    MedSynImageProcessor(size=32).save_pretrained(checkpoint)
    VisionTextDualEncoderProcessor(MedSynImageProcessor(size=32), tiny_tokenizer()).save_pretrained(checkpoint)
    refused(checkpoint, "model.safetensors")
    mismatched = save_checkpoint(tmp_path / "vit", tiny_convirt("vit"), MedSynImageProcessor(size=48))
    refused(mismatched, "takes images of 32 pixels and its processor makes 48")


def test_a_checkpoint_on_the_hub(tmp_path):
    """From the cache, as a download leaves it; the suite is offline."""
    commit = "89abcdef" * 5
    repository = Path(constants.HF_HUB_CACHE) / "models--someone--tiny-convirt"
    save_checkpoint(repository / "snapshots" / commit, tiny_convirt(), MedSynImageProcessor(size=32))
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    out = export_encoders("someone/tiny-convirt", tmp_path / "out", revision="v1")
    for part in ("image", "text"):
        card = ModelCard.load(out / part / "README.md")
        check_card(card, "model")
        assert card.data.base_model == "someone/tiny-convirt"
        assert f"`someone/tiny-convirt` (revision `{commit}`)" in card.text
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        export_encoders("someone/tiny-convirt", tmp_path / "other", revision="v2")


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_what_the_cards_and_the_docs_tell_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_image(60, 50).save("image.png")
    save_checkpoint(tmp_path / "runs" / "gloria", tiny_gloria(), MedSynImageProcessor(size=32))
    assert main(["runs/gloria", "--out", "encoders"]) == 0
    docs = python_blocks(Path(__file__).parents[3] / "docs" / "loading.md")
    cards = [python_blocks(Path("encoders") / part / "README.md") for part in ("image", "text")]
    assert [len(blocks) for blocks in (docs, *cards)] == [8, 3, 2]
    output = [run_block(block) for block in (*docs, *cards[0], *cards[1])]
    by_timm, by_transformers = output[4]["features"], output[5]["features"]
    torch.testing.assert_close(by_timm, by_transformers)
    assert output[0]["similarities"].shape == (1, 2) and output[6]["pixels"].shape == (1, 3, 32, 32)
    assert not torch.allclose(*output[0]["similarities"][0])


def test_the_card_of_a_text_encoder_that_never_had_a_pooler_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_image(60, 50).save("image.png")
    electra = ElectraConfig(
        vocab_size=130,
        hidden_size=16,
        embedding_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = ConVIRTModel.from_encoders("random:resnet10t", electra, tiny_tokenizer(), image_size=32)
    save_checkpoint(tmp_path / "checkpoint", model, MedSynImageProcessor(size=32))
    assert main(["checkpoint", "--out", "encoders"]) == 0
    assert "pool" not in (tmp_path / "encoders" / "text" / "README.md").read_text()
    blocks = python_blocks(Path("encoders") / "text" / "README.md")
    assert run_block(blocks[0])["tokens"].shape[-1] == 16 and len(blocks) == 2


def run_block(block: str) -> dict:
    names: dict = {}
    exec(compile(block, "block", "exec"), names)
    return names


def test_an_encoder_that_does_not_come_back_is_not_written(tmp_path, monkeypatch):
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_convirt("vit"), MedSynImageProcessor(size=32))
    create = timm.create_model

    def forgetful(name, **settings):
        model = create(name, **settings)
        if name.startswith("local-dir:"):
            model.norm.weight.data.mul_(2)
        return model

    monkeypatch.setattr(timm, "create_model", forgetful)
    with pytest.raises(ValueError, match="timm does not read the image encoder vit_tiny_patch16_224"):
        export_encoders(checkpoint, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
