"""Results of any task as tidy rows, with bootstrap intervals by patient and paired comparisons of encoders."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from hub_medsyn.metrics.macro_auroc import confidence_interval
from trainers.downstream.images.image_set import ImageSet

COLUMNS = ("task", "dataset", "split_hash", "encoder", "weights", "budget", "seed", "metric", "value", "ci_low")
COLUMNS += ("ci_high", "n", "n_train", "penalty", "reference", "p_value")
# Main metrics: title in tables, and name of the task in a model card.
MAIN_METRICS = {
    "macro_auroc": ("Macro AUROC", "image-classification"),
    "accuracy": ("Accuracy", "image-classification"),
    "dice_per_image": ("Dice per image", "image-segmentation"),
    "map_40_75": ("mAP at IoU .40 to .75", "object-detection"),
}


@dataclass(frozen=True)
class MeasuredRun:
    """The test metrics of one head, trained on one label-budget sample.

    Args:
        encoder (`str`): The encoder's name.
        weights (`str`): The first digits of its weights' hash.
        budget (`float`): Percent of the training patients.
        seed (`int`): Seed of the sample of training patients.
        n_train (`int`): Number of training images.
        metrics (`dict[str, float]`): Metrics that are averaged over seeds and compared between encoders.
        samples (`dict[str, np.ndarray]`): Values `(resamples,)` of the metrics under the bootstrap resamples of
            [`~hub_medsyn.metrics.macro_auroc.patient_draws`], which are equal for all runs; a metric without samples
            has no interval.
        details (`dict[str, float]`): Metrics that are reported for this run only.
        penalty (`float`, *optional*): The `C` of a logistic head.
        unlearnt (`tuple[str, ...]`): The labels that no mean has since the sample could not teach them.
    """

    encoder: str
    weights: str
    budget: float
    seed: int
    n_train: int
    metrics: dict[str, float]
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    penalty: float | None = None
    unlearnt: tuple[str, ...] = ()


def measured_rows(images: ImageSet, task: str, runs: list[MeasuredRun]) -> list[dict]:
    """Returns one row per number.

    - `<metric>` per run (`seed` is a number), with a bootstrap interval over test patients.
    - The run's details, without interval.
    - `<metric>` with `seed` `mean`: the mean over seeds; each resample of the test patients averages the seeds.
      `<metric>_spread`: the standard deviation over seeds (absent for one seed).
    - `left_out:<label>` with `seed` `mean`: the number of samples of the budget that could not teach the label.
    - `<metric>_difference`: the `reference` of [`compared_with`] minus the encoder, both averaged over seeds, on the
      same test images and the same resamples (a paired comparison), with its two-sided p-value.
    """
    common = {"task": task, "dataset": images.name, "split_hash": images.split_hash(), "n": images.counts()["test"]}
    rows, means, samples = [], {}, {}
    groups: dict[tuple[float, str], list[MeasuredRun]] = {}
    for run in runs:
        groups.setdefault((run.budget, run.encoder), []).append(run)
    for group, members in groups.items():
        base = common | {"encoder": members[0].encoder, "weights": members[0].weights, "budget": members[0].budget}
        for run in members:
            row = base | {"seed": run.seed, "n_train": run.n_train, "penalty": run.penalty}
            for metric, value in run.metrics.items():
                rows.append(row | {"metric": metric, "value": value} | _interval(run.samples.get(metric)))
            rows += [row | {"metric": metric, "value": value} for metric, value in run.details.items()]
        row = base | {"seed": "mean", "n_train": round(float(np.mean([run.n_train for run in members])))}
        for metric in members[0].metrics:
            values = [run.metrics[metric] for run in members if not np.isnan(run.metrics[metric])]
            drawn = [run.samples[metric] for run in members if metric in run.samples]
            samples[group, metric] = np.mean(drawn, axis=0) if drawn and len(drawn) == len(values) else None
            means[group, metric] = float(np.mean(values)) if values else float("nan")
            interval = _interval(samples[group, metric])
            rows.append(row | {"metric": metric, "value": means[group, metric]} | interval)
            if len(values) > 1:
                rows.append(row | {"metric": f"{metric}_spread", "value": float(np.std(values, ddof=1))})
        unlearnt = Counter(label for run in members for label in run.unlearnt)
        rows += [row | {"metric": f"left_out:{label}", "value": float(count)} for label, count in unlearnt.items()]
    encoders = list(dict.fromkeys(run.encoder for run in runs))
    for (budget, encoder), members in groups.items():
        reference = compared_with(encoder, encoders)
        if reference is None:
            continue
        first = (budget, reference)
        row = common | {"encoder": encoder, "weights": members[0].weights, "budget": budget, "seed": "mean"}
        row |= {"reference": reference}
        for metric in members[0].metrics:
            row |= {"metric": f"{metric}_difference"}
            row |= {"value": means[first, metric] - means[(budget, encoder), metric]}
            if samples[first, metric] is None or samples[(budget, encoder), metric] is None:
                rows.append(row.copy())
                continue
            difference = samples[first, metric] - samples[(budget, encoder), metric]
            rows.append(row | _interval(difference) | {"p_value": paired_p_value(difference)})
    return rows


def compared_with(encoder: str, encoders: list[str]) -> str | None:
    """Returns which of `encoders` an encoder is compared with: `GLoRIA(SD)`, as the paper names it, with `GLoRIA` if
    present, any other with the first one, and the first one with none (`None`)."""
    plain = encoder.partition("(")[0].rstrip()
    if plain != encoder and plain in encoders:
        return plain
    return None if encoder == encoders[0] else encoders[0]


def _interval(samples: np.ndarray | None) -> dict[str, float]:
    if samples is None or np.isnan(samples).all():
        return {}
    return dict(zip(("ci_low", "ci_high"), confidence_interval(samples), strict=True))


def paired_p_value(differences: np.ndarray) -> float:
    """Returns the two-sided p-value of no difference, from bootstrap resamples of a difference, `(resamples,)`.

    Twice the smaller share of resamples on either side of 0, with one resample added to each count, so that it is at
    least `2 / (resamples + 1)` and at most 1. Resamples without a value (NaN) are ignored.
    """
    known = differences[~np.isnan(differences)]
    smaller = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (smaller + 1) / (len(known) + 1)))


def weighted_means(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Computes the mean over test images in each resample.

    Args:
        values (`np.ndarray` of shape `(n,)`): The values of the test images.
        draws (`np.ndarray` of shape `(resamples, n)`): How often each resample contains each image.

    Returns:
        `np.ndarray` of shape `(resamples,)`.
    """
    return draws @ np.asarray(values, dtype=np.float64) / draws.sum(axis=1)


def results_frame(rows: list[dict]) -> pd.DataFrame:
    """Returns the rows as a table of `COLUMNS`; seeds are text because `mean` is one of them."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"seed": str})


def results_table(rows: list[dict], metric: str | None = None) -> str:
    """Renders the rows of one dataset as a Markdown table of `metric`, by default the first: one line per encoder, one
    column per budget."""
    table = results_frame(rows)
    metric = metric or table["metric"].iloc[0]
    encoders, budgets = list(table["encoder"].unique()), sorted(table["budget"].unique())
    left_out = left_out_labels(table) if metric == "macro_auroc" else []
    mean = table[table["seed"] == "mean"].set_index(["metric", "encoder", "budget"])
    seeds = table[(table["metric"] == metric) & (table["seed"] != "mean")]
    images = seeds.groupby("budget")["n_train"].mean().round().astype(int)
    head = ["encoder", *(f"{budget:g} % ({images[budget]} images)" for budget in budgets)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for encoder in encoders:
        cells = []
        for budget in budgets:
            row = mean.loc[metric, encoder, budget]
            spread = mean["value"].get((f"{metric}_spread", encoder, budget))
            mark = "†" if any((f"left_out:{label}", encoder, budget) in mean.index for label in left_out) else ""
            cells.append(f"{with_interval(row)}{mark}" + (f" ± {short(spread)}" if spread is not None else ""))
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    for encoder in encoders:
        reference = compared_with(encoder, encoders)
        if reference is None:
            continue
        cells = []
        for budget in budgets:
            row = mean.loc[f"{metric}_difference", encoder, budget]
            cells.append(with_interval(row, "+"))
        lines.append(f"| *{reference} minus {encoder}* | {' | '.join(cells)} |")
    labels = [name.removeprefix("auroc:") for name in table["metric"].unique() if name.startswith("auroc:")]
    labels = [label for label in labels if label not in left_out]
    number = seeds.groupby("budget")["seed"].nunique()
    samples_per_budget = ", ".join(f"{number[budget]} at {budget:g} %" for budget in budgets)
    over = f" over {len(labels)} labels ({', '.join(labels)})" if metric == "macro_auroc" else ""
    lines += [
        "",
        f"{MAIN_METRICS[metric][0]}{over} on the {table['n'].iloc[0]} test images of "
        f"{table['dataset'].iloc[0]} (split {table['split_hash'].iloc[0]}); mean over seeds ({samples_per_budget}), "
        "± standard deviation over seeds, in brackets the 95 % bootstrap interval of the mean over test patients. "
        "A seed determines the training patients of a budget and the initial weights of a trained head. "
        "Differences are paired on the same test images."
        + (f" † A sample could not teach {', '.join(left_out)}: left out of every mean." if left_out else ""),
    ]
    return "\n".join(lines)


def left_out_labels(table: pd.DataFrame) -> list[str]:
    """Returns the labels that some sample of a data set could not teach and that no macro AUROC of it has."""
    return [name.removeprefix("left_out:") for name in table["metric"].unique() if name.startswith("left_out:")]


def with_interval(row: pd.Series | dict, sign: str = "") -> str:
    """Formats `value [ci_low, ci_high]`, without brackets where there is no interval, or `n/a` without a value."""
    if pd.isna(row["value"]):
        return "n/a"
    if pd.isna(row["ci_low"]):
        return short(row["value"], sign)
    return f"{short(row['value'], sign)} [{short(row['ci_low'], sign)}, {short(row['ci_high'], sign)}]"


def short(value: float, sign: str = "") -> str:
    """Formats a number of at most 1 with three decimals and no leading 0."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def write_results(folder: str | Path, rows: list[dict], table: str, settings: dict) -> None:
    """Writes `results.csv` (six digits), `results.parquet` (all digits), `results.md` and `results.json` (rows and
    settings) to `folder`, each atomically."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frame = results_frame(rows)
    contents = {
        "results.csv": frame.to_csv(index=False, float_format="%.6g").encode(),
        "results.parquet": frame.to_parquet(index=False),
        "results.md": f"{table}\n".encode(),
        "results.json": f"{json.dumps({'settings': settings, 'rows': rows}, indent=1)}\n".encode(),
    }
    for name, content in contents.items():
        partial = folder / f".{name}.partial"
        partial.write_bytes(content)
        os.replace(partial, folder / name)
