"""docs/models.md: its table holds every switch and preset as the code does, and its example runs."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image
from transformers import VisionTextDualEncoderProcessor

from hub_medsyn import ConVIRTConfig, GLoRIAConfig, MGCAConfig
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_mgca, tiny_tokenizer
from trainers.arguments import DataArguments
from trainers.method_trainers import METHODS
from trainers.training_arguments import VLPTrainingArguments

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
CONFIGS = {"convirt": ConVIRTConfig, "gloria": GLoRIAConfig, "mgca": MGCAConfig}
PRESETS = ("official", "paper", "fixed")


def written() -> dict[tuple[str, str], list]:
    """The table: method and switch to the values of the presets."""
    table = {}
    for line in DOCUMENT.splitlines():
        if match := re.match(r"\| (convirt|gloria|mgca) \| `(\S+)` \|", line):
            _, _, _, *cells, meaning, _ = (cell.strip() for cell in line.split("|"))
            assert match.groups() not in table and len(meaning) > 5, line
            table[match.groups()] = [value_of(cell.strip("`")) for cell in cells]
    return table


def value_of(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def test_the_table_holds_every_switch_of_every_preset():
    defaults = {
        each.name: each.default_factory() if callable(each.default_factory) else each.default
        for arguments in (DataArguments, VLPTrainingArguments)
        for each in fields(arguments)
    }
    expected = {}
    for method, config in CONFIGS.items():
        switches, options = config.presets, METHODS[method].presets
        for name in switches["fixed"]:
            expected[method, name] = [switches[preset][name] for preset in PRESETS]
        for name in {name for preset in PRESETS for name in options[preset]}:
            expected[method, f"--{name}"] = [options[preset].get(name, defaults[name]) for preset in PRESETS]
    assert written() == expected


def test_every_switch_is_explained_in_its_configuration():
    for config in CONFIGS.values():
        assert len({tuple(sorted(preset)) for preset in config.presets.values()}) == 1  # the same switches in each
        for name in config.presets["fixed"]:
            assert re.search(rf"^ +{name} \(`\w+`, \*optional\*\):", config.__doc__, re.MULTILINE), name


@pytest.mark.parametrize("make", [tiny_convirt, tiny_gloria, tiny_mgca])
def test_the_example_runs(make, tmp_path, monkeypatch):
    make().save_pretrained(tmp_path / "encoder")
    processor = VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer())
    processor.save_pretrained(tmp_path / "encoder")
    Image.linear_gradient("L").save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    example = re.search(r"<!-- tested: .*?-->\n```python\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    names: dict = {}
    exec(example, names)
    verdict = {item["label"]: item["score"] for item in names["verdict"]}
    assert sum(verdict.values()) == pytest.approx(1) and set(verdict) == {"pleural effusion", "no pleural effusion"}
    assert names["pairs"].shape == (1, 2)
    assert names["pairs"][0, 0].item() == pytest.approx(verdict["pleural effusion"], rel=1e-4)
