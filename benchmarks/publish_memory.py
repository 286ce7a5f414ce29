"""How much memory publishing takes, and whether it grows with the dataset: small images to the stand-in Hub.

A dataset of noise images of 32 pixels with reports of the grammar is built once a number of rows, in shards of 4 MB. A
process of its own publishes it with its text to a private and gated repository (every sentence is looked for in all
that is not a row), another one without its text (every row group is written anew). Peak memory is that of the
publishing process (Linux's VmHWM, MiB); `imported_mb` is what it held before it began: torch and transformers.

    python -m benchmarks.publish_memory --rows 5000 50000 --out benchmarks/publish_memory.csv

The grammar repeats itself more than people do. What a sentence takes that stands nowhere else:

    python -m benchmarks.publish_memory --sentences 100000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import machine_facts, write_csv
from dataset_builder.generators.radiograph import Radiograph
from dataset_builder.reports.record import ReportRecord

SHARD_BYTES = 4_000_000
SIDE = 32
FOLDER = Path(__file__).resolve().parents[1]


class Noise:
    """The quickest generator there can be: noise of 32 x 32 pixels."""

    name, batch_size, localizes = "noise", 1, False

    def settings(self) -> dict:
        return {"image_size": SIDE}

    def overlong(self, conditions: Sequence[str]) -> int:
        return 0

    def condition(self, record: ReportRecord) -> str:
        return record.impression

    def __call__(self, records: Sequence[ReportRecord], seeds: Sequence[int]) -> list[Radiograph]:
        draw = (np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8) for seed in seeds)
        return [Radiograph(image) for image in draw]


def write_dataset(folder: Path, rows: int) -> Path:
    """A dataset folder of noise images, built to be published without its text."""
    from dataset_builder.build import build
    from dataset_builder.pipeline import shards as assemble
    from dataset_builder.reports.grammar import write_reports

    assemble.SHARD_BYTES = SHARD_BYTES
    build(write_reports(rows), Noise(), folder, text_policy="ids-only")
    return folder


def as_credentialed(folder: Path, copy: Path) -> Path:
    """The same dataset under the policy `credentialed`."""
    shutil.copytree(folder, copy, copy_function=os.link)
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for entry in manifest["configs"].values():
        entry["settings"]["text_policy"] = "credentialed"
    path.unlink()  # a link
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def publish(folder: Path, repo_id: str, closed: bool) -> dict[str, float]:
    """Publishes in this process, which should do nothing else, and says what it took."""
    from hub_medsyn.publishing.publish import publish_dataset

    imported, start = peak_megabytes(), time.perf_counter()
    done = publish_dataset(folder, repo_id, private=closed, gated=closed)
    return {
        "imported_mb": round(imported),
        "peak_mb": round(peak_megabytes()),
        "seconds": round(time.perf_counter() - start, 1),
        "files": len(done.files),
        "megabytes": round(sum(done.files.values()) / 1e6, 1),
    }


def measure(rows: int, scratch: Path, hub) -> list[dict]:
    built = write_dataset(scratch / "medsyn-cxr", rows)
    lines = []
    for text, folder in (("ids-only", built), ("credentialed", as_credentialed(built, scratch / "credentialed"))):
        command = [sys.executable, "-m", "benchmarks.publish_memory", "--publish", str(folder)]
        command += ["--repo", f"you/rows-{rows}-{text}", *(["--closed"] if text == "credentialed" else [])]
        surroundings = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "HF_HOME": str(scratch / "caches")}
        switches = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment = {**os.environ, **surroundings, **switches}
        answer = subprocess.run(command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        lines.append({"rows": rows, "text": text, **json.loads(answer.stdout.splitlines()[-1])})
        print(", ".join(f"{name} {value}" for name, value in lines[-1].items()), flush=True)
    return lines


def sentence_bytes(number: int) -> float:
    """What the index of reports holds for a sentence, where all differ from the first words on."""
    from hub_medsyn.policy.report_texts import ReportTexts

    words = np.random.default_rng(0).integers(0, 10_000, (number, 9))
    tracemalloc.start()
    texts = ReportTexts(" ".join(f"w{word}" for word in row) for row in words)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(texts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 50_000], help="default: 5000 50000")
    parser.add_argument(
        "--sentences", type=int, metavar="N", help="only: what the index holds of N distinct sentences"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/publish_memory.csv"))
    one = parser.add_argument_group("what the measured process is called with")
    one.add_argument("--publish", type=Path, metavar="FOLDER")
    one.add_argument("--repo", metavar="ORG/NAME")
    one.add_argument("--closed", action="store_true")
    args = parser.parse_args(argv)
    if args.publish:
        print(json.dumps(publish(args.publish, args.repo, args.closed)))
        return 0
    if args.sentences:
        print(f"{args.sentences:,} distinct sentences: {sentence_bytes(args.sentences):.0f} bytes each")
        return 0
    from tests.hub.server import StandInHub

    lines = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as scratch, StandInHub(Path(scratch) / "hub") as hub:
            lines += measure(rows, Path(scratch), hub)
    machine = machine_facts("pyarrow", "huggingface_hub")
    write_csv(args.out, [line | machine for line in lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
