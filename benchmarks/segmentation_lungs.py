"""Dice of lung masks drawn on frozen encoders, beside what needs no model: the mean mask of the training images.

The lungs of the covid_cohen images, about 70, split anew by patient. Lungs are large and lie in the same place in
every image, so that the mean mask is a strong baseline, and a Dice means little without it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

COLUMNS = ["encoder", "seed", "epochs", "best_epoch", "dice_per_image", "dice_dataset", "dice_official", "seconds"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--real-data", default="../shared/data", type=Path, help="folder with covid_cohen/")
    add(
        "--encoder",
        action="append",
        required=True,
        metavar="NAME=WHAT",
        help="a folder, a timm name, name@weights or random:name, as load_encoder takes it; may be given repeatedly",
    )
    add("--size", type=int, default=128, help="pixels a side of the network's input")
    add("--epochs", type=int, default=5)
    add("--batch-size", type=int, default=8)
    add("--seeds", type=int, default=3, help="how many decoders of each encoder")
    add("--no-augment", action="store_true", help="do not turn and scale training images")
    add("--out", default="docs/results", type=Path, help="folder of segmentation_lungs.{md,csv}")
    add("--pictures", type=Path, help="also write test images with true (green) and drawn (red) outlines here")
    return parser.parse_args(argv)


def mean_mask(images, processor):
    """A segmenter that draws the pixels inside most training masks, whatever it is shown."""
    import torch
    from torch import nn

    from trainers.downstream.tasks.segmentation import ImagesAndMasks

    mean = torch.from_numpy(ImagesAndMasks(images, images.rows("train"), processor).masks.mean(axis=0)).float()

    class MeanMask(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.logit(mean, eps=1e-6), requires_grad=False)  # (side, side)

        def forward(self, pixel_values):
            return self.logits.expand(len(pixel_values), 1, -1, -1)

    return MeanMask()


def draw(model, processor, images, path: Path, number: int = 8) -> None:
    """Outlines of the true and of the drawn mask on the first test images, four a row."""
    from PIL import Image
    from scipy.ndimage import binary_erosion

    from trainers.downstream.tasks.segmentation import predict

    rows = images.rows("test")[:number]
    sheet = Image.new("RGB", (4 * 256, -(-len(rows) // 4) * 256))
    for place, row in enumerate(rows):
        image = images.open(row).convert("L")
        drawn = predict(model, processor, [image])[1][0].numpy() > 0.5
        pixels = np.stack([np.asarray(image)] * 3, axis=-1)
        for mask, colour in ((images.mask(row), (0, 255, 0)), (drawn, (255, 0, 0))):
            pixels[mask & ~binary_erosion(mask, iterations=3)] = colour
        picture = Image.fromarray(pixels)
        picture.thumbnail((256, 256))
        sheet.paste(picture, (place % 4 * 256, place // 4 * 256))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    import time

    import pandas as pd

    from trainers.downstream.encoders import load_encoder
    from trainers.downstream.images.annotated_images import annotated_from_csv
    from trainers.downstream.tasks.segmentation import SegmentationSettings, measure, train_segmenter, whole_images

    path = args.real_data / "covid_cohen" / "covid_cohen.csv"
    images = annotated_from_csv(path, boxes_column=None, mask_column="lung_mask", shares=(60, 15, 25))
    settings = SegmentationSettings(args.epochs, batch_size=args.batch_size, augment=not args.no_augment)
    rows = []
    for name, _, what in (encoder.partition("=") for encoder in args.encoder):
        encoder = load_encoder(what, name, args.size)
        if not rows:
            processor = whole_images(encoder.processor)
            baseline = mean_mask(images, processor)
            metrics = measure(baseline, images, processor, args.batch_size)[1]
            rows.append({"encoder": "mean training mask"} | metrics)
            if args.pictures:
                draw(baseline, processor, images, args.pictures / "mean.png")
        for seed in range(args.seeds):
            start = time.perf_counter()
            run = train_segmenter(encoder, images, images.rows("train"), seed, settings)
            found = {"encoder": name, "seed": seed, "epochs": len(run.validation_losses)}
            found |= {"best_epoch": int(np.argmin(run.validation_losses)) + 1, **run.metrics}
            rows.append(found | {"seconds": round(time.perf_counter() - start, 1)})
            print(rows[-1], flush=True)
            if args.pictures and not seed:
                draw(run.model, run.processor, images, args.pictures / f"{name}.png")
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("seed", "epochs", "best_epoch"), "Int64"))
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "segmentation_lungs.csv", index=False, float_format="%.4f")
    counts = images.counts()
    lines = ["| encoder | Dice per image | pooled | official |", "|---|---|---|---|"]
    for name, group in table.groupby("encoder", sort=False):
        cells = []
        for metric in ("dice_per_image", "dice_dataset", "dice_official"):
            spread = f" ± {group[metric].std():.3f}" if len(group) > 1 else ""
            cells.append(f"{group[metric].mean():.3f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Lungs on {counts['test']} test images of covid_cohen ({counts['train']} to learn from, "
        f"{counts['validation']} to stop by, split by patient {images.split_hash()}), {args.size} pixels, at most "
        f"{args.epochs} epochs in batches of {args.batch_size}; the mean over {args.seeds} seeds of the decoder, ± "
        "their standard deviation.",
    ]
    (args.out / "segmentation_lungs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
