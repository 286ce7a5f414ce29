"""Any folder of images with a CSV: one row an image, its columns named by options."""

from __future__ import annotations

import json
from pathlib import Path

from dataset_builder.radiographs.records import (
    RadiographRecord,
    RadiographSet,
    coordinates,
    file_in,
    find_file,
    some,
    table_rows,
)
from dataset_builder.radiographs.regions import MaskFile, Rectangle
from dataset_builder.reports.table import SPLITS
from medsyn.errors import UserError

NAME = "folder-csv"
UNLABELLED = ("error", "absent", "drop")
BOX_UNITS = ("share", "pixels")


def read_folder_csv(
    root: str | Path,
    csv: str | None = None,
    *,
    file_column: str = "file",
    patient_column: str = "patient_id",
    labels_column: str = "labels",
    split_column: str | None = "split",
    view_column: str | None = None,
    boxes_column: str | None = None,
    box_units: str = "share",
    mask_column: str | None = None,
    unlabelled: str = "error",
) -> RadiographSet:
    """
    Reads a CSV of images.

    Args:
        root (`str` or `Path`): The folder that the files of the CSV are relative to.
        csv (`str`, *optional*): The CSV's name in `root`, by default the only one there.
        file_column (`str`, *optional*, defaults to `"file"`): Holds the image's path; it is the image's id too.
        patient_column (`str`, *optional*, defaults to `"patient_id"`): Holds the patient.
        labels_column (`str`, *optional*, defaults to `"labels"`): Holds the labels present, joined by `|`; a label
            that a row does not name is absent from it.
        split_column (`str`, *optional*, defaults to `"split"`): Holds train, validation (val, valid, dev) or test.
            `None`: the patients are split by a hash.
        view_column (`str`, *optional*): Holds the view.
        boxes_column (`str`, *optional*): Holds boxes as JSON, `[{"label", "x", "y", "w", "h"}, ...]`, or nothing.
        box_units (`str`, *optional*, defaults to `"share"`): `share` of the image's width and height, or `pixels`.
        mask_column (`str`, *optional*): Holds the path of a mask image of the image's size, or nothing. The finding is
            called as the column.
        unlabelled (`str`, *optional*, defaults to `"error"`): What to do with rows whose labels are empty: `error`,
            `absent` (of all labels), or `drop`.

    Raises:
        FileNotFoundError: No such folder or CSV.
        UserError: A missing column, an unknown split, boxes of another form, or rows without labels.
    """
    root = Path(root)
    path = find_file(root, csv) if csv else _only_csv(root)
    named = [file_column, patient_column, labels_column, split_column, view_column, boxes_column, mask_column]
    rows = list(table_rows(path, *filter(None, named)))
    without = [row[file_column] for _, row in rows if not row[labels_column].strip("| ")]
    if without and unlabelled == "error":
        raise UserError(
            f"{path}: {len(without)} of {len(rows)} rows have no labels: {some(without)}; if all labels are absent "
            "there, say --unlabelled absent, else --unlabelled drop"
        )
    present = {
        number: [name.strip() for name in row[labels_column].split("|") if name.strip()] for number, row in rows
    }
    labels = tuple(sorted({name for names in present.values() for name in names}))
    if not labels:
        raise UserError(f"{path}: no row names a label in column {labels_column!r}")
    dropped = set(without) if unlabelled == "drop" else set()
    images = []
    for number, row in rows:
        where = f"{path}, row {number}"
        if not row[file_column] or not row[patient_column]:
            raise UserError(f"{where}: names no file or no patient; fill {file_column!r} and {patient_column!r}")
        if row[file_column] in dropped:
            continue
        split = None
        if split_column is not None:
            split = SPLITS.get(row[split_column].lower())
            if split is None:
                raise UserError(f"{where}: split {row[split_column][:40]!r} is not one of {', '.join(SPLITS)}")
        mask = row[mask_column] if mask_column else ""
        images.append(
            RadiographRecord(
                image_id=row[file_column],
                subject_id=row[patient_column],
                path=file_in(root, row[file_column], where),
                labels=tuple(int(label in present[number]) for label in labels),
                split=split,
                view=(row[view_column] or None) if view_column else None,
                boxes=parse_boxes(row[boxes_column], box_units, where) if boxes_column and row[boxes_column] else None,
                masks=(MaskFile(mask_column, file_in(root, mask, where)),) if mask else None,
            )
        )
    funnel = {"rows": len(rows)} | ({"with_labels": len(images)} if dropped else {})
    return RadiographSet(
        name=NAME,
        title=path.stem,
        terms="those of the images in the folder",
        labels=labels,
        images=images,
        funnel=funnel,
        left_out={"without_labels": without} if dropped else {},
        source={
            "tables": [path.name],
            "columns": [column for column in named if column],
            "unlabelled": unlabelled,
            "rows_without_labels": len(without),
        },
        boxes=boxes_column is not None,
        masks=mask_column is not None,
    )


def _only_csv(root: Path) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found = sorted(root.glob("*.csv"))
    if len(found) != 1:
        raise FileNotFoundError(f"{root} holds {len(found)} CSV files where one is expected; name it with --csv")
    return found[0]


def parse_boxes(text: str, units: str, where: str) -> tuple[Rectangle, ...]:
    """
    The boxes of a cell.

    Raises:
        UserError: Not JSON of the form `[{"label", "x", "y", "w", "h"}, ...]`; names `where`.
    """
    if not text:
        return ()
    try:
        boxes = [(str(box["label"]), [str(box[name]) for name in ("x", "y", "w", "h")]) for box in json.loads(text)]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f'{where}: the boxes are not [{{"label": ..., "x": ..., "y": ..., "w": ..., "h": ...}}, ...]'
        ) from None
    found = []
    for label, values in boxes:
        x, y, width, height = coordinates(values, where)
        grid = (1.0, 1.0) if units == "share" else None
        found.append(Rectangle(label, (x, y, x + width, y + height), grid))
    return tuple(found)
