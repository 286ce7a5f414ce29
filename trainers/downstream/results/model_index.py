"""Results as `model-index` entries and as a table of a model card."""

from __future__ import annotations

import math
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from medsyn.errors import UserError
from trainers.downstream.results.rows import MAIN_METRICS

RESULTS = re.compile(
    r"^## Results\n\n<!-- results: [^\n]*-->\n.*?^<!-- end of results -->\n", re.MULTILINE | re.DOTALL
)


def eval_results(rows: list[dict], encoder: str) -> list[EvalResult]:
    """Returns the main metrics of one encoder, the mean over seeds of each data set and budget.

    The metric's arguments hold the budget, the interval and the numbers of images; the hash of the split is the data
    set's revision.

    Args:
        rows (`list[dict]`): From [`~trainers.downstream.results.rows.measured_rows`].
        encoder (`str`): The encoder's name in `rows`.

    Returns:
        `list[EvalResult]`

    Raises:
        UserError: The rows have no results for that encoder.
    """
    found = []
    for row in rows:
        if row["encoder"] != encoder or str(row["seed"]) != "mean" or row["metric"] not in MAIN_METRICS:
            continue
        if math.isnan(row["value"]):
            continue  # no sample of this budget could teach a label
        title, task = MAIN_METRICS[row["metric"]]
        arguments = {"percent_of_training_patients": float(row["budget"]), "encoder_weights": row["weights"]}
        arguments |= {"test_images": int(row["n"]), "training_images": int(row["n_train"])}
        if row.get("ci_low") is not None and not math.isnan(row["ci_low"]):
            arguments["confidence_interval_95"] = [float(row["ci_low"]), float(row["ci_high"])]
        found.append(
            EvalResult(
                task_type=task,
                task_name=f"frozen encoder, {row['task']}",
                dataset_type=row["dataset"],
                dataset_name=row["dataset"],
                dataset_split="test",
                dataset_revision=row["split_hash"],
                metric_type=row["metric"],
                metric_name=f"{title}, {row['budget']:g} % of the labels",
                metric_value=float(row["value"]),
                metric_args=arguments,
            )
        )
    if not found:
        known = ", ".join(dict.fromkeys(row["encoder"] for row in rows))
        raise UserError(f"no results for encoder {encoder!r}; there are results for {known}")
    return found


def add_to_card(path: str | Path, results: list[EvalResult]) -> None:
    """Adds results to the `model-index` of a card and rewrites its results table, which stands before the limits.

    Earlier results for the same data set, metric and budget are replaced.

    Args:
        path (`str` or `Path`): A README.md.
        results (`list[EvalResult]`): From [`eval_results`].

    Raises:
        FileNotFoundError: The card does not exist.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model card {path}")
    card = ModelCard.load(path)
    new = {_what(result) for result in results}
    kept = [result for result in card.data.eval_results or [] if _what(result) not in new]
    card.data.eval_results = [*kept, *results]
    if card.data.model_name is None:
        card.data.model_name = Path(path).resolve().parent.name
    before, limits, after = RESULTS.sub("", card.text).partition("\n## Limits\n")
    card.text = f"{before.rstrip()}\n\n{results_section(card.data.eval_results)}{limits}{after}"
    card.save(path)


def results_section(results: list[EvalResult]) -> str:
    """Renders the section of a card that shows its `model-index`."""
    rows = []
    for result in results:
        arguments = result.metric_args or {}
        low, high = arguments.get("confidence_interval_95", (None, None))
        cells = (
            f"{result.dataset_name}, {result.dataset_split}" if result.dataset_split else result.dataset_name,
            result.task_name or result.task_type,
            result.metric_name or result.metric_type,
            f"{result.metric_value:.3f}" if isinstance(result.metric_value, float) else str(result.metric_value),
            "" if low is None else f"{low:.3f} to {high:.3f}",
            f"{arguments['test_images']:,}" if "test_images" in arguments else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    lines = [
        "## Results",
        "",
        "<!-- results: made anew from the metadata whenever results are added -->",
        "| data | task | metric | value | 95 % interval | test images |",
        "|---|---|---|---:|---|---:|",
        *rows,
        "<!-- end of results -->",
    ]
    return "\n".join(lines) + "\n"


def _what(result: EvalResult) -> tuple:
    return (*result.unique_identifier, result.metric_type, result.metric_name)
