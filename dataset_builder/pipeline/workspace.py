"""Build workspace: ownership check, lock and saved settings."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from dataset_builder.pipeline.executors import POLL_SECONDS, START_SECONDS, Rank
from medsyn.errors import UserError
from medsyn.files import held, write_json
from medsyn.schema import MANIFEST, read_manifest

WORK = ".build"
SETTINGS = "settings.json"
SECRET_SEED = "secret_seed"
NOT_BEGUN = "rank 0 has not begun within {} s; do all ranks see the same folder {}?"


def refuse_foreign(out: Path) -> None:
    """Raises `UserError` where `out` is a file, or a folder with something in it that no build of ours made."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    try:
        read_manifest(out)
    except UserError as error:
        raise UserError(f"{error}; choose another --out") from None
    if any(out.iterdir()) and not (out / MANIFEST).exists() and not (out / WORK).is_dir():
        raise UserError(f"{out} is not empty and holds no medsyn dataset; choose another --out or empty it")


@contextlib.contextmanager
def only_build(out: Path) -> Iterator[Path]:
    """
    Holds the folder for one build at a time; the hold ends with the process, however that ends.

    Yields:
        `Path`: `<out>/.build`, which is removed in the end if it is empty.

    Raises:
        BlockingIOError: If another build is running in the folder.
    """
    work = out / WORK
    with held(work / "lock", f"another build is running in {out}; wait until it is done, or choose another --out"):
        yield work
    with contextlib.suppress(OSError):  # not empty: a build to resume
        work.rmdir()


def differences(saved: dict, asked: dict, prefix: str = "") -> list[str]:
    """
    The settings that differ, each as `name (there ..., asked for ...)`; nested ones with dots in their names.

    A secret seed is never among them: `reports_sha256` differs where it does, and no message is to tell it.
    """
    found = []
    for name in sorted((saved.keys() | asked.keys()) - {SECRET_SEED}):
        before, now = saved.get(name), asked.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append(f"{prefix}{name} (there {before!r}, asked for {now!r})")
    return found


def begin_or_resume(work: Path, state: dict) -> None:
    """
    Notes under which settings and versions a config is built, or checks that they still hold.

    Args:
        work (`Path`): `<out>/.build/<config>`.
        state (`dict`): Everything that images and rows depend on, as JSON.

    Raises:
        UserError: If the folder was begun otherwise; names what differs.
    """
    path = work / SETTINGS
    if path.exists():
        refuse_other_settings(work, json.loads(path.read_text(encoding="utf-8")), state, f"delete {work}")
        return
    work.mkdir(exist_ok=True)
    write_json(path, state)


def is_built(out: Path, name: str) -> bool:
    """Whether a dataset's folder holds a config, complete; not where its data were deleted to build it anew."""
    return name in read_manifest(out)["configs"] and (out / "data" / name).exists()


def begun_settings(out: Path, name: str) -> dict | None:
    """The settings under which a config is built or was begun; `None` where it is neither."""
    if is_built(out, name):
        return read_manifest(out)["configs"][name]["settings"]
    with contextlib.suppress(FileNotFoundError):
        return json.loads((out / WORK / name / SETTINGS).read_text(encoding="utf-8"))["settings"]
    return None


def secret_seed(out: Path, name: str, rank: Rank) -> int:
    """
    The base seed that nobody can guess: the one a config was begun with, else 63 bits from the operating system.

    Args:
        out (`Path`): The dataset's folder.
        name (`str`): The config.
        rank (`Rank`): Which process of a launch this is; all but rank 0 wait until that has begun.

    Raises:
        ChildProcessError: If rank 0 does not begin.
    """
    deadline = time.monotonic() + START_SECONDS
    while (settings := begun_settings(out, name)) is None and rank.index > 0:
        if time.monotonic() > deadline:
            raise ChildProcessError(NOT_BEGUN.format(START_SECONDS, out))
        time.sleep(POLL_SECONDS)
    if settings is not None and SECRET_SEED in settings:
        return settings[SECRET_SEED]
    return secrets.randbits(63)  # where the config was begun with another seed, that is found and refused later


def await_begin(out: Path, name: str, state: dict) -> None:
    """
    Waits, in a rank other than 0, until rank 0 has begun the build of a config, now or in an earlier launch.

    Args:
        out (`Path`): The dataset's folder.
        name (`str`): The config.
        state (`dict`): As in [`begin_or_resume`].

    Raises:
        UserError: If the build runs, or ran, under other settings.
        ChildProcessError: If rank 0 does not begin.
    """
    work = out / WORK / name
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if is_built(out, name):
            data, saved = out / "data" / name, read_manifest(out)["configs"][name]["settings"]
            refuse_other_settings(data, saved, state["settings"], f"delete {data}")
            return
        with contextlib.suppress(FileNotFoundError):
            saved = json.loads((work / SETTINGS).read_text(encoding="utf-8"))
            refuse_other_settings(work, saved, state, f"delete {work}")
            return
        time.sleep(POLL_SECONDS)
    raise ChildProcessError(NOT_BEGUN.format(START_SECONDS, out))


def refuse_other_settings(where: Path, saved: dict, asked: dict, remedy: str) -> None:
    """Raises `UserError` where two sets of settings differ; says which, and what to do."""
    differing = differences(saved, asked)
    if differing:
        raise UserError(
            f"{where} was built with other settings: {', '.join(differing)}; use those settings again, choose another "
            f"--out, or {remedy} to begin anew"
        )
