"""The one writer of Parquet shards: row groups bounded in rows and bytes, files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from medsyn.files import atomic_file

ROW_GROUP = 100  # rows; a reader of one row fetches the whole group
GROUP_BYTES = 200_000_000  # above 300 MB the Hub's viewer shows no rows


def row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """Cuts a table into parts of at most `ROW_GROUP` rows and `GROUP_BYTES` bytes; one row is never cut."""
    for start in range(0, len(table), ROW_GROUP):
        waiting = [table.slice(start, ROW_GROUP)]
        while waiting:
            part = waiting.pop(0)
            if part.nbytes > GROUP_BYTES and len(part) > 1:
                half = len(part) // 2
                waiting[:0] = [part.slice(0, half), part.slice(half)]
            else:
                yield part


class ShardWriter:
    """
    Writes one shard; use it in a `with`. The file appears at the end, and not at all after an error or without rows.

    Args:
        path (`Path`): The file. Its schema is that of the first table.
    """

    def __init__(self, path: Path):
        self.path = path
        self.num_rows = 0
        self._file: AbstractContextManager[IO[bytes]] | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def write(self, table: pa.Table) -> None:
        """
        Appends rows, in row groups of their own.

        Raises:
            DiskFullError: Where the disk or the quota is full.
        """
        if not len(table):
            return
        if self._writer is None:
            self._file = atomic_file(self.path)
            self._writer = pq.ParquetWriter(self._file.__enter__(), table.schema)
        for part in row_groups(table):
            self._writer.write_table(part, row_group_size=len(part))
        self.num_rows += len(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is None or self._writer is None:
            return
        if error is None:
            try:
                self._writer.close()
            except BaseException as failed:
                self._file.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._file.__exit__(kind, error, traceback)
