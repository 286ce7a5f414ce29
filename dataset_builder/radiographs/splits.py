"""Assigns images to splits: by patient, as a source fixes them, or from saved lists; reports leaks between splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np

from dataset_builder.pipeline.plan import split_of
from dataset_builder.radiographs.records import RadiographRecord
from medsyn.errors import UserError
from medsyn.schema import SPLITS
from medsyn.tables import first_few, text_lines

SHARES = (0.7, 0.15, 0.15)  # of the patients, as MGCA splits RSNA and SIIM; elsewhere the test set is fixed
PATIENT_IN_TEST = "patient_in_test"


def split_by_patient(
    images: Sequence[RadiographRecord], seed: int = 0, shares: Sequence[float] = SHARES
) -> tuple[dict[str, list[RadiographRecord]], dict[str, list[str]]]:
    """
    Gives each patient to a split by a hash of the seed and the patient's id, except where the source fixes it.

    Images outside a fixed test set, of a patient inside it, are left out. Where a test set is fixed, the shares of
    train and validation are scaled to fill the rest.

    Args:
        images (`Sequence[Image]`): All images.
        seed (`int`, *optional*, defaults to 0): Another seed, another split.
        shares (`Sequence[float]`, *optional*, defaults to `SHARES`): Of the patients in train, validation and test.

    Returns:
        `tuple[dict[str, list[Image]], dict[str, list[str]]]`: Images by split, in order, and image ids left out.

    Raises:
        UserError: Shares that do not add up to 1, or a split that nobody falls into.
    """
    if len(shares) != 3 or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
        raise UserError(f"shares {tuple(shares)} are not three numbers (train, validation, test) that add up to 1")
    in_test = {image.subject_id for image in images if image.split == "test"}
    if in_test:
        if shares[0] + shares[1] == 0:
            raise UserError("the test set is fixed, and nothing else is left for a test share of 1")
        shares = (shares[0] / (shares[0] + shares[1]), shares[1] / (shares[0] + shares[1]), 0)
    splits: dict[str, list[RadiographRecord]] = {split: [] for split in SPLITS}
    left_out = defaultdict(list)
    for image in images:
        if image.split == "test":
            splits["test"].append(image)
        elif image.subject_id in in_test:
            left_out[PATIENT_IN_TEST].append(image.image_id)
        else:
            splits[split_of(f"{seed}\t{image.subject_id}", shares)].append(image)
    empty = [split for split, share in zip(SPLITS, shares, strict=True) if share and not splits[split]]
    if empty or not splits["train"]:
        raise UserError(f"no patient falls into {' and '.join(empty or ['train'])}; try another --seed or --shares")
    return {split: images for split, images in splits.items() if images}, dict(left_out)


def split_by_table(images: Sequence[RadiographRecord]) -> dict[str, list[RadiographRecord]]:
    """The splits that the source fixes for all images; raises `ValueError` where a patient is in two of them."""
    splits = {split: [image for image in images if image.split == split] for split in SPLITS}
    refuse_crossing(splits)
    return {split: part for split, part in splits.items() if part}


def shuffled_parts(count: int, seed: int, *, train: float | None = None, test: float | None = None) -> tuple:
    """
    The row numbers that scikit-learn's `train_test_split` draws, with NumPy alone.

    Args:
        count (`int`): Rows.
        seed (`int`): Its `random_state`.
        train (`float`, *optional*), test (`float`, *optional*): Its `train_size` or `test_size`: a share, or a number
            of rows.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Row numbers of its first and second part, in its order.
    """
    if test is None:
        in_test = count - int(count * train)
    else:
        in_test = int(test) if test >= 1 else ceil(count * test)
    if not 0 < in_test < count:
        raise UserError(f"{count} rows are too few for the official split; use --split patient")
    order = np.random.RandomState(seed).permutation(count)
    return order[in_test:], order[:in_test]


def crossing_patients(splits: dict[str, list[RadiographRecord]]) -> dict[str, list[str]]:
    """Patients with images in more than one split, with those splits."""
    where = defaultdict(list)
    for split, images in splits.items():
        for subject in {image.subject_id for image in images}:
            where[subject].append(split)
    return {subject: names for subject, names in sorted(where.items()) if len(names) > 1}


def crossing_images(splits: dict[str, list[RadiographRecord]]) -> list[str]:
    """Images that appear in more than one split."""
    seen, twice = set(), []
    for images in splits.values():
        ids = {image.image_id for image in images}
        twice += sorted(seen & ids)
        seen |= ids
    return twice


def refuse_crossing(splits: dict[str, list[RadiographRecord]]) -> None:
    """Raises `UserError` where a patient has images in two splits."""
    crossing = crossing_patients(splits)
    if crossing:
        subject, names = next(iter(crossing.items()))
        raise UserError(
            f"{len(crossing)} patients are in more than one split, for example {subject!r} in {' and '.join(names)}; "
            "mend the split column, or use --split patient"
        )


def split_hash(splits: dict[str, Sequence[str]]) -> str:
    """sha256 over the image ids of every split; its first twelve digits are the hash that a probe's results name."""
    lines = sorted(f"{split}\t{image_id}\n" for split, ids in splits.items() for image_id in ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_lists(folder: Path, splits: dict[str, Sequence[str]]) -> dict[str, dict]:
    """Writes `<split>.txt`, one image id a line; returns count and sha256 of each file."""
    folder.mkdir(parents=True)
    entries = {}
    for split, ids in splits.items():
        content = "".join(f"{image_id}\n" for image_id in ids).encode()
        (folder / f"{split}.txt").write_bytes(content)
        entries[split] = {"count": len(ids), "sha256": hashlib.sha256(content).hexdigest()}
    return entries


def split_by_lists(
    images: Sequence[RadiographRecord], folder: Path
) -> tuple[dict[str, list[RadiographRecord]], dict[str, list[str]]]:
    """
    Gives each image to the split whose saved list (`train.txt`, `validation.txt`, `test.txt`) names it.

    Returns:
        `tuple[dict[str, list[Image]], dict[str, list[str]]]`: Images by split in the order of the lists, and the ids
        of images in no list.

    Raises:
        FileNotFoundError: No list in the folder.
        UserError: A list names an image that is not there, or a patient is in two lists.
    """
    by_id = {image.image_id: image for image in images}
    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if path.is_file():
            ids = [line.rstrip("\r\n") for line in text_lines(path)]
            unknown = [image_id for image_id in ids if image_id not in by_id]
            if unknown:
                raise UserError(f"{path} names {len(unknown)} images that the data set lacks: {first_few(unknown)}")
            splits[split] = [by_id[image_id] for image_id in ids]
    if not splits:
        raise FileNotFoundError(f"{folder} holds no {', '.join(f'{split}.txt' for split in SPLITS)}")
    refuse_crossing(splits)
    listed = {image.image_id for images in splits.values() for image in images}
    rest = [image.image_id for image in images if image.image_id not in listed]
    return splits, {"in_no_list": rest} if rest else {}
