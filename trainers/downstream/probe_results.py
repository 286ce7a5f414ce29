"""What a probe leaves: tidy rows of numbers, and the table that a person reads."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hub_medsyn.metrics.macro_auroc import bootstrap_macro_auroc, confidence_interval, macro_auroc
from trainers.downstream.labelled_images import LabelledImages

COLUMNS = ("task", "dataset", "split_hash", "encoder", "weights", "budget", "seed", "metric", "value", "ci_low")
COLUMNS += ("ci_high", "n", "n_train", "penalty")


@dataclass(frozen=True)
class ProbeRun:
    """One fit of one encoder's head.

    Args:
        encoder (`str`): The encoder's name.
        weights (`str`): The first digits of its weights' hash.
        budget (`float`): Percent of the training patients.
        seed (`int`): Of the draw of those.
        scores (`np.ndarray` of shape `(test images, labels)`): What the head says of the test split.
        n_train (`int`): Training images seen.
        penalty (`float`): The `C` chosen.
        constant (`tuple[str, ...]`): Labels that the training images gave no head.
    """

    encoder: str
    weights: str
    budget: float
    seed: int
    scores: np.ndarray
    n_train: int
    penalty: float
    constant: tuple[str, ...]


def result_rows(images: LabelledImages, runs: list[ProbeRun], resamples: int = 1000, seed: int = 0) -> list[dict]:
    """One row a number; `resamples` and `seed` are the bootstrap's.

    - `macro_auroc`, a run each (`seed` is a number): the interval is a bootstrap over test patients.
    - `auroc:<label>`, a run each, without interval.
    - `macro_auroc` of `seed` `mean`: the mean over seeds; each bootstrap resample of the test patients averages the
      seeds. `macro_auroc_spread` beside it: the standard deviation over seeds (absent for one seed).
    - `macro_auroc_difference`: the first encoder less the named one, both averaged over seeds, on the same test images
      and the same resamples (a paired comparison).
    """
    test = images.rows("test")
    targets, patients = images.targets[test], images.patients[test]
    common = {"task": "classification", "dataset": images.name, "split_hash": images.split_hash(), "n": len(test)}
    rows, means, samples = [], {}, {}
    groups: dict[tuple[float, str], list[ProbeRun]] = {}
    for run in runs:
        groups.setdefault((run.budget, run.encoder), []).append(run)
    for (budget, encoder), members in groups.items():
        base = common | {"encoder": encoder, "weights": members[0].weights, "budget": budget}
        values = []
        for run in members:
            row = base | {"seed": run.seed, "n_train": run.n_train, "penalty": run.penalty}
            result = macro_auroc(targets, run.scores, images.labels)
            low, high = confidence_interval(bootstrap_macro_auroc(targets, run.scores, patients, resamples, seed))
            rows.append(row | {"metric": "macro_auroc", "value": result.value, "ci_low": low, "ci_high": high})
            rows += [row | {"metric": f"auroc:{label}", "value": area} for label, area in result.per_label.items()]
            values.append(result.value)
        pooled = bootstrap_macro_auroc(targets, [run.scores for run in members], patients, resamples, seed)
        low, high = confidence_interval(pooled)
        means[budget, encoder], samples[budget, encoder] = float(np.mean(values)), pooled
        row = base | {"seed": "mean", "n_train": round(float(np.mean([run.n_train for run in members])))}
        rows.append(row | {"metric": "macro_auroc", "value": means[budget, encoder], "ci_low": low, "ci_high": high})
        if len(values) > 1:
            rows.append(row | {"metric": "macro_auroc_spread", "value": float(np.std(values, ddof=1))})
    first = runs[0].encoder
    for (budget, encoder), members in groups.items():
        if encoder == first:
            continue
        low, high = confidence_interval(samples[budget, first] - samples[budget, encoder])
        row = common | {"encoder": encoder, "weights": members[0].weights, "budget": budget, "seed": "mean"}
        value = means[budget, first] - means[budget, encoder]
        rows.append(row | {"metric": "macro_auroc_difference", "value": value, "ci_low": low, "ci_high": high})
    return rows


def results_table(rows: list[dict]) -> str:
    """The rows of one dataset as a Markdown table: an encoder a line, a budget a column."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    encoders, budgets = list(table["encoder"].unique()), sorted(table["budget"].unique())
    mean = table[table["seed"] == "mean"].set_index(["metric", "encoder", "budget"])
    seeds = table[(table["metric"] == "macro_auroc") & (table["seed"] != "mean")]
    images = seeds.groupby("budget")["n_train"].mean().round().astype(int)
    head = ["encoder", *(f"{budget:g} % ({images[budget]} images)" for budget in budgets)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for encoder in encoders:
        cells = []
        for budget in budgets:
            row = mean.loc["macro_auroc", encoder, budget]
            spread = mean["value"].get(("macro_auroc_spread", encoder, budget))
            cells.append(
                f"{_short(row['value'])} [{_short(row['ci_low'])}, {_short(row['ci_high'])}]"
                + (f" ± {_short(spread)}" if spread is not None else "")
            )
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    for encoder in encoders[1:]:
        cells = []
        for budget in budgets:
            row = mean.loc["macro_auroc_difference", encoder, budget]
            cells.append(f"{_short(row['value'], '+')} [{_short(row['ci_low'], '+')}, {_short(row['ci_high'], '+')}]")
        lines.append(f"| *{encoders[0]} less {encoder}* | {' | '.join(cells)} |")
    labels = [metric.removeprefix("auroc:") for metric in table["metric"].unique() if metric.startswith("auroc:")]
    lines += [
        "",
        f"Macro AUROC over {len(labels)} labels ({', '.join(labels)}) on the {table['n'].iloc[0]} test images of "
        f"{table['dataset'].iloc[0]} (split {table['split_hash'].iloc[0]}); the mean of {seeds['seed'].nunique()} "
        "draws of the training patients, ± their standard deviation, and in brackets the 95 % bootstrap interval over "
        "test patients of that mean. At 100 % there is nothing to draw. Differences are paired on equal test images.",
    ]
    return "\n".join(lines)


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def write_results(folder: str | Path, rows: list[dict], table: str, settings: dict) -> None:
    """Writes `results.csv`, `results.md` and `results.json` (rows and settings) into `folder`, each whole or not."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    contents = {
        "results.csv": frame.to_csv(index=False, float_format="%.6g"),
        "results.md": table + "\n",
        "results.json": json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n",
    }
    for name, text in contents.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
