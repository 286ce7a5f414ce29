"""Settings of the whole suite: offline, one torch thread, sockets to loopback only, real data by path."""

import os
import tempfile

from tests.hub.clients import free_port, no_waiting, online  # noqa: F401

# Read by the Hugging Face libraries when they are imported, so they are set before any of them is.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="medsyn-hf-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"  # nobody listens there unless a test wants a Hub
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import socket  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--real-data",
        default=str(REPOSITORY.parent / "shared" / "data"),
        help="folder of real radiographs and reports; tests marked `real` skip where it is absent",
    )


# Why a test may be skipped under CI: data that the repository may not hold, and a GPU.
ALLOWED_SKIPS = ("no real data at", "no golden numbers of", "no reports of Open-i", "there is a GPU", "on a GPU")


def unexpected_skips(reports) -> list[str]:
    """The tests that were skipped for another reason than absent real data or a GPU, each with its reason."""
    found = []
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            found.append(f"{report.nodeid}: {reason}")
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Under CI a skip is a failure, unless what is missing is real data or a GPU."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None or hasattr(session.config, "workerinput"):
        return
    if skips := unexpected_skips(reporter.stats.get("skipped", [])):
        reporter.write_line("\nskipped under CI, which counts as a failure:")
        for skip in skips:
            reporter.write_line(f"  {skip}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def real_data(request) -> Path:
    folder = Path(request.config.getoption("--real-data"))
    if not folder.is_dir():
        warnings.warn(f"no real data at {folder}: the tests on real radiographs and reports are skipped", stacklevel=1)
        pytest.skip(f"no real data at {folder}; name it with --real-data")
    return folder


@pytest.fixture(scope="session")
def golden(request) -> Path:
    folder = Path(request.config.getoption("--real-data")).parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers of the official losses at {folder}")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """
    A stand-in Hub that is empty, with the real clients of this process online to it alone and signed in to write.

    [`online`] tells how; all tests that do not ask for it stay offline. A module that shares one Hub between its tests
    has a fixture of its own on top of [`online`].
    """
    with online(tmp_path) as hub:
        yield hub
        monkeypatch.undo()  # a test's changes were made on top of `online`'s, and would bring these back after them


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """A test that reaches for the network fails, naming the address."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to connect to {address[0]}; the suite runs offline")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    import torch

    torch.set_num_threads(1)
