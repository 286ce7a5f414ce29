"""Images annotated with boxes or masks of findings, from a `medsyn-cxr` dataset or from a CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medsyn.errors import UserError
from medsyn.image_csv import Box, ImageColumns, image_rows
from medsyn.images import BROKEN, decode
from medsyn.tables import column_names, first_few, table_columns
from medsyn.texts import is_nothing
from trainers.data.dataset_by_name import encoded_image
from trainers.downstream.images.image_set import (
    ImageSet,
    dataset_table,
    existing_rows,
    known_patients,
    patient_splits,
)

UNANNOTATED = ("drop", "negative")
KINDS = ("boxes", "masks")
OVERHANG = 0.01  # share of the image's width or height by which rounding may put a box outside


@dataclass(frozen=True)
class AnnotatedImages(ImageSet):
    """An [`ImageSet`] with boxes, masks or both.

    Args:
        finding (`str`, *optional*): The selected findings, joined by `|`; `None` for all.
        boxes (`Callable[[int], np.ndarray]`, *optional*): Returns the boxes of a row, `(n, 4)` float32, absolute
            `x0, y0, x1, y1` in pixels of the image; `n` is 0 for a negative.
        mask (`Callable[[int], np.ndarray]`, *optional*): Returns the mask of a row, `(height, width)` bool, the union
            over the findings; all false for a negative.
    """

    finding: str | None = None
    boxes: Callable[[int], np.ndarray] | None = None
    mask: Callable[[int], np.ndarray] | None = None

    @cached_property
    def shown(self) -> np.ndarray:
        """Whether a row has a box, or, without boxes, a mask that is not empty, `(n, 1)` bool."""
        rows = tqdm(range(len(self.ids)), desc=f"annotations of {self.name}", unit="image", delay=2, leave=False)
        found = [len(self.boxes(row)) > 0 if self.boxes else self.mask(row).any() for row in rows]
        return np.array(found)[:, None]

    @property
    def shown_names(self) -> tuple[str, ...]:
        """The name of the column of `shown`."""
        return (self.finding or "a finding",)


def annotated_from_dataset(
    name: str,
    findings: Sequence[str] | None = None,
    config: str | None = None,
    patient_column: str = "subject_id",
    kinds: Sequence[str] = KINDS,
    unannotated: str = "drop",
    shares: Sequence[float] | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
) -> AnnotatedImages:
    """Reads a dataset with the columns `boxes` (`List({finding, box})`), `finding_masks` (`List({finding, mask})`), or
    both.

    A null in these columns means that the image was not annotated; an empty list, that it was and nothing was found.
    An image that has only findings other than the selected ones is a negative.

    Args:
        name (`str`): A folder, or a dataset on the Hub.
        findings (`Sequence[str]`, *optional*): The findings whose boxes and masks to read, by default all.
        config (`str`, *optional*): The config to read.
        patient_column (`str`, *optional*, defaults to `subject_id`): The column of the patient.
        kinds (`Sequence[str]`, *optional*): `boxes`, `masks` or, by default, whichever of the two columns exist.
        unannotated (`str`, *optional*, defaults to `drop`): Whether images without an annotation are left out (`drop`)
            or are negatives (`negative`).
        shares (`Sequence[float]`, *optional*): Re-split the patients by these shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): Seed of the re-split.
        allow_leaks (`bool`, *optional*, defaults to `False`): As in [`ImageSet`].

    Raises:
        FileNotFoundError: There is no such dataset.
        UserError: A column or finding is missing, a box is not inside its image, or what [`ImageSet`] raises.
    """
    import datasets
    import pyarrow.compute as pc

    table, splits = dataset_table(name, config, ("image", "image_id", patient_column), not shares)
    columns = {kind: {"boxes": "boxes", "masks": "finding_masks"}[kind] for kind in kinds}
    columns = {kind: column for kind, column in columns.items() if column in table.column_names}
    if not columns:
        raise UserError(
            f"dataset {name} has no column of {' or '.join(kinds)}; it has {', '.join(table.column_names)}"
        )
    known, without = set(), np.zeros(len(table), dtype=bool)
    for column in columns.values():
        values = table.data.column(column)
        without |= np.asarray(values.is_null())
        named = pc.struct_field(pc.list_flatten(values), "finding").to_pylist()
        known |= {name for name in named if not is_nothing(name)}
    _check_findings(f"dataset {name}", findings, known)
    kept = _kept(without, unannotated)
    ids = [str(value) for value in table["image_id"]]
    patients = known_patients(name, ids, table[patient_column])

    boxes = mask = None
    images = table.select_columns(["image"])
    if "boxes" in columns:
        by_row = [
            np.array([entry["box"] for entry in entries or () if not findings or entry["finding"] in findings])
            for entries in table["boxes"]
        ]
        for image, found_boxes in zip(ids, by_row, strict=True):
            if found_boxes.size and (found_boxes.dtype == object or found_boxes.shape[1:] != (4,)):
                raise UserError(f"dataset {name}: image {image} has a box that is not four numbers: fix the row")

        def boxes(row: int) -> np.ndarray:
            return by_row[kept[row]].reshape(-1, 4).astype(np.float32)

    if "masks" in columns:
        undecoded = datasets.List({"finding": datasets.Value("string"), "mask": datasets.Image(decode=False)})
        masks = table.select_columns(["finding_masks"]).cast_column("finding_masks", undecoded)

        def mask(row: int) -> np.ndarray:
            entries = masks[int(kept[row])]["finding_masks"] or ()
            files = [entry["mask"]["bytes"] for entry in entries if not findings or entry["finding"] in findings]
            return _united(found, row, files)

    found = _annotated(
        name=Path(name).name,
        ids=ids,
        encoded=lambda row: encoded_image(images[int(row)]["image"]),
        patients=patients,
        splits=splits,
        kept=kept,
        without=without,
        finding="|".join(findings) if findings else None,
        boxes=boxes,
        mask=mask,
        shares=shares,
        seed=seed,
        allow_leaks=allow_leaks,
    )
    return found


def annotated_from_csv(
    path: str | Path,
    boxes_column: str | None = "boxes",
    mask_column: str | None = "mask",
    findings: Sequence[str] | None = None,
    file_column: str = "file",
    split_column: str = "split",
    patient_column: str = "patient_id",
    annotated_column: str | None = None,
    unannotated: str = "drop",
    skip_missing: bool = False,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
) -> AnnotatedImages:
    """Reads a CSV with one image per row and its boxes, its mask, or both in further columns.

    Args:
        path (`str` or `Path`): The CSV; the files it lists are relative to it.
        boxes_column (`str`, *optional*, defaults to `boxes`): Boxes as JSON, `[{"label", "x", "y", "w", "h"}, ...]`,
            where `x`, `y` are the top left corner and all four are shares of the image's width and height. `[]` means
            that nothing was found, an empty cell that the image was not annotated. `None`, or a CSV without the
            column: no boxes are read.
        mask_column (`str`, *optional*, defaults to `mask`): A mask file of the image's size, nonzero inside. An empty
            cell means that the image was not annotated. `None`, or a CSV without the column: no masks are read.
        findings (`Sequence[str]`, *optional*): The findings whose boxes to read, by default all; masks have none.
        file_column (`str`, *optional*, defaults to `file`): The column of the image file.
        split_column (`str`, *optional*, defaults to `split`): The column of the split; not read with `shares`.
        patient_column (`str`, *optional*, defaults to `patient_id`): The column of the patient.
        annotated_column (`str`, *optional*): A column that is filled for annotated images: an empty cell for boxes or
            mask then means that nothing was found.
        unannotated (`str`, *optional*, defaults to `drop`): Whether images without an annotation are left out (`drop`)
            or are negatives (`negative`).
        skip_missing (`bool`, *optional*, defaults to `False`): Leave out images that do not exist.
        shares (`Sequence[float]`, *optional*): Re-split the patients by these shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): Seed of the re-split.
        allow_leaks (`bool`, *optional*, defaults to `False`): As in [`ImageSet`].

    Raises:
        FileNotFoundError: The CSV, an image or a mask does not exist.
        UserError: A column or finding is missing, boxes are malformed or not inside their image, or what [`ImageSet`]
            raises.
    """
    path, asked = Path(path), (boxes_column, mask_column)
    header = table_columns(path)
    boxes_column, mask_column = (name if name in header else None for name in asked)
    if boxes_column is mask_column is None:
        named = " or ".join(repr(name) for name in asked if name)
        raise UserError(f"{path} has no column {named}; it has {column_names(header)}")
    columns = ImageColumns(
        file_column,
        patient_column,
        labels=None,
        split=None if shares else split_column,
        boxes=boxes_column,
        mask=mask_column,
        annotated=annotated_column,
    )
    rows, missing = existing_rows(path, list(image_rows(path, columns)), skip_missing)
    unseen_boxes = np.array([boxes_column is not None and row.boxes is None for row in rows])
    unseen_masks = np.array([mask_column is not None and row.mask is None for row in rows])
    without = (unseen_boxes | unseen_masks) & ~np.array([row.annotated for row in rows])
    kept = _kept(without, unannotated)
    files = [row.file for row in rows]

    boxes = mask = None
    if boxes_column:
        cells = [[_clipped(box, row.where) for box in row.boxes or ()] for row in rows]
        _check_findings(str(path), findings, {label for cell in cells for label, _ in cell})
        shares_by_row = [
            np.array([share for label, share in cell if not findings or label in findings]) for cell in cells
        ]

        def boxes(row: int) -> np.ndarray:
            width, height = found.size(row)
            share = shares_by_row[kept[row]].reshape(-1, 4)  # (n, 4): x0, y0, x1, y1 from 0 to 1
            return (share * [width, height, width, height]).astype(np.float32)

    if mask_column:
        mask_files = [row.mask for row in rows]
        absent = [name for name in mask_files if name and not (path.parent / name).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{len(absent)} masks that {path} names do not exist: {first_few(absent)}; fix the paths"
            )

        def mask(row: int) -> np.ndarray:
            name = mask_files[kept[row]]
            return _united(found, row, [(path.parent / name).read_bytes()] if name else [])

    found = _annotated(
        name=path.stem,
        ids=files,
        encoded=lambda row: (path.parent / files[row]).read_bytes(),
        patients=np.array([row.patient for row in rows]),
        splits=None if shares else np.array([row.split for row in rows]),
        kept=kept,
        without=without,
        finding="|".join(findings) if findings else None,
        boxes=boxes,
        mask=mask,
        shares=shares,
        seed=seed,
        allow_leaks=allow_leaks,
        missing=missing,
    )
    return found


def _clipped(box: Box, where: str) -> tuple[str, tuple[float, ...]]:
    """Returns the label and the corners of a box in shares of its image, clipped to the image."""
    cut = tuple(min(max(value, 0.0), 1.0) for value in box.corners)
    outside = not all(abs(one - other) <= OVERHANG for one, other in zip(box.corners, cut, strict=True))
    if outside or not (cut[0] < cut[2] and cut[1] < cut[3]):
        what = "is not inside its image, from 0 to 1" if outside else "has no area"
        raise UserError(f"{where}: {box} {what}; fix it")
    return box.label, cut


def _check_findings(where: str, findings: Sequence[str] | None, known: set[str]) -> None:
    for finding in findings or ():
        if finding not in known:
            raise UserError(
                f"{where} has no annotation of {finding!r}; "
                f"it has annotations of {', '.join(sorted(known)) or 'nothing'}"
            )


def _kept(without: np.ndarray, unannotated: str) -> np.ndarray:
    if unannotated not in UNANNOTATED:
        raise UserError(f"unannotated {unannotated!r} is not one of {', '.join(UNANNOTATED)}")
    return np.flatnonzero(~without) if unannotated == "drop" else np.arange(len(without))


def _annotated(ids, encoded, patients, splits, kept, without, shares, seed, **rest) -> AnnotatedImages:
    """Builds the set from the rows `kept` of a source, and notes how the rows `without` an annotation are treated."""
    left = tuple(ids[row] for row in np.flatnonzero(without))
    left_out, notes = {}, ()
    if left and len(kept) < len(ids):
        left_out = {"not annotated": left}
    elif left:
        notes = (f"{len(left)} images without annotation count as negatives: {first_few(left)}",)
    if not len(kept):
        raise UserError(f"{rest['name']}: none of the {len(ids)} images is annotated")
    if shares:
        notes += (f"patients are re-split, {' : '.join(f'{share:g}' for share in shares)}, seed {seed}",)
    splits = patient_splits(patients[kept], shares, seed) if shares else splits[kept]
    return AnnotatedImages(
        ids=[ids[row] for row in kept],
        encoded=lambda row: encoded(kept[row]),
        patients=patients[kept],
        splits=splits,
        left_out=left_out,
        notes=notes,
        **rest,
    )


def _united(images: AnnotatedImages, row: int, files: list[bytes]) -> np.ndarray:
    """Returns the union of encoded masks, `(height, width)` bool, at the size of the image."""
    size = images.size(row)
    union = np.zeros(size[::-1], dtype=bool)
    for file in files:
        try:
            mask = decode(file).convert("L")
        except BROKEN as error:
            raise UserError(f"{images.name}: a mask of image {images.ids[row]} cannot be decoded: {error}") from error
        if mask.size != size:
            raise UserError(
                f"{images.name}: a mask of image {images.ids[row]} has {mask.width} x {mask.height} pixels, its image "
                f"{size[0]} x {size[1]}"
            )
        union |= np.asarray(mask) > 0
    return union
