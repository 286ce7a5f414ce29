"""How well a small classifier tells phantom images from real ones. 0.5 would be not at all, 1.0 is always.

    python -m benchmarks.phantom_vs_real --csv nih_cxr14.csv --out benchmarks/phantom_vs_real.csv

Logistic regressions by 5-fold cross-validation, real radiographs grouped by patient, on three views: 32 x 32 pixels,
the same with each image's own quantiles equalised (shapes, not grey levels), and the radial power spectrum (texture).
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.record import machine_facts, write_csv

SIZE = 256
BINS = 32


def real_images(table: Path, count: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Images and patients drawn from a CSV with the columns `file` and `patient_id`."""
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    images = []
    for index in order:
        with Image.open(table.parent / rows[index]["file"]) as image:
            images.append(np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    return images, [rows[index]["patient_id"] for index in order]


def phantom_images(count: int, seed: int) -> list[np.ndarray]:
    """Images of the report grammar's records."""
    from dataset_builder.generators.phantom import PhantomGenerator
    from dataset_builder.reports.grammar import write_reports

    generator = PhantomGenerator(image_size=SIZE)
    records = tqdm(write_reports(count, seed=seed), total=count, desc="phantom images")
    return [generator([record], [seed * count + index])[0].image for index, record in enumerate(records)]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """32 x 32 grey levels: `(1024,)`."""
    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), dtype=float).ravel()


def equalised(image: np.ndarray) -> np.ndarray:
    """The ranks of the thumbnail's pixels: `(1024,)`."""
    return np.argsort(np.argsort(thumbnail(image))).astype(float)


def spectrum(image: np.ndarray) -> np.ndarray:
    """log10 power in rings of radius, windowed: `(BINS,)`."""
    window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
    power = np.abs(np.fft.fftshift(np.fft.fft2((image - image.mean()) * window))) ** 2
    y, x = np.indices(power.shape) - SIZE // 2
    ring = np.minimum(np.hypot(x, y) / (SIZE / 2) * BINS, BINS).astype(int).ravel()
    total, count = np.bincount(ring, power.ravel()), np.bincount(ring)
    return np.log10(total[:BINS] / count[:BINS] + 1e-6)


def auroc(features: np.ndarray, is_phantom: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """AUROC over five folds: mean and standard deviation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = []
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(features, is_phantom, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        model.fit(features[train], is_phantom[train])
        scores.append(roc_auc_score(is_phantom[test], model.decision_function(features[test])))
    return float(np.mean(scores)), float(np.std(scores))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", type=Path, required=True, help="table of real radiographs: file, patient_id")
    parser.add_argument("--images", type=int, default=200, help="images of each kind (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/phantom_vs_real.csv"))
    args = parser.parse_args(argv)
    real, patients = real_images(args.csv, args.images, args.seed)
    phantom = phantom_images(args.images, args.seed)
    is_phantom = np.array([0] * len(real) + [1] * len(phantom))
    groups = np.array(patients + [f"phantom {index}" for index in range(len(phantom))])
    rows = []
    for name, view in (("pixels 32x32", thumbnail), ("equalised 32x32", equalised), ("power spectrum", spectrum)):
        mean, spread = auroc(np.array([view(image) for image in real + phantom]), is_phantom, groups)
        print(f"{name}: AUROC {mean:.3f} +- {spread:.3f}")
        rows.append(
            {
                "features": name,
                "real_images": len(real),
                "phantom_images": len(phantom),
                "auroc_mean": round(mean, 4),
                "auroc_std": round(spread, 4),
                **machine_facts("scikit-learn", "torch"),
            }
        )
    write_csv(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
