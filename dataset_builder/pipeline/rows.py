"""The row of `medsyn-cxr`: its columns, and how an image and its report become one.

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
from medsyn.errors import at_input
from medsyn.texts import vetted

if TYPE_CHECKING:
    from datasets import Features

    from dataset_builder.pipeline.plan import Row

IMAGE_FORMATS = {"png": {}, "jpeg": {"quality": 95, "subsampling": 0}}

# One generated image as it waits on disk between rendering and assembly.
_MASK = pa.struct({"finding": pa.string(), "mask": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
_BOX = pa.struct({"finding": pa.string(), "box": pa.list_(pa.float32())})
IMAGE_SCHEMA = pa.schema(
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


def encode_image(radiograph: Radiograph, study_id: str, image_format: str) -> dict:
    """
    One radiograph as a row of `IMAGE_SCHEMA`.

    Raises:
        RuntimeError: If the image is not `(height, width)` uint8 or a mask has another shape; names the study.
    """
    if radiograph.image.ndim != 2 or radiograph.image.dtype != np.uint8:
        raise RuntimeError(
            f"study {vetted(study_id)}: the generator returned an image of shape {radiograph.image.shape} and type "
            f"{radiograph.image.dtype}; it has to be (height, width) uint8"
        )
    masks = []
    for finding, mask in radiograph.masks:
        if mask.shape != radiograph.image.shape:
            raise RuntimeError(
                f"study {vetted(study_id)}: the mask of {finding.kind} has shape {mask.shape}, the image "
                f"{radiograph.image.shape}"
            )
        png = encode(np.where(mask, 255, 0).astype(np.uint8), "png")
        masks.append({"finding": finding.kind, "mask": {"bytes": png, "path": None}})
    image = encode(radiograph.image, image_format)
    return {
        "image": image,
        "sha256": hashlib.sha256(image).hexdigest(),
        "view": radiograph.view,
        "labels": radiograph.labels,
        "finding_masks": masks,
        "boxes": [
            {"finding": finding.kind, "box": [float(edge) for edge in box]} for finding, box in radiograph.boxes
        ],
        "occult_findings": [finding.kind for finding in radiograph.occult],
        "made_with": radiograph.made_with,
    }


def render_images(
    generator: ImageGenerator,
    records: Sequence[ReportRecord],
    seeds: Sequence[int],
    image_format: str,
    progress: Callable[[int], object] | None = None,
) -> list[dict]:
    """
    Renders `records` in batches of `generator.batch_size`; returns one row of `IMAGE_SCHEMA` per record. `progress` is
    called with the number of images of each batch.
    """
    images = []
    for start in range(0, len(records), generator.batch_size):
        batch = records[start : start + generator.batch_size]
        studies = ", ".join(record.study_id for record in batch)
        with at_input(f"generator {generator.name!r}, studies {studies}"):
            rendered = generator(batch, seeds[start : start + generator.batch_size])
            images += [
                encode_image(image, record.study_id, image_format)
                for image, record in zip(rendered, batch, strict=True)
            ]
        if progress:
            progress(len(batch))
    return images


def text_labels(record: ReportRecord) -> dict[str, int | None]:
    """
    The 14 CheXpert labels of a report: those its source ships, else those of its scene, else those read off its text.
    """
    if record.labels is not None:
        return record.labels
    if record.scene is not None:
        stated = [finding for finding in record.scene if finding.certainty != ABSENT]
        return chexpert_labels(
            record.scene, normal=all("Support Devices" in KINDS[finding.kind] for finding in stated)
        )
    from dataset_builder.reports.labeler import report_labels

    return report_labels("\n\n".join(filter(None, (record.findings, record.impression))))


def dataset_row(row: Row, seed: int, image: dict, generator_name: str, image_format: str, localizes: bool) -> dict:
    """One row of the dataset, with the encoded images as `{"bytes", "path"}`."""
    record = row.record
    image_id = f"{generator_name}-{record.study_id}"
    columns = {
        "image": {"bytes": image["image"], "path": f"{image_id}.{image_format}"},
        "image_id": image_id,
        "study_id": record.study_id,
        "subject_id": record.subject_id,
        "prompt": record.impression,
        "prompt_sha256": hashlib.sha256(record.impression.encode()).hexdigest(),
        "report_hash": row.report_hash,
        "findings": record.findings,
        "impression": record.impression,
        "labels": image["labels"] or text_labels(record),
        "view": image["view"] or record.view,
        "generator": generator_name,
        "seed": seed,
        "source": record.source,
    }
    if localizes:
        columns |= {name: image[name] for name in ("finding_masks", "boxes", "occult_findings")}
    return columns
