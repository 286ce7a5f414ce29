"""The boundary of commands: what ends with which exit code and sentence, and what is never printed."""

import errno
import json

import numpy as np
import pytest

from hub_medsyn import ConVIRTConfig
from medsyn.errors import DiskFullError, UserError, at_input, command, describe, reading

SECRET = "the patient is Mr Quixote"


def outcome(error: BaseException, capsys, *argv: str) -> tuple[int, str]:
    @command("medsyn test", interrupted="nothing is kept")
    def main(argv):
        raise error

    return main(list(argv)), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("size 7 of a.png\nis too small"), 1, "medsyn test: size 7 of a.png is too small"),
        (DiskFullError("no room for a.bin"), 1, "medsyn test: no room for a.bin"),
        (OSError(errno.ENOSPC, "full", "a.bin"), 1, "medsyn test: no room to write a.bin: No space left on device"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), 1, "medsyn test: a.csv: No such file"),
        (FileNotFoundError("there is no folder a"), 1, "medsyn test: there is no folder a"),
        (KeyboardInterrupt(), 130, "medsyn test: interrupted; nothing is kept"),
        (KeyError(SECRET), 3, "medsyn test: KeyError: this is a fault of medsyn"),
        (ValueError(SECRET), 3, "medsyn test: ValueError: this is a fault of medsyn"),
    ],
)
def test_exit_codes_and_sentences(error, code, sentence, capsys):
    ended, printed = outcome(error, capsys)
    assert ended == code and printed.startswith(sentence)
    assert "Traceback" not in printed and SECRET not in printed


def test_debug_adds_the_traceback_and_is_no_argument_of_the_command(capsys):
    ended, printed = outcome(UserError("x"), capsys, "--debug")
    assert ended == 1 and "Traceback" in printed and printed.endswith("medsyn test: x\n")
    seen = []
    command("medsyn test")(lambda argv: seen.append(argv))(["a", "--debug", "--b"])
    command("medsyn test")(lambda argv: seen.append(argv))(["--debug", "underflow_overflow"])  # transformers' own
    assert seen == [["a", "--b"], ["--debug", "underflow_overflow"]]


def test_the_innermost_input_is_named(capsys):
    with pytest.raises(ZeroDivisionError) as caught, at_input("reports.csv"), at_input("row 7"):
        1 / 0  # noqa: B018
    assert describe(caught.value) == (
        "ZeroDivisionError at row 7: this is a fault of medsyn, not of the input; --debug shows the traceback",
        3,
    )


def test_errors_raised_in_remote_code_are_for_the_user_and_those_of_numpy_are_not():
    with pytest.raises(ValueError) as ours:
        ConVIRTConfig(preset="best")
    assert describe(ours.value)[1] == 1 and "'best'" in describe(ours.value)[0]
    with pytest.raises(ValueError) as foreign:
        np.zeros(3).reshape(2, 2)
    assert describe(foreign.value)[1] == 3


def test_what_a_library_raises_on_a_bad_file_names_the_file():
    with (
        pytest.raises(UserError, match=r"^a.json cannot be read \(JSONDecodeError\); it is damaged"),
        reading("a.json"),
    ):
        json.loads(SECRET)
    for passing in (UserError("x"), FileNotFoundError("y"), MemoryError()):
        with pytest.raises(type(passing)) as caught, reading("a.json"):
            raise passing
        assert caught.value is passing
