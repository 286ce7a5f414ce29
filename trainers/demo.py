"""`medsyn demo`: reports, images, an encoder and what it is worth, in ten minutes and without a download."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from medsyn import cli
from medsyn.errors import UserError, add_debug_option, command

BACKBONE = "random:resnet18"
SPLITS = (0.65, 0.1, 0.25)
# Chosen on images that the demo does not test on: whole impressions, and small batches for more steps from few pairs.
# The epoch with the lowest validation loss is kept.
PRETRAINING = ("--learning_rate", 1e-3, "--text_columns", "prompt", "--text_sampling", "full")
PRETRAINING += ("--save_strategy", "epoch", "--load_best_model_at_end", "true", "--metric_for_best_model", "eval_loss")
LOG = "demo.log"
CONTENTS = {
    "results.md, .csv": "the table, and its numbers a row each",
    "samples.png": "images with their reports and the masks of what the reports say",
    "training_curve.png": "the contrastive loss",
    "encoder/": "the model with its card: AutoModel.from_pretrained after `import hub_medsyn`",
    "medsyn-cxr/": "the dataset: datasets.load_dataset",
    LOG: "the commands with their full output",
}
PROBE = "Linear probe"
PROBE_HEADING = f"\n## {PROBE}\n"  # in the card: the last thing that a demo writes


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="medsyn demo",
        description="Writes reports, renders a phantom radiograph for each, pre-trains a small ConVIRT on them from "
        "scratch and measures its image encoder on phantoms it has not seen, beside the same network untrained.",
    )
    add = arguments.add_argument
    add("--out", default="demo-results", type=Path, help="output folder; an interrupted demo resumes there "
        "(default: %(default)s)")  # fmt: skip
    add("--num-samples", type=int, default=600, help="reports and images (default: %(default)s)")
    add("--image-size", type=int, default=160, help="pixels a side of the images (default: %(default)s)")
    add("--train-size", type=int, default=96, help="pixels a side that the encoder sees (default: %(default)s)")
    add("--epochs", type=int, default=25, help="of pre-training (default: %(default)s)")
    add("--batch-size", type=int, default=16, help="pairs a training step (default: %(default)s)")
    add("--num-proc", type=int, default=2, help="rendering processes (default: %(default)s)")
    add("--seed", type=int, default=0, help="of reports, images, training and probe (default: %(default)s)")
    add_debug_option(arguments)
    return arguments


@command("medsyn demo", interrupted="run the same command again to continue")
def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn demo` and returns its exit code: 0 done, 1 failed."""
    args = parser().parse_args(argv)
    card = args.out / "encoder" / "README.md"
    if (args.out / "results.md").exists() and card.is_file() and PROBE_HEADING in card.read_text(encoding="utf-8"):
        raise UserError(f"{args.out} holds results already; remove it or choose another --out")
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    if code := run(args):
        print(f"see {args.out / LOG}", file=sys.stderr)
        return code
    print(f"\n{(args.out / 'results.md').read_text(encoding='utf-8').strip()}\n")
    print(f"Done in {(time.perf_counter() - start) / 60:.1f} minutes. In {args.out}:")
    for name, what in CONTENTS.items():
        print(f"  {name:<22}{what}")
    print("Next: `medsyn space` (or `make space`) opens a page to look at images and encoders in a browser.")
    return 0


def step(number: int, title: str, arguments: list, log: Path) -> int:
    """Prints one line for a step, runs its command in this process with its output in `log`; returns its exit code."""
    arguments = [str(argument) for argument in arguments]
    print(f"[{number}/4] {title}", flush=True)
    start = time.perf_counter()
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        print(f"\n$ medsyn {shlex.join(arguments)}", flush=True)
        code = cli.main(arguments)
        print(f"({time.perf_counter() - start:.0f} s)")
    return code


def run(args: argparse.Namespace) -> int:
    """Runs the steps of the demo in order, in one process; returns the first exit code that is not 0."""
    dataset, encoder, log = args.out / "medsyn-cxr", args.out / "encoder", args.out / LOG

    settings = ["build", "--num-samples", args.num_samples, "--image-size", args.image_size]
    settings += ["--num-proc", args.num_proc, "--splits", *SPLITS, "--seed", args.seed, "--out", dataset]
    title = f"Write {args.num_samples} reports and render a phantom for each (about five minutes)"
    if code := step(1, title, settings, log):
        return code

    print("[2/4] Draw some of the pairs with their masks (seconds)", flush=True)
    draw_samples(str(dataset), args.out / "samples.png")

    if not (encoder / "README.md").is_file():  # the last thing that a finished training writes
        (encoder / "config.json").unlink(missing_ok=True)  # of a training stopped before its card: it would be refused
        settings = ["pretrain", "--model", "convirt", "--dataset", dataset, "--output_dir", encoder]
        settings += ["--image_encoder", BACKBONE, "--text_encoder", "scratch", "--image_size", args.train_size]
        settings += ["--num_train_epochs", args.epochs, "--per_device_train_batch_size", args.batch_size]
        settings += ["--per_device_eval_batch_size", args.batch_size, "--seed", args.seed, *PRETRAINING]
        if any(encoder.glob("checkpoint-*/batches.json")):  # interrupted before
            settings += ["--resume_from_checkpoint", "last"]
        with without_bars_of_files():
            title = "Pre-train a ResNet-18 and a small BERT from random weights (about three minutes)"
            if code := step(3, title, settings, log):
                return code
        for checkpoint in encoder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    shutil.copy(encoder / "training_curve.png", args.out)

    # At 1 %, five images, most labels could not be learnt and would be left out of the table.
    settings = [
        "probe",
        "--budget",
        "10",
        "100",
        "--encoder",
        f"pre-trained={encoder}",
        "--encoder",
        f"random=random:{encoder}",
    ]
    settings += ["--dataset", dataset, "--seed", args.seed, "--out", args.out, "--cache", args.out / ".features"]
    if code := step(4, "Fit a linear probe on the held-out phantoms (under a minute)", settings, log):
        return code
    add_metrics_to_card(encoder / "README.md", args.out / "results.json")
    return 0


@contextlib.contextmanager
def without_bars_of_files() -> Iterator[None]:
    """Silences the bars of transformers that count the files of each checkpoint; one bar at a time is left."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def draw_samples(dataset: str, path: Path, columns: int = 4) -> None:
    """Draws test images with their impressions, beside themselves with the masks of their findings, as a PNG."""
    import textwrap

    import datasets
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    from hub_medsyn.cards.overlay import draw_outlines

    images = datasets.load_dataset(dataset, split="test")
    kinds = [
        sorted({mask["finding"] for mask in row["finding_masks"]}) for row in images.select_columns("finding_masks")
    ]
    order = sorted(range(len(images)), key=lambda row: (len(kinds[row]) == 0, row))  # those with findings first
    chosen = order[: 2 * columns]
    figure, axes = pyplot.subplots(4, columns, figsize=(3.2 * columns, 15), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for place, row in enumerate(chosen):
        image = images[row]
        plain, marked = axes[place // columns * 2, place % columns], axes[place // columns * 2 + 1, place % columns]
        pixels = np.asarray(image["image"].convert("L"))
        masks = [(mask["finding"], np.asarray(mask["mask"]) > 0) for mask in image["finding_masks"]]
        outlined, colours = draw_outlines(pixels, masks)
        plain.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        marked.imshow(outlined)
        plain.set_title("\n".join(textwrap.wrap(image["impression"], 38)[:5]), fontsize=8, loc="left")
        shades = [Patch(color=np.divide(colour, 255), label=name) for name, colour in colours.items()]
        marked.legend(handles=shades, fontsize=7, loc="lower left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def add_metrics_to_card(card_path: Path, results_path: Path) -> None:
    """Writes the probe's numbers into the model card, as `model-index` and table, in the place of earlier ones."""
    import json
    import os

    from huggingface_hub import EvalResult, ModelCard

    results = json.loads(results_path.read_text(encoding="utf-8"))
    rows = [row for row in results["rows"] if row["metric"] == "macro_auroc" and row["seed"] == "mean"]
    ours = [row for row in rows if row["encoder"] == rows[0]["encoder"]]
    card = ModelCard.load(card_path)
    others = [result for result in card.data.eval_results or [] if result.task_name != PROBE]
    card.data.eval_results = others + [
        EvalResult(
            task_type="image-classification",
            task_name=PROBE,
            dataset_type=row["dataset"],
            dataset_name=f"{row['dataset']} (phantom)",
            dataset_split="test",
            metric_type="roc_auc",
            metric_name=f"macro AUROC at {row['budget']:g} % of the labels "
            f"(95 % interval {row['ci_low']:.3f} to {row['ci_high']:.3f}, n {row['n']})",
            metric_value=round(row["value"], 4),
        )
        for row in ours
    ]
    table = results_path.with_suffix(".md").read_text(encoding="utf-8")
    card.text = f"{card.text.split(PROBE_HEADING)[0]}{PROBE_HEADING}\nOn phantoms, not on patients.\n\n{table}"
    partial = card_path.with_name(".README.md.partial")
    card.save(partial)
    os.replace(partial, card_path)


if __name__ == "__main__":
    sys.exit(main())
