"""Lets the real clients of this very process talk to a [`StandInHub`], for as long as a test needs it."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from tests.hub.server import StandInHub


def free_port() -> int:
    """Below the ports that systems give to whoever asks for any, so that it is still free when a Hub wants it."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports of the loopback are all taken")


@contextmanager
def online(folder: Path, **settings) -> Iterator[StandInHub]:
    """
    Starts a stand-in Hub where the clients look for one, and takes them out of offline mode.

    The clients read `HF_ENDPOINT` when they are imported, and some keep it in places that nothing can reach later.
    Therefore `tests/conftest.py` chooses a free port of the loopback before any import, and every Hub of this process
    listens on that port, one after the other. What remains to be changed here, and is changed back at the end, are the
    switches that the clients look up at every call: offline mode, of which several modules hold a copy, and the
    folders of their caches.

    Args:
        folder (`Path`): Holds the Hub and the clients' caches, all fresh.
        settings: Of [`StandInHub`].
    """
    import datasets
    from huggingface_hub import HfFileSystem, close_session, constants

    assert constants.HF_HUB_OFFLINE, "an earlier test has left the clients online"
    caches = folder / "caches"
    changes = [
        (constants, "HF_HUB_CACHE", str(caches / "hub")),
        (datasets.config, "HF_DATASETS_CACHE", caches / "datasets"),
        (datasets.config, "DOWNLOADED_DATASETS_PATH", caches / "datasets" / "downloads"),
    ]
    copies = [module for module in sys.modules.values() if module.__dict__.get("HF_HUB_OFFLINE") is True]
    changes += [(module, "HF_HUB_OFFLINE", False) for module in copies]
    port = urlsplit(os.environ["HF_ENDPOINT"]).port
    with pytest.MonkeyPatch.context() as patch, StandInHub(folder / "hub", port=port, **settings) as hub:
        for module, name, value in changes:
            patch.setattr(module, name, value)
        patch.setenv("HF_TOKEN", hub.token)
        patch.setenv("HF_HUB_OFFLINE", "0")  # for processes that a test starts
        patch.setenv("HF_HOME", str(caches))
        close_session()  # connections and listings of an earlier Hub at this address
        HfFileSystem.clear_instance_cache()
        try:
            yield hub
        finally:
            close_session()
            HfFileSystem.clear_instance_cache()


@pytest.fixture
def no_waiting(monkeypatch):
    """The Hub's clients try again at once where they would wait for seconds."""
    from huggingface_hub.utils import _http

    from hub_medsyn.publishing import retrying, upload

    for module in (_http, retrying, upload):
        monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(_http.time), "sleep": lambda seconds: None}))
