"""The suite's own rule: under CI, a skip for any reason but absent real data or a GPU is a failure."""

import subprocess
import sys

from tests.conftest import REPOSITORY


def outcome(tmp_path, reason: str, **environment) -> subprocess.CompletedProcess:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_sessionfinish  # noqa: F401\n")
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n\ndef test_it():\n    pytest.skip({reason!r})\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
        "--rootdir",
        str(tmp_path),
    ]
    paths = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=paths | environment)


def test_a_skip_fails_under_ci_alone_and_names_itself(tmp_path):
    assert outcome(tmp_path, "no chromium here").returncode == 0
    failed = outcome(tmp_path, "no chromium here", CI="true")
    assert failed.returncode == 1 and "test_it.py::test_it: Skipped: no chromium here" in failed.stdout
    assert outcome(tmp_path, "no real data at /nowhere; name it with --real-data", CI="true").returncode == 0
