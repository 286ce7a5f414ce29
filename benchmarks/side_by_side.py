"""Two functions beside each other on one machine: processor seconds in turns, peak memory in separate processes.

Processor seconds of one thread stay nearly what they are when others use the machine, and wall time does not.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def processor_seconds(
    functions: dict[str, Callable[[], object]], repeats: int, least: float = 0.2
) -> dict[str, list[float]]:
    """Processor seconds of a call of each function, `repeats` times in turns, after one round that does not count.

    What takes less than `least` seconds is called so often a turn that the turn takes as long.
    """
    calls, seconds = {}, {name: [] for name in functions}
    for name, function in functions.items():
        start = time.process_time()
        function()
        calls[name] = math.ceil(least / max(time.process_time() - start, 1e-4))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            for _ in range(calls[name]):
                function()
            seconds[name].append((time.process_time() - start) / calls[name])
    return seconds


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Wall seconds of the fastest of `repeats` calls, after one that does not count."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_mib(function: Callable[[], object], repeats: int = 3) -> float:
    """Returns the most memory that `function` holds above what its process held before, in MiB.

    It is the largest of `repeats` measurements, each in a forked process of its own: where the machine is short of
    memory, the kernel takes pages of libraries from a process meanwhile, which lowers a measurement.

    What counts is resident memory (`VmHWM` less `VmRSS`), so this runs on Linux alone. Call it before the parent runs
    `function` or its like: memory that was freed there would be used again unseen, and where torch sees a GPU it
    cannot derive in a fork of a process that has.

    Raises:
        RuntimeError: If the process ended before its time, as for want of memory.
    """
    return max(_peak_of_a_fork(function) for _ in range(repeats))


def _peak_of_a_fork(function: Callable[[], object]) -> float:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(function, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the measured process ended with {process.exitcode}, at -9 for want of memory") from None
    finally:
        process.join()


def _measure_peak(function: Callable[[], object], sender) -> None:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before = _status("VmRSS")
    function()
    sender.send((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def median_and_range(seconds: list[float]) -> dict[str, float]:
    return {
        "cpu_seconds": float(f"{statistics.median(seconds):.4g}"),
        "cpu_seconds_min": float(f"{min(seconds):.4g}"),
        "cpu_seconds_max": float(f"{max(seconds):.4g}"),
    }
