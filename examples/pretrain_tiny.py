"""Pre-trains a tiny ConVIRT and loads it: `python examples/pretrain_tiny.py my-cxr runs/tiny`."""

from __future__ import annotations

import sys

from transformers import AutoModel, AutoProcessor

import hub_medsyn  # noqa: F401  registers the Auto classes
from medsyn.cli import main as medsyn


def main(dataset: str, out: str) -> None:
    options = ["--model", "convirt", "--dataset", dataset, "--output_dir", out]
    options += ["--image_encoder", "random:resnet10t", "--text_encoder", "scratch", "--image_size", "32"]
    options += ["--num_train_epochs", "1", "--per_device_train_batch_size", "2", "--save_strategy", "no"]
    if code := medsyn(["pretrain", *options]):
        raise SystemExit(code)
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    inputs = processor(text=["pleural effusion"], return_tensors="pt", padding=True)
    print(type(model).__name__, model.get_text_features(**inputs).shape)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ("my-cxr", "runs/tiny")))
