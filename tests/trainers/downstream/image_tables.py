"""Small image sets on disk with visible labels: a bright square in a corner of a noise image."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from PIL import Image

CORNERS = {"Edema": (2, 2), "Cardiomegaly": (18, 18)}
SIZES = {"train": 60, "validation": 20, "test": 30}


def draw_image(labels: set[str], seed: int, contrast: int = 120) -> bytes:
    """Draws a grey PNG of 32 x 32 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 100, (32, 32), dtype=np.uint8)
    for label in labels:
        row, column = CORNERS[label]
        pixels[row : row + 12, column : column + 12] += np.uint8(contrast)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_table(seed: int = 0) -> pd.DataFrame:
    """Returns one row per image: two images per patient, random labels, `Edema` rarer than `Cardiomegaly`."""
    rng, rows = np.random.default_rng(seed), []
    for split, number in SIZES.items():
        for place in range(number):
            labels = {"Edema"} if rng.random() < 0.25 else set()
            labels |= {"Cardiomegaly"} if rng.random() < 0.5 else set()
            name = f"{split}{place:03d}"
            rows.append({"name": name, "split": split, "patient": f"{split}-{place // 2}", "labels": labels})
    return pd.DataFrame(rows)


def write_csv(folder: Path, split_names=("train", "valid", "test")) -> Path:
    """Writes `images.csv` and its images under `images/`."""
    (folder / "images").mkdir(parents=True)
    table = image_table()
    for index, row in table.iterrows():
        (folder / "images" / f"{row['name']}.png").write_bytes(draw_image(row["labels"], index))
    pd.DataFrame(
        {
            "file": "images/" + table["name"] + ".png",
            "split": table["split"].map(dict(zip(SIZES, split_names, strict=True))),
            "patient_id": table["patient"],
            "labels": table["labels"].map(lambda labels: "|".join(sorted(labels))),
        }
    ).to_csv(folder / "images.csv", index=False)
    return folder / "images.csv"


def write_dataset(folder: Path, uncertain: int = 0) -> Path:
    """Writes the same images as a folder for `load_dataset` with the label struct of `medsyn-cxr`.

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
    table = image_table()
    (folder / "data").mkdir(parents=True)
    for split, part in table.groupby("split"):
        rows = []
        for place, (index, row) in enumerate(part.iterrows()):
            labels = {name: 1 if name in row["labels"] else None for name in names}
            labels |= {"Edema": -1} if place < uncertain else {}
            image = {"bytes": draw_image(row["labels"], index), "path": None}
            rows.append({"image": image, "image_id": row["name"], "subject_id": row["patient"], "labels": labels})
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}-0.parquet")
    return folder


def square_of(label: str) -> tuple[int, int, int, int]:
    """Returns the box `x0, y0, x1, y1` of a label's square in [`draw_image`]."""
    row, column = CORNERS[label]
    return column, row, column + 12, row + 12


def mask_of(labels: set[str]) -> bytes:
    """Draws the squares of `labels` as a PNG mask."""
    pixels = np.zeros((32, 32), dtype=np.uint8)
    for label in labels:
        x0, y0, x1, y1 = square_of(label)
        pixels[y0:y1, x0:x1] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_annotated_csv(folder: Path, unannotated: int = 0) -> Path:
    """Writes [`write_csv`] with the squares as boxes and masks; the first `unannotated` rows of each split have none.

    `looked` is filled for annotated images; `boxes` is empty, not `[]`, where an annotated image shows no label.
    """
    path, table = write_csv(folder), image_table()
    (folder / "masks").mkdir()
    boxes, masks, looked = [], [], []
    for place, row in zip(table.groupby("split").cumcount(), table.to_dict("records"), strict=True):
        found = [(label, *square_of(label)) for label in sorted(row["labels"])]
        cell = [
            {"label": label, "x": x0 / 32, "y": y0 / 32, "w": (x1 - x0) / 32, "h": (y1 - y0) / 32}
            for label, x0, y0, x1, y1 in found
        ]
        seen = place >= unannotated
        (folder / "masks" / f"{row['name']}.png").write_bytes(mask_of(row["labels"]))
        boxes.append(json.dumps(cell) if seen and cell else "")
        masks.append(f"masks/{row['name']}.png" if seen else "")
        looked.append("yes" if seen else "")
    pd.read_csv(path).assign(boxes=boxes, mask=masks, looked=looked).to_csv(path, index=False)
    return path


def write_annotated_dataset(folder: Path, unannotated: int = 0) -> Path:
    """Writes the same as a folder for `load_dataset`; columns are null for images that are not annotated."""
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": text,
            "subject_id": text,
            "boxes": datasets.List({"finding": text, "box": datasets.List(datasets.Value("float32"), length=4)}),
            "finding_masks": datasets.List({"finding": text, "mask": datasets.Image()}),
        }
    )
    (folder / "data").mkdir(parents=True)
    for split, part in image_table().groupby("split"):
        rows = []
        for place, (index, row) in enumerate(part.iterrows()):
            labels = sorted(row["labels"])
            rows.append(
                {
                    "image": {"bytes": draw_image(row["labels"], index), "path": None},
                    "image_id": row["name"],
                    "subject_id": row["patient"],
                    "boxes": [{"finding": label, "box": square_of(label)} for label in labels],
                    "finding_masks": [
                        {"finding": label, "mask": {"bytes": mask_of({label}), "path": None}} for label in labels
                    ],
                }
            )
            if place < unannotated:
                rows[-1] |= {"boxes": None, "finding_masks": None}
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}-0.parquet")
    return folder
