"""How fast a text-to-image pipeline draws images: images a second by batch size, dtype and way of running, as CSV.

One line a combination: a first batch loads and warms up the pipeline (and compiles it, where asked to), then as many
as `--batches` are timed. A combination that does not fit into memory gets a line without a speed. `--generator` is a
folder, an id on the Hub, or `tiny`: a random pipeline made on the spot, which shows that the command runs.

    python -m benchmarks.diffusion_speed --generator sd --out benchmarks/diffusion_speed.csv
    python -m benchmarks.diffusion_speed --generator tiny --image-size 64 --num-inference-steps 2 --batch-sizes 1 2
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch

from dataset_builder.generators.diffusion import DTYPES, DiffusionGenerator
from dataset_builder.generators.radiograph import GenerationError
from dataset_builder.reports.record import ReportRecord

PROMPT = "Small left pleural effusion with adjacent atelectasis. No pneumothorax."
WAYS = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "attention_slicing": {"enable_attention_slicing": True},
    "compile": {"compile": True},
    "channels_last+compile": {"channels_last": True, "compile": True},
}
COLUMNS = (
    "device torch diffusers pipeline image_size steps dtype batch_size way "
    "first_batch_seconds images seconds images_per_second peak_gib"
).split()


@contextlib.contextmanager
def pipeline_folder(name: str) -> Iterator[str]:
    """`name`, or the folder of a tiny pipeline made for the while where the name is `tiny`."""
    if name != "tiny":
        yield name
        return
    from tests.fixtures.tiny_diffusion import save_tiny_pipeline

    with tempfile.TemporaryDirectory() as folder:
        yield str(save_tiny_pipeline(Path(folder) / "tiny"))


def measure(generator: DiffusionGenerator, batches: int) -> dict:
    """Seconds of the first batch, of `batches` more, and the memory they took; nothing of it if memory ran out."""
    size = generator.batch_size
    records = [ReportRecord(str(number), str(number), PROMPT) for number in range(batches * size)]
    seeds = list(range(len(records)))
    on_gpu = generator.settings()["device"] == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        images = generator(records[:size], seeds[:size])
    except GenerationError as error:
        print(error, file=sys.stderr)
        return {}
    if not images[0].made_with.startswith(f"batch of {size} "):
        return {}
    first = time.perf_counter() - started
    started = time.perf_counter()
    generator(records, seeds)
    seconds = time.perf_counter() - started
    return {
        "first_batch_seconds": round(first, 3),
        "images": len(records),
        "seconds": round(seconds, 3),
        "images_per_second": round(len(records) / seconds, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else "",
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="diffusion_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generator", default="tiny", metavar="PIPELINE", help="an id, a folder, or tiny (default)")
    parser.add_argument("--image-size", type=int, default=512, metavar="PIXELS", help="default: 512")
    parser.add_argument("--num-inference-steps", type=int, default=50, metavar="N", help="default: 50")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32], metavar="N")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batches", type=int, default=3, metavar="N", help="timed batches (default: 3)")
    parser.add_argument("--device", help="default: the first GPU, or the CPU")
    parser.add_argument("--out", default="diffusion_speed.csv", metavar="CSV", help="default: diffusion_speed.csv")
    args = parser.parse_args(argv)
    with pipeline_folder(args.generator) as folder, open(args.out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for dtype, way, size in itertools.product(args.dtypes, args.ways, args.batch_sizes):
            generator = DiffusionGenerator(
                folder,
                num_inference_steps=args.num_inference_steps,
                height=args.image_size,
                width=args.image_size,
                torch_dtype=dtype,
                batch_size=size,
                device=args.device,
                **WAYS[way],
            )
            row = {
                "device": generator.device_name,
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "pipeline": args.generator,
                "image_size": args.image_size,
                "steps": args.num_inference_steps,
                "dtype": dtype,
                "batch_size": size,
                "way": way,
                **measure(generator, args.batches),
            }
            table.writerow(row)
            file.flush()
            print(", ".join(f"{name} {value}" for name, value in row.items() if name in COLUMNS[6:]))
            del generator
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            torch.compiler.reset()
    return 0


if __name__ == "__main__":
    sys.exit(main())
