"""A page on models of a few thousand weights, four images and the phantom at its smallest."""

from __future__ import annotations

import io

import datasets
import numpy as np
from PIL import Image
from transformers import VisionTextDualEncoderProcessor

from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.generators.phantom import PhantomGenerator
from hub_medsyn.inference.zero_shot import ZeroShotClassifier
from spaces_app.loading import Model
from spaces_app.workbench import PHANTOM, Workbench
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_tokenizer

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> ${alert(3)} {{constructor}} `x`'
IMPRESSIONS = ("Large left pleural effusion.", "No acute disease.", HOSTILE, "Right pneumothorax.")
SIDE = 48


def image_bytes(seed: int, side: int = SIDE) -> bytes:
    """A grey PNG of soft blobs."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def rows() -> datasets.Dataset:
    labels = [dict.fromkeys(CHEXPERT_LABELS) for _ in IMPRESSIONS]
    labels[0] |= {"Pleural Effusion": 1, "Pneumothorax": 0, "Edema": -1}
    labels[3] |= {"Pneumothorax": 1}
    boxes: list[list[dict]] = [[{"finding": "pleural effusion", "box": [4.0, 20.0, 30.0, 44.0]}], [], [], []]
    columns = {
        "image": [{"bytes": image_bytes(row), "path": None} for row in range(len(IMPRESSIONS))],
        "image_id": [f"image-{row}" for row in range(len(IMPRESSIONS))],
        "prompt": list(IMPRESSIONS),
        "impression": list(IMPRESSIONS),
        "findings": [""] * len(IMPRESSIONS),
        "labels": labels,
        "boxes": boxes,
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def model(name: str, network) -> Model:
    processor = VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer())
    network = network.eval()
    grounds = network.config.model_type != "medsyn-convirt"
    card = f"# {name}\n\n![curve](curve.png) <b>bold</b> ![badge](https://badge.example/x.svg)"
    classifier = ZeroShotClassifier(network, processor)
    return Model(name, network, processor, classifier, grounds, card, f"{name}, tiny")


def workbench(grounding: bool = True) -> Workbench:
    """Two models, `plain` and, with `grounding`, `pointing`."""
    models = [model("plain", tiny_convirt("vit"))]
    if grounding:
        models.append(model("pointing", tiny_gloria("resnet50")))
    return Workbench(models, rows(), {PHANTOM: PhantomGenerator(image_size=64)})
