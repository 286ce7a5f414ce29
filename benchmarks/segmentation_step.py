"""How a training step of a segmenter divides: the frozen encoder, its decoder, and turning the films.

The encoder's share is what keeping its maps would save of a step, at most and only on films that are not turned; the
last column is what keeping them would take.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.side_by_side import fastest


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--encoder", nargs="+", default=["mobilenetv2_100", "resnet50", "vit_base_patch16_224"], help="timm's names")
    add("--size", type=int, default=224, help="pixels a side")
    add("--batch-size", type=int, default=4)
    add("--repeats", type=int, default=3, help="the fastest counts")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    import torch

    from hub_medsyn.loss_segmentation import mixed_loss
    from trainers.downstream.encoders import load_encoder
    from trainers.downstream.tasks.segmentation import turned
    from trainers.downstream.tasks.segmentation_models import build_segmenter

    rng = np.random.default_rng(0)
    film = rng.integers(0, 256, (args.size, args.size), dtype=np.uint8)
    mask = film > 127

    def turn():
        for seed in range(20):
            turned(film, mask, np.random.default_rng(seed))

    turning = fastest(turn, args.repeats) / 20
    print("| encoder | encoder, s | decoder, s | turning, s | encoder's share | maps of an image, MB |")
    print("|---|---|---|---|---|---|")
    for name in args.encoder:
        model = build_segmenter(load_encoder(f"random:{name}", image_size=args.size)).train()
        pixels = torch.from_numpy(rng.standard_normal((args.batch_size, 3, args.size, args.size), dtype=np.float32))
        masks = torch.from_numpy(np.stack([mask] * args.batch_size)).float()
        maps = model.encoder(pixels)
        vit = isinstance(maps, tuple)
        parts = [*maps[0], *maps[1]] if vit else maps[1:]  # a U-Net's first map is the image itself

        def decode(model=model, maps=maps, vit=vit, masks=masks):
            model.zero_grad()
            logits = model.segmentation_head(model.decoder(*maps) if vit else model.decoder(maps))
            mixed_loss(logits[:, 0], masks).backward()

        encoding = fastest(lambda model=model, pixels=pixels: model.encoder(pixels), args.repeats)
        decoding = fastest(decode, args.repeats)
        share = encoding / (encoding + decoding + args.batch_size * turning)
        size = sum(part.numel() for part in parts) * 4 / args.batch_size / 1e6
        times = f"{encoding:.2f} | {decoding:.2f} | {args.batch_size * turning:.3f}"
        print(f"| {name} | {times} | {share:.0%} | {size:.1f} |", flush=True)
    print(f"\nBatches of {args.batch_size} at {args.size} pixels, {torch.get_num_threads()} threads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
