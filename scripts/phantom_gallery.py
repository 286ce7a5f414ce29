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
    from hub_medsyn.cards.overlay import draw_outlines

    phantom = PhantomGenerator(image_size=args.image_size)
    figure, axes = pyplot.subplots(2, len(SCENES), figsize=(2.6 * len(SCENES), 5.5), layout="constrained")
    for place, (title, findings) in enumerate(SCENES):
        radiograph = phantom.render([Finding(*finding) for finding in findings], args.seed + place, view="PA")
        outlined, _ = draw_outlines(radiograph.image, [(finding.kind, mask) for finding, mask in radiograph.masks])
        axes[0, place].imshow(radiograph.image, cmap="gray", vmin=0, vmax=255)
        axes[1, place].imshow(outlined)
        axes[0, place].set_title(title, fontsize=9)
        for axis in axes[:, place]:
            axis.set_axis_off()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
