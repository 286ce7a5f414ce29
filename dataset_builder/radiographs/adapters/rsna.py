"""The RSNA Pneumonia Detection Challenge of 2018, stage 2: DICOM images of the NIH with boxes around opacities.

An image is a patient of its own here (`patientId`). Who is on more than one of the NIH images is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataset_builder.radiographs.records import (
    OfficialSplit,
    RadiographRecord,
    RadiographSet,
    coordinates,
    file_in,
    find_file,
)
from dataset_builder.radiographs.records import index_images as index
from dataset_builder.radiographs.regions import Rectangle
from dataset_builder.radiographs.splits import shuffled_parts
from medsyn.errors import UserError
from medsyn.tables import numbered_rows
from medsyn.texts import is_nothing, quoted_path

NAME = "rsna"
LABEL = "Pneumonia"  # Target: "Lung Opacity" among the classes; "No Lung Opacity / Not Normal" counts as absent
DETECTION_TEST = 5337  # images of MGCA's lists for detection and segmentation


def read_rsna(root: str | Path) -> RadiographSet:
    """
    Reads `stage_2_train_labels.csv` (a row a box), `stage_2_detailed_class_info.csv` and `stage_2_train_images/`.

    Args:
        root (`str` or `Path`): The folder of the three.

    Raises:
        FileNotFoundError: A table or the folder of images is missing.
        UserError: A table of another form, or tables that disagree.
    """
    root = Path(root)
    path = find_file(root, "stage_2_train_labels.csv")
    classes_path = find_file(root, "stage_2_detailed_class_info.csv")
    images = root / "stage_2_train_images"
    if not images.is_dir():
        raise FileNotFoundError(f"{root} holds no folder stage_2_train_images; unpack it there")
    classes: dict[str, str] = {}
    for number, row in numbered_rows(classes_path, "patientId", "class"):
        if classes.setdefault(row["patientId"], row["class"]) != row["class"]:
            raise UserError(f"{classes_path}, row {number}: patient {row['patientId']} has two classes; mend the rows")
    boxes: dict[str, list[Rectangle]] = {}
    targets: dict[str, str] = {}
    count = 0
    for number, row in numbered_rows(path, "patientId", "x", "y", "width", "height", "Target"):
        count += 1
        patient, target = row["patientId"], row["Target"]
        if target not in ("0", "1") or targets.setdefault(patient, target) != target:
            raise UserError(f"{path}, row {number}: Target of patient {patient} is neither 0 nor 1 in all its rows")
        boxes.setdefault(patient, [])
        if target == "1":
            values = [row[name] for name in ("x", "y", "width", "height")]
            x, y, width, height = coordinates(values, f"{path}, row {number}")
            boxes[patient].append(Rectangle(LABEL, (x, y, x + width, y + height)))
    unclassed = sorted(targets.keys() - classes.keys())
    if unclassed:
        raise UserError(f"{classes_path} lacks {len(unclassed)} patients of {path.name}, first {unclassed[0]}")
    files = index(images, (".dcm", ".png", ".jpg", ".jpeg"))
    records = [
        RadiographRecord(
            image_id=patient,
            subject_id=patient,
            path=files.get(patient) or file_in(images, f"{patient}.dcm", f"{path}, patient {quoted_path(patient)}"),
            labels=(int(targets[patient]),),
            boxes=tuple(boxes[patient]),
            masks=tuple(boxes[patient]),  # the union of the boxes, which MGCA segments
            extra=(None if is_nothing(classes[patient]) else classes[patient],),
        )
        for patient in targets
    ]
    unlabelled = sorted(files.keys() - targets.keys())
    return RadiographSet(
        name=NAME,
        title="RSNA Pneumonia Detection Challenge",
        terms="RSNA competition data: non-commercial, cite Shih et al. 2019; records from NIH ChestX-ray14",
        labels=(LABEL,),
        images=records,
        funnel={"rows": count, "images": len(records)},
        left_out={"images_without_labels": unlabelled} if unlabelled else {},
        source={"tables": [path.name, classes_path.name], "masks": "union of the boxes"},
        boxes=True,
        masks=True,
        extra=("rsna_class",),
        official={
            "official": lambda: official_rsna(records),
            "official-detection": lambda: official_rsna(records, 2 * DETECTION_TEST),
        },
    )


def official_rsna(images: Sequence[RadiographRecord], held_out: float = 0.3) -> OfficialSplit:
    """
    MGCA's lists: 70 / 15 / 15 % of the patients for classification; for detection and segmentation 2 x 5,337 held out.

    Args:
        images (`Sequence[Image]`): All images.
        held_out (`float`, *optional*, defaults to 0.3): Share, or number, of the images in validation and test.
    """
    images = sorted(images, key=lambda image: image.image_id)  # as a group-by leaves them
    train, rest = shuffled_parts(len(images), 0, test=held_out)
    test, validation = (rest[part] for part in shuffled_parts(len(rest), 0, test=0.5))
    parts = {"train": train, "validation": validation, "test": test}
    return OfficialSplit({split: [images[k] for k in rows] for split, rows in parts.items()})
