"""Images as a dataset: Parquet shards that `load_dataset` reads, lists of ids, a manifest and a README."""

from __future__ import annotations

import io
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
from PIL import Image as PILImage
from tqdm import tqdm

from dataset_builder.pipeline.manifest import LABEL_VALUES
from dataset_builder.pipeline.shards import SHARD_BYTES
from dataset_builder.radiographs.image_files import read_image
from dataset_builder.radiographs.records import RadiographRecord, RadiographSet
from dataset_builder.radiographs.regions import BoxError, box_in_image, draw_mask
from medsyn.parquet import ROW_GROUP, ShardWriter

GROUP_BYTES = 64 * 2**20  # of images and masks that wait in memory for their row group to be whole
UNREADABLE, BAD_BOX, BAD_MASK = "unreadable_image", "bad_box", "bad_mask"


@dataclass(frozen=True)
class ImageSettings:
    """How images are stored and what is forgiven; see `prepare`."""

    image_size: int | None = None
    image_format: str = "png"
    fix_boxes: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of reading one image: its row, or the problem; which boxes were fixed; whether a mask is empty."""

    row: dict | None
    problem: tuple[str, str] | None = None  # kind, and a message that names the image
    mended: Counter = field(default_factory=Counter)
    empty_mask: bool = False


def schema(images: RadiographSet) -> pa.Schema:
    """The columns, with the types that `datasets` reads from a Parquet file."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    columns = {
        "image": Image(),
        "image_id": text,
        "subject_id": text,
        "labels": {name: Value("int8") for name in images.labels},
        "view": text,
        "original_size": List(Value("int32"), length=2),
    }
    columns |= dict.fromkeys(images.extra, text)
    if images.boxes:
        columns["boxes"] = List({"finding": text, "box": List(Value("float32"), length=4)})
    if images.masks:
        columns["finding_masks"] = List({"finding": text, "mask": Image()})
    return Features(columns).arrow_schema


def image_row(
    record: RadiographRecord, labels: Sequence[str], extra: Sequence[str], settings: ImageSettings
) -> Outcome:
    """Reads one image's image, boxes and masks; what is wrong with them is told, not raised."""
    try:
        image = read_image(record.path, settings.image_size, settings.image_format)
    except (ValueError, OSError) as error:
        return Outcome(None, (UNREADABLE, f"{record.image_id} ({error})"))
    mended: Counter = Counter(f"dicom_files_without_{tag}" for tag in image.defaults)
    boxes = []
    for shape in record.boxes or ():
        try:
            box, cut = box_in_image(shape, image.original, image.size, settings.fix_boxes)
        except BoxError as error:
            return Outcome(None, (BAD_BOX, f"{record.image_id} ({error})"))
        if box is None:
            mended["boxes_without_area_dropped"] += 1
            continue
        mended["boxes_cut_at_the_edge"] += cut
        boxes.append({"finding": shape.finding, "box": list(box)})
    masks: dict = {}
    for region in record.masks or ():
        try:
            pixels = draw_mask(region, image.original, image.size)
        except (ValueError, OSError) as error:
            return Outcome(None, (BAD_MASK, f"{record.image_id} ({error})"))
        masks[region.finding] = masks.get(region.finding, False) | pixels
    row = {
        "image": {"bytes": image.encoded, "path": f"{record.path.stem}.{image.suffix}"},
        "image_id": record.image_id,
        "subject_id": record.subject_id,
        "labels": dict(zip(labels, record.labels, strict=True)),
        "view": record.view or image.view,
        "original_size": list(image.original),
        **dict(zip(extra, record.extra, strict=True)),
        "boxes": boxes,
        "finding_masks": [
            {"finding": finding, "mask": {"bytes": _png(mask), "path": None}} for finding, mask in masks.items()
        ],
    }
    if record.boxes is None:
        row["boxes"] = None
    if record.masks is None:
        row["finding_masks"] = None
    return Outcome(row, mended=mended, empty_mask=not all(mask.any() for mask in masks.values()))


def _png(mask) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(mask).convert("L").save(buffer, format="png")
    return buffer.getvalue()


def _row_bytes(row: dict) -> int:
    return len(row["image"]["bytes"]) + sum(len(mask["mask"]["bytes"]) for mask in row["finding_masks"] or ())


def outcomes(images: Sequence[RadiographRecord], read, workers: int) -> Iterator[Outcome]:
    """`read` of each image, in order; with several processes, never more than a few images ahead of the caller."""
    if workers == 1:
        yield from map(read, images)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque = deque()
        for image in images:
            waiting.append(pool.submit(read, image))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class SplitWriter:
    """Writes the rows of one split as shards of row groups; holds one row group at a time."""

    def __init__(self, folder: Path, split: str, arrow_schema: pa.Schema):
        self.folder, self.split, self.schema = folder, split, arrow_schema
        self.rows: list[dict] = []
        self.waiting = self.shard_bytes = 0
        self.shards: list[Path] = []
        self.writer: ShardWriter | None = None

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.waiting += _row_bytes(row)
        if len(self.rows) == ROW_GROUP or self.waiting >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self.writer is not None and self.shard_bytes + self.waiting > SHARD_BYTES:
            self.writer.__exit__(None, None, None)
            self.writer = None
        if self.writer is None:
            self.shards.append(self.folder / f"{self.split}-{len(self.shards):05d}.parquet")
            self.writer = ShardWriter(self.shards[-1])
            self.shard_bytes = 0
        self.writer.write(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.shard_bytes += self.waiting
        self.rows, self.waiting = [], 0

    def close(self) -> int:
        """Ends the last shard and gives all their final names; returns their number."""
        if self.rows:
            self._flush()
        if self.writer is not None:
            self.writer.__exit__(None, None, None)
        for number, path in enumerate(self.shards):
            path.rename(self.folder / f"{self.split}-{number:05d}-of-{len(self.shards):05d}.parquet")
        return len(self.shards)


@dataclass
class Written:
    """What stands in the shards, counted row by row; `problems` holds kind -> image id -> message."""

    ids: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    labels: dict[str, dict[str, Counter]] = field(default_factory=dict)
    boxes: Counter = field(default_factory=Counter)
    masks: Counter = field(default_factory=Counter)
    mended: Counter = field(default_factory=Counter)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)
    empty_masks: list[str] = field(default_factory=list)


def write_splits(
    images: RadiographSet, splits: dict[str, list[RadiographRecord]], data: Path, settings: ImageSettings, workers: int
) -> Written:
    """
    Writes the shards of every split into `data`, one image after the other.

    Images with a problem are not written, but named in `Written.problems`.
    """
    data.mkdir(parents=True)
    arrow_schema = schema(images)
    read = partial(image_row, labels=images.labels, extra=images.extra, settings=settings)
    written = Written()
    for split, members in splits.items():
        writer = SplitWriter(data, split, arrow_schema)
        ids, num_bytes, subjects = [], 0, set()
        counts = {name: Counter() for name in images.labels}
        bar = tqdm(outcomes(members, read, workers), total=len(members), desc=split, unit="image", delay=2)
        for image, outcome in zip(members, bar, strict=True):
            written.mended.update(outcome.mended)
            if outcome.row is None:
                kind, what = outcome.problem
                written.problems.setdefault(kind, {})[image.image_id] = what
                continue
            writer.add(outcome.row)
            ids.append(image.image_id)
            if outcome.empty_mask:
                written.empty_masks.append(image.image_id)
            num_bytes += _row_bytes(outcome.row)
            subjects.add(image.subject_id)
            for name, value in zip(images.labels, image.labels, strict=True):
                counts[name][LABEL_VALUES[value]] += 1
            written.boxes.update(box["finding"] for box in outcome.row["boxes"] or ())
            written.masks.update(mask["finding"] for mask in outcome.row["finding_masks"] or ())
        shards = writer.close()
        written.ids[split] = ids
        written.labels[split] = counts
        written.splits[split] = {
            "num_examples": len(ids),
            "num_subjects": len(subjects),
            "num_shards": shards,
            "num_bytes": num_bytes,
            "file_bytes": sum(path.stat().st_size for path in data.glob(f"{split}-*.parquet")),
        }
    return written
