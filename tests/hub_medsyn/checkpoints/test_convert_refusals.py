"""Files that `medsyn convert` must not run, must not half read, and must not write over."""

import argparse
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from hub_medsyn.checkpoints.convert import convert_checkpoint, main
from hub_medsyn.checkpoints.convert_keys import image_architecture, recognise
from hub_medsyn.encoder_weights import read_checkpoint
from tests.hub_medsyn.checkpoints.official_checkpoints import OfficialConVIRT, OfficialGLoRIA, write_text_encoder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "bert"
    write_text_encoder(folder)
    return str(folder)


@pytest.fixture(scope="module")
def state(text):
    torch.manual_seed(0)
    return OfficialConVIRT(AutoConfig.from_pretrained(text)).state_dict()


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(zipped, text, state, tmp_path, capsys):
    mark, path = tmp_path / "harmed", tmp_path / "model.ckpt"
    content = {"state_dict": state, "hyper_parameters": Harm(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert main(["--checkpoint", str(path), "--text-encoder", text, "--out", str(tmp_path / "out")]) == 1
    assert not mark.exists() and not (tmp_path / "out").exists()
    assert "is refused" in capsys.readouterr().err
    torch.load(path, weights_only=False)
    assert mark.exists()  # the file would have done it


@pytest.mark.parametrize("name", ["lightning.ckpt", "a 'b\" $(touch x) `y` & c.ckpt"])
def test_the_refusal_tells_how_to_save_the_tensors_alone(text, state, tmp_path, monkeypatch, name):
    path = tmp_path / name
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1e-4)}, path)
    with pytest.raises(ValueError, match=r"refused: .* asks for argparse\.Namespace") as refusal:
        convert_checkpoint(path, text)
    python, option, script, *arguments = shlex.split(str(refusal.value).splitlines()[-1])  # as a shell reads it
    assert (python, option) == ("python", "-c") and arguments[0] == str(path)
    monkeypatch.setattr("sys.argv", ["-c", *arguments])
    exec(script)
    model, _, report = convert_checkpoint(path.with_name(f"{path.stem}-tensors.pt"), text)
    assert torch.equal(model.image_head[0].weight, state["res_l1.weight"]) and not report.other_entries


@pytest.mark.parametrize(
    "content, output",
    [
        (b"", "cannot be read as a checkpoint"),
        (b"not a checkpoint " * 9, "cannot be read as a checkpoint"),
        ([1, 2], "holds no tensors by name, .* only: list"),
        ({"state_dict": {}, "epoch": 1}, "holds no tensors by name, .* only: state_dict, epoch"),
        ({}, "only: nothing"),
    ],
)
def test_files_that_are_no_checkpoints(content, output, tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=f"file.pt.*{output}"):
        read_checkpoint(path)
    if content == {}:
        torch.save({"a": torch.rand(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])  # cut short
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_checkpoint(path)
        path.rename(tmp_path / "file.safetensors")
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_checkpoint(tmp_path / "file.safetensors")


def test_a_missing_parameter_fails_and_writes_nothing_unless_it_may_be_random(text, state, tmp_path, capsys):
    lacking = {name: value for name, value in state.items() if not name.startswith("bert_l2.")}
    torch.save(lacking, tmp_path / "model.pth")
    out = tmp_path / "out"
    command = ["--checkpoint", str(tmp_path / "model.pth"), "--text-encoder", text, "--out", str(out)]
    assert main(command) == 1 and not out.exists()
    error = capsys.readouterr().err
    assert "text_head.2.weight is missing" in error and "text_head.2.bias is missing" in error
    assert "--allow-missing" in error and error.count("missing in the file") == 2
    assert main([*command, "--allow-missing"]) == 0
    assert "missing, random: 2\n  text_head.2.weight\n  text_head.2.bias" in capsys.readouterr().out
    assert "2 tensors were missing and are random" in (out / "README.md").read_text()
    heads = [
        convert_checkpoint(tmp_path / "model.pth", text, allow_missing=True, seed=seed)[0].text_head[2].weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--seed", "1"])


def test_tensors_of_another_shape_are_named_with_both(text, state, tmp_path):
    """The published GLoRIA gives a ResNet-18 1024 channels for regions where it has 256."""
    official = OfficialGLoRIA(AutoConfig.from_pretrained(text), "resnet18").lightning()
    torch.save(official, tmp_path / "gloria.ckpt")
    with pytest.raises(ValueError, match=r"region_head.weight is \(32, 1024\) in the file and \(32, 256\) here"):
        convert_checkpoint(tmp_path / "gloria.ckpt", text)
    torch.save(state, tmp_path / "convirt.pt")
    write_text_encoder(tmp_path / "wide", hidden_size=48)
    with pytest.raises(ValueError, match=r"--text-encoder") as error:
        convert_checkpoint(tmp_path / "convirt.pt", str(tmp_path / "wide"))
    lines = str(error.value).splitlines()
    assert lines[4] == "  text_model.embeddings.LayerNorm.weight is (32,) in the file and (48,) here"
    tensors = 5 + 6 * 16 - 6 + 3  # of the embeddings, of each layer but one bias of its own width, of the head
    assert len(lines) == 12 and lines[-1] == f"  and {tensors - 10} more"


def test_layers_that_the_named_encoders_lack_are_not_dropped(text, state, tmp_path):
    deeper = {name.replace("layer.5.", "layer.6."): value for name, value in state.items() if ".layer.5." in name}
    torch.save({**state, **deeper}, tmp_path / "text.pt")
    with pytest.raises(
        ValueError, match=r"with resnet18 and 6 text layers(.|\n)*encoder.layer.6.\S+ has no place here"
    ):
        convert_checkpoint(tmp_path / "text.pt", text)
    torch.save({**state, "res_features.7.1.conv3.weight": torch.ones(1)}, tmp_path / "image.pt")
    with pytest.raises(ValueError, match=r"vision_model.timm_model.layer4.1.conv3.weight has no place here$"):
        convert_checkpoint(tmp_path / "image.pt", text)


def test_methods_are_told_by_names_and_others_are_not_guessed(text, state, tmp_path):
    assert recognise(["gloria.img_encoder.local_embedder.weight"]) == ("gloria", "gloria.")
    assert recognise(["prototype_layer.weight"], "mgca") == ("mgca", "")
    assert recognise(["model.module2.res_features.0.weight"]) == ("convirt", "model.module2.")
    with pytest.raises(ValueError, match="names begin with conv1, layer1"):
        recognise(["conv1.weight", "layer1.0.conv1.weight"])
    with pytest.raises(ValueError, match="ConVIRT inside HKU-MedAI/MGCA"):
        recognise(["img_encoder.global_embed.head.0.weight", "text_encoder.model.x"])
    with pytest.raises(ValueError, match="more than one method"):
        recognise(["prototype_layer.weight", "res_l1.weight"])
    torch.save({**state, "module.res_l1.bias": state["res_l1.bias"]}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="holds 1 tensors twice"):
        convert_checkpoint(tmp_path / "model.pth", text)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="as by convirt, not mgca"):
        convert_checkpoint(tmp_path / "model.pth", text, method="mgca")


def test_image_encoders_that_are_not_known_are_asked_for(text, state, tmp_path):
    vision = "vision_model.timm_model."
    shapes = {"patch_embed.proj.weight": (384, 3, 16, 16), **{f"blocks.{n}.norm1.bias": (384,) for n in range(12)}}
    with pytest.raises(ValueError, match=r"ViT of 12 blocks, width 384 and patch 16 is none of .*--image-encoder"):
        image_architecture({vision + name: torch.empty(shape) for name, shape in shapes.items()})
    for depth, width, name in ((12, 768, "vit_base_patch16_224"), (24, 1024, "vit_large_patch16_224")):
        shapes = {"patch_embed.proj.weight": (width, 3, 16, 16)} | {
            f"blocks.{n}.norm1.bias": (1,) for n in range(depth)
        }
        assert image_architecture({vision + key: torch.empty(shape) for key, shape in shapes.items()}) == name
    torch.save({name: value for name, value in state.items() if "res_features.7.1" not in name}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="stages layer1 to layer4 of 2, 2, 2, 1 blocks"):
        convert_checkpoint(tmp_path / "a.pt", text)
    with pytest.raises(ValueError, match="'resnet5000' is no architecture of timm"):
        convert_checkpoint(tmp_path / "a.pt", text, image_encoder="resnet5000")


def test_paths_that_cannot_be_read_or_must_not_be_written(text, state, tmp_path, capsys):
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    held = tmp_path / "held"
    held.mkdir()
    (held / "notes.txt").write_text("mine", encoding="utf-8")
    base = ["--checkpoint", str(tmp_path / "model.safetensors"), "--text-encoder", text]
    for out in (held, held / "notes.txt"):
        assert main([*base, "--out", str(out)]) == 1
        assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in held.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert main([*base, "--out", str(tmp_path / "empty")]) == 0 and "read: " in capsys.readouterr().out
    assert main(["--checkpoint", "nowhere.ckpt", "--out", str(tmp_path / "new")]) == 1
    assert "there is no checkpoint nowhere.ckpt" in capsys.readouterr().err
    assert main([*base[:2], "--text-encoder", str(held), "--out", str(tmp_path / "new")]) == 1
    assert "name its folder with --text-encoder" in capsys.readouterr().err
