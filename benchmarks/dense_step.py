"""Divides a training step of a segmenter or a detector into frozen encoder, head and image processing.

The encoder's share is what caching its feature maps would save of a step; the last column is what caching them takes.

    python -m benchmarks.dense_step segment --batch-size 2 --repeats 3
    python -m benchmarks.dense_step detect
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.record import markdown_table
from benchmarks.side_by_side import fastest

ENCODERS = ["mobilenetv2_100", "resnet50", "vit_base_patch16_224"]
AUGMENTATIONS = 20  # timed together, since one takes less than a millisecond


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    for task in ("segment", "detect"):
        add = tasks.add_parser(task).add_argument
        add("--encoder", nargs="+", default=ENCODERS, help="timm model names (default: %(default)s)")
        add("--size", type=int, default=224, help="side of the encoder's input in pixels (default: %(default)s)")
        add("--batch-size", type=int, default=4, help="images per step (default: %(default)s)")
        add("--repeats", type=int, default=3, help="number of runs; the fastest counts (default: %(default)s)")
        if task == "detect":
            add("--neck-width", type=int, nargs="+", default=[512, 128], help="neck channels (default: 512 128)")
            add("--image", type=int, default=1024, help="side of the unprocessed images in pixels (default: 1024)")
    return parser.parse_args(argv)


def megabytes(maps, batch_size: int) -> str:
    """Returns the size of one image's float32 feature maps."""
    return f"{sum(part.numel() for part in maps) * 4 / batch_size / 1e6:.1f}"


def segment(args: argparse.Namespace) -> str:
    """Returns the table of a U-Net or DPT on each encoder."""
    import torch

    from hub_medsyn.loss_segmentation import mixed_loss
    from trainers.downstream.encoders import load_encoder
    from trainers.downstream.tasks.segmentation import turned
    from trainers.downstream.tasks.segmentation_models import build_segmenter

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (args.size, args.size), dtype=np.uint8)
    mask = image > 127

    def augment():
        for seed in range(AUGMENTATIONS):
            turned(image, mask, np.random.default_rng(seed))

    augmentation = fastest(augment, args.repeats) / AUGMENTATIONS * args.batch_size
    rows = []
    for name in args.encoder:
        model = build_segmenter(load_encoder(f"random:{name}", image_size=args.size)).train()
        pixels = torch.from_numpy(rng.standard_normal((args.batch_size, 3, args.size, args.size), dtype=np.float32))
        masks = torch.from_numpy(np.stack([mask] * args.batch_size)).float()
        maps = model.encoder(pixels)
        vit = isinstance(maps, tuple)
        cached = [*maps[0], *maps[1]] if vit else maps[1:]  # a U-Net's first map is the image itself

        def decode(model=model, maps=maps, vit=vit, masks=masks):
            model.zero_grad()
            logits = model.segmentation_head(model.decoder(*maps) if vit else model.decoder(maps))
            mixed_loss(logits[:, 0], masks).backward()

        encoding = fastest(lambda model=model, pixels=pixels: model.encoder(pixels), args.repeats)
        decoding = fastest(decode, args.repeats)
        share = encoding / (encoding + decoding + augmentation)
        seconds = (f"{encoding:.2f}", f"{decoding:.2f}", f"{augmentation:.3f}")
        rows.append([name, *seconds, f"{share:.0%}", megabytes(cached, args.batch_size)])
    columns = ["encoder", "encoder, s", "decoder, s", "augmentation, s", "encoder's share", "maps of an image, MB"]
    return markdown_table(columns, rows)


def detect(args: argparse.Namespace) -> str:
    """Returns the table of a YOLOv3 neck and heads on each encoder."""
    import torch
    from PIL import Image

    from trainers.downstream.encoders import load_encoder
    from trainers.downstream.tasks.detection import DetectionSettings, new_detector

    pixels = np.random.default_rng(0).integers(0, 256, (args.image, args.image), dtype=np.uint8)
    images = [Image.fromarray(pixels)] * args.batch_size
    boxes = {"boxes": torch.tensor([[0.4, 0.5, 0.2, 0.3]]), "class_labels": torch.tensor([0])}
    rows = []
    for name in args.encoder:
        encoder = load_encoder(f"random:{name}", image_size=args.size)
        for width in args.neck_width:
            model, processor = new_detector(encoder, 0, DetectionSettings(image_size=args.size, neck_width=width))
            model.train()
            inputs = processor(images, return_tensors="pt")["pixel_values"]
            maps = model.encode_maps(inputs)

            def learn(model=model, maps=maps):
                model.zero_grad()
                model(feature_maps=maps, labels=[boxes] * args.batch_size).loss.backward()

            processing = fastest(lambda processor=processor: processor(images), args.repeats)
            encoding = fastest(lambda model=model, inputs=inputs: model.encode_maps(inputs), args.repeats)
            learning = fastest(learn, args.repeats)
            seconds = [f"{value:.2f}" for value in (processing, encoding, learning)]
            gain = (processing + encoding + learning) / learning
            rows.append([name, width, *seconds, f"{gain:.1f}", megabytes(maps, args.batch_size)])
    columns = ["encoder", "neck width", "images, s", "encoder, s", "neck and heads, s", "epochs, times faster"]
    return markdown_table([*columns, "maps of an image, MB"], rows)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    import torch

    print({"segment": segment, "detect": detect}[args.task](args))
    print(f"Batches of {args.batch_size} at {args.size} pixels, {torch.get_num_threads()} threads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
