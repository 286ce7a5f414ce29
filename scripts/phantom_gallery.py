"""The picture of the README: phantom images of several patients' poses, and below each the masks of what was drawn.

python -m scripts.phantom_gallery --out docs/assets/phantoms.jpg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SCENES = (
    ("no finding", ()),
    ("left pleural effusion, moderate", (("pleural effusion", "left", None, "moderate"),)),
    ("right pneumothorax, moderate", (("pneumothorax", "right", None, "moderate"),)),
    ("right lower consolidation", (("consolidation", "right", "lower", "moderate"),)),
    ("left upper mass", (("mass", "left", "upper", "moderate"),)),
    ("cardiomegaly and edema", (("cardiomegaly", None, None, "severe"), ("edema", None, None, "moderate"))),
)
COLOURS = ("#ffca3a", "#4cc9f0", "#ff595e")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/assets/phantoms.jpg"))
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from dataset_builder.findings import Finding
    from dataset_builder.generators.phantom import PhantomGenerator

    phantom = PhantomGenerator(image_size=args.image_size)
    figure, axes = pyplot.subplots(2, len(SCENES), figsize=(2.6 * len(SCENES), 5.5), layout="constrained")
    for place, (title, findings) in enumerate(SCENES):
        image = phantom.render([Finding(*finding) for finding in findings], args.seed + place, view="PA")
        kinds = list(dict.fromkeys(finding.kind for finding, _ in image.masks))
        for axis in axes[:, place]:
            axis.imshow(image.image, cmap="gray", vmin=0, vmax=255)
            axis.set_axis_off()
        axes[0, place].set_title(title, fontsize=9)
        for finding, mask in image.masks:
            colour = COLOURS[kinds.index(finding.kind) % len(COLOURS)]
            axes[1, place].contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
