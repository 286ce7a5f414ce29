"""Object-CXR (JF Healthcare, MIDL 2020): foreign objects on images, marked by rectangles, ellipses and polygons.

The download names no patients, so each image is a patient of its own.
"""

from __future__ import annotations

from pathlib import Path

from dataset_builder.radiographs.records import (
    OfficialSplit,
    RadiographRecord,
    RadiographSet,
    coordinates,
    file_in,
    find_file,
)
from dataset_builder.radiographs.regions import Ellipse, Polygon, Rectangle, Shape
from dataset_builder.radiographs.splits import shuffled_parts
from medsyn.errors import UserError
from medsyn.tables import numbered_rows
from medsyn.texts import quoted_id

NAME = "object-cxr"
LABEL = "Foreign Object"
_KINDS = {"0": Rectangle, "1": Ellipse}
_POLYGON = "2"


def read_object_cxr(root: str | Path) -> RadiographSet:
    """
    Reads `train.csv` and `dev.csv`, with the images in `train/` and `dev/`; `dev.csv` is the test set.

    Args:
        root (`str` or `Path`): The folder of these.

    Raises:
        FileNotFoundError: A table is missing.
        UserError: A table of another form.
    """
    root = Path(root)
    images = []
    for name in ("train", "dev"):
        path = find_file(root, f"{name}.csv")
        for number, row in numbered_rows(path, "image_name", "annotation"):
            where = f"{path}, row {number}"
            shapes = parse_annotation(row["annotation"], where)
            images.append(
                RadiographRecord(
                    image_id=f"{name}/{Path(row['image_name']).stem}",
                    subject_id=f"{name}/{Path(row['image_name']).stem}",
                    path=file_in(root / name, row["image_name"], where),
                    labels=(int(bool(shapes)),),
                    split="test" if name == "dev" else None,
                    boxes=shapes,
                    masks=shapes,
                )
            )
    return RadiographSet(
        name=NAME,
        title="Object-CXR",
        terms="CC BY-NC 4.0",
        labels=(LABEL,),
        images=images,
        funnel={"rows": len(images)},
        source={"tables": ["train.csv", "dev.csv"], "boxes": "bounds of rectangle, ellipse or polygon"},
        boxes=True,
        masks=True,
        official={"official": lambda: official_object_cxr(images)},
    )


def parse_annotation(text: str, where: str) -> tuple[Shape, ...]:
    """
    The shapes of `type x1 y1 x2 y2;...`: 0 rectangle, 1 ellipse, 2 polygon. Corners may come in any order.

    Raises:
        UserError: Another type, or other coordinates than the type needs; names `where`.
    """
    shapes: list[Shape] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        kind, *fields = part.split()
        values = coordinates(fields, where)
        if kind in _KINDS and len(values) == 4:
            x, y = sorted(values[::2]), sorted(values[1::2])
            shapes.append(_KINDS[kind](LABEL, (x[0], y[0], x[1], y[1])))
        elif kind == _POLYGON and len(values) >= 6 and len(values) % 2 == 0:
            shapes.append(Polygon(LABEL, tuple(zip(values[::2], values[1::2], strict=True))))
        else:
            raise UserError(
                f"{where}: {quoted_id(part)} is not `0 x1 y1 x2 y2`, `1 x1 y1 x2 y2` or `2 x1 y1 x2 y2 x3 y3 ...`"
            )
    return tuple(shapes)


def official_object_cxr(images: list[RadiographRecord]) -> OfficialSplit:
    """
    MGCA's lists: `train.csv` cut 90 / 10, and `dev.csv`.

    Boxes differ from MGCA's for polygons alone: it centres a box on the polygon's inmost point, so that the box
    reaches beyond the polygon; ours is the polygon's bounds.
    """
    listed = [image for image in images if image.split is None]
    train, validation = shuffled_parts(len(listed), 0, test=0.1)
    return OfficialSplit(
        {
            "train": [listed[k] for k in train],
            "validation": [listed[k] for k in validation],
            "test": [image for image in images if image.split == "test"],
        }
    )
