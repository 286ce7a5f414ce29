"""Scores findings and grounds a phrase with the bundled encoders: `python examples/zero_shot.py`."""

from __future__ import annotations

from pathlib import Path

from datasets import load_dataset
from transformers import AutoModel, AutoProcessor

import hub_medsyn  # noqa: F401  registers the Auto classes
from hub_medsyn.inference.grounding import ground
from hub_medsyn.inference.zero_shot import ZeroShotClassifier

BUNDLE = Path(__file__).resolve().parents[1] / "spaces_app" / "bundle"


def main() -> None:
    folder = BUNDLE / "models" / "gloria-small"
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    images = load_dataset(str(BUNDLE / "medsyn-cxr"), split="test").select(range(3))
    scores = ZeroShotClassifier(model, processor)([row["image"] for row in images])
    for row, effusion in zip(images, scores.of("Pleural Effusion"), strict=True):
        print(f"{effusion:.2f}  {row['impression']}")  # ranks images; not a probability
    heat = ground(model, processor, images[0]["image"], "pleural effusion").values  # (height, width)
    print("heat map", heat.shape, "hottest pixel", divmod(int(heat.argmax()), heat.shape[1]))


if __name__ == "__main__":
    main()
