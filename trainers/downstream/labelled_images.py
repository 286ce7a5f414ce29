"""Images with labels, patients and splits, from a `medsyn-cxr` dataset or from a CSV of image files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
UNCERTAIN = {"mask": np.nan, "absent": 0.0, "present": 1.0}


@dataclass(frozen=True)
class LabelledImages:
    """A labelled image set, its pixels still encoded.

    Args:
        name (`str`): What the tables call it.
        ids (`list[str]`): One a row, unique.
        encoded (`Callable[[int], bytes]`): The file of a row, as PNG, JPEG and the like.
        labels (`tuple[str, ...]`): The names of the columns of `targets`.
        targets (`np.ndarray` of shape `(n, labels)`, float): 1 present, 0 absent, NaN uncertain and masked.
        patients (`np.ndarray` of shape `(n,)`, str): Whose image it is.
        splits (`np.ndarray` of shape `(n,)`, str): `train`, `validation` or `test`; no patient is in two.
        missing (`tuple[str, ...]`): Rows of the source that were skipped since their image does not exist.

    Raises:
        ValueError: An id stands twice, a patient is in two splits, or a split is empty.
    """

    name: str
    ids: list[str]
    encoded: Callable[[int], bytes]
    labels: tuple[str, ...]
    targets: np.ndarray
    patients: np.ndarray
    splits: np.ndarray
    missing: tuple[str, ...] = ()

    def __post_init__(self):
        table = pd.DataFrame({"id": self.ids, "patient": self.patients, "split": self.splits})
        if table["id"].duplicated().any():
            raise ValueError(f"{self.name}: image {table['id'][table['id'].duplicated()].iloc[0]!r} stands twice")
        crossing = table.groupby("patient")["split"].nunique()
        if (crossing > 1).any():
            where = sorted(table["split"][table["patient"] == crossing.idxmax()].unique())
            raise ValueError(
                f"{self.name}: patient {crossing.idxmax()!r} is in {' and '.join(where)} ({int((crossing > 1).sum())} "
                "patients cross splits): a split by patient is needed"
            )
        for split in SPLITS:
            if not (self.splits == split).any():
                raise ValueError(f"{self.name} has no images in its {split} split; it has {self.counts()}")

    def rows(self, split: str) -> np.ndarray:
        """The row numbers of a split."""
        return np.flatnonzero(self.splits == split)

    def counts(self) -> dict[str, int]:
        """The number of images of each split."""
        return {split: int((self.splits == split).sum()) for split in SPLITS}

    def split_hash(self) -> str:
        """Twelve hex digits that name who is in which split."""
        lines = sorted(f"{split}\t{name}\n" for split, name in zip(self.splits, self.ids, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]

    @cached_property
    def pixels_hash(self) -> str:
        """SHA-256 over ids and encoded images in their order, labels apart; all are read, once."""
        digest = hashlib.sha256()
        for row, name in enumerate(tqdm(self.ids, desc=f"hashing {self.name}", unit="image", delay=2, leave=False)):
            data = self.encoded(row)
            digest.update(f"{name}\t{len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()

    def open(self, row: int) -> Image.Image:
        """The decoded image of a row.

        Raises:
            ValueError: The image cannot be decoded; it is named.
        """
        try:
            image = Image.open(io.BytesIO(self.encoded(row)))
            image.load()
            return image
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.name}: image {self.ids[row]} cannot be decoded: {error}") from error

    def with_labels(
        self, names: Sequence[str] | None = None, min_positives: int = 5
    ) -> tuple[LabelledImages, dict[str, str]]:
        """Keeps the labels that can be measured.

        Args:
            names (`Sequence[str]`, *optional*): The labels to keep, by default all.
            min_positives (`int`, *optional*, defaults to 5): Fewer positives, or negatives, than this in the training
                or the test split leave a label out.

        Returns:
            `tuple[LabelledImages, dict[str, str]]`: The set with the labels kept, and why each other one is left out.

        Raises:
            ValueError: A name is not one of the labels, or no label is left.
        """
        for name in names or ():
            if name not in self.labels:
                raise ValueError(f"{self.name} has no label {name!r}; it has {', '.join(self.labels)}")
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
            raise ValueError(f"{self.name}: no label has {min_positives} positives and negatives in train and in test")
        labels = tuple(self.labels[k] for k in kept)
        return replace(self, labels=labels, targets=self.targets[:, kept]), left_out


def images_from_csv(
    path: str | Path,
    file_column: str = "file",
    labels_column: str = "labels",
    split_column: str = "split",
    patient_column: str = "patient_id",
    skip_missing: bool = False,
) -> LabelledImages:
    """Reads a CSV with one image a row: its file relative to the CSV, its labels joined by `|`, its split and patient.

    A label that a row does not name is absent from it. Splits are `train`, `valid`, `val`, `dev` or `validation`, and
    `test`.

    Raises:
        FileNotFoundError: The CSV, or images that it names and `skip_missing` does not forgive.
        ValueError: A column is missing, the file is not UTF-8, or what [`LabelledImages`] raises.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    for column in (file_column, labels_column, split_column, patient_column):
        if column not in table:
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}")
    odd = ~table[split_column].isin(SPLIT_NAMES)
    if odd.any():
        row = int(odd.idxmax())
        raise ValueError(
            f"{path}, line {row + 2}: split {table[split_column][row]!r} is none of {', '.join(SPLIT_NAMES)}"
        )
    absent = ~table[file_column].map(lambda name: (path.parent / name).is_file())
    missing = tuple(table[file_column][absent])
    if missing and not skip_missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(table)} images that {path} names do not exist, first {', '.join(missing[:5])}: "
            "mend the paths, or leave them out with --skip-missing"
        )
    table = table[~absent].reset_index(drop=True)
    present = [{label.strip() for label in cell.split("|") if label.strip()} for cell in table[labels_column]]
    labels = tuple(sorted(set().union(*present)))
    files = list(table[file_column])
    return LabelledImages(
        name=path.stem,
        ids=files,
        encoded=lambda row: (path.parent / files[row]).read_bytes(),
        labels=labels,
        targets=np.array([[float(label in row) for label in labels] for row in present]),
        patients=table[patient_column].to_numpy(dtype=str),
        splits=table[split_column].map(SPLIT_NAMES).to_numpy(dtype=str),
        missing=missing,
    )


def images_from_dataset(
    name: str, config: str | None = None, patient_column: str = "subject_id", uncertain: str = "mask"
) -> LabelledImages:
    """Reads a dataset with the columns of `medsyn-cxr` and the splits train, validation and test.

    Args:
        name (`str`): What `datasets.load_dataset` takes: a folder, or a dataset on the Hub.
        config (`str`, *optional*): Which of its configs.
        patient_column (`str`, *optional*, defaults to `subject_id`): Whose image a row is.
        uncertain (`str`, *optional*, defaults to `mask`): What becomes of a label of -1: `mask` leaves the image out
            of that label, `absent` and `present` decide. A label that the report does not mention (null) is absent.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: A column is missing, or what [`LabelledImages`] raises.
    """
    import datasets

    from trainers.dataset_by_name import load_splits

    parts, splits = [], []
    for split, part in load_splits(name, config).items():
        for column in ("image", "image_id", "labels", patient_column):
            if column not in part.column_names:
                raise ValueError(f"dataset {name} has no column {column!r}; it has {', '.join(part.column_names)}")
        parts.append(part)
        splits += [SPLIT_NAMES.get(split, split)] * len(part)
    table = datasets.concatenate_datasets(parts).cast_column("image", datasets.Image(decode=False))
    labels = tuple(table.features["labels"])
    columns = table.select_columns(["image_id", "labels", patient_column]).to_pandas()
    codes = np.array([[row[label] for label in labels] for row in columns["labels"]], dtype=np.float64)
    codes[np.isnan(codes)] = 0
    images = table.select_columns(["image"])
    return LabelledImages(
        name=Path(name).name,
        ids=list(columns["image_id"].astype(str)),
        encoded=lambda row: images[row]["image"]["bytes"],
        labels=labels,
        targets=np.where(codes == -1, UNCERTAIN[uncertain], codes),
        patients=columns[patient_column].to_numpy(dtype=str),
        splits=np.array(splits),
    )
