"""The RSNA Pneumonia Detection Challenge of 2018, stage 2: DICOM films of the NIH with boxes around opacities.

A film is a patient of its own here (`patientId`). Who is on more than one of the NIH films is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataset_builder.radiographs.records import Film, FilmSet, OfficialSplit, coordinates, find_file, table_rows
from dataset_builder.radiographs.records import index_images as index
from dataset_builder.radiographs.regions import Rectangle
from dataset_builder.radiographs.splits import shuffled_parts

NAME = "rsna"
LABEL = "Pneumonia"  # Target: "Lung Opacity" among the classes; "No Lung Opacity / Not Normal" counts as absent
DETECTION_TEST = 5337  # films of MGCA's lists for detection and segmentation


def read_rsna(root: str | Path) -> FilmSet:
    """
    Reads `stage_2_train_labels.csv` (a row a box), `stage_2_detailed_class_info.csv` and `stage_2_train_images/`.

    Args:
        root (`str` or `Path`): The folder of the three.

    Raises:
        FileNotFoundError: A table or the folder of images is missing.
        ValueError: A table of another form, or tables that disagree.
    """
    root = Path(root)
    path = find_file(root, "stage_2_train_labels.csv")
    classes_path = find_file(root, "stage_2_detailed_class_info.csv")
    images = root / "stage_2_train_images"
    if not images.is_dir():
        raise FileNotFoundError(f"{root} holds no folder stage_2_train_images; unpack it there")
    classes: dict[str, str] = {}
    for number, row in table_rows(classes_path, "patientId", "class"):
        if classes.setdefault(row["patientId"], row["class"]) != row["class"]:
            raise ValueError(
                f"{classes_path}, row {number}: patient {row['patientId']} has two classes; mend the rows"
            )
    boxes: dict[str, list[Rectangle]] = {}
    targets: dict[str, str] = {}
    count = 0
    for number, row in table_rows(path, "patientId", "x", "y", "width", "height", "Target"):
        count += 1
        patient, target = row["patientId"], row["Target"]
        if target not in ("0", "1") or targets.setdefault(patient, target) != target:
            raise ValueError(f"{path}, row {number}: Target of patient {patient} is neither 0 nor 1 in all its rows")
        boxes.setdefault(patient, [])
        if target == "1":
            values = [row[name] for name in ("x", "y", "width", "height")]
            x, y, width, height = coordinates(values, f"{path}, row {number}")
            boxes[patient].append(Rectangle(LABEL, (x, y, x + width, y + height)))
    unclassed = sorted(targets.keys() - classes.keys())
    if unclassed:
        raise ValueError(f"{classes_path} lacks {len(unclassed)} patients of {path.name}, first {unclassed[0]}")
    files = index(images, (".dcm", ".png", ".jpg", ".jpeg"))
    films = [
        Film(
            image_id=patient,
            subject_id=patient,
            path=files.get(patient, images / f"{patient}.dcm"),
            labels=(int(targets[patient]),),
            boxes=tuple(boxes[patient]),
            masks=tuple(boxes[patient]),  # the union of the boxes, which MGCA segments
            extra=(classes[patient],),
        )
        for patient in targets
    ]
    unlabelled = sorted(files.keys() - targets.keys())
    return FilmSet(
        name=NAME,
        title="RSNA Pneumonia Detection Challenge",
        terms="RSNA competition data: non-commercial, cite Shih et al. 2019; films from NIH ChestX-ray14",
        labels=(LABEL,),
        films=films,
        funnel={"rows": count, "films": len(films)},
        left_out={"images_without_labels": unlabelled} if unlabelled else {},
        source={"tables": [path.name, classes_path.name], "masks": "union of the boxes"},
        boxes=True,
        masks=True,
        extra=("rsna_class",),
        official={
            "official": lambda: official_rsna(films),
            "official-detection": lambda: official_rsna(films, 2 * DETECTION_TEST),
        },
    )


def official_rsna(films: Sequence[Film], held_out: float = 0.3) -> OfficialSplit:
    """
    MGCA's lists: 70 / 15 / 15 % of the patients for classification; for detection and segmentation 2 x 5,337 held out.

    Args:
        films (`Sequence[Film]`): All films.
        held_out (`float`, *optional*, defaults to 0.3): Share, or number, of the films in validation and test.
    """
    films = sorted(films, key=lambda film: film.image_id)  # as a group-by leaves them
    train, rest = shuffled_parts(len(films), 0, test=held_out)
    test, validation = (rest[part] for part in shuffled_parts(len(rest), 0, test=0.5))
    parts = {"train": train, "validation": validation, "test": test}
    return OfficialSplit({split: [films[k] for k in rows] for split, rows in parts.items()})
