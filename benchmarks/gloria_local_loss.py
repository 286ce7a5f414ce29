"""GLoRIA's local loss beside a plain reference: time, peak memory, equality, and what a large batch takes.

The reference follows the published formulation: a loop over captions, each caption's words copied once an image, the
word-weighted image vectors formed. Loss and gradients of both are compared in the same run. Random features, words
drawn evenly from `--words`; forward and backward, float32, one thread. `cpu_seconds` are processor seconds, the median
of `--repeats` in turns; `peak_mib` is what a fresh process holds above inputs, at most, gradients of the inputs
(`gradient_mib`) included.

The second part takes `--batch-size-small` pairs, by the reference and with all scores kept for the backward pass,
then `--batch-size-large` pairs whose scores are computed again there. Memory hardly depends on the number of words
then, and time does: `--words-large` makes it short, with as many places for words as before.

    python -m benchmarks.gloria_local_loss
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import DOCUMENT, machine_facts, markdown_table, replace_table, write_csv
from benchmarks.side_by_side import median_and_range, peak_mib, processor_seconds
from hub_medsyn.loss_gloria import gloria_local_loss

OUT = Path(__file__).with_suffix(".csv")
# Standard deviation of the scores of regions and words: the attention is neither uniform nor on one word alone.
SCORE_DEVIATION = 2.0


def features(
    batch: int, regions: int, words: tuple[int, int], places: int, dim: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`(batch, regions, dim)`, `(batch, places, dim)` and which places hold a word, `(batch, places)`."""
    generator = torch.Generator().manual_seed(seed)
    scale = (SCORE_DEVIATION / dim**0.5) ** 0.5
    region = torch.randn(batch, regions, dim, generator=generator) * scale
    word = torch.randn(batch, places, dim, generator=generator) * scale
    counts = torch.randint(words[0], words[1] + 1, (batch,), generator=generator)
    return region, word, torch.arange(places) < counts[:, None]


def plain_local_loss(regions: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The published formulation, caption by caption; temperatures 4, 5 and 10."""
    columns = []
    for caption, count in zip(words, word_mask.sum(1).tolist(), strict=True):
        copied = caption[:count].repeat(len(regions), 1, 1)  # (images, words, dim)
        scores = regions @ copied.transpose(1, 2)  # (images, regions, words)
        attention = (4 * scores.softmax(2)).softmax(1)
        attended = attention.transpose(1, 2) @ regions  # (images, words, dim)
        columns.append((5 * F.cosine_similarity(copied, attended, dim=2)).exp().sum(1).log())
    logits = 10 * torch.stack(columns, dim=1)  # (images, captions)
    targets = torch.arange(len(logits))
    return F.cross_entropy(logits, targets), F.cross_entropy(logits.T, targets)


def step(loss_function, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and the gradients of regions and words."""
    regions, words = (values.detach().requires_grad_() for values in inputs[:2])
    loss = sum(loss_function(regions, words, inputs[2]))
    loss.backward()
    return loss.detach(), regions.grad, words.grad


def difference(values: Tensor, expected: Tensor) -> float:
    return ((values - expected).norm() / expected.norm()).item()


def compare(inputs: tuple[Tensor, Tensor, Tensor], repeats: int) -> list[dict]:
    """One row of the reference, one of the package."""
    steps = {"reference": partial(step, plain_local_loss, inputs), "medsyn": partial(step, gloria_local_loss, inputs)}
    peaks = {name: peak_mib(function) for name, function in steps.items()}
    results = {}

    def remembered(name):
        results[name] = steps[name]()

    seconds = processor_seconds({name: partial(remembered, name) for name in steps}, repeats)
    names = ("loss_difference", "region_gradient_difference", "word_gradient_difference")
    differences = map(difference, results["medsyn"], results["reference"])
    rows = [
        {"part": "speed", "way": name, **sizes(inputs), "repeats": repeats, **median_and_range(seconds[name])}
        | {"peak_mib": round(peaks[name])}
        for name in steps
    ]
    ratio = rows[0]["cpu_seconds"] / rows[1]["cpu_seconds"]
    rows[1] |= {"times_faster": round(ratio, 2), "share_of_peak": round(peaks["medsyn"] / peaks["reference"], 3)}
    rows[1] |= {name: f"{value:.1e}" for name, value in zip(names, differences, strict=True)}
    return rows


def sizes(inputs: tuple[Tensor, Tensor, Tensor]) -> dict:
    regions, words, mask = inputs
    counts = mask.sum(1)
    return {
        "batch_size": len(regions),
        "regions": regions.shape[1],
        "words": f"{counts.min()}-{counts.max()}",
        "dim": regions.shape[2],
        "gradient_mib": round((regions.nbytes + words.nbytes) / 2**20),
    }


def one_batch(way: str, loss_function, inputs: tuple[Tensor, Tensor, Tensor]) -> dict:
    """One step in a process of its own: peak memory, and seconds as the parent sees them."""
    start = time.perf_counter()
    peak = peak_mib(partial(step, loss_function, inputs))
    seconds = time.perf_counter() - start
    return {"part": "batch", "way": way, **sizes(inputs), "peak_mib": round(peak), "wall_seconds": round(seconds, 1)}


def table(rows: list[dict]) -> str:
    """The Markdown of both parts."""
    speed = [row for row in rows if row["part"] == "speed"]
    batch = [row for row in rows if row["part"] == "batch"]
    columns = [
        "",
        "pairs",
        "regions",
        "words",
        "processor seconds (min-max)",
        "times faster",
        "peak MiB",
        "of the peak",
    ]
    lines = [
        [row["way"], row["batch_size"], row["regions"], row["words"]]
        + [f"{row['cpu_seconds']} ({row['cpu_seconds_min']}-{row['cpu_seconds_max']})", row.get("times_faster", "")]
        + [row["peak_mib"], row.get("share_of_peak", "")]
        for row in speed
    ]
    text = markdown_table(columns, lines)
    if speed:
        ours = speed[1]
        text += (
            f"\nRelative differences: loss {ours['loss_difference']}, gradient of regions "
            f"{ours['region_gradient_difference']}, of words {ours['word_gradient_difference']} (float32).\n"
        )
    columns = ["scores", "pairs", "regions", "words", "peak memory, MiB", "of it gradients", "wall seconds"]
    names = ("way", "batch_size", "regions", "words", "peak_mib", "gradient_mib", "wall_seconds")
    return text + "\n" + markdown_table(columns, [[row[name] for name in names] for row in batch])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gloria_local_loss", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=48, metavar="N", help="default: 48")
    parser.add_argument("--regions", type=int, default=361, metavar="N", help="default: 361")
    parser.add_argument("--dim", type=int, default=768, metavar="N", help="default: 768")
    parser.add_argument("--words", type=int, nargs=2, default=[30, 97], metavar=("LEAST", "MOST"))
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed turns (default: 3)")
    parser.add_argument("--batch-size-small", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--batch-size-large", type=int, default=512, metavar="N", help="default: 512")
    parser.add_argument(
        "--words-large", type=int, nargs=2, metavar=("LEAST", "MOST"), help="words in the large batch (default: same)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--parts", nargs="+", choices=["speed", "batch"], default=["speed", "batch"])
    parser.add_argument("--out", type=Path, default=OUT, metavar="CSV", help="default: beside this file")
    parser.add_argument("--document", type=Path, default=DOCUMENT, metavar="MD", help="where the table is replaced")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    if set(args.parts) != {"speed", "batch"} and args.out.is_file():  # the other part stays as it was measured
        with open(args.out, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["part"] not in args.parts]
    # Memory first: see `peak_mib`.
    if "batch" in args.parts:
        sizes_of = args.regions, tuple(args.words), args.words[1], args.dim, args.seed
        small = features(args.batch_size_small, *sizes_of)
        kept, again = (partial(gloria_local_loss, kept_scores=scores) for scores in (sys.maxsize, 0))
        rows.append({**one_batch("reference", plain_local_loss, small), **machine_facts("torch")})
        rows.append({**one_batch("kept", kept, small), **machine_facts("torch")})
        del small
        sizes_of = args.regions, tuple(args.words_large or args.words), *sizes_of[2:]
        large = features(args.batch_size_large, *sizes_of)
        rows.append({**one_batch("computed again", again, large), **machine_facts("torch")})
    if "speed" in args.parts:
        inputs = features(args.batch_size, args.regions, tuple(args.words), args.words[1], args.dim, args.seed)
        rows += [{**row, **machine_facts("torch")} for row in compare(inputs, args.repeats)]
    rows.sort(key=lambda row: row["part"], reverse=True)
    write_csv(args.out, rows)
    text = table(rows)
    replace_table(args.document, "gloria_local_loss", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
