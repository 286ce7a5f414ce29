"""The base of labelled and annotated image sets: encoded images with their patients and splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from medsyn.errors import UserError
from medsyn.image_csv import ImageRow
from medsyn.images import BROKEN, decode, upright_size
from medsyn.schema import SPLIT_NAMES, SPLITS
from medsyn.tables import first_few
from medsyn.texts import names_nobody

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class ImageSet:
    """Images with patients and splits.

    Args:
        name (`str`): The name in result tables.
        ids (`list[str]`): The image id of each row, unique in its split.
        encoded (`Callable[[int], bytes]`): Returns the encoded image (PNG, JPEG, ...) of a row.
        patients (`np.ndarray` of shape `(n,)`, str): The patient of each row.
        splits (`np.ndarray` of shape `(n,)`, str): `train`, `validation` or `test`.
        missing (`tuple[str, ...]`): Rows of the source that are skipped because their image does not exist.
        left_out (`dict[str, tuple[str, ...]]`): Ids of other excluded rows of the source, by reason.
        notes (`tuple[str, ...]`): Further remarks for readers of the results, one sentence each.
        allow_leaks (`bool`, *optional*, defaults to `False`): Accept a set whose patients or images cross splits, as
            in some published splits, and count them, see [`~ImageSet.leaks`].

    Raises:
        UserError: An id appears twice in a split, a patient or an image is in two splits and `allow_leaks` is not
            set, or a split is empty.
    """

    name: str
    ids: list[str]
    encoded: Callable[[int], bytes]
    patients: np.ndarray
    splits: np.ndarray
    missing: tuple[str, ...] = field(default=(), kw_only=True)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    allow_leaks: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        table = pd.DataFrame({"id": self.ids, "patient": self.patients, "split": self.splits})
        twice = table.duplicated(["id", "split"])
        if twice.any():
            name, split = table.loc[twice.idxmax(), ["id", "split"]]
            raise UserError(
                f"{self.name}: image {name!r} appears twice in {split}; remove one of the two rows (a data set "
                "prepared with a leaking published split cannot be re-split: prepare it with --split patient)"
            )
        for column, what in () if self.allow_leaks else (("patient", "patient"), ("id", "image")):
            crossing = table.groupby(column)["split"].nunique()
            if (crossing > 1).any():
                where = sorted(table["split"][table[column] == crossing.idxmax()].unique())
                raise UserError(
                    f"{self.name}: {what} {crossing.idxmax()!r} is in {' and '.join(where)} "
                    f"({int((crossing > 1).sum())} {what}s cross splits): split by patient, for example with "
                    "--resplit, or accept a published split with --allow-leaks"
                )
        for split in SPLITS:
            if not (self.splits == split).any():
                raise UserError(
                    f"{self.name} has no images in its {split} split; it has {self.counts()}: re-split the patients "
                    "with --resplit, or prepare the data with --split patient, which keeps a fixed test set"
                )

    def rows(self, split: str) -> np.ndarray:
        """Returns the row numbers of a split."""
        return np.flatnonzero(self.splits == split)

    def counts(self) -> dict[str, int]:
        """Returns the number of images per split."""
        return {split: int((self.splits == split).sum()) for split in SPLITS}

    def leaks(self) -> dict[str, int]:
        """Counts the `patients` and `images` in more than one split, and the `test_patients` that are in train."""
        table = pd.DataFrame({"id": self.ids, "patient": self.patients, "split": self.splits})
        found = {
            what: int((table.groupby(column)["split"].nunique() > 1).sum())
            for what, column in (("patients", "patient"), ("images", "id"))
        }
        trained = set(self.patients[self.rows("train")])
        return found | {"test_patients": len(trained & set(self.patients[self.rows("test")]))}

    def split_hash(self) -> str:
        """Returns twelve hex digits that identify the assignment of images to splits."""
        lines = sorted(f"{split}\t{name}\n" for split, name in zip(self.splits, self.ids, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]

    @cached_property
    def pixels_hash(self) -> str:
        """SHA-256 over ids and encoded images in order, without labels; computed once, reads every image."""
        digest = hashlib.sha256()
        for row, name in enumerate(tqdm(self.ids, desc=f"hashing {self.name}", unit="image", delay=2, leave=False)):
            data = self.encoded(row)
            digest.update(f"{name}\t{len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()

    def open(self, row: int) -> Image.Image:
        """Decodes the image of a row, upright.

        Raises:
            UserError: The image cannot be decoded; the message names it.
        """
        try:
            return decode(self.encoded(row))
        except BROKEN as error:
            raise UserError(f"{self.name}: image {self.ids[row]} cannot be decoded: {error}") from error

    def size(self, row: int) -> tuple[int, int]:
        """Returns width and height of the upright image of a row, from its header."""
        try:
            return upright_size(self.encoded(row))
        except BROKEN as error:
            raise UserError(f"{self.name}: image {self.ids[row]} cannot be decoded: {error}") from error

    def remarks(self) -> list[str]:
        """Returns the remarks for the results: skipped and excluded images with counts and first ids, leaks, notes."""
        kinds = {"skipped {} missing images": self.missing}
        kinds |= {f"left out {{}} images: {why}": ids for why, ids in self.left_out.items()}
        remarks = [f"{what.format(len(ids))}: {first_few(ids)}" for what, ids in kinds.items() if ids]
        leaks = self.leaks()
        if any(leaks.values()):
            remarks.append(
                f"warning: the split leaks: {leaks['patients']} patients and {leaks['images']} images are in more "
                f"than one split, {leaks['test_patients']} of the test patients in train too (--allow-leaks)"
            )
        return remarks + list(self.notes)


def patient_splits(patients: np.ndarray, shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """Assigns patients to new splits, `shares` of them to each, in the order of a hash of `seed` and patient id.

    Args:
        patients (`np.ndarray` of shape `(n,)`, str): The patient of each row.
        shares (`Sequence[float]`): Relative sizes of train, validation and test.
        seed (`int`, *optional*, defaults to 0): Seed of the split.

    Returns:
        `np.ndarray` of shape `(n,)`: The split of each row.

    Raises:
        UserError: `shares` are not three positive numbers.
    """
    if len(shares) != 3 or min(shares) <= 0:
        raise UserError(f"shares {list(shares)} are not three positive numbers, of train, validation and test")
    order = sorted(set(patients), key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
    ends = np.rint(np.cumsum(shares) / np.sum(shares) * len(order)).astype(int)
    place = {name: SPLITS[int(np.searchsorted(ends, number, side="right"))] for number, name in enumerate(order)}
    return np.array([place[name] for name in patients])


def existing_rows(path: Path, rows: list[ImageRow], skip_missing: bool) -> tuple[list[ImageRow], tuple[str, ...]]:
    """Returns the rows whose file, relative to the CSV `path`, exists, and the file names of the other rows.

    Raises:
        FileNotFoundError: Files do not exist and `skip_missing` is not set.
    """
    missing = tuple(row.file for row in rows if not (path.parent / row.file).is_file())
    if missing and not skip_missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(rows)} images that {path} names do not exist, first {first_few(missing)}: "
            "fix the paths, or leave these images out with --skip-missing"
        )
    absent = set(missing)
    return [row for row in rows if row.file not in absent], missing


def known_patients(name: str, ids: Sequence[str], patients: Sequence) -> np.ndarray:
    """Returns the patient of each row of a dataset, `(n,)` str.

    Raises:
        UserError: Rows name no patient, who would all count as one.
    """
    unknown = [image for image, patient in zip(ids, patients, strict=True) if names_nobody(patient)]
    if unknown:
        raise UserError(
            f"dataset {name}: {len(unknown)} of {len(ids)} rows name no patient: {first_few(unknown)}; fill the "
            "column, or name another one with --patient-column"
        )
    return np.array([str(patient) for patient in patients])


def dataset_table(
    name: str, config: str | None, columns: Sequence[str], read_splits: bool = True
) -> tuple[datasets.Dataset, np.ndarray]:
    """Returns all rows of a dataset, with images left encoded, and the split of each row.

    Args:
        name (`str`): A folder, or a dataset on the Hub.
        config (`str`, *optional*): The config to read.
        columns (`Sequence[str]`): The required columns, `image` and `image_id` among them.
        read_splits (`bool`, *optional*, defaults to `True`): The dataset's own splits are used, so their names must
            be in `SPLIT_NAMES`.

    Raises:
        FileNotFoundError: There is no such dataset.
        UserError: A column is missing, a split has an unknown name, or rows have no image.
    """
    import datasets

    from trainers.data.dataset_by_name import load_splits

    parts, splits = [], []
    for split, part in load_splits(name, config).items():
        if read_splits and split not in SPLIT_NAMES:
            raise UserError(
                f"dataset {name}: split {split!r} is not one of {', '.join(SPLIT_NAMES)}; rename it, or re-split the "
                "patients with --resplit"
            )
        for column in columns:
            if column not in part.column_names:
                raise UserError(f"dataset {name} has no column {column!r}; it has {', '.join(part.column_names)}")
        parts.append(part)
        splits += [SPLIT_NAMES.get(split, split)] * len(part)
    table = datasets.concatenate_datasets(parts).cast_column("image", datasets.Image(decode=False))
    absent = np.flatnonzero(table.data.column("image").is_null())
    if len(absent):
        ids = [str(value) for value in table.select(absent)["image_id"]]
        raise UserError(
            f"dataset {name}: {len(absent)} of {len(table)} rows have no image: {first_few(ids)}; remove these rows"
        )
    return table, np.array(splits)
