"""Compares a linear probe of 50 epochs on cached features with one that encodes its images again in every epoch.

Both train the same head on the same features (a frozen encoder gives equal ones in every epoch; this is checked). The
first computes them once, hashes images and weights and writes the cache; the second encodes the training and
validation images 50 times and the test images once. Images are noise PNGs of `--source-size` pixels, weights random,
float32, one thread. Times are processor seconds, which change little when the machine is shared.

    python -m benchmarks.feature_cache
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

OUT = Path(__file__).with_suffix(".csv")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--encoder", default="resnet18", help="timm's name (default: %(default)s)")
    add("--image-size", type=int, default=96, help="pixels a side that the encoder sees (default: %(default)s)")
    add("--source-size", type=int, default=256, help="side of the stored images in pixels (default: %(default)s)")
    add("--images", type=int, nargs=3, default=[140, 20, 40], help="train, validation and test (default: 140 20 40)")
    add("--epochs", type=int, default=50, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of images, labels and weights (default: %(default)s)")
    add("--out", type=Path, default=OUT, help="the CSV (default: beside this file)")
    return parser.parse_args(argv)


def noise_images(counts: list[int], side: int, seed: int):
    """A set of noisy images and two labels at random, a patient an image."""
    import numpy as np
    from PIL import Image

    from trainers.downstream.images.labelled_images import LabelledImages

    rng, files = np.random.default_rng(seed), []
    for _ in range(sum(counts)):
        file = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        files.append(file.getvalue())
    ids = [str(row) for row in range(len(files))]
    splits = np.repeat(["train", "validation", "test"], counts)
    targets = (rng.random((len(files), 2)) < 0.5).astype(float)
    return LabelledImages("noise", ids, files.__getitem__, np.array(ids), splits, labels=("a", "b"), targets=targets)


def main(argv: list[str] | None = None) -> int:
    """Measures both and writes the CSV."""
    args = parse(argv)
    from dataclasses import replace

    import numpy as np
    import torch

    from benchmarks.record import machine_facts, write_csv
    from trainers.downstream.encoders import cached_features, load_encoder, pooled_features
    from trainers.downstream.tasks.trained_head import HeadSettings, train_head

    torch.set_num_threads(1)
    images = noise_images(args.images, args.source_size, args.seed)
    encoder = load_encoder(f"random:{args.encoder}", args.encoder, args.image_size, args.seed)
    settings, train = HeadSettings(epochs=args.epochs, patience=args.epochs), images.rows("train")
    seen = sum(args.images[:2])
    learnt = _first(images, seen)
    pooled_features(encoder, _first(images, min(seen, 32)))  # warms up

    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        features = cached_features(encoder, replace(images), folder)  # a copy, whose images are not hashed yet
    made = time.process_time()
    head = train_head(encoder, images, features, train, args.seed, settings)
    trained = time.process_time()
    cached, fitting = trained - start, trained - made

    start = time.process_time()
    for _ in range(args.epochs):
        again = pooled_features(encoder, learnt)
    pooled_features(encoder, images)
    encoding = time.process_time() - start
    difference = float(np.abs(again - features[:seen]).max())
    if difference > 1e-5 * float(np.abs(features).max()):
        raise ValueError(f"features differ by {difference:g} from one epoch to the next: the encoder is not frozen")
    same = {
        "encoder": args.encoder,
        "image_size": args.image_size,
        "source_size": args.source_size,
        "epochs": len(head.validation_losses),
    }
    same |= dict(zip(("train", "validation", "test"), args.images, strict=True))
    rows = [
        same
        | {"way": "encoded in every epoch", "cpu_seconds": round(encoding + fitting, 2), "of_head": round(fitting, 2)},
        same | {"way": "cached", "cpu_seconds": round(cached, 2), "of_head": round(fitting, 2)},
    ]
    rows[1]["times_faster"] = round((encoding + fitting) / cached, 1)
    write_csv(args.out, [row | machine_facts("torch") | {"threads": 1} for row in rows])
    for row in rows:
        print(f"{row['way']}: {row['cpu_seconds']} processor seconds, {row['of_head']} of them for the head")
    print(f"cached features: {rows[1]['times_faster']} times faster")
    return 0


def _first(images, number: int):
    """The first rows of a set, for `pooled_features`, which reads no splits."""
    from types import SimpleNamespace

    return SimpleNamespace(name=images.name, ids=images.ids[:number], open=images.open)


if __name__ == "__main__":
    sys.exit(main())
