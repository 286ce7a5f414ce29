"""Rows of a CSV of images: file, patient, labels, split, view, boxes and mask, in columns that the caller names.

```python
for row in image_rows(Path("images.csv"), ImageColumns(boxes="boxes")):
    print(row.file, row.patient, row.split, row.labels, row.boxes)
```
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medsyn.errors import UserError
from medsyn.schema import SPLIT_NAMES
from medsyn.tables import column_names, numbered_rows
from medsyn.texts import is_nothing, names_nobody


@dataclass(frozen=True)
class ImageColumns:
    """The names of the columns; one that is `None` is not read.

    Args:
        file (`str`, *optional*, defaults to `"file"`): The image file.
        patient (`str`, *optional*, defaults to `"patient_id"`): The patient.
        labels (`str`, *optional*, defaults to `"labels"`): The labels that are present, joined by `|`.
        split (`str`, *optional*, defaults to `"split"`): One of [`SPLIT_NAMES`].
        view (`str`, *optional*): The view, as the source writes it.
        boxes (`str`, *optional*): Boxes as JSON, `[{"label", "x", "y", "w", "h"}, ...]`; `x`, `y` is the top left
            corner.
        mask (`str`, *optional*): The file of a mask of the image's size.
        annotated (`str`, *optional*): Filled for images that an annotator looked at.
    """

    file: str = "file"
    patient: str = "patient_id"
    labels: str | None = "labels"
    split: str | None = "split"
    view: str | None = None
    boxes: str | None = None
    mask: str | None = None
    annotated: str | None = None

    @property
    def named(self) -> list[str]:
        """The columns that are read, in the order of the arguments."""
        return [name for name in (getattr(self, field.name) for field in fields(self)) if name]


class Box(NamedTuple):
    """A box of a finding: its label, top left corner, width and height, in the units of the CSV."""

    label: str
    x: float
    y: float
    width: float
    height: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """`x0, y0, x1, y1`."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def __str__(self) -> str:
        return f"box x {self.x:g}, y {self.y:g}, w {self.width:g}, h {self.height:g}"


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row of the CSV.

    Args:
        where (`str`): The file and the row's number, counted from 1, for messages.
        file (`str`), patient (`str`): Never empty.
        labels (`tuple[str, ...]`): The labels that are present, in the order of the cell.
        split (`str`, *optional*): One of [`SPLITS`]; `None` where no column is named.
        view (`str`, *optional*), mask (`str`, *optional*): `None` for an empty cell.
        boxes (`tuple[Box, ...]`, *optional*): `None` for an empty cell.
        annotated (`bool`): Whether the cell of that column is filled.
    """

    where: str
    file: str
    patient: str
    labels: tuple[str, ...] = ()
    split: str | None = None
    view: str | None = None
    boxes: tuple[Box, ...] | None = None
    mask: str | None = None
    annotated: bool = False


def image_rows(path: Path, columns: ImageColumns) -> Iterator[ImageRow]:
    """Yields the rows of a CSV with one image a row.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The file is not CSV in UTF-8, a column is missing, a row names no file or no patient, its split is
            unknown or its boxes are not of the form above; the message names the row.
    """
    for number, row in numbered_rows(path, *columns.named):
        where = f"{path}, row {number}"
        named = ((name, getattr(columns, name)) for name in _FIELDS)
        cells = {name: "" if is_nothing(row[column]) else row[column] for name, column in named if column}
        for name in ("file", "patient"):
            if names_nobody(cells[name]) if name == "patient" else not cells[name]:
                raise UserError(f"{where}: names no {name}; fill {getattr(columns, name)!r} or remove the row")
        yield ImageRow(
            where=where,
            file=str(PurePosixPath(cells["file"])),  # ./a.png is a.png
            patient=cells["patient"],
            labels=tuple(name.strip() for name in cells.get("labels", "").split("|") if not is_nothing(name)),
            split=_split(cells["split"], where) if "split" in cells else None,
            view=cells.get("view") or None,
            boxes=_boxes(cells["boxes"], where) if cells.get("boxes") else None,
            mask=cells.get("mask") or None,
            annotated=bool(cells.get("annotated")),
        )


_FIELDS = tuple(field.name for field in fields(ImageColumns))


def _split(cell: str, where: str) -> str:
    split = SPLIT_NAMES.get(cell.lower())
    if split is None:
        raise UserError(f"{where}: split {column_names([cell])} is not one of {', '.join(SPLIT_NAMES)}; mend the row")
    return split


def _boxes(cell: str, where: str) -> tuple[Box, ...]:
    try:
        boxes = tuple(Box(str(box["label"]), *(float(box[name]) for name in "xywh")) for box in json.loads(cell))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f'{where}: the boxes are not [{{"label": ..., "x": ..., "y": ..., "w": ..., "h": ...}}, ...]'
        ) from None
    for box in boxes:
        if is_nothing(box.label):
            raise UserError(f"{where}: {box} names no finding; fill its label or remove it")
        if not all(math.isfinite(value) for value in box[1:]):
            raise UserError(f"{where}: {box} is not made of finite numbers; mend the row")
    return boxes
