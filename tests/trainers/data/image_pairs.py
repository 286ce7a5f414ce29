"""A dataset of drawn images with reports that repeat, as trainers read it."""

from __future__ import annotations

import datasets
import numpy as np
from PIL import Image

from hub_medsyn import MedSynImageProcessor
from tests.fixtures.tiny_models import tiny_image_processor
from trainers.data.pairs import PairDataset

SIDES = ("left", "right", "bilateral")
SIZES = ("small", "moderate", "large")
KINDS = ("pleural effusion", "pneumothorax", "consolidation", "edema", "mass", "nodule")


def draw_image(number: int, side: int = 40) -> Image.Image:
    generator = np.random.default_rng(number)
    shade = generator.integers(0, 256, (4, 4), dtype=np.uint8)
    return Image.fromarray(shade).resize((side, side - 4), Image.Resampling.BILINEAR)


def image_rows(number: int = 24, repeats: int = 6) -> datasets.Dataset:
    """`number` rows of which the first `repeats` have the same impression; all images differ."""
    texts = [f"{size} {side} {kind}. heart is normal." for kind in KINDS for side in SIDES for size in SIZES]
    prompts = (["No acute process."] * repeats + texts)[:number]
    rows = {
        "image": [draw_image(row) for row in range(number)],
        "image_id": [f"image{row:03d}" for row in range(number)],
        "prompt": prompts,
        "findings": ["lungs are clear." if row % 2 else None for row in range(number)],
        "impression": prompts,
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def image_pairs(number: int = 24, repeats: int = 6, processor: MedSynImageProcessor | None = None, **settings):
    settings = {"text_columns": ["prompt"], "augmentation": "image", "text_sampling": "sentence", **settings}
    return PairDataset(image_rows(number, repeats), processor or tiny_image_processor(), **settings)
