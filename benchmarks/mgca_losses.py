"""MGCA's token and prototype losses beside a plain reference: time, peak memory and equality.

The reference follows the published formulation: two cross-entropies over an own matrix of logits a pair, in the order
of queries and of contexts, weights clipped pair by pair, padding among the negatives, and Sinkhorn's scalings of the
transposed codes. Both work on the same random features. The token loss is that of both directions. Forward and
backward, float32, one thread. `cpu_seconds` are processor seconds of a step, the median of `--repeats` in turns;
`peak_mib` is what a fresh process holds above inputs, at most, gradients of the inputs included.

    python -m benchmarks.mgca_losses
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import DOCUMENT, machine_facts, markdown_table, replace_table, write_csv
from benchmarks.side_by_side import median_and_range, peak_mib, processor_seconds
from hub_medsyn.loss_mgca import clip_weights, prototype_alignment, token_alignment

OUT = Path(__file__).with_suffix(".csv")
TOKEN_TEMPERATURE, PROTOTYPE_TEMPERATURE, EPSILON, ITERATIONS = 0.1, 0.2, 0.05, 3


def features(batch: int, patches: int, words: int, dim: int, prototypes: int, seed: int) -> dict[str, Tensor]:
    """Words and patches of unit length, `(batch, items, dim)`, the words' mask and weights, and prototype cosines."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1)

    counts = torch.randint(words // 4, words + 1, (batch,), generator=generator)
    mask = torch.arange(words) < counts[:, None]
    centres = unit(prototypes, dim)
    return {
        "words": unit(batch, words, dim) * mask[..., None],
        "patches": unit(batch, patches, dim),
        "mask": mask,
        "attention": torch.rand(batch, words, generator=generator) * mask,
        "image_scores": unit(batch, dim) @ centres.T,
        "text_scores": unit(batch, dim) @ centres.T,
    }


def plain_token_loss(words: Tensor, patches: Tensor, mask: Tensor, attention: Tensor) -> Tensor:
    """Word to patch and patch to word, as published for a ResNet: padding stays among the negatives."""
    weights = torch.zeros_like(attention)
    for row, given in enumerate(attention):
        weighted = given != 0
        low, high = torch.quantile(given[weighted], 0.1), torch.quantile(given[weighted], 0.9)
        weights[row, weighted] = given[weighted].clamp(low, high)
    weights = weights / weights.sum(1, keepdim=True)

    def one_direction(queries, keys, weights, key_mask):
        scores = torch.bmm(queries, keys.permute(0, 2, 1)) / TOKEN_TEMPERATURE  # (batch, queries, keys)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None].repeat(1, queries.shape[1], 1), float("-inf"))
        context = F.normalize(torch.bmm(scores.softmax(-1), keys), dim=-1)  # (batch, queries, dim)
        logits = torch.bmm(queries, context.permute(0, 2, 1)) / TOKEN_TEMPERATURE  # (batch, queries, queries)
        batch, number, _ = logits.shape
        targets = torch.arange(number).repeat(batch)
        losses = []
        for order in (logits, logits.permute(0, 2, 1)):
            losses.append(F.cross_entropy(order.reshape(batch * number, number), targets, reduction="none"))
        return sum((loss.view(batch, number) * weights).sum() / batch for loss in losses) / 2

    uniform = torch.full(patches.shape[:2], 1 / patches.shape[1])
    return one_direction(words, patches, weights, None) + one_direction(patches, words, uniform, mask)


def token_loss(words: Tensor, patches: Tensor, mask: Tensor, attention: Tensor) -> Tensor:
    """The same by this package."""
    uniform = torch.ones(patches.shape[:2])
    return token_alignment(
        words, patches, clip_weights(attention), mask, None, TOKEN_TEMPERATURE, pad_negatives=True
    ) + token_alignment(patches, words, clip_weights(uniform), None, mask, TOKEN_TEMPERATURE)


def plain_prototype_loss(image_scores: Tensor, text_scores: Tensor) -> Tensor:
    """Swapped prediction of balanced codes, as published."""

    def codes(scores):
        with torch.no_grad():
            codes = torch.exp(scores / EPSILON).t()  # (prototypes, batch)
            codes /= codes.sum()
            for _ in range(ITERATIONS):
                codes /= codes.sum(1, keepdim=True)
                codes /= len(codes)
                codes /= codes.sum(0, keepdim=True)
                codes /= codes.shape[1]
            return (codes * codes.shape[1]).t()

    losses = []
    for target, prediction in ((image_scores, text_scores), (text_scores, image_scores)):
        log_share = F.log_softmax(prediction / PROTOTYPE_TEMPERATURE, dim=1)
        losses.append(-(codes(target.detach()) * log_share).sum(1).mean())
    return sum(losses) / 2


def prototype_loss(image_scores: Tensor, text_scores: Tensor) -> Tensor:
    """The same by this package."""
    return prototype_alignment(image_scores, text_scores, PROTOTYPE_TEMPERATURE, EPSILON, ITERATIONS)


def step(loss_function, first: Tensor, second: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and the gradients of the first two inputs."""
    first, second = (values.detach().requires_grad_() for values in (first, second))
    loss = loss_function(first, second, *others)
    loss.backward()
    return loss.detach(), first.grad, second.grad


def compare(parts: dict[str, tuple], repeats: int) -> list[dict]:
    """Two rows a part, of the reference and of the package; `parts` has both functions and the inputs of each."""
    steps = {
        name: {"reference": partial(step, reference, *inputs), "medsyn": partial(step, ours, *inputs)}
        for name, (reference, ours, inputs) in parts.items()
    }
    # Memory before all else: see `peak_mib`.
    peaks = {name: {way: peak_mib(function) for way, function in ways.items()} for name, ways in steps.items()}
    rows = []
    for name, ways in steps.items():
        differences = [
            ((values - expected).norm() / expected.norm()).item()
            for values, expected in zip(ways["medsyn"](), ways["reference"](), strict=True)
        ]
        seconds = {way: median_and_range(values) for way, values in processor_seconds(ways, repeats).items()}
        both = [
            {"part": name, "way": way, "repeats": repeats, **seconds[way], "peak_mib": round(peaks[name][way], 1)}
            for way in ways
        ]
        both[1] |= {
            "times_faster": round(both[0]["cpu_seconds"] / both[1]["cpu_seconds"], 2),
            "share_of_peak": round(both[1]["peak_mib"] / both[0]["peak_mib"], 2),
            "loss_difference": f"{differences[0]:.1e}",
            "gradient_difference": f"{max(differences[1:]):.1e}",
        }
        rows += both
    return rows


def table(rows: list[dict]) -> str:
    columns = ["loss", "", "processor seconds (min-max)", "times faster", "peak MiB", "of the peak"]
    columns += ["difference of the loss", "of gradients"]
    lines = [
        [row["part"], row["way"]]
        + [f"{row['cpu_seconds']} ({row['cpu_seconds_min']}-{row['cpu_seconds_max']})", row.get("times_faster", "")]
        + [row["peak_mib"]]
        + [row.get(name, "") for name in ("share_of_peak", "loss_difference", "gradient_difference")]
        for row in rows
    ]
    return markdown_table(columns, lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="mgca_losses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=72, metavar="N", help="default: 72")
    parser.add_argument("--patches", type=int, nargs="+", default=[361, 196], metavar="N", help="default: 361 196")
    parser.add_argument("--words", type=int, default=111, metavar="N", help="places for words (default: 111)")
    parser.add_argument("--dim", type=int, default=128, metavar="N", help="default: 128")
    parser.add_argument("--prototypes", type=int, default=500, metavar="N", help="default: 500")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="timed turns (default: 7)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, default=OUT, metavar="CSV", help="default: beside this file")
    parser.add_argument("--document", type=Path, default=DOCUMENT, metavar="MD", help="where the table is replaced")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    parts = {}
    for patches in args.patches:
        batch = features(args.batch_size, patches, args.words, args.dim, args.prototypes, args.seed)
        inputs = [batch[name] for name in ("words", "patches", "mask", "attention")]
        parts[f"tokens, {patches} patches, {args.words} words"] = plain_token_loss, token_loss, inputs
    inputs = [batch[name] for name in ("image_scores", "text_scores")]
    parts[f"prototypes, {args.prototypes}"] = plain_prototype_loss, prototype_loss, inputs
    rows = compare(parts, args.repeats)
    rows = [{"batch_size": args.batch_size, "dim": args.dim, **row, **machine_facts("torch")} for row in rows]
    write_csv(args.out, rows)
    text = table(rows)
    replace_table(args.document, "mgca_losses", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
