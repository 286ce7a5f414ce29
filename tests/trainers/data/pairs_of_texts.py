"""Inputs of a model: noise for images, and reports of 3 to 14 words."""

from __future__ import annotations

import torch

from tests.fixtures.tiny_models import tiny_tokenizer

TEXTS = (
    "No acute process.",
    "Small left pleural effusion and mild edema in the left lower lobe.",
    "Cardiomegaly.",
    "Right upper lobe nodule of 4 mm is stable.",
    "Lungs are clear.",
    "New bilateral consolidation with large pleural effusions, moderate pulmonary edema, and atelectasis.",
    "Fracture of the left rib.",
)


def tiny_pairs(size: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    texts = tiny_tokenizer()([TEXTS[row % len(TEXTS)] for row in range(size)], padding=True, return_tensors="pt")
    return {"pixel_values": torch.randn(size, 3, 32, 32, generator=generator), **texts}
