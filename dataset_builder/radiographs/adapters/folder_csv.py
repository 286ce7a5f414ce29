"""Any folder of images with a CSV: one row an image, its columns named by options."""

from __future__ import annotations

from pathlib import Path

from dataset_builder.radiographs.records import RadiographRecord, RadiographSet, file_in, find_file
from dataset_builder.radiographs.regions import MaskFile, Rectangle
from medsyn.errors import UserError
from medsyn.image_csv import Box, ImageColumns, image_rows
from medsyn.tables import first_few

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
    columns = ImageColumns(
        file_column,
        patient_column,
        labels_column,
        split_column,
        view=view_column,
        boxes=boxes_column,
        mask=mask_column,
    )
    rows = list(image_rows(path, columns))
    without = [row.file for row in rows if not row.labels]
    if without and unlabelled == "error":
        raise UserError(
            f"{path}: {len(without)} of {len(rows)} rows have no labels: {first_few(without)}; if all labels are "
            "absent there, say --unlabelled absent, else --unlabelled drop"
        )
    labels = tuple(sorted({name for row in rows for name in row.labels}))
    if not labels:
        raise UserError(f"{path}: no row names a label in column {labels_column!r}")
    images = [
        RadiographRecord(
            image_id=row.file,
            subject_id=row.patient,
            path=file_in(root, row.file, row.where),
            labels=tuple(int(label in row.labels) for label in labels),
            split=row.split,
            view=row.view,
            boxes=None if row.boxes is None else tuple(_rectangle(box, box_units) for box in row.boxes),
            masks=(MaskFile(mask_column, file_in(root, row.mask, row.where)),) if row.mask else None,
        )
        for row in rows
        if row.labels or unlabelled != "drop"
    ]
    dropped = len(images) < len(rows)
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
            "columns": columns.named,
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


def _rectangle(box: Box, units: str) -> Rectangle:
    return Rectangle(box.label, box.corners, (1.0, 1.0) if units == "share" else None)
