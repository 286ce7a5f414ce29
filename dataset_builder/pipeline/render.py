"""Rendering the images of a plan into parts: small Arrow files, each whole or absent, made in several processes."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from dataset_builder.generators.radiograph import ImageGenerator
from dataset_builder.pipeline.executors import Rank, await_other_ranks
from dataset_builder.pipeline.plan import PlannedImage
from dataset_builder.pipeline.rows import IMAGE_SCHEMA, render_images
from medsyn.files import atomic_file

PART_IMAGES = 20  # what a kill can cost a process; rounded up to whole batches
_ONLY_RANK = Rank()


class ImageParts:
    """
    The images of a plan on disk, in parts of some 20 (whole batches).

    Args:
        folder (`Path`): Where the parts lie.
        images (`Sequence[Image]`): What is to be made.
        generator (`ImageGenerator`): Makes it. Must pickle if there are several processes.
        image_format (`str`): `png` or `jpeg`.
    """

    def __init__(self, folder: Path, images: Sequence[PlannedImage], generator: ImageGenerator, image_format: str):
        self.folder = folder
        self.images = images
        self.generator = generator
        self.image_format = image_format
        self.size = math.ceil(PART_IMAGES / generator.batch_size) * generator.batch_size
        self.count = math.ceil(len(images) / self.size)
        self.table = lru_cache(maxsize=64)(self._table)

    def path(self, part: int) -> Path:
        return self.folder / f"films-{part:06d}.arrow"

    def part_images(self, part: int) -> Sequence[PlannedImage]:
        return self.images[part * self.size : (part + 1) * self.size]

    def missing(self) -> list[int]:
        """The parts that are still to be made."""
        finished = {path.name for path in self.folder.glob("films-*.arrow")}
        return [part for part in range(self.count) if self.path(part).name not in finished]

    def _table(self, part: int) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.path(part)))).read_all()

    def image(self, number: int) -> dict:
        """One image as a row of `IMAGE_SCHEMA`; only its own bytes are read."""
        part, place = divmod(number, self.size)
        return self.table(part).slice(place, 1).to_pylist()[0]

    def column(self, name: str) -> list:
        """One column over all images, in their order."""
        return [value for part in range(self.count) for value in self._table(part).column(name).to_pylist()]

    def image_bytes(self) -> list[int]:
        """The size of every image's encoded image and masks, without reading them."""
        sizes = []
        for part in range(self.count):
            table = self._table(part).select(["image", "finding_masks"])
            whole = [table.slice(place, 1).nbytes for place in range(len(table))]
            sizes += whole
        return sizes

    def seconds(self) -> float:
        """The time all processes together took to render."""
        return sum(float(self._table(part).schema.metadata[b"seconds"]) for part in range(self.count))

    def render(self, num_proc: int, rank: Rank = _ONLY_RANK) -> None:
        """
        Makes the missing parts, in this process or in `num_proc` spawned ones with one thread each.

        Of several ranks each makes its own share; rank 0 then waits for the others.

        Raises:
            DiskFullError: If a part could not be written.
            ChildProcessError: If a process was killed.
        """
        missing = self.missing()
        if not missing:
            return
        self._remove_stale(rank)
        share = [part for part in missing if rank.owns(part)]
        num_proc = min(num_proc, len(share))
        with _Progress(self, missing, rank, num_proc) as progress:
            if num_proc == 1:
                self._render_here(share, progress)
            elif num_proc > 1:
                self._render_in_pool(share, num_proc, rank, progress)
            if rank.index == 0:
                await_other_ranks(self.folder, self.missing, rank, progress)

    def _render_here(self, share: Sequence[int], progress: Callable[[int], object]) -> None:
        with one_torch_thread():
            for part in share:
                images = self.part_images(part)
                _write_part(self.generator, images, self.path(part), self.image_format, progress)

    def _render_in_pool(
        self, share: Sequence[int], num_proc: int, rank: Rank, progress: Callable[[int], object]
    ) -> None:
        waiting = iter(share)
        running: set = set()
        context = multiprocessing.get_context("spawn")
        # The workers end when nobody holds the writing end any more: on an error here, or if this process is killed.
        lifeline, hold = context.Pipe(duplex=False)
        rendered, shown = context.Value("q", 0), 0
        with worker_environment():
            pool = ProcessPoolExecutor(
                num_proc, context, _start_worker, (self.generator, self.image_format, lifeline, rendered)
            )
            try:
                while True:
                    while len(running) < 2 * num_proc and (part := next(waiting, None)) is not None:
                        images = self.part_images(part)
                        running.add(pool.submit(_work, images, self.path(part)))
                    if not running:
                        break
                    finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    now = rendered.value
                    progress(now - shown)
                    shown = now
                    for future in finished:
                        future.result()
                pool.shutdown()
            except BrokenProcessPool:
                raise ChildProcessError(
                    "a render worker was killed, probably out of memory; finished parts are kept: run the same "
                    "command again with a smaller --num-proc"
                ) from None
            finally:
                hold.close()
                pool.shutdown(cancel_futures=True)
                lifeline.close()
                self._remove_stale(rank)

    def _remove_stale(self, rank: Rank) -> None:
        """Removes the unfinished files of dead processes, but not those that other ranks are about to finish."""
        for stale in self.folder.glob(".*.tmp"):
            part = re.match(r"\.films-(\d+)\.", stale.name)
            if rank.owns(int(part[1]) if part else 0):
                stale.unlink(missing_ok=True)


class _Progress:
    """
    The bar of a launch, shown by rank 0: images a second and the time left, over all ranks.

    Args:
        parts (`ImageParts`): All parts of the build.
        missing (`Sequence[int]`): Those that were missing at the start.
        rank (`Rank`): The rank that asks.
        num_proc (`int`): Its processes.
    """

    LOOK_SECONDS = 2  # how often rank 0 looks for the parts of the others

    def __init__(self, parts: ImageParts, missing: Sequence[int], rank: Rank, num_proc: int):
        self.parts = parts
        self.foreign = [part for part in missing if not rank.owns(part)]
        self.own = 0
        self.foreign_done = 0
        self.looked = time.monotonic()
        self.start = len(parts.images) - self._images(missing)
        several = f"{rank.count} ranks" if rank.count > 1 else f"{num_proc} proc"
        self.bar = tqdm(
            total=len(parts.images),
            initial=self.start,
            unit="image",
            desc=f"rendering ({several})",
            disable=rank.index > 0,
        )

    def _images(self, parts: Iterable[int]) -> int:
        return sum(len(self.parts.part_images(part)) for part in parts)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, rendered: int) -> None:
        """Counts `rendered` images of this rank, and now and then those of the others."""
        self.own += rendered
        if self.foreign and not self.bar.disable and time.monotonic() - self.looked > self.LOOK_SECONDS:
            self.foreign_done = self._images(set(self.foreign).difference(self.parts.missing()))
            self.looked = time.monotonic()
        self.bar.update(self.start + self.own + self.foreign_done - self.bar.n)


def _write_part(
    generator: ImageGenerator,
    images: Sequence[PlannedImage],
    path: Path,
    image_format: str,
    progress: Callable[[int], object],
) -> None:
    started = time.perf_counter()
    records, seeds = [image.record for image in images], [image.seed for image in images]
    rendered = render_images(generator, records, seeds, image_format, progress)
    seconds = time.perf_counter() - started
    schema = IMAGE_SCHEMA.with_metadata({"seconds": repr(seconds)})
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rendered, schema=schema), max_chunksize=len(rendered))
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())


_worker: dict = {}


def _start_worker(generator: ImageGenerator, image_format: str, lifeline: Connection, rendered: Synchronized) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    _worker.update(generator=generator, image_format=image_format, rendered=rendered)


def _end_with(lifeline: Connection) -> None:
    wait_for_any([lifeline])
    os._exit(1)


def _work(images: Sequence[PlannedImage], path: Path) -> None:
    rendered = _worker["rendered"]

    def progress(count: int) -> None:
        with rendered.get_lock():
            rendered.value += count

    _write_part(_worker["generator"], images, path, _worker["image_format"], progress)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread inside, where torch is loaded at all: images must not depend on the number of threads."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
    """Settings that processes started inside inherit: one thread each, and freed memory kept for the next image.

    glibc hands large blocks back to the system at once; rendering then spends half its time on page faults.
    """
    settings = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    settings |= {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
