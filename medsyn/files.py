"""Files that appear whole or not at all, and scratch folders that do not outlive their process."""

from __future__ import annotations

import errno
import fcntl
import glob
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from medsyn.errors import DiskFullError

LOCK = ".lock"
_TEMPORARY = ".tmp"


@contextmanager
def atomic_file(path: Path) -> Iterator[io.BufferedWriter]:
    """
    A file that appears under its name when all of it is on the disk, and not at all otherwise.

    Raises:
        DiskFullError: Where the disk or the quota is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"the disk is full: no room for {path}") from None
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left half-written by `atomic_file`."""
    for stale in folder.glob(f".*.[0-9]*{_TEMPORARY}"):
        stale.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


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


@contextmanager
def held(lock: Path, message: str) -> Iterator[None]:
    """
    Holds a lock file for one process at a time; the hold ends with the process, however that ends.

    Args:
        lock (`Path`): The file, whose folders are made; removed in the end.
        message (`str`): What is at work there, for whoever comes second.

    Raises:
        BlockingIOError: If another process holds it.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the process before us has just removed the folder
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BlockingIOError(message) from None
        if lock.exists() and os.path.samestat(os.fstat(handle), os.stat(lock)):
            break
        os.close(handle)  # a file that the process before us has just removed
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def only_writer(out: Path, option: str = "--out") -> AbstractContextManager[None]:
    """Holds an output folder, by a hidden lock file beside it, against a second command; see [`held`]."""
    out = Path(out).resolve()
    message = f"another command is writing {out}; wait until it is done, or choose another {option}"
    return held(out.parent / f".{out.name}.lock", message)


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


def means_a_folder(name: str) -> bool:
    """Whether a name that does not exist is a mistyped path: by its form, or since its parent folder exists."""
    path = Path(name)
    return name.startswith((".", "/", "~")) or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def folder_or_hub_id(name: str | Path, kind: str) -> str:
    """
    Returns `name` if it can be one: a folder that exists, or the form of an id on the Hub.

    A library asked for a path that does not exist takes it for an id, and tries to reach the Hub for a minute.

    Args:
        name (`str` or `Path`): What the user gave.
        kind (`str`): What it should be, for the message: `dataset`, `model`.

    Raises:
        FileNotFoundError: If there is no such folder and no id has that form.
    """
    text = str(name)
    if not Path(text).exists() and (means_a_folder(text) or text.count("/") != 1):
        raise FileNotFoundError(f"there is no {kind} folder {text}, and an id on the Hub reads owner/name")
    return text
