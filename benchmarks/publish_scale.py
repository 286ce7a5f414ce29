"""What a dataset of MIMIC-CXR's size would be on the Hub: bytes, shards, files, commits, hours. Measured, then scaled.

Phantoms are rendered at 512 px and stored as PNG and as JPEG of quality 95, as `medsyn build` stores them, with their
masks, text and labels, in a shard. Nothing is uploaded: the hours are bytes over the line.

    python -m benchmarks.publish_scale --images 30 --out benchmarks/publish_scale.csv
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.record import machine_facts, write_csv
from dataset_builder.build import build
from dataset_builder.pipeline.plan import SPLIT_SHARES
from dataset_builder.pipeline.rows import encode
from dataset_builder.pipeline.shards import SHARD_BYTES
from medsyn.parquet import ROW_GROUP

IMAGES_AT_SCALE = 213_384  # the pairs that the paper pre-trains on
MEGABITS = 100  # a second
OTHER_FILES = 3  # card, manifest, samples


def render(images: int, image_size: int, folder: Path) -> pa.Table:
    """The rows of a dataset of phantoms, as `medsyn build` writes them, with PNG images."""
    from dataset_builder.generators.phantom import PhantomGenerator
    from dataset_builder.reports.grammar import write_reports

    build(write_reports(images), PhantomGenerator(image_size=image_size), folder, splits=(1.0, 0.0, 0.0))
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("data/*/*.parquet")))


def stored_as(rows: pa.Table, image_format: str) -> pa.Table:
    """The rows with their images in another format, as `medsyn build --image-format` stores them."""
    column = rows.column("image").to_pylist()
    images = [encode(np.asarray(Image.open(io.BytesIO(image["bytes"]))), image_format) for image in column]
    stored = [{"bytes": file, "path": image["path"]} for file, image in zip(images, column, strict=True)]
    place = rows.schema.get_field_index("image")
    return rows.set_column(place, "image", pa.array(stored, rows.schema.field("image").type))


def measure(rows: pa.Table) -> dict:
    """Bytes an image: of its image alone, and of its whole row as it lies in Parquet."""
    images = sum(len(image["bytes"]) for image in rows.column("image").to_pylist())
    shard = io.BytesIO()
    with pq.ParquetWriter(shard, rows.schema) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP)
    return {"image_bytes": images / len(rows), "row_bytes": shard.tell() / len(rows)}


def at_scale(row_bytes: float) -> dict:
    """The whole dataset: shards are cut per split, in whole row groups, below `SHARD_BYTES`."""
    groups = max(1, int(SHARD_BYTES // (row_bytes * ROW_GROUP)))
    shards = sum(math.ceil(IMAGES_AT_SCALE * share / (groups * ROW_GROUP)) for share in SPLIT_SHARES)
    total = IMAGES_AT_SCALE * row_bytes
    return {
        "gigabytes": round(total / 1e9, 1),
        "shards": shards,
        "files": shards + OTHER_FILES,
        "commits": 1,
        "hours_at_100_mbit": round(total * 8 / (MEGABITS * 1e6) / 3600, 1),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=30, help="phantoms rendered (default: 30)")
    parser.add_argument("--image-size", type=int, default=512, help="pixels a side (default: 512)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/publish_scale.csv"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        images = render(args.images, args.image_size, Path(scratch) / "medsyn-cxr")
    rows = []
    for image_format in ("png", "jpeg"):
        measured = measure(stored_as(images, image_format))
        rows.append(
            {
                "image_format": image_format,
                "image_size": args.image_size,
                "images_measured": args.images,
                "image_kb": round(measured["image_bytes"] / 1e3, 1),
                "row_kb": round(measured["row_bytes"] / 1e3, 1),
                "images": IMAGES_AT_SCALE,
                **at_scale(measured["row_bytes"]),
                **machine_facts("pillow"),
            }
        )
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    write_csv(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
