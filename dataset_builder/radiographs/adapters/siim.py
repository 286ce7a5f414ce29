"""SIIM-ACR Pneumothorax Segmentation of 2019: `train-rle.csv` with a row a mask, and images as DICOM or PNG.

Several rows of an image are one mask. The patient stands in the DICOM header alone; a PNG is a patient of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from dataset_builder.radiographs.dicom import DicomError, is_dicom, read_dicom_header
from dataset_builder.radiographs.records import (
    OfficialSplit,
    RadiographRecord,
    RadiographSet,
    file_in,
    find_file,
    index_images,
)
from dataset_builder.radiographs.regions import RunLengths
from dataset_builder.radiographs.splits import shuffled_parts
from medsyn.errors import UserError
from medsyn.tables import first_few, numbered_rows
from medsyn.texts import is_nothing, quoted_path

NAME = "siim"
LABEL = "Pneumothorax"
GRID = (1024, 1024)  # pixels of every image, in which the runs are told
EMPTY = "-1"  # " -1" in Kaggle's first file, "-1" in a later one
_FOLDERS = ("dicom-images-train", "png_images", "images")


def read_siim(root: str | Path) -> RadiographSet:
    """
    Reads `train-rle.csv` (or `stage_2_train.csv`) and the records in `dicom-images-train/`, `png_images/` or
    `images/`.

    Args:
        root (`str` or `Path`): The folder of both.

    Raises:
        FileNotFoundError: The table or the folder of records is missing.
        UserError: A table of another form, or an image that is both empty and masked.
    """
    root = Path(root)
    path = find_file(root, "train-rle.csv", "stage_2_train.csv")
    images = next((root / name for name in _FOLDERS if (root / name).is_dir()), None)
    if images is None:
        raise FileNotFoundError(f"{root} holds no folder {' or '.join(_FOLDERS)}; unpack the records there")
    rows = [(row["ImageId"], row["EncodedPixels"]) for _, row in numbered_rows(path, "ImageId", "EncodedPixels")]
    runs: dict[str, list[str]] = {}
    for number, (image_id, text) in enumerate(rows, start=1):
        if is_nothing(text):
            raise UserError(f"{path}, row {number}: names no mask; write {EMPTY} if the image has none")
        runs.setdefault(image_id, []).append(text)
    both = [image_id for image_id, texts in runs.items() if EMPTY in texts and set(texts) != {EMPTY}]
    if both:
        raise UserError(f"{path}: {len(both)} records have a row {EMPTY} beside another: {first_few(both)}; mend them")
    files = index_images(images, (".dcm", ".png", ".jpg", ".jpeg"))
    records = [
        RadiographRecord(
            image_id=image_id,
            subject_id=_patient(files.get(image_id)) or image_id,
            path=files.get(image_id) or file_in(images, f"{image_id}.dcm", f"{path}, image {quoted_path(image_id)}"),
            labels=(int(EMPTY not in texts),),
            masks=_masks(texts),
        )
        for image_id, texts in tqdm(runs.items(), desc="reading headers", unit="image", delay=2)
    ]
    unlabelled = sorted(files.keys() - runs.keys())
    return RadiographSet(
        name=NAME,
        title="SIIM-ACR Pneumothorax Segmentation",
        terms="SIIM competition data: non-commercial research; records from NIH ChestX-ray14",
        labels=(LABEL,),
        images=records,
        funnel={"rows": len(rows), "images": len(records)},
        left_out={"images_without_labels": unlabelled} if unlabelled else {},
        source={"tables": [path.name], "grid": list(GRID)},
        masks=True,
        official={"official": lambda: official_siim(rows, records)},
    )


def _masks(texts: list[str]) -> tuple[RunLengths, ...]:
    texts = [text for text in texts if text != EMPTY]
    return (RunLengths(LABEL, tuple(texts), GRID),) if texts else ()


def _patient(path: Path | None) -> str | None:
    """
    A name for the patient of a DICOM file that is there and sound; others are told of when their pixels are read.

    It is a hash of the header's id, which itself is not stored.
    """
    if path is None or not is_dicom(path):
        return None
    try:
        patient = read_dicom_header(path).patient_id
    except (DicomError, OSError):
        return None
    return hashlib.sha256(patient.encode()).hexdigest()[:16] if patient else None


def official_siim(rows: list[tuple[str, str]], images: list[RadiographRecord]) -> OfficialSplit:
    """
    The lists of GLoRIA and MGCA, with their leak: rows of the table, not images, are split 70 / 15 / 15 %.

    An image of several rows may stand in two splits, in each with the part of its mask that the rows there tell.
    """
    by_id = {image.image_id: image for image in images}
    train, rest = shuffled_parts(len(rows), 0, test=0.3)
    test, validation = (rest[part] for part in shuffled_parts(len(rest), 0, test=0.5))
    splits = {}
    for split, part in (("train", train), ("validation", validation), ("test", test)):
        runs: dict[str, list[str]] = {}
        for k in part:
            runs.setdefault(rows[k][0], []).append(rows[k][1])
        splits[split] = [replace(by_id[image_id], masks=_masks(texts)) for image_id, texts in runs.items()]
    partial = {
        image.image_id
        for images in splits.values()
        for image in images
        if image.masks and image.masks[0].runs and len(image.masks[0].runs) < len(by_id[image.image_id].masks[0].runs)
    }
    return OfficialSplit(
        splits,
        [
            f"SIIM's official split goes by mask row: {len(partial):,} images are in more than one split, each time "
            "with a part of their mask"
        ],
    )
