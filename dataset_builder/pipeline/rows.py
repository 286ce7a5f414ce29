"""The row of `medsyn-cxr`: its columns, and how a film and its report become one.

Rendering processes import this module, so it imports `datasets` only where the columns are asked for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image as PILImage

from dataset_builder.findings import ABSENT, CHEXPERT_LABELS, KINDS, chexpert_labels
from dataset_builder.generators.radiograph import ImageGenerator, Radiograph
from dataset_builder.reports.record import ReportRecord

if TYPE_CHECKING:
    from datasets import Features

    from dataset_builder.pipeline.plan import Row

IMAGE_FORMATS = {"png": {}, "jpeg": {"quality": 95, "subsampling": 0}}

# One generated film as it waits on disk between rendering and assembly.
_MASK = pa.struct({"finding": pa.string(), "mask": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
_BOX = pa.struct({"finding": pa.string(), "box": pa.list_(pa.float32())})
FILM_SCHEMA = pa.schema(
    {
        "image": pa.binary(),
        "sha256": pa.string(),
        "view": pa.string(),
        "labels": pa.struct({name: pa.int8() for name in CHEXPERT_LABELS}),
        "finding_masks": pa.list_(_MASK),
        "boxes": pa.list_(_BOX),
        "occult_findings": pa.list_(pa.string()),
        "made_with": pa.string(),
    }
)


def row_features(localizes: bool) -> Features:
    """
    The columns of a dataset.

    Args:
        localizes (`bool`): Whether the generator knows where its findings are, which adds `finding_masks` (one
            `(height, width)` image a finding, 255 inside), `boxes` (absolute `x0, y0, x1, y1` in pixels) and
            `occult_findings` (asked for, but too faint to be seen or not drawn). All three name a finding by its kind.

    Returns:
        `datasets.Features`: `labels` holds 1 present, 0 absent, -1 uncertain, null unmentioned. `report_hash` is null
            where there is no whole report, or one that could be guessed.
    """
    from datasets import Features, Image, List, Value

    text = Value("string")
    columns = {
        "image": Image(),
        "image_id": text,
        "study_id": text,
        "subject_id": text,
        "prompt": text,
        "prompt_sha256": text,
        "report_hash": text,
        "findings": text,
        "impression": text,
        "labels": {name: Value("int8") for name in CHEXPERT_LABELS},
        "view": text,
        "generator": text,
        "seed": Value("int64"),
        "source": text,
    }
    if localizes:
        columns["finding_masks"] = List({"finding": text, "mask": Image()})
        columns["boxes"] = List({"finding": text, "box": List(Value("float32"), length=4)})
        columns["occult_findings"] = List(text)
    return Features(columns)


def encode(pixels: np.ndarray, image_format: str) -> bytes:
    """The file of one `(height, width)` uint8 image, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format=image_format, **IMAGE_FORMATS[image_format])
    return buffer.getvalue()


def encode_film(film: Radiograph, study_id: str, image_format: str) -> dict:
    """
    One film as a row of `FILM_SCHEMA`.

    Raises:
        ValueError: If the image is not `(height, width)` uint8 or a mask has another shape; names the study.
    """
    if film.image.ndim != 2 or film.image.dtype != np.uint8:
        raise ValueError(
            f"study {study_id}: the generator returned an image of shape {film.image.shape} and type "
            f"{film.image.dtype}; it has to be (height, width) uint8"
        )
    masks = []
    for finding, mask in film.masks:
        if mask.shape != film.image.shape:
            raise ValueError(
                f"study {study_id}: the mask of {finding.kind} has shape {mask.shape}, its film {film.image.shape}"
            )
        png = encode(np.where(mask, 255, 0).astype(np.uint8), "png")
        masks.append({"finding": finding.kind, "mask": {"bytes": png, "path": None}})
    image = encode(film.image, image_format)
    return {
        "image": image,
        "sha256": hashlib.sha256(image).hexdigest(),
        "view": film.view,
        "labels": film.labels,
        "finding_masks": masks,
        "boxes": [{"finding": finding.kind, "box": [float(edge) for edge in box]} for finding, box in film.boxes],
        "occult_findings": [finding.kind for finding in film.occult],
        "made_with": film.made_with,
    }


def render_films(
    generator: ImageGenerator,
    records: Sequence[ReportRecord],
    seeds: Sequence[int],
    image_format: str,
    progress: Callable[[int], object] | None = None,
) -> list[dict]:
    """
    Renders `records` in batches of `generator.batch_size`; one row of `FILM_SCHEMA` a record. `progress` is told how
    many films each batch made.

    Raises:
        RuntimeError: If the generator fails on a batch; names its studies.
    """
    films = []
    for start in range(0, len(records), generator.batch_size):
        batch = records[start : start + generator.batch_size]
        try:
            rendered = generator(batch, seeds[start : start + generator.batch_size])
            films += [
                encode_film(film, record.study_id, image_format) for film, record in zip(rendered, batch, strict=True)
            ]
        except ValueError as error:  # no fault of the user's, so it must not pass for one
            studies = ", ".join(record.study_id for record in batch)
            raise RuntimeError(f"generator {generator.name!r} failed on the studies {studies}") from error
        if progress:
            progress(len(batch))
    return films


def text_labels(record: ReportRecord) -> dict[str, int | None]:
    """
    The 14 CheXpert labels of a report: those its source ships, else those of its scene, else those read off its text.
    """
    if record.labels is not None:
        return record.labels
    if record.scene is not None:
        told = [finding for finding in record.scene if finding.certainty != ABSENT]
        return chexpert_labels(record.scene, normal=all("Support Devices" in KINDS[finding.kind] for finding in told))
    from dataset_builder.reports.labeler import report_labels

    return report_labels("\n\n".join(filter(None, (record.findings, record.impression))))


def dataset_row(row: Row, seed: int, film: dict, generator_name: str, image_format: str, localizes: bool) -> dict:
    """One row of the dataset, with the encoded images as `{"bytes", "path"}`."""
    record = row.record
    image_id = f"{generator_name}-{record.study_id}"
    columns = {
        "image": {"bytes": film["image"], "path": f"{image_id}.{image_format}"},
        "image_id": image_id,
        "study_id": record.study_id,
        "subject_id": record.subject_id,
        "prompt": record.impression,
        "prompt_sha256": hashlib.sha256(record.impression.encode()).hexdigest(),
        "report_hash": row.report_hash,
        "findings": record.findings,
        "impression": record.impression,
        "labels": film["labels"] or text_labels(record),
        "view": film["view"] or record.view,
        "generator": generator_name,
        "seed": seed,
        "source": record.source,
    }
    if localizes:
        columns |= {name: film[name] for name in ("finding_masks", "boxes", "occult_findings")}
    return columns
