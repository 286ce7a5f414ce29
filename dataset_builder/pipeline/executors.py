"""The processes of one launch (`torchrun`, `accelerate launch`), on one machine or several, at work in one folder.

They share a file system and send each other nothing. Every part of the images belongs to one rank by its number. Rank
0 holds the folder, waits until all parts lie there and writes the dataset. A rank at work touches a file every few
seconds, so that rank 0 does not wait for one that has died.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medsyn.errors import UserError

START_SECONDS = 600  # how long a rank may take to read the reports before it begins
LOST_SECONDS = 180  # after which a silent rank counts as dead; network file systems show a touch up to a minute late
BEAT_SECONDS = 5
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Rank:
    """One process of a launch: the `index`-th of `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_launch(cls) -> Rank:
        """
        The rank that the launcher gave this process in `RANK` and `WORLD_SIZE`; without one, the only rank.

        Raises:
            UserError: If they do not make sense.
        """
        index, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UserError(f"RANK={index} and WORLD_SIZE={count} are no rank of a launch; unset both for one process")
        return cls(int(index), int(count))

    def owns(self, part: int) -> bool:
        return part % self.count == self.index

    def beat_file(self, work: Path) -> Path:
        return work / f"rank-{self.index:05d}"


@contextlib.contextmanager
def at_work(rank: Rank, work: Path) -> Iterator[None]:
    """Touches the file of a rank every few seconds; takes it away on an error, and leaves it to rank 0 otherwise."""
    path = rank.beat_file(work)
    ended = threading.Event()

    def beat() -> None:
        with contextlib.suppress(FileNotFoundError):  # rank 0 has all parts and has cleared them away
            while not ended.wait(BEAT_SECONDS):
                os.utime(path)

    path.touch()
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        ended.set()


class _Watch:
    """Whether a rank still works, told by the file it touches."""

    def __init__(self, path: Path):
        self.path = path
        self.beat = self._beat()
        self.seen = False
        self.since = time.monotonic()

    def _beat(self) -> float | None:
        try:
            return self.path.stat().st_mtime
        except FileNotFoundError:
            return None

    def lost(self) -> str | None:
        """Why the rank counts as dead; None while it does not."""
        beat = self._beat()
        if beat != self.beat:
            self.seen, self.beat, self.since = True, beat, time.monotonic()
        if self.seen and beat is None:
            return "has ended"
        patience = LOST_SECONDS if self.seen else START_SECONDS
        return f"has given no sign for {patience} s" if time.monotonic() - self.since > patience else None


def await_other_ranks(
    work: Path, missing_parts: Callable[[], list[int]], rank: Rank, progress: Callable[[int], object]
) -> None:
    """
    Waits in rank 0, whose own share is made, until the parts of all other ranks are there.

    Args:
        work (`Path`): The folder of the parts.
        missing_parts (`Callable`): Returns the parts that are still to be made.
        rank (`Rank`): Rank 0.
        progress (`Callable[[int], object]`): Called again and again, with 0.

    Raises:
        ChildProcessError: If a rank has died.
    """
    others = [Rank(index, rank.count) for index in range(1, rank.count)]
    watches = {other: _Watch(other.beat_file(work)) for other in others}
    while True:
        dead = {other: why for other in others if (why := watches[other].lost())}
        missing = missing_parts()  # read after the signs of life: a rank that has just ended has left its parts
        progress(0)
        if not missing:
            return
        for other, why in dead.items():
            if any(map(other.owns, missing)):
                raise ChildProcessError(
                    f"rank {other.index} of {other.count} {why} and left {sum(map(other.owns, missing))} parts of the "
                    "images to be made; finished parts are kept: run the same command again"
                )
        time.sleep(POLL_SECONDS)
