"""Assembles the rendered images of a config into Parquet shards under 500 MB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from dataset_builder.pipeline.plan import Plan, Row
from dataset_builder.pipeline.render import ImageParts
from dataset_builder.pipeline.rows import dataset_row, row_features
from medsyn.files import remove_unfinished, sync_folder
from medsyn.parquet import ROW_GROUP, ShardWriter

SHARD_BYTES = 450_000_000  # of images and masks; text and labels stay far below the 50 MB that are left


def cut_shards(rows: Sequence[Row], image_bytes: Sequence[int]) -> list[list[Row]]:
    """Cuts one split's rows into shards of whole row groups, each below `SHARD_BYTES` where one row group is."""
    shards: list[list[Row]] = []
    size = 0
    for start in range(0, len(rows), ROW_GROUP):
        group = rows[start : start + ROW_GROUP]
        group_bytes = sum(image_bytes[row.image] for row in group)
        if not shards or size + group_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1] += group
        size += group_bytes
    return shards


def assemble(plan: Plan, parts: ImageParts, work: Path, data: Path) -> None:
    """
    Writes the shards of a config.

    They are made in `work` and the whole folder is then renamed to `data`, so that `data` holds all of them or is not
    there. Shards that a killed run left whole are kept.

    Args:
        plan (`Plan`): The rows.
        parts (`ImageParts`): Their images, all of them made.
        work (`Path`): A folder of this build's own on the file system of `data`.
        data (`Path`): `<out>/data/<config>`; must not exist.

    Raises:
        DiskFullError: If a shard could not be written.
    """
    generator = parts.generator
    schema = row_features(generator.localizes).arrow_schema  # carries the columns' types for `datasets`
    image_bytes = parts.image_bytes()
    work.mkdir(exist_ok=True)
    remove_unfinished(work)  # or it would be renamed into the dataset
    with tqdm(total=len(plan.rows), unit="row", desc="writing Parquet") as bar:
        for split, rows in plan.split_rows().items():
            shards = cut_shards(rows, image_bytes)
            for number, shard in enumerate(shards):
                path = work / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
                if not path.exists():
                    _write_shard(path, shard, plan, parts, schema)
                bar.update(len(shard))
    data.parent.mkdir(exist_ok=True)
    os.rename(work, data)
    sync_folder(data.parent)


def _write_shard(path: Path, rows: Sequence[Row], plan: Plan, parts: ImageParts, schema: pa.Schema) -> None:
    generator = parts.generator
    with ShardWriter(path) as writer:
        for start in range(0, len(rows), ROW_GROUP):
            group = [
                dataset_row(
                    row,
                    plan.images[row.image].seed,
                    parts.image(row.image),
                    generator.name,
                    parts.image_format,
                    generator.localizes,
                )
                for row in rows[start : start + ROW_GROUP]
            ]
            writer.write(pa.Table.from_pylist(group, schema=schema))
