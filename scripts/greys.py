"""Makes `greys.json`, which describes the grey levels of real radiographs in a few numbers.

    python -m scripts.greys --csv nih_cxr14.csv --out greys.json

The table that ships was made from 588 frontal radiographs of NIH ChestX-ray14 (Wang et al. 2017, NIH Clinical Center):
the 33 quantiles of the grey levels of each between 25 and 252, then their mean and three principal components. It
contains no radiograph and no part of one.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

KNOTS = 33
COMPONENTS = 3


def grey_quantiles(image: np.ndarray) -> np.ndarray:
    """The `KNOTS` quantiles of a radiograph's grey levels, borders and saturated pixels left out."""
    return np.quantile(image[(image > 25) & (image < 252)], np.linspace(0, 1, KNOTS))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", type=Path, required=True, help="table with the columns file and view")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args(argv)
    with open(args.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    curves = []
    for row in rows:
        with Image.open(args.csv.parent / row["file"]) as image:
            curve = grey_quantiles(np.asarray(image.convert("L").resize((256, 256), Image.Resampling.LANCZOS)))
        steps = np.diff(curve)[1:-1]
        if steps.min() > 0.8 and steps.max() < 18:  # posterised and two-toned images left out
            curves.append(curve)
    curves = np.array(curves)
    mean = curves.mean(0)
    _, spread, components = np.linalg.svd(curves - mean, full_matrices=False)
    scores = (curves - mean) @ components[:COMPONENTS].T
    table = {
        "source": "NIH ChestX-ray14 (Wang et al. 2017), quantiles of grey levels; made by build_greys.py",
        "films": len(curves),
        "variance_explained": float((spread[:COMPONENTS] ** 2).sum() / (spread**2).sum()),
        "mean": mean.round(3).tolist(),
        "components": components[:COMPONENTS].round(5).tolist(),
        "deviations": scores.std(0).round(3).tolist(),
    }
    args.out.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
