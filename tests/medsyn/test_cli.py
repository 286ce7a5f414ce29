import subprocess
import sys
import time

import pytest

from medsyn import cli

DRAWS_NOTHING = {"export-encoders", "publish", "attach-reports"}


def test_help_is_quick_and_free_of_torch():
    """A fresh interpreter: what the suite has imported does not count."""
    program = (
        "import sys; from medsyn import cli; code = cli.main(['--help']); "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules); sys.exit(code or len(heavy))"
    )
    times = []
    for _ in range(2):
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert result.returncode == 0
        assert all(f"  {name} " in result.stdout for name in cli.COMMANDS)
    assert min(times) < 1


def test_an_unknown_command_exits_2_and_tells_the_known_ones(capsys):
    assert cli.main(["prok"]) == 2
    error = capsys.readouterr().err
    assert "no command 'prok'" in error and "probe" in error


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, *{"data": ["prepare", "nih"], "evaluate": ["detect"]}.get(command, []), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"medsyn {command}" in shown
    assert "--seed" in shown or command in DRAWS_NOTHING


def test_a_command_passes_arguments_on_and_returns_the_exit_code(monkeypatch):
    seen = []
    monkeypatch.setattr("trainers.demo.main", lambda arguments: seen.append(arguments) or 7)
    assert cli.main(["demo", "--out", "x"]) == 7
    assert seen == [["--out", "x"]]
