"""CheXpert as Stanford ships it: `train.csv`, `valid.csv` and the images beside them, or the four folders
`CheXpert-v1.0 batch 1 (validate & csv)` to `batch 4 (train 3)` of the full download, as they come.

A patient's id is the `patient00001` of the path. `valid.csv`, read by three radiologists, is the test set, as GLoRIA
and MGCA use it, since the labels of the official test set came late.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.radiographs.records import (
    OfficialSplit,
    RadiographRecord,
    RadiographSet,
    file_in,
    find_file,
)
from medsyn.errors import UserError
from medsyn.tables import numbered_rows
from medsyn.texts import is_nothing, quoted_id, quoted_path

NAME = "chexpert"
UNCERTAIN_RULES = ("official", "keep", "absent", "present")
# -1 becomes this, null becomes 0: U-Ones and U-Zeros by disease, after Irvin et al. 2019 (arXiv 1901.07031), as
# CHEXPERT_UNCERTAIN_MAPPINGS of GLoRIA and MGCA has them. The other nine labels keep -1: no rule is published.
OFFICIAL_UNCERTAIN = {
    "Atelectasis": 1,
    "Cardiomegaly": 0,
    "Consolidation": 0,
    "Edema": 1,
    "Pleural Effusion": 1,
}
OFFICIAL_UNMENTIONED = 0
_BATCHES = "CheXpert-v1.0 batch *"  # the first holds the tables and `valid/`, the others the patients of `train/`
TASKS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
_VALUES = {"": None, "1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}


def read_chexpert(
    root: str | Path,
    *,
    any_view: bool = False,
    uncertain: str = "official",
    without_5x200: bool = False,
    task_images: int = 200,
    validation_rows: int = 5000,
) -> RadiographSet:
    """
    Reads the tables of CheXpert.

    Args:
        root (`str` or `Path`): The folder of `train.csv` and `valid.csv` (`CheXpert-v1.0` or `CheXpert-v1.0-small`),
            or that of the four batches.
        any_view (`bool`, *optional*, defaults to `False`): Keep lateral images too.
        uncertain (`str`, *optional*, defaults to `"official"`): `official`: `OFFICIAL_UNCERTAIN`, and null becomes 0.
            `keep`: labels as in the table. `absent`, `present`: -1 becomes 0 or 1 for all labels, and null 0.
        without_5x200 (`bool`, *optional*, defaults to `False`): Leave out the images of CheXpert 5x200.
        task_images (`int`, *optional*, defaults to 200): Images a task in that set.
        validation_rows (`int`, *optional*, defaults to 5000): Rows of the official validation list.

    Raises:
        FileNotFoundError: A table is missing.
        UserError: A table of another form, or an unknown `uncertain`.
    """
    root = Path(root)
    if uncertain not in UNCERTAIN_RULES:
        raise UserError(f"uncertain {uncertain!r} is not one of {', '.join(UNCERTAIN_RULES)}")
    batches = sorted(root.glob(_BATCHES))
    tables = next((folder for folder in (root, *batches) if (folder / "train.csv").is_file()), root)
    patients = {folder.name: folder for batch in batches for folder in batch.glob("patient*")}
    rows = _read(find_file(tables, "train.csv"), patients, uncertain, None)
    test = _read(find_file(tables, "valid.csv"), {}, uncertain, "test")
    funnel = {"rows": len(rows) + len(test)}
    left_out = {}
    kept = [row for row in rows + test if any_view or row.frontal]
    if not any_view:
        funnel["frontal"] = len(kept)
    if without_5x200:
        chosen = {rows[k].image.image_id for k in five_by_200(rows, task_images)}
        left_out["chexpert_5x200"] = sorted(chosen)
        kept = [row for row in kept if row.image.image_id not in chosen]
        funnel["without_5x200"] = len(kept)
    return RadiographSet(
        name=NAME,
        title="CheXpert",
        terms="Stanford University Dataset Research Use Agreement: research only, not to be passed on",
        labels=CHEXPERT_LABELS,
        images=[row.image for row in kept],
        funnel=funnel,
        left_out=left_out,
        source={"tables": ["train.csv", "valid.csv"], "any_view": any_view, "uncertain": uncertain},
        official={"official": lambda: official_chexpert(rows, test, any_view, task_images, validation_rows)},
    )


class _Row:
    """A row of the table: its image, whether it is frontal, and its labels before any rule."""

    __slots__ = ("image", "frontal", "raw")

    def __init__(self, image: RadiographRecord, frontal: bool, raw: tuple[int | None, ...]):
        self.image, self.frontal, self.raw = image, frontal, raw


def _read(path: Path, patients: dict[str, Path], uncertain: str, split: str | None) -> list[_Row]:
    """The rows of a table, whose images are in the folders of `patients` or, of others, beside it."""
    rows = []
    for number, row in numbered_rows(path, "Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS):
        parts = PurePosixPath(row["Path"]).parts
        folder = next((k for k, part in enumerate(parts) if part in ("train", "valid")), None)
        if folder is None or len(parts) != folder + 4:
            raise UserError(
                f"{path}, row {number}: path {quoted_path(row['Path'])} does not read .../train/patient00001/study1/"
                "view1_frontal.jpg"
            )
        values = ["" if is_nothing(row[name]) else row[name] for name in CHEXPERT_LABELS]
        unknown = [value for value in values if value not in _VALUES]
        if unknown:
            raise UserError(
                f"{path}, row {number}: label {quoted_id(unknown[0])} is not 1, 0, -1 or empty; mend the row"
            )
        file = file_in(path.parent, "/".join(parts[folder:]), f"{path}, row {number}")
        if parts[folder + 1] in patients:
            file = patients[parts[folder + 1]].joinpath(*parts[folder + 2 :])
        raw = tuple(_VALUES[value] for value in values)
        image = RadiographRecord(
            image_id="/".join(parts[folder + 1 :]).rsplit(".", 1)[0],
            subject_id=parts[folder + 1],
            path=file,
            labels=apply_rule(raw, uncertain),
            split=split,
            view=row["AP/PA"] if row["AP/PA"] in ("AP", "PA") else None,
        )
        rows.append(_Row(image, row["Frontal/Lateral"] == "Frontal", raw))
    return rows


def apply_rule(raw: tuple[int | None, ...], uncertain: str) -> tuple[int | None, ...]:
    """The 14 labels of a row under a rule of `UNCERTAIN_RULES`."""
    if uncertain == "keep":
        return raw
    values = []
    for name, value in zip(CHEXPERT_LABELS, raw, strict=True):
        if value == -1:
            value = OFFICIAL_UNCERTAIN.get(name, -1) if uncertain == "official" else int(uncertain == "present")
        values.append(OFFICIAL_UNMENTIONED if value is None else value)
    return tuple(values)


def five_by_200(rows: list[_Row], task_images: int = 200) -> list[int]:
    """
    The row numbers of CheXpert 5x200: for each task, frontal images on which of 13 labels it alone is present.

    "No Finding" is not looked at, null counts as absent, and an image with any label of -1 does not qualify. Draws as
    `DataFrame.sample(n, random_state=0)` does, which MGCA calls; GLoRIA draws without a seed and published no list, so
    that its 1,000 images are not known.

    Raises:
        UserError: Too few such images.
    """
    labels = [name for name in CHEXPERT_LABELS if name != "No Finding"]
    columns = [CHEXPERT_LABELS.index(name) for name in labels]
    coded = np.array([[row.raw[column] or 0 for column in columns] for row in rows], dtype=np.int8)  # (rows, 13)
    frontal = np.array([row.frontal for row in rows])
    chosen: list[int] = []
    for task in TASKS:
        alone = np.array([int(name == task) for name in labels], dtype=np.int8)
        fit = np.flatnonzero((coded == alone).all(axis=1) & frontal)
        if len(fit) < task_images:
            raise UserError(f"only {len(fit)} frontal images show {task} alone, CheXpert 5x200 needs {task_images}")
        drawn = np.random.RandomState(0).choice(len(fit), size=task_images, replace=False)
        chosen += [int(k) for k in fit[drawn]]
    return chosen


def official_chexpert(
    rows: list[_Row], test: list[_Row], any_view: bool, task_images: int, validation_rows: int
) -> OfficialSplit:
    """
    MGCA's lists, with their leak, which GLoRIA's lines share (its own draw has no seed).

    Of `train.csv` less 5x200, `validation_rows` rows are drawn by position and then taken out of the training rows by
    index label. The two differ once 5x200 has left gaps in the index, so most validation rows stay in training too,
    and rows that are in no list at all go missing. Lateral images are left out afterwards.
    """
    queries = set(five_by_200(rows, task_images))
    labels = [k for k in range(len(rows)) if k not in queries]  # the index of the frame that is left
    if len(labels) < validation_rows:
        raise UserError(f"train.csv has {len(labels)} rows, too few for {validation_rows} of validation")
    drawn = np.random.RandomState(0).choice(len(labels), size=validation_rows, replace=False)
    dropped = set(drawn.tolist())
    validation = [rows[labels[k]] for k in drawn]
    train = [rows[k] for k in labels if k not in dropped]
    splits = {
        split: [row.image for row in part if any_view or row.frontal]
        for split, part in (("train", train), ("validation", validation), ("test", test))
    }
    inside = {image.image_id for image in splits["train"]}
    leaked = sum(image.image_id in inside for image in splits["validation"])
    return OfficialSplit(
        splits,
        [
            f"CheXpert's official split: {leaked:,} of {len(splits['validation']):,} validation images stand in the "
            "training list too (rows drawn by position, dropped by index label)"
        ],
    )
