"""Measures phantom images per second: one process and two, 256 and 512 pixels.

Other work on the machine lowers the images per second but hardly the processor seconds per image; its load is noted.

    python -m benchmarks.phantom_speed --out benchmarks/phantom_speed.csv
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.record import machine_facts, write_csv
from dataset_builder.pipeline.render import worker_environment

_GENERATOR = None


def _start(image_size: int):
    """Loads the atlas in a worker and renders one image, which fills its caches."""
    import torch

    from dataset_builder.generators.phantom import PhantomGenerator
    from dataset_builder.reports.grammar import write_reports

    global _GENERATOR
    torch.set_num_threads(1)
    _GENERATOR = PhantomGenerator(image_size=image_size)
    _GENERATOR(list(write_reports(1)), [0])


def _render(first: int, count: int) -> float:
    """Renders images `first` to `first + count` and returns the processor seconds taken."""
    from dataset_builder.reports.grammar import write_reports

    records = list(write_reports(first + count))[first:]
    start = time.process_time()
    for index, record in enumerate(records, first):
        _GENERATOR([record], [index])
    return time.process_time() - start


def measure(image_size: int, processes: int, images: int) -> tuple[float, float]:
    """Images a second over all processes and processor seconds an image, start-up left out."""
    context = multiprocessing.get_context("spawn")
    with worker_environment(), ProcessPoolExecutor(processes, context, _start, (image_size,)) as pool:
        list(pool.map(_render, [0] * processes, [1] * processes))  # all have started
        start = time.perf_counter()
        busy = sum(pool.map(_render, range(0, images * processes, images), [images] * processes))
        return images * processes / (time.perf_counter() - start), busy / (images * processes)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=24, help="images a process renders (default: 24)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels a side (default: 256 512)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/phantom_speed.csv"))
    args = parser.parse_args(argv)
    rows = []
    for size in args.sizes:
        for processes in args.processes:
            load = os.getloadavg()[0]
            speed, busy = measure(size, processes, args.images)
            rows.append(
                {
                    "image_size": size,
                    "processes": processes,
                    "images": args.images * processes,
                    "images_per_second": round(speed, 2),
                    "cpu_seconds_per_image": round(busy, 3),
                    "load_before": round(load, 1),
                    **machine_facts("torch", "numpy"),
                }
            )
            print(f"{size} px, {processes} process(es): {speed:.2f} images/s, {busy:.2f} s of processor each")
    write_csv(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
