"""What the models know of real radiographs without a label: run whole on drawn images with tiny models."""

import json

import pandas as pd
import pytest
from transformers import VisionTextDualEncoderProcessor

from benchmarks.real_alignment import OPENI_LABELS, main
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_tokenizer
from tests.trainers.data.image_pairs import draw_image


@pytest.fixture
def real_data(tmp_path):
    """Two sets in the form of the real ones: sixty images each, every fifth with a box."""
    for name, labels in (("openi_iu", OPENI_LABELS), ("nih_cxr14", ["Effusion", "Nodule"])):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        rows = []
        for number in range(60):
            draw_image(number, side=40).save(folder / f"{number}.png")
            label = labels[number % len(labels)]
            box = json.dumps([{"label": label, "x": 0.25, "y": 0.25, "w": 0.5, "h": 0.5}])
            rows.append(
                {
                    "file": f"{number}.png",
                    "split": ("train", "valid", "test")[number // 20],
                    "patient_id": f"p{number // 2}",
                    "labels": label,
                    "impression": f"{number % 7} small left pleural effusion {number % 3}",
                    "boxes": box if number % 5 == 0 else "",
                }
            )
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    return tmp_path / "data"


def test_every_part_stands_beside_chance_and_baselines(real_data, tmp_path):
    arguments = []
    for name, model in (("ConVIRT", tiny_convirt()), ("GLoRIA", tiny_gloria())):
        model.save_pretrained(tmp_path / name)
        VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()).save_pretrained(tmp_path / name)
        arguments += ["--model", f"{name}={tmp_path / name}"]
    assert main([*arguments, "--real-data", str(real_data), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "real_alignment.csv")
    models = table.groupby("task")["model"].agg(set)
    trained = {"ConVIRT", "GLoRIA"}
    assert models["report to radiograph"] == {"chance", "commonest report first", *trained}
    assert models["radiograph to report"] == models["report to radiograph"] | {f"{name}, centred" for name in trained}
    assert models["spread"] == trained
    assert models["zero-shot"] == {"chance", "ridge on pixels, told the labels", *trained}
    assert models["pointing"] == {"chance (share of the radiograph in boxes)", "middle of the radiograph", "GLoRIA"}
    pointing = table[table["task"] == "pointing"].set_index(["model", "metric"])["value"]
    assert pointing["chance (share of the radiograph in boxes)", "hits"] == pytest.approx(0.25)
    assert pointing["middle of the radiograph", "hits"] == 1
    chance = table[(table["model"] == "chance") & (table["task"] == "radiograph to report")].set_index("metric")[
        "value"
    ]
    assert chance["R@10"] == pytest.approx(10 / 20, abs=1e-3)  # twenty test images, twenty different texts
    bounded = table.dropna(subset=["ci_low"])
    assert (bounded["ci_low"] <= bounded["value"] + 1e-9).all() and (
        bounded["value"] <= bounded["ci_high"] + 1e-9
    ).all()
    page = (tmp_path / "out" / "real_alignment.md").read_text()
    assert "## Findings by prompts, AUROC: openi_iu (20 radiographs)" in page and str(tmp_path) not in page


def test_untrained_twins_need_their_weights(real_data, capsys):
    with pytest.raises(SystemExit):
        main(["--model", "a=b", "--untrained", "--real-data", str(real_data)])
    assert "--image-weights" in capsys.readouterr().err
