"""A checkpoint with its code beside it, in a process that cannot import the package, and in one that can."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPImageProcessor,
    VisionTextDualEncoderProcessor,
    pipeline,
)
from transformers.dynamic_module_utils import get_relative_import_files

import hub_medsyn
import medsyn.images
from hub_medsyn.checkpoints.remote_code import add_remote_code, code_files, sibling_imports, source_of
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_mgca, tiny_tokenizer

MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}
LABELS = ["small left pleural effusion", "no pneumothorax", "heart size normal"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARED = {
    "configuration_medsyn.py",
    "encoder_weights.py",
    "image_processing_medsyn.py",
    "loss_contrastive.py",
    "modeling_medsyn.py",
    "modeling_outputs.py",
    "image_files.py",
}

# Runs without the package: `python -P`, from another folder, with every import of it refused.
STRANGER = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hub_medsyn", "trainers", "dataset_builder", "tests"):
            raise ImportError(f"{name} is not installed here")

refuse = Refuse()
sys.meta_path.insert(0, refuse)

import torch
torch.set_num_threads(1)
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline
)

def scores_of(folder, labels, image):
    classify = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
    return {row["label"]: row["score"] for row in classify(image, candidate_labels=labels, hypothesis_template="{}")}

task = json.load(open(sys.argv[1]))
image, answer, logits = Image.open(task["image"]), {}, {}
for name, folder in task["folders"].items():
    trust = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(folder, **trust)
    processor = AutoProcessor.from_pretrained(folder, **trust)
    images = AutoImageProcessor.from_pretrained(folder, **trust)
    kinds = (AutoModel, AutoModelForZeroShotImageClassification)
    models = [kind.from_pretrained(folder, **trust).eval() for kind in kinds]
    batch = processor(text=task["labels"], images=[image], padding=True, return_tensors="pt")
    assert torch.equal(images(image, return_tensors="pt")["pixel_values"], batch["pixel_values"])
    with torch.no_grad():
        outputs = [model(**batch).logits_per_image for model in models]
    assert torch.equal(*outputs)
    logits[name] = outputs[0].contiguous()
    modules = [type(thing).__module__ for thing in (config, images, *models)]
    assert all(module.startswith("transformers_modules.") for module in modules), modules
    answer[name] = {
        "classes": [type(thing).__name__ for thing in (config, processor, images, *models)],
        "scores": scores_of(folder, task["labels"], image),
    }
save_file(logits, task["logits"])

models[0].save_pretrained(task["saved"])  # takes its code along
processor.save_pretrained(task["saved"])
answer["saved"] = scores_of(task["saved"], task["labels"], image)

sys.meta_path.remove(refuse)
sys.path.insert(0, task["package"])
import hub_medsyn  # after the fact: its classes are the ones taken from now on
model = AutoModelForZeroShotImageClassification.from_pretrained(folder, trust_remote_code=True)
answer["with the package"] = type(model).__module__
json.dump(answer, open(task["answer"], "w"))
"""


def save_checkpoint(folder: Path, method: str, processor=None) -> Path:
    MAKERS[method]().save_pretrained(folder)
    VisionTextDualEncoderProcessor(processor or tiny_image_processor(), tiny_tokenizer()).save_pretrained(folder)
    return folder


def draw_image(path: Path) -> Path:
    pixels = torch.randint(0, 256, (40, 30), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_process_without_the_package_gives_equal_scores(tmp_path):
    """Two local folders, and one on the Hub: its cache as a download leaves it."""
    home, away = tmp_path / "home", tmp_path / "away"
    away.mkdir()
    local = {method: save_checkpoint(tmp_path / f"my-{method}", method) for method in MAKERS}
    picture = draw_image(tmp_path / "image.png")
    expected = {}
    for method, folder in local.items():
        add_remote_code(folder)
        model = AutoModel.from_pretrained(folder).eval()
        batch = AutoProcessor.from_pretrained(folder)(
            text=LABELS, images=[Image.open(picture)], padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**batch).logits_per_image
        classify = pipeline("zero-shot-image-classification", model=str(folder))
        rows = classify(str(picture), candidate_labels=LABELS, hypothesis_template="{}")
        expected[method] = logits, {row["label"]: row["score"] for row in rows}
    repository = home / "hub" / "models--someone--tiny-mgca"
    shutil.copytree(local["mgca"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    task = {
        "folders": {**{name: str(local[name]) for name in ("convirt", "gloria")}, "mgca": "someone/tiny-mgca"},
        "labels": LABELS,
        "image": str(picture),
        "package": str(Path(hub_medsyn.__file__).parents[1]),
        **{name: str(tmp_path / name) for name in ("logits", "answer", "saved")},
    }
    (tmp_path / "task.json").write_text(json.dumps(task))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER, str(tmp_path / "task.json")],
        cwd=away,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    answer, logits = json.loads((tmp_path / "answer").read_text()), load_file(tmp_path / "logits")
    names = {"convirt": "ConVIRT", "gloria": "GLoRIA", "mgca": "MGCA"}
    for method, (expected_logits, scores) in expected.items():
        torch.testing.assert_close(logits[method], expected_logits, rtol=1e-6, atol=1e-6)
        assert answer[method]["scores"] == pytest.approx(scores, rel=1e-6)
        title = names[method]
        ours = [f"{title}Config", "VisionTextDualEncoderProcessor", "MedSynImageProcessor", *[f"{title}Model"] * 2]
        assert answer[method]["classes"] == ours
        assert len(set(scores.values())) == len(LABELS)
    assert answer["saved"] == pytest.approx(expected["mgca"][1], rel=1e-6)
    assert answer["with the package"] == "hub_medsyn.modeling_mgca"


@pytest.mark.parametrize("method", MAKERS)
def test_only_code_and_auto_map_are_added_and_twice_is_once(method, tmp_path):
    folder = save_checkpoint(tmp_path / method, method)
    before = contents(folder)
    names = add_remote_code(folder)
    after = contents(folder)
    own = {"convirt": set(), "gloria": {"modeling_local.py"}, "mgca": {"modeling_local.py"}}[method]
    own |= {f"loss_{method}.py"} if own else set()
    assert SHARED | own | {f"modeling_{method}.py"} <= set(names) == after.keys() - before.keys()
    assert not {"__init__.py", "cards.py", "remote_code.py"} & set(names)
    for name in names:
        source = medsyn.images.__file__ if name == "image_files.py" else Path(hub_medsyn.__file__).parent / name
        assert after[name] == Path(source).read_bytes()
    for name, content in before.items():
        if name in ("config.json", "processor_config.json"):
            old, new = json.loads(content), json.loads(after[name])
            (new.get("image_processor") or new).pop("auto_map")
            assert old == new
        else:
            assert after[name] == content
    title = hub_medsyn.__dict__[{"convirt": "ConVIRTModel", "gloria": "GLoRIAModel", "mgca": "MGCAModel"}[method]]
    assert json.loads(after["config.json"])["auto_map"] == {
        "AutoConfig": f"configuration_medsyn.{title.config_class.__name__}",
        "AutoModel": f"modeling_{method}.{title.__name__}",
        "AutoModelForZeroShotImageClassification": f"modeling_{method}.{title.__name__}",
    }
    roots = {f"modeling_{method}.py", "image_processing_medsyn.py"}
    followed = {Path(path).name for root in roots for path in get_relative_import_files(folder / root)}
    assert set(names) == followed | roots
    (folder / names[0]).write_text("stale")
    assert add_remote_code(folder) == names and contents(folder) == after


def test_the_package_is_used_without_a_question_where_it_is_imported(tmp_path, monkeypatch):
    folder = save_checkpoint(tmp_path / "gloria", "gloria")
    add_remote_code(folder)

    def asked(*_):
        raise AssertionError("transformers asked whether to trust the code")

    monkeypatch.setattr("builtins.input", asked)
    for trust in ({}, {"trust_remote_code": True}, {"trust_remote_code": False}):
        model = AutoModelForZeroShotImageClassification.from_pretrained(folder, **trust)
        assert type(model) is hub_medsyn.GLoRIAModel and type(model.config) is hub_medsyn.GLoRIAConfig
        assert type(AutoImageProcessor.from_pretrained(folder, **trust)) is hub_medsyn.MedSynImageProcessor
        assert type(AutoProcessor.from_pretrained(folder, **trust).image_processor) is hub_medsyn.MedSynImageProcessor
    again = tmp_path / "again"
    model.save_pretrained(again)
    assert type(AutoModel.from_pretrained(again)) is hub_medsyn.GLoRIAModel


def test_one_of_transformers_own_image_processors_needs_no_code(tmp_path):
    folder = save_checkpoint(tmp_path / "convirt", "convirt", CLIPImageProcessor(size=32, crop_size=32))
    assert "image_processing_medsyn.py" not in add_remote_code(folder)
    assert "auto_map" not in json.loads((folder / "processor_config.json").read_text())["image_processor"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import pandas", "imports pandas"),
        ("def late():\n    from trainers.data.samplers import x", "line 2, imports trainers.data.samplers"),
        ("from hub_medsyn.cards.render import render_card", "imports hub_medsyn.cards.render"),
        ("from . import loss", "imports from ."),
        ("from .losses.gloria import loss", "imports from .losses.gloria"),
        ("from ..trainers import loss", "imports from ..trainers"),
        ("from .missing import loss", "imports from .missing"),
    ],
)
def test_an_import_that_would_be_missing_is_refused(line, named, tmp_path):
    path = tmp_path / "modeling_x.py"
    path.write_text(line)
    with pytest.raises(ValueError, match="modeling_x.py") as error:
        sibling_imports(path)
    assert named in str(error.value)


def test_imports_that_travel(tmp_path):
    (tmp_path / "loss.py").write_text("")
    path = tmp_path / "modeling_x.py"
    path.write_text("from __future__ import annotations\nimport os.path, torch.nn as nn\nfrom .loss import a\n")
    assert sibling_imports(path) == [tmp_path / "loss.py"]


def test_the_code_of_all_three_is_closed():
    files = code_files([hub_medsyn.ConVIRTModel, hub_medsyn.GLoRIAModel, hub_medsyn.MGCAModel])
    assert {path.parent for path in files.values()} == {Path(hub_medsyn.__file__).parent}
    assert all(path.name == name for name, path in files.items())


def test_what_a_file_only_imports_from_the_contract_travels_in_its_place():
    files = code_files([hub_medsyn.MedSynImageProcessor])
    assert files["image_files.py"] == Path(medsyn.images.__file__)
    assert source_of(Path(medsyn.images.__file__)) == Path(medsyn.images.__file__)


def test_folders_that_are_no_checkpoints_stay_as_they_are(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no config.json"):
        add_remote_code(empty)
    tiny_convirt().text_model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is a bert model"):
        add_remote_code(tmp_path / "bert")
    tiny_convirt().save_pretrained(tmp_path / "alone")
    before = contents(tmp_path / "alone")
    with pytest.raises(ValueError, match="has no image processor"):
        add_remote_code(tmp_path / "alone")
    assert contents(tmp_path / "alone") == before and not list(empty.iterdir())
