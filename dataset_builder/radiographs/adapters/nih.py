"""NIH ChestX-ray14: `Data_Entry_2017.csv`, the official lists, the boxes of `BBox_List_2017.csv`, and the images."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from dataset_builder.radiographs.records import (
    OfficialSplit,
    RadiographRecord,
    RadiographSet,
    coordinates,
    file_in,
    find_file,
    index_images,
)
from dataset_builder.radiographs.regions import Rectangle
from medsyn.errors import UserError
from medsyn.tables import first_few, text_lines
from medsyn.texts import is_nothing, quoted_id, quoted_path

NAME = "nih"
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    "No Finding",
)
BOX_LABELS = {"Infiltrate": "Infiltration"}  # as the list of boxes calls it
BOX_GRID = (1024.0, 1024.0)  # pixels of the released images, in which boxes are told
BOXES = "BBox_List_2017.csv"
_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")


def read_nih(root: str | Path) -> RadiographSet:
    """
    Reads the tables of NIH ChestX-ray14, with the images in `images/` or `images_001/images/` and so on.

    `BBox_List_2017.csv` may be missing; then there are no boxes. `train_val_list.txt` and `test_list.txt` may not.

    Args:
        root (`str` or `Path`): The folder of these.

    Raises:
        FileNotFoundError: A table or list is missing.
        UserError: A table of another form, or tables that disagree.
    """
    root = Path(root)
    path = find_file(root, *_TABLES)
    lists = {name: _read_list(find_file(root, name)) for name in ("train_val_list.txt", "test_list.txt")}
    in_both = sorted(lists["train_val_list.txt"] & lists["test_list.txt"])
    if in_both:
        raise UserError(f"{len(in_both)} images are in both official lists: {first_few(in_both)}; get the lists anew")
    boxes_path = root / BOXES
    boxes = read_boxes(boxes_path) if boxes_path.is_file() else {}
    files = index_images(root, (".png", ".jpg", ".jpeg"))
    images, in_no_list = [], []
    count = 0
    for number, row in _nih_rows(path, "Image Index", "Finding Labels", "Patient ID", "View Position"):
        count += 1
        name = row["Image Index"]
        present = row["Finding Labels"].split("|")
        unknown = [label for label in present if label not in LABELS]
        if unknown:
            raise UserError(f"{path}, row {number}: {quoted_id(unknown[0])} is not a label of the data set")
        if name not in lists["train_val_list.txt"] and name not in lists["test_list.txt"]:
            in_no_list.append(name)
            continue
        stem = Path(name).stem
        images.append(
            RadiographRecord(
                image_id=stem,
                subject_id=row["Patient ID"],
                path=files.get(stem) or file_in(root / "images", name, f"{path}, image {quoted_path(name)}"),
                labels=tuple(int(label in present) for label in LABELS),
                split="test" if name in lists["test_list.txt"] else None,
                view=None if is_nothing(row["View Position"]) else row["View Position"],
                boxes=tuple(boxes[name]) if name in boxes else None,  # few images were marked at all
            )
        )
    table = {image.image_id for image in images} | {Path(name).stem for name in in_no_list}
    left_out = {
        "in_no_official_list": in_no_list,
        "images_without_labels": sorted(files.keys() - table),
        "boxes_without_film": sorted(name for name in boxes if Path(name).stem not in table),
        "listed_without_labels": sorted(
            name for names in lists.values() for name in names if Path(name).stem not in table
        ),
    }
    return RadiographSet(
        name=NAME,
        title="NIH ChestX-ray14",
        terms="NIH Clinical Center: no restriction on use; cite Wang et al. 2017 and credit the NIH Clinical Center",
        labels=LABELS,
        images=images,
        funnel={"rows": count, "in_official_lists": len(images)},
        left_out={reason: names for reason, names in left_out.items() if names},
        source={"tables": [path.name, *lists, *([BOXES] if boxes_path.is_file() else [])]},
        boxes=boxes_path.is_file(),
        official={"official": lambda: official_nih(images)},
    )


def read_boxes(path: str | Path) -> dict[str, list[Rectangle]]:
    """
    The boxes of `BBox_List_2017.csv` (also `.gz`) by image; they count in pixels of an image of 1024 x 1024.

    The header names four columns in one cell, `Bbox [x,y,w,h]`, and ends in empty ones, so columns count by place.

    Raises:
        UserError: A row of another form.
    """
    path = Path(path)
    boxes: dict[str, list[Rectangle]] = {}
    for number, row in _nih_rows(path, "Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"):
        values = [row[name] for name in ("Bbox [x", "y", "w", "h]")]
        x, y, width, height = coordinates(values, f"{path}, row {number}")
        finding = BOX_LABELS.get(row["Finding Label"], row["Finding Label"])
        if finding not in LABELS:
            raise UserError(f"{path}, row {number}: {quoted_id(finding)} is not a label of the data set")
        box = Rectangle(finding, (x, y, x + width, y + height), BOX_GRID)
        boxes.setdefault(row["Image Index"], []).append(box)
    return boxes


def _nih_rows(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table whose header holds commas inside brackets and empty names, and whose rows may be shorter."""
    rows = csv.reader(text_lines(path), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        for column in columns:
            if column not in header:
                raise UserError(f"{path} has no column {column!r}; it has {', '.join(filter(None, header))}")
        places = {column: header.index(column) for column in columns}
        for number, fields in enumerate((fields for fields in rows if any(fields)), start=1):
            if len(fields) <= max(places.values()):
                raise UserError(f"{path}, row {number}: has {len(fields)} fields, too few; get the file anew")
            yield number, {column: fields[place].strip() for column, place in places.items()}
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num} is not CSV: {error}; get the file anew") from None


def _read_list(path: Path) -> set[str]:
    return {line.strip() for line in text_lines(path)} - {""}


def official_nih(images: list[RadiographRecord]) -> OfficialSplit:
    """The official lists alone: `train_val_list.txt` whole as train, and `test_list.txt`; both by patient."""
    parts = {
        "train": [image for image in images if image.split is None],
        "test": [image for image in images if image.split == "test"],
    }
    return OfficialSplit(
        parts,
        ["NIH's official lists hold no validation split, which medsyn evaluate needs; --split patient draws one"],
    )
