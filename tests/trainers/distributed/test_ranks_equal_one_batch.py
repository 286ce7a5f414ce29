"""Two real gloo processes give the losses and gradients of one process with the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.distributed.one_step import one_step

KINDS = ("resnet", "vit", "gloria", "mgca")
REPOSITORY = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """Where two processes, started the way torchrun does, left what they got."""
    folder = tmp_path_factory.mktemp("two")
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-m", "tests.trainers.distributed.one_step", "2", str(folder), *KINDS]
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0] + outputs[1]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind, two_processes, tmp_path):
    one_step(kind, 1, tmp_path)
    one, two = (torch.load(folder / f"{kind}.pt") for folder in (tmp_path, two_processes))
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=0)
    assert one["losses"][0] != one["losses"][1]
    assert one["gradients"].keys() == two["gradients"].keys()
    largest = max(gradient.abs().max().item() for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        assert gradient.abs().max() > 0, name
        # The bias of attention keys has a gradient of zero but for rounding.
        tolerance = max(1e-5 * gradient.abs().max().item(), 1e-8 * largest)
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-5, atol=tolerance)
