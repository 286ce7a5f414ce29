"""Several processes as one launch, all forked from one that has imported what they need."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_rank(rank: int, environment: dict[str, str], work: Callable, arguments: tuple) -> None:
    import torch

    os.environ.update({**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(1)
    work(*arguments)
    torch.distributed.destroy_process_group()


def run_as_ranks(count: int, work: Callable, *arguments, timeout: float = 500) -> None:
    """Runs `work(*arguments)` as each rank of a launch of `count` gloo processes, as torchrun would start them.

    The processes come from a fork server, which imports torch once and, unlike this process, has no threads yet.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.one_step"])
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    processes = [
        context.Process(target=as_rank, args=(rank, environment, work, arguments), daemon=True)
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        if any(process.exitcode for process in processes):
            break  # the others would wait for it
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0] * count, f"ranks ended with {codes}; their tracebacks stand in the captured stderr"
