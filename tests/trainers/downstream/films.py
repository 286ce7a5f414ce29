"""Small image sets on disk, whose labels can be seen: a bright square in a corner of noise."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from PIL import Image

CORNERS = {"Edema": (2, 2), "Cardiomegaly": (18, 18)}
SIZES = {"train": 60, "validation": 20, "test": 30}


def film(labels: set[str], seed: int, contrast: int = 120) -> bytes:
    """A 32-pixel grey PNG."""
    pixels = np.random.default_rng(seed).integers(0, 100, (32, 32), dtype=np.uint8)
    for label in labels:
        row, column = CORNERS[label]
        pixels[row : row + 12, column : column + 12] += np.uint8(contrast)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def film_table(seed: int = 0) -> pd.DataFrame:
    """One row an image: two images a patient, labels at random, `Edema` rarer than `Cardiomegaly`."""
    rng, rows = np.random.default_rng(seed), []
    for split, number in SIZES.items():
        for place in range(number):
            labels = {"Edema"} if rng.random() < 0.25 else set()
            labels |= {"Cardiomegaly"} if rng.random() < 0.5 else set()
            name = f"{split}{place:03d}"
            rows.append({"name": name, "split": split, "patient": f"{split}-{place // 2}", "labels": labels})
    return pd.DataFrame(rows)


def write_csv(folder: Path, split_names=("train", "valid", "test")) -> Path:
    """`films.csv` with its images under `images/`."""
    (folder / "images").mkdir(parents=True)
    table = film_table()
    for index, row in table.iterrows():
        (folder / "images" / f"{row['name']}.png").write_bytes(film(row["labels"], index))
    pd.DataFrame(
        {
            "file": "images/" + table["name"] + ".png",
            "split": table["split"].map(dict(zip(SIZES, split_names, strict=True))),
            "patient_id": table["patient"],
            "labels": table["labels"].map(lambda labels: "|".join(sorted(labels))),
        }
    ).to_csv(folder / "films.csv", index=False)
    return folder / "films.csv"


def write_dataset(folder: Path, uncertain: int = 0) -> Path:
    """The same as a folder for `load_dataset` with the label struct of `medsyn-cxr`.

    The first `uncertain` rows of each split are uncertain of `Edema`; absent labels are null.
    """
    names = ("Cardiomegaly", "Edema")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("string"),
            "subject_id": datasets.Value("string"),
            "labels": {name: datasets.Value("int8") for name in names},
        }
    )
    table = film_table()
    (folder / "data").mkdir(parents=True)
    for split, part in table.groupby("split"):
        rows = []
        for place, (index, row) in enumerate(part.iterrows()):
            labels = {name: 1 if name in row["labels"] else None for name in names}
            labels |= {"Edema": -1} if place < uncertain else {}
            image = {"bytes": film(row["labels"], index), "path": None}
            rows.append({"image": image, "image_id": row["name"], "subject_id": row["patient"], "labels": labels})
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}-0.parquet")
    return folder
