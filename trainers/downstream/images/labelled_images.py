"""Labelled images with patients and splits, from a `medsyn-cxr` dataset or from a CSV of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medsyn.errors import UserError
from medsyn.image_csv import ImageColumns, image_rows
from medsyn.tables import first_few
from medsyn.texts import is_nothing
from trainers.data.dataset_by_name import encoded_image
from trainers.downstream.images.image_set import (
    ImageSet,
    dataset_table,
    existing_rows,
    known_patients,
    patient_splits,
)

UNCERTAIN = {"mask": np.nan, "absent": 0.0, "present": 1.0}
UNLABELLED = ("absent", "drop", "error")


@dataclass(frozen=True)
class LabelledImages(ImageSet):
    """An [`ImageSet`] with labels.

    Args:
        labels (`tuple[str, ...]`): The names of the columns of `targets`.
        targets (`np.ndarray` of shape `(n, labels)`, float): 1 present, 0 absent, NaN uncertain and masked.
    """

    labels: tuple[str, ...] = field(kw_only=True)
    targets: np.ndarray = field(kw_only=True)

    @property
    def shown(self) -> np.ndarray:
        """Whether a row has a label, `(n, labels)` bool."""
        return self.targets == 1

    @property
    def shown_names(self) -> tuple[str, ...]:
        """The names of the columns of `shown`."""
        return self.labels

    def one_label_each(self) -> None:
        """Checks that every image has exactly one label.

        Raises:
            UserError: Images have no label, several, or an uncertain one; the message gives their number and first
                ids.
        """
        others = np.flatnonzero((self.targets == 1).sum(axis=1) + 2 * np.isnan(self.targets).any(axis=1) != 1)
        if len(others):
            raise UserError(
                f"{self.name}: {len(others)} of {len(self.ids)} images do not have exactly one of the labels "
                f"{', '.join(self.labels)}: {first_few([self.ids[row] for row in others])}; select mutually "
                "exclusive labels with --labels, or drop --exclusive"
            )

    def with_labels(
        self, names: Sequence[str] | None = None, min_positives: int = 5
    ) -> tuple[LabelledImages, dict[str, str]]:
        """Keeps the labels with enough cases to be measured.

        Args:
            names (`Sequence[str]`, *optional*): The labels to keep, by default all.
            min_positives (`int`, *optional*, defaults to 5): Minimum number of positives and of negatives in the
                training and in the test split; other labels are excluded.

        Returns:
            `tuple[LabelledImages, dict[str, str]]`: The set with the labels kept, and why each other one is excluded.

        Raises:
            UserError: A name is not one of the labels, or no label remains.
        """
        for name in names or ():
            if name not in self.labels:
                raise UserError(f"{self.name} has no label {name!r}; it has {', '.join(self.labels)}")
        kept, left_out = [], {}
        for column, name in enumerate(self.labels):
            if names and name not in names:
                continue
            few = [
                f"{int((self.targets[self.rows(split), column] == value).sum())} {word} in {split}"
                for split in ("train", "test")
                for value, word in ((1, "positives"), (0, "negatives"))
                if (self.targets[self.rows(split), column] == value).sum() < min_positives
            ]
            if few:
                left_out[name] = ", ".join(few)
            else:
                kept.append(column)
        if not kept:
            raise UserError(f"{self.name}: no label has {min_positives} positives and negatives in train and in test")
        labels = tuple(self.labels[k] for k in kept)
        return replace(self, labels=labels, targets=self.targets[:, kept]), left_out


def images_from_csv(
    path: str | Path,
    file_column: str = "file",
    labels_column: str = "labels",
    split_column: str = "split",
    patient_column: str = "patient_id",
    skip_missing: bool = False,
    unlabelled: str = "absent",
    shares: Sequence[float] | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
) -> LabelledImages:
    """Reads a CSV with one image per row: file relative to the CSV, labels joined by `|`, split and patient.

    Labels that a row does not list are absent. Splits are called as in [`SPLIT_NAMES`];
    with `shares` of train, validation and test, patients are re-split with `seed` and the column is not read.
    `unlabelled` says how to treat rows without any label: all labels absent (`absent`), left out (`drop`) or an error
    (`error`); the notes give their number.

    Raises:
        FileNotFoundError: The CSV does not exist, or images that it lists do not and `skip_missing` is not set.
        UserError: A column is missing, the file is not UTF-8, or what [`LabelledImages`] raises.
    """
    path = Path(path)
    columns = ImageColumns(file_column, patient_column, labels_column, None if shares else split_column)
    rows, missing = existing_rows(path, list(image_rows(path, columns)), skip_missing)
    labels = tuple(sorted({label for row in rows for label in row.labels}))
    files = [row.file for row in rows]
    return _labelled(
        name=path.stem,
        ids=files,
        encoded=lambda row: (path.parent / files[row]).read_bytes(),
        labels=labels,
        targets=np.array([[float(label in row.labels) for label in labels] for row in rows]),
        patients=np.array([row.patient for row in rows]),
        splits=None if shares else np.array([row.split for row in rows]),
        missing=missing,
        without=np.array([not row.labels for row in rows]),
        unlabelled=unlabelled,
        shares=shares,
        seed=seed,
        allow_leaks=allow_leaks,
    )


def images_from_dataset(
    name: str,
    config: str | None = None,
    patient_column: str = "subject_id",
    uncertain: str = "mask",
    unlabelled: str = "absent",
    shares: Sequence[float] | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
) -> LabelledImages:
    """Reads a dataset with the columns of `medsyn-cxr` and the splits train, validation and test.

    Args:
        name (`str`): A folder or a Hub id for `datasets.load_dataset`.
        config (`str`, *optional*): The config to read.
        patient_column (`str`, *optional*, defaults to `subject_id`): The column of the patient.
        uncertain (`str`, *optional*, defaults to `mask`): How to read a label of -1: `mask` excludes the image from
            that label, `absent` reads it as 0, `present` as 1. A label that the report does not mention (null) is
            absent.
        unlabelled (`str`, *optional*, defaults to `absent`): How to treat an image whose labels are all null:
            `absent`, `drop` or `error`.
        shares (`Sequence[float]`, *optional*): Re-split the patients by these shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): Seed of the re-split.
        allow_leaks (`bool`, *optional*, defaults to `False`): As in [`ImageSet`].

    Raises:
        FileNotFoundError: There is no such dataset.
        UserError: A column is missing, or what [`LabelledImages`] raises.
    """
    table, splits = dataset_table(name, config, ("image", "image_id", "labels", patient_column), not shares)
    labels = tuple(label for label in table.features["labels"] if not is_nothing(label))
    columns = table.select_columns(["image_id", "labels", patient_column]).to_pandas()
    nothing = dict.fromkeys(labels)  # a null in place of all labels
    codes = np.array([[(row or nothing)[label] for label in labels] for row in columns["labels"]], dtype=np.float64)
    without = np.isnan(codes).all(axis=1)
    codes[np.isnan(codes)] = 0
    images = table.select_columns(["image"])
    return _labelled(
        name=Path(name).name,
        ids=list(columns["image_id"].astype(str)),
        encoded=lambda row: encoded_image(images[int(row)]["image"]),
        labels=labels,
        targets=np.where(codes == -1, UNCERTAIN[uncertain], codes),
        patients=known_patients(name, list(columns["image_id"].astype(str)), list(columns[patient_column])),
        splits=splits,
        without=without,
        unlabelled=unlabelled,
        shares=shares,
        seed=seed,
        allow_leaks=allow_leaks,
    )


def _labelled(
    name, ids, encoded, targets, patients, splits, without, unlabelled, shares, seed, **rest
) -> LabelledImages:
    """Builds the set from the rows of a source; `unlabelled`, one of `UNLABELLED`, applies to the rows `without`
    any label."""
    if unlabelled not in UNLABELLED:
        raise UserError(f"unlabelled {unlabelled!r} is not one of {', '.join(UNLABELLED)}")
    bare = tuple(ids[row] for row in np.flatnonzero(without))
    kept, left_out, notes = np.arange(len(ids)), {}, ()
    if bare and unlabelled == "error":
        raise UserError(
            f"{name}: {len(bare)} of {len(ids)} images have no label: {first_few(bare)}; pass --unlabelled absent if "
            "they are negative for all labels, else --unlabelled drop"
        )
    if bare and unlabelled == "absent":
        notes = (
            f"{len(bare)} images have no label and count as negative for all: {first_few(bare)} (--unlabelled absent)",
        )
    elif bare:
        kept, left_out = np.flatnonzero(~without), {"no label": bare}
    if shares:
        notes += (f"patients are re-split, {' : '.join(f'{share:g}' for share in shares)}, seed {seed}",)
    return LabelledImages(
        name=name,
        ids=[ids[row] for row in kept],
        encoded=lambda row: encoded(kept[row]),
        targets=targets[kept],
        patients=patients[kept],
        splits=patient_splits(patients[kept], shares, seed) if shares else splits[kept],
        left_out=left_out,
        notes=notes,
        **rest,
    )
