"""The Parquet shards of a dataset folder: are they whole, will the Hub's viewer read them, and without their text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from hub_medsyn.policy.ids_only import ids_only_table
from hub_medsyn.policy.verdict import PolicyError
from medsyn.errors import UserError
from medsyn.parquet import GROUP_BYTES, ROW_GROUP, ShardWriter

SHARD_BYTES = 500_000_000
ROW_GROUP_BYTES = 300_000_000  # above this the Hub's viewer shows no rows
ROW_GROUP_ROWS = 1_000  # a reader of one row fetches the whole group
SHARD_NAME = re.compile(r"(?P<split>[a-z]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")
TEXT_COLUMNS = ("prompt", "findings", "impression")
REWRITE = (
    "write it anew with `medsyn build`, or in smaller row groups: "
    "`datasets.Dataset.from_parquet(path).to_parquet(new_path, batch_size={rows})`"
)


def find_shards(folder: Path, name: str, entry: dict) -> list[Path]:
    """
    The shards of a config.

    Args:
        folder (`Path`): The dataset's folder.
        name (`str`): The config's name.
        entry (`dict`): The manifest's entry of it.

    Returns:
        `list[Path]`: All shards of all its splits.

    Raises:
        FileNotFoundError: If one is missing.
        UserError: If they hold other numbers of rows than the manifest says, are too large, or are cut into row
            groups that the Hub's viewer does not read.
    """
    data, shards = folder / "data" / name, []
    for split, counts in entry["splits"].items():
        paths = sorted(path for path in data.glob(f"{split}-*.parquet") if SHARD_NAME.fullmatch(path.name))
        expected = [f"{split}-{number:05d}-of-{len(paths):05d}.parquet" for number in range(len(paths))]
        if not paths or [path.name for path in paths] != expected:
            raise FileNotFoundError(
                f"{data} does not hold all shards of {split}; build the config {name} again, or copy the whole folder"
            )
        rows = sum(check_shard(path) for path in paths)
        if rows != counts["num_examples"]:
            raise UserError(
                f"{data} holds {rows:,} rows of {split} and the manifest says {counts['num_examples']:,}; build the "
                f"config {name} again"
            )
        shards += paths
    check_schemas(shards)
    strangers = sorted({path.name for path in data.iterdir()} - {path.name for path in shards})
    if strangers:
        raise UserError(f"{data} holds {strangers[0]}, which is no shard of the config {name}; move it elsewhere")
    return shards


def check_schemas(shards: Sequence[Path]) -> None:
    """
    Compares the columns of the shards of a config, which `load_dataset` reads as one table.

    Raises:
        UserError: A column is in one shard alone, or has another type there; names shard and column.
    """
    first = pq.read_schema(shards[0])
    expected = {field.name: field.type for field in first}
    for path in shards[1:]:
        schema = pq.read_schema(path)
        found = {field.name: field.type for field in schema}
        for name in [*expected, *(name for name in found if name not in expected)]:
            one, other = expected.get(name), found.get(name)
            if one != other:
                what = (
                    f"has no column {name!r}, which {shards[0].name} has"
                    if other is None
                    else f"has a column {name!r}, which {shards[0].name} lacks"
                    if one is None
                    else f"has a column {name!r} of type {other}, in {shards[0].name} it is {one}"
                )
                raise UserError(f"{path} {what}; `load_dataset` could not read them together: build the config again")
        if _features(schema) != _features(first):
            names = {**_features(schema), **_features(first)}
            name = next(name for name in names if _features(schema).get(name) != _features(first).get(name))
            raise UserError(
                f"the metadata of {path} describe column {name!r} in another way than those of {shards[0].name}; "
                "build the config again"
            )


def _features(schema: pa.Schema) -> dict:
    """What the metadata say of the columns, for `datasets`."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return info.get("info", {}).get("features", {})


def check_shard(path: Path) -> int:
    """
    The number of rows of a shard.

    Raises:
        UserError: If the Hub's viewer would not show it, or it is no Parquet file.
    """
    size = path.stat().st_size
    if size > SHARD_BYTES:
        parts = size // SHARD_BYTES + 1
        raise UserError(
            f"{path} has {size / 1e6:.0f} MB; shards stay below {SHARD_BYTES / 1e6:.0f} MB: write it anew with "
            f"`medsyn build`, or in {parts} files: `Dataset.from_parquet(path).shard({parts}, number).to_parquet(...)`"
        )
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        raise UserError(f"{path} is no Parquet file, or cut short; build the config again, or copy it anew") from None
    with file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if group.total_byte_size > ROW_GROUP_BYTES or group.num_rows > ROW_GROUP_ROWS:
                fit = group.num_rows * GROUP_BYTES // max(group.total_byte_size, 1)
                raise UserError(
                    f"row group {number} of {path} has {group.num_rows:,} rows and {group.total_byte_size / 1e6:.0f} "
                    f"MB; the Hub's viewer and streaming readers need at most {ROW_GROUP_ROWS:,} rows and "
                    f"{ROW_GROUP_BYTES / 1e6:.0f} MB: {REWRITE.format(rows=max(1, min(ROW_GROUP, fit)))}"
                )
        return file.metadata.num_rows


def write_ids_only(shards: Iterable[Path], out: Path) -> list[Path]:
    """
    Copies shards without their text, a row group at a time, into a folder that exists.

    Raises:
        PolicyError: If an image, an id or a table holds something else; names shard and image.
        OSError: If there is not enough room.
    """
    shards = list(shards)
    needed, free = sum(path.stat().st_size for path in shards), shutil.disk_usage(out).free
    if needed > free:
        raise OSError(
            f"copies without text may take {needed / 1e9:.1f} GB beside {out.parent}, where {free / 1e9:.1f} GB are "
            "free; make room"
        )
    written = []
    groups = sum(pq.read_metadata(path).num_row_groups for path in shards)
    with tqdm(total=groups, desc="leaving text out", unit="row group", delay=2) as bar:
        for path in shards:
            written.append(out / path.name)
            with pq.ParquetFile(path) as file, ShardWriter(written[-1]) as writer:
                for number in range(file.num_row_groups):
                    try:
                        writer.write(ids_only_table(file.read_row_group(number)))
                    except PolicyError as error:
                        raise PolicyError(f"{path}, row group {number}: {error}") from None
                    bar.update()
    return written


def table_bytes(path: Path) -> int:
    """The size of a shard's rows, not compressed."""
    with pq.ParquetFile(path) as file:
        return sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))


def report_texts(shards: Iterable[Path]) -> Iterator[str]:
    """The texts of all rows, a row group at a time."""
    for path in tqdm(list(shards), desc="reading texts", unit="shard", delay=2):
        with pq.ParquetFile(path) as file:
            columns = [name for name in TEXT_COLUMNS if name in file.schema_arrow.names]
            for number in range(file.num_row_groups if columns else 0):
                table = file.read_row_group(number, columns=columns)
                for column in table.columns:
                    yield from (text for text in column.to_pylist() if text)


def parquet_notes(path: Path) -> str:
    """The names and values that stand in a Parquet file beside its rows, as text."""
    schema = pq.read_schema(path)
    notes = {**(pq.read_metadata(path).metadata or {}), **(schema.metadata or {})}
    fields = [f"{key!r} {value!r}" for column in schema for key, value in (column.metadata or {}).items()]
    lines = [f"{key.decode(errors='replace')} {value.decode(errors='replace')}" for key, value in notes.items()]
    return "\n".join([*schema.names, *fields, *lines])
