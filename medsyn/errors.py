"""Errors that a user can act on, and the boundary that every command runs inside."""

from __future__ import annotations

import argparse
import contextlib
import dis
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator

__all__ = ["DiskFullError", "UserError", "add_debug_option", "at_input", "command", "reading"]

BUG = "this is a fault of medsyn, not of the input; --debug shows the traceback"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class UserError(ValueError):
    """What a user asked for cannot be done; the message holds the value, the file or id, and the remedy."""


class DiskFullError(OSError):
    """The disk has no room for a file; the message names the file and what is kept."""


@contextlib.contextmanager
def at_input(name: object) -> Iterator[None]:
    """
    Names the input that is being worked on, for the sentence that [`command`] prints if anything unforeseen happens.

    Args:
        name (`object`): A file, an id or a row number; never report text. The innermost name wins.
    """
    try:
        yield
    except Exception as error:
        if "medsyn_input" not in vars(error):
            error.medsyn_input = str(name)  # type: ignore[attr-defined]
        raise


@contextlib.contextmanager
def reading(what: object, remedy: str = "it is damaged or incomplete: make or download it again") -> Iterator[None]:
    """
    Turns what a library raises on a bad file into a [`UserError`] that names the file; holds the library's call alone.

    Libraries share no class for this: `SafetensorError`, `JSONDecodeError`, `TypeError`, `DatasetGenerationError` can
    all mean a file that cannot be read. A `UserError`, a `ValueError` of the modules that travel as remote code, an
    `OSError` (which names its file) and lack of memory pass through.

    Args:
        what (`object`): The file, folder or id, as the user named it.
        remedy (`str`, *optional*): What the user can do.

    Raises:
        UserError: In the place of any other exception.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if _raised_in_remote_code(error) or "OutOfMemory" in type(error).__name__:
            raise
        raise UserError(f"{what} cannot be read ({type(error).__name__}); {remedy}") from error


def command(
    name: str, interrupted: str = "nothing is left half-written"
) -> Callable[[Callable[[list[str]], int | None]], Callable[..., int]]:
    """
    Decorates the `main` of a command with the one boundary that turns exceptions into exit codes.

    The decorated function takes `argv` (*optional*, defaults to `sys.argv[1:]`) and returns 0 when done, 1 for what a
    user can mend ([`UserError`], a missing or unwritable file, a full disk), 3 for a bug of this package, 130 when
    interrupted; `argparse` exits with 2. Errors are one sentence on stderr. `--debug` adds the traceback.

    Args:
        name (`str`): What the user typed, for the message: `medsyn build`.
        interrupted (`str`, *optional*): What a user should know after Ctrl-C.
    """

    def decorate(main: Callable[[list[str]], int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            argv, debug = _take_debug(sys.argv[1:] if argv is None else list(argv))
            try:
                return main(argv) or 0
            except KeyboardInterrupt:
                _report(name, f"interrupted; {interrupted}", debug)
                return 130
            except Exception as error:  # the boundary: nothing foreign leaves it as a traceback
                sentence, code = describe(error)
                _report(name, sentence, debug)
                return code

        return run

    return decorate


def add_debug_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds `--debug` to a command's help; [`command`] acts on it before the parser sees it."""
    parser.add_argument("--debug", action="store_true", help="traceback of any error")


def describe(error: Exception) -> tuple[str, int]:
    """
    One sentence for a person, and the exit code: 1 for what they can mend, 3 for a bug of this package.

    An `OSError` is about the outside world (a file, the disk, the network) and keeps its own words. The text of any
    other foreign exception is not repeated: it can quote what was read, report text included.
    """
    if isinstance(error, (UserError, DiskFullError)) or _raised_in_remote_code(error):
        return _one_line(error), 1
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return f"no room to write {error.filename or 'a file'}: {os.strerror(error.errno)}", 1
        if error.errno is not None and error.filename is not None:
            return f"{error.filename}: {error.strerror}", 1
        return _one_line(error), 1
    place = getattr(error, "medsyn_input", None)
    at = f" at {place}" if place else ""
    return f"{type(error).__name__}{at}: {BUG}", 3


def _raised_in_remote_code(error: Exception) -> bool:
    """
    Whether a `raise ValueError` stands in one of the flat modules of hub_medsyn. These travel beside a checkpoint as
    remote code and cannot import this package, so their errors are plain `ValueError`s.
    """
    if type(error) is not ValueError or error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "")
    raising = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]  # not numpy called from there
    return raising and module.startswith(("hub_medsyn.", "transformers_modules."))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _take_debug(argv: list[str]) -> tuple[list[str], bool]:
    """`argv` without our `--debug`; transformers' option of that name takes a value, and is left alone with it."""
    for place, argument in enumerate(argv):
        if argument == "--debug" and (place + 1 == len(argv) or argv[place + 1].startswith("-")):
            return argv[:place] + argv[place + 1 :], True
    return argv, False


def _report(name: str, sentence: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    if "tqdm" in sys.modules:  # not into the middle of a progress bar
        sys.modules["tqdm"].tqdm.write(f"{name}: {sentence}", file=sys.stderr)
    else:
        print(f"{name}: {sentence}", file=sys.stderr, flush=True)
