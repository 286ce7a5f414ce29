"""A hidden folder beside another one, for copies that are on their way."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """
    An empty folder on the same disk, which is removed in the end. What a killed process left there is removed first.

    Args:
        beside (`Path`): The folder it is for; need not be there.

    Yields:
        `Path`: `.<name>-scratch-...` beside it.
    """
    beside = beside.resolve()
    prefix = f".{beside.name}-scratch-"
    for left in beside.parent.glob(f"{glob.escape(prefix)}*"):
        if not _is_held(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=beside.parent))
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # ends with the process, however that ends
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _is_held(folder: Path) -> bool:
    """Whether a process is at work in a folder of [`scratch_folder`]."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:  # no lock, or not ours to open
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
