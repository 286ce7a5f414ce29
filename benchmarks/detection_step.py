"""What keeping a frozen encoder's maps saves of an epoch of a detector's training.

A step on kept maps is neck, heads and loss, forward and backward; without them the images are processed and encoded
too. The last column is what keeping the maps takes.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.side_by_side import fastest


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--encoder", nargs="+", default=["resnet50", "mobilenetv2_100", "vit_base_patch16_224"], help="timm's names")
    add("--neck-width", type=int, nargs="+", default=[512, 128])
    add("--size", type=int, default=224, help="pixels a side")
    add("--film", type=int, default=1024, help="pixels a side of the films before they are processed")
    add("--batch-size", type=int, default=4)
    add("--repeats", type=int, default=2, help="the fastest counts")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    import torch
    from PIL import Image

    from trainers.downstream.encoders import load_encoder
    from trainers.downstream.tasks.detection import DetectionSettings, new_detector

    pixels = np.random.default_rng(0).integers(0, 256, (args.film, args.film), dtype=np.uint8)
    films = [Image.fromarray(pixels)] * args.batch_size
    boxes = {"boxes": torch.tensor([[0.4, 0.5, 0.2, 0.3]]), "class_labels": torch.tensor([0])}
    print("| encoder | neck width | films, s | encoder, s | neck and heads, s | epochs, times faster | an image, MB |")
    print("|---|---|---|---|---|---|---|")
    for name in args.encoder:
        encoder = load_encoder(f"random:{name}", image_size=args.size)
        for width in args.neck_width:
            model, processor = new_detector(encoder, 0, DetectionSettings(image_size=args.size, neck_width=width))
            model.train()
            inputs = processor(films, return_tensors="pt")["pixel_values"]
            maps = model.encode_maps(inputs)

            def learn(model=model, maps=maps):
                model.zero_grad()
                model(feature_maps=maps, labels=[boxes] * args.batch_size).loss.backward()

            processing = fastest(lambda processor=processor: processor(films), args.repeats)
            encoding = fastest(lambda model=model, inputs=inputs: model.encode_maps(inputs), args.repeats)
            learning = fastest(learn, args.repeats)
            gain = (processing + encoding + learning) / learning
            size = sum(one.numel() for one in maps) * 4 / args.batch_size / 1e6
            times = f"{processing:.2f} | {encoding:.2f} | {learning:.2f} | {gain:.1f}"
            print(f"| {name} | {width} | {times} | {size:.1f} |", flush=True)
    print(f"\nBatches of {args.batch_size} at {args.size} pixels, {torch.get_num_threads()} threads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
