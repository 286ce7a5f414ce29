"""Checkpoints, encoders and generators to the stand-in Hub: what leaves, what stays, and that it loads from there."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, AutoTokenizer, VisionTextDualEncoderProcessor

from hub_medsyn.cards.render import origin_of_weights
from hub_medsyn.checkpoints.export_encoders import export_encoders
from hub_medsyn.policy.verdict import PolicyError
from hub_medsyn.publishing.publish import main, publish_encoders, publish_generator, publish_model
from tests.fixtures.tiny_models import tiny_gloria, tiny_image_processor, tiny_tokenizer

REPO = "your-org/medsyn-gloria"
CODE = {"configuration_medsyn.py", "modeling_gloria.py", "loss_gloria.py", "image_processing_medsyn.py"}


def write_card(folder: Path, **origin) -> None:
    data = ModelCardData(tags=["medsyn"], license="other", medsyn=origin_of_weights(**origin))
    folder.joinpath("README.md").write_text(
        f"---\n{data.to_yaml()}\n---\n\n# {folder.name}\n\nTrained in `{folder.name}`.\n\n```python\n"
        f'model = AutoModel.from_pretrained("{folder.name}")\n```\n\n'
        "<!-- notes: yours to write in, down to the line that ends it; medsyn never overwrites it -->\n"
        "<!-- end of notes -->\n",
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gloria"
    tiny_gloria().save_pretrained(folder)
    VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()).save_pretrained(folder)
    write_card(folder, text_policy="public", vocabulary_from_reports=True)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "gloria")


@pytest.fixture(scope="module")
def encoders(saved, tmp_path_factory) -> Path:
    return export_encoders(saved, tmp_path_factory.mktemp("exported") / "encoders")


def files_of(repo_id: str, repo_type: str = "model") -> set[str]:
    return set(HfApi().list_repo_files(repo_id, repo_type=repo_type)) - {".gitattributes"}


def test_a_checkpoint_leaves_without_its_training(hub, checkpoint, saved):
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", ".env", "notes.txt", "mine.py"):
        (checkpoint / name).write_text("secret")
    (checkpoint / "checkpoint-5").mkdir()
    shutil.copy(checkpoint / "model.safetensors", checkpoint / "checkpoint-5")
    (checkpoint / "training_curve.png").write_bytes(b"picture")
    (checkpoint / "conversion.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}

    done = publish_model(checkpoint, REPO)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()} == before
    there = files_of(REPO)
    assert there == set(done.files) and CODE <= there and {"training_curve.png", "conversion.json"} <= there
    assert not there & {"optimizer.pt", "training_args.bin", "trainer_state.json", ".env", "notes.txt", "mine.py"}
    assert not any("/" in path for path in there)
    model = AutoModel.from_pretrained(REPO)
    for name, value in AutoModel.from_pretrained(saved).state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert AutoProcessor.from_pretrained(REPO).tokenizer.vocab_size == tiny_tokenizer().vocab_size
    settings = json.loads(Path(HfApi().hf_hub_download(REPO, "config.json")).read_text())
    assert settings["auto_map"]["AutoModel"] == "modeling_gloria.GLoRIAModel"
    card = ModelCard.load(REPO)
    assert f'from_pretrained("{REPO}")' in card.text and "Trained in `gloria`." in card.text
    number = len(hub.uploads)
    assert publish_model(checkpoint, REPO).commit is None and len(hub.uploads) == number


def test_weights_in_other_files_take_the_place_of_the_old(hub, checkpoint):
    publish_model(checkpoint, REPO)
    hub.push("model", REPO, {"figure.png": b"ours"})
    AutoModel.from_pretrained(checkpoint).save_pretrained(checkpoint, max_shard_size="20KB")
    (checkpoint / "model.safetensors").unlink()
    done = publish_model(checkpoint, REPO)
    assert done.removed == ("model.safetensors",)
    assert {"model.safetensors.index.json", "figure.png"} <= files_of(REPO)
    missing = next(checkpoint.glob("model-00001-*.safetensors"))
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {missing.name}, which model.safetensors.index.json lists"):
        publish_model(checkpoint, REPO)


def test_what_people_wrote_in_either_card_stays(hub, checkpoint):
    publish_model(checkpoint, REPO)
    card = str(ModelCard.load(REPO)).replace("<!-- end of notes -->", "See our talk.\n<!-- end of notes -->")
    hub.push("model", REPO, {"README.md": card.encode()})
    assert publish_model(checkpoint, REPO).commit is None
    path = checkpoint / "README.md"
    path.write_text(path.read_text().replace("# gloria", "# GLoRIA, longer"))
    publish_model(checkpoint, REPO)
    text = ModelCard.load(REPO).text
    assert "GLoRIA, longer" in text and text.count("See our talk.") == 1


def test_a_vocabulary_of_credentialed_reports(hub, checkpoint, encoders, tmp_path, capsys):
    write_card(checkpoint, text_policy="credentialed", vocabulary_from_reports=True)
    assert main(["model", str(checkpoint), "--repo", REPO]) == 1
    assert "vocabulary was made from reports" in capsys.readouterr().err
    assert not hub.asked("POST", "/repos/create")
    assert publish_model(checkpoint, REPO, private=True, gated=True).commit
    write_card(checkpoint, text_policy="credentialed", vocabulary_from_reports=False)
    assert publish_model(checkpoint, "your-org/other").commit

    parts = shutil.copytree(encoders, tmp_path / "encoders")
    for part in ("image", "text"):
        write_card(parts / part, text_policy="credentialed", vocabulary_from_reports=True)
    assert publish_encoders(parts / "image", "you/image")[0].commit, "an image encoder has no vocabulary"
    with pytest.raises(PolicyError, match="vocabulary was made from reports"):
        publish_encoders(parts / "text", "you/text")


def test_folders_that_are_no_checkpoint(checkpoint, encoders, tmp_path):
    def refused(match, folder=checkpoint):
        with pytest.raises((ValueError, OSError), match=match):
            publish_model(folder, REPO, dry_run=True)

    refused("is no checkpoint: it holds no config.json", tmp_path)
    refused(rf"{encoders / 'text'} is a bert model; only those of hub_medsyn", encoders / "text")
    (checkpoint / "README.md").unlink()
    refused("holds no README.md, .* `medsyn pretrain` and `medsyn convert` write one")
    write_card(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights, checkpoint / "model.safetensors", metadata={"ss_tag_frequency": "{'heart size is normal': 1}"})
    refused("holds the note 'ss_tag_frequency' beside its weights")
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    refused("no weights as safetensors, only pytorch_model.bin")


def test_encoders_load_from_repositories_of_their_own(hub, encoders):
    image, text = publish_encoders(encoders, "you/gloria")
    assert (image.repo_id, text.repo_id) == ("you/gloria-image", "you/gloria-text")
    encoder = timm.create_model("hf-hub:you/gloria-image", pretrained=True)
    local = timm.create_model(f"local-dir:{encoders / 'image'}", pretrained=True)
    assert all(torch.equal(value, local.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert AutoModel.from_pretrained("you/gloria-text").config.model_type == "bert"
    assert AutoTokenizer.from_pretrained("you/gloria-text").vocab_size == tiny_tokenizer().vocab_size
    assert 'create_model("hf-hub:you/gloria-image"' in ModelCard.load("you/gloria-image").text
    assert not any(
        path.endswith((".bin", ".py")) for path in files_of("you/gloria-image") | files_of("you/gloria-text")
    )
    assert [each.commit for each in publish_encoders(encoders, "you/gloria")] == [None, None]


def test_folders_that_are_no_encoders(saved, tmp_path):
    with pytest.raises(ValueError, match="is a whole medsyn-gloria model; publish it as `model`"):
        publish_encoders(saved, REPO, dry_run=True)
    with pytest.raises(
        FileNotFoundError, match="holds no encoder: neither config.json nor the folders image and text"
    ):
        publish_encoders(tmp_path, REPO, dry_run=True)


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory) -> Path:
    from tests.fixtures.tiny_diffusion import tiny_pipeline

    folder = tmp_path_factory.mktemp("generators") / "tiny-sd"
    tiny_pipeline().save_pretrained(folder)
    return folder


def test_a_pipeline_and_its_card(hub, pipeline_folder, tmp_path):
    from diffusers import DiffusionPipeline

    folder = shutil.copytree(pipeline_folder, tmp_path / "tiny-sd")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.bin").write_bytes(b"state")
    publish_generator(folder, "you/tiny-sd")
    pipeline = DiffusionPipeline.from_pretrained("you/tiny-sd")
    there = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, there[name]) for name, value in pipeline.unet.state_dict().items())
    assert not any("checkpoint" in path or path.endswith(".bin") for path in files_of("you/tiny-sd"))
    card = ModelCard.load("you/tiny-sd")
    assert 'DiffusionPipeline.from_pretrained("you/tiny-sd")' in card.text and card.data.library_name == "diffusers"
    assert publish_generator(folder, "you/tiny-sd").commit is None

    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match="unet holds no weights as safetensors, only diffusion_pytorch_model.bin"
    ):
        publish_generator(folder, "you/tiny-sd")
    shutil.rmtree(folder / "unet")
    with pytest.raises(FileNotFoundError, match="lacks the folder unet"):
        publish_generator(folder, "you/tiny-sd")


def test_lora_weights(hub, tmp_path):
    weights = tmp_path / "adapted.safetensors"
    names = ("unet.down.to_q.lora_A.weight", "unet.down.to_q.lora_B.weight")
    save_file({names[0]: torch.zeros(4, 8), names[1]: torch.zeros(8, 4)}, weights)
    publish_generator(weights, "you/lora", base_model="org/base")
    assert files_of("you/lora") == {"README.md", "pytorch_lora_weights.safetensors"}
    card = ModelCard.load("you/lora")
    assert card.data.base_model == "org/base" and 'load_lora_weights("you/lora"' in card.text
    with pytest.raises(FileNotFoundError, match="is no generator: it holds neither model_index.json nor"):
        publish_generator(tmp_path, "you/lora")
