"""torchvision's MobileNetV2 ImageNet weights as a timm encoder's folder, which timm, transformers and medsyn read.

`python benchmarks/mobilenet_weights.py mobilenet_v2-b0353104.pth runs/mobilenet-imagenet`
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import timm
import torch


def convert(weights: str | Path, folder: str | Path) -> None:
    """Writes `config.json` and `model.safetensors` of timm's `mobilenetv2_100` without its classifier into `folder`.

    Raises:
        ValueError: The tensors of `weights` are not those of torchvision's `mobilenet_v2`.
    """
    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    model = timm.create_model("mobilenetv2_100")
    ours = model.state_dict()
    # The two libraries name the same layers differently and hold them in the same order.
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise ValueError(f"{weights} does not hold the {len(ours)} tensors of torchvision's mobilenet_v2")
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    model.reset_classifier(0)
    model.pretrained_cfg = {**model.pretrained_cfg, "tag": "tv_in1k"}  # not the weights that timm has under this name
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    config = Path(folder) / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    del settings["model_args"]["num_classes"]  # transformers' TimmWrapperModel passes it itself
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="torchvision's state dict")
    parser.add_argument("folder", help="where the encoder goes")
    args = parser.parse_args(argv)
    convert(args.weights, args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
