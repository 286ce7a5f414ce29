import subprocess
import sys

import pytest

import medsyn
from medsyn import cli

DRAWS_NOTHING = {"export-encoders", "publish", "attach-reports"}


def test_help_imports_nothing_heavy():
    """A fresh interpreter: what the suite has imported does not count."""
    program = (
        "import sys; from medsyn import cli; code = cli.main(['--help']); "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules); sys.exit(code or len(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(f"  {name} " in result.stdout for name in cli.COMMANDS)


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


def test_a_command_passes_arguments_on_and_returns_the_exit_code(tmp_path, capsys):
    assert cli.main(["publish", "dataset", str(tmp_path / "none"), "--repo", "a/b", "--dry-run"]) == 1
    assert f"{tmp_path / 'none'} is no dataset" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"medsyn {medsyn.__version__}\n"
