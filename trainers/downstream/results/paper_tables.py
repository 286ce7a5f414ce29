"""Results of several runs in the layout of the paper's Tables 1 to 3: one row per encoder, one column per data set and
budget, each data set with its own metric.

`python -m trainers.downstream.results.paper_tables results/* --out tables` reads the `results.parquet` of each folder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from medsyn.errors import UserError, command
from trainers.downstream.results.rows import left_out_labels

METRICS = {"macro_auroc": "AUC", "accuracy": "ACC", "dice_per_image": "Dice", "map_40_75": "mAP"}
CAPTION = "{task} in percent, a frozen encoder with {budgets} % of the training patients' labels; the mean over seeds."
ARROWS = (
    " Arrows: the change {changes}, from unrounded values; * where 0 is outside the 95 % interval of the paired "
    "bootstrap over test patients."
)


def cells(rows: pd.DataFrame, task: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Collects the numbers of one table: for each data set the first of its metrics that is in `METRICS`, which is
    accuracy for mutually exclusive classes.

    Args:
        rows (`pd.DataFrame`): Rows of one or more runs, in the columns of `results.parquet`.
        task (`str`): A task in `rows`.

    Returns:
        `tuple[pd.DataFrame, dict[str, str]]`: One row per encoder and columns `(dataset, metric, budget, part)`, where
        `part` is `value`, `change` (from the encoder's reference), `clear` (1 if the interval of the change excludes
        0) and `marked` (1 if a sample could not teach every label), unrounded; and the reference of each encoder that
        has one.

    Raises:
        UserError: A number appears twice, as when a folder is given twice; a data set has results on two splits; or
            an encoder is compared with two others.
    """
    mean = rows[(rows["seed"].astype(str) == "mean") & (rows["task"] == task)]
    found, references = {}, {}
    for dataset, group in mean.groupby("dataset", sort=False):
        if group["split_hash"].nunique() > 1:
            raise UserError(
                f"{dataset} has results on the splits {', '.join(group['split_hash'].unique())}: results on different "
                "test splits cannot share a column; make one table for each"
            )
        metric = next(name for name in group["metric"] if name in METRICS)
        unlearnt = group[group["metric"].str.startswith("left_out:")] if metric == "macro_auroc" else group[:0]
        marked = set(zip(unlearnt["encoder"], unlearnt["budget"].astype(float), strict=True))
        for row in group[group["metric"].isin([metric, f"{metric}_difference"])].to_dict("records"):
            part = "value" if row["metric"] == metric else "change"
            cell = found.setdefault((row["encoder"], (dataset, metric, float(row["budget"]))), {})
            if part in cell:
                raise UserError(
                    f"{metric} of {row['encoder']} on {dataset} at {row['budget']:g} % appears twice: give each run "
                    "once, and one run per data set"
                )
            cell[part] = row["value"] if part == "value" else -row["value"]  # stored as reference minus encoder
            cell["marked"] = float((row["encoder"], float(row["budget"])) in marked)
            if part == "change":
                cell["clear"] = float(row.get("ci_low", 0) > 0 or row.get("ci_high", 0) < 0)
                if references.setdefault(row["encoder"], row["reference"]) != row["reference"]:
                    raise UserError(
                        f"{row['encoder']} is compared with {references[row['encoder']]} in one run and with "
                        f"{row['reference']} in another: give every run the same first encoder"
                    )
    datasets = list(dict.fromkeys(dataset for _, (dataset, *_) in found))
    columns = sorted({column for _, column in found}, key=lambda column: (datasets.index(column[0]), column[2]))
    index = list(dict.fromkeys(encoder for encoder, _ in found))
    table = {
        (*column, part): [found.get((encoder, column), {}).get(part) for encoder in index]
        for column in columns
        for part in ("value", "change", "clear", "marked")
    }
    return pd.DataFrame(table, index=index, dtype=float), references


def _cell(row: pd.Series, column: tuple, arrows: tuple[str, str, str], missing: str, mark: str) -> str:
    value, change, clear, marked = (row[(*column, part)] for part in ("value", "change", "clear", "marked"))
    if pd.isna(value):
        return missing
    text = f"{100 * value:.1f}" + (mark if marked == 1 else "")
    if pd.isna(change):
        return text
    size = f"{abs(100 * change):.1f}"
    arrow = arrows[2] if size == "0.0" else arrows[int(change < 0)]
    return f"{text} {arrow}{size}" + ("*" if clear else "")


def markdown_table(rows: pd.DataFrame, task: str) -> str:
    """Renders the table of one task in Markdown, with the caption below."""
    table, references = cells(rows, task)
    columns = list(dict.fromkeys(column[:3] for column in table.columns))
    lines = [f"| encoder | {' | '.join(f'{name} ({METRICS[metric]}) {part:g} %' for name, metric, part in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for encoder, row in table.iterrows():
        lines.append(
            f"| {encoder} | {' | '.join(_cell(row, column, ('↑', '↓', '±'), '-', '†') for column in columns)} |"
        )
    return "\n".join([*lines, "", _caption(columns, references, task) + _left_out(rows, task)])


def latex_table(rows: pd.DataFrame, task: str) -> str:
    """Renders the table of one task in LaTeX, for `booktabs`; a data set's name spans its budgets."""
    table, references = cells(rows, task)
    columns = list(dict.fromkeys(column[:3] for column in table.columns))
    spans = Counter(f"{name} ({METRICS[metric]})" for name, metric, _ in columns)
    caption = _escaped(_caption(columns, references, task) + _left_out(rows, task)).replace("†", r"\dag")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        "".join(rf" & \multicolumn{{{span}}}{{c}}{{{_escaped(name)}}}" for name, span in spans.items()) + r" \\",
        "".join(rf" & {budget:g}\%" for *_, budget in columns) + r" \\",
        r"\midrule",
    ]
    arrows = (r"$\uparrow$", r"$\downarrow$", r"$\pm$")
    for encoder, row in table.iterrows():
        line = " & ".join(_cell(row, column, arrows, "--", r"\dag ") for column in columns)
        lines.append(rf"{_escaped(str(encoder))} & {line} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _caption(columns: list[tuple[str, str, float]], references: dict[str, str], task: str) -> str:
    budgets = ", ".join(f"{budget:g}" for budget in sorted({budget for *_, budget in columns}))
    caption = CAPTION.format(task=task.capitalize(), budgets=budgets)
    if not references:
        return caption
    compared = {}
    for encoder, reference in references.items():
        compared.setdefault(reference, []).append(encoder)
    changes = "; ".join(
        f"from {reference}" + (f" of {', '.join(others)}" if len(compared) > 1 else "")
        for reference, others in compared.items()
    )
    return caption + ARROWS.format(changes=changes)


def _left_out(rows: pd.DataFrame, task: str) -> str:
    """What the mark in cells means, data set by data set; nothing where no label was left out."""
    sentences = [
        f"{', '.join(labels)} of {dataset}"
        for dataset, group in rows[rows["task"] == task].groupby("dataset", sort=False)
        if (labels := left_out_labels(group))
    ]
    return (
        f" †: a sample could not teach every label; left out of every mean: {'; '.join(sentences)}."
        if sentences
        else ""
    )


def _escaped(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


def write_tables(rows: pd.DataFrame, folder: str | Path) -> str:
    """Writes `tables.md` and `tables.tex`, one table per task in `rows`, and returns the Markdown."""
    tasks = list(rows["task"].unique())
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(markdown_table(rows, task) for task in tasks) + "\n"
    (folder / "tables.md").write_text(text, encoding="utf-8")
    latex = "\n\n".join(latex_table(rows, task) for task in tasks) + "\n"
    (folder / "tables.tex").write_text(latex, encoding="utf-8")
    return text


@command("paper_tables")
def main(argv: list[str] | None = None) -> int:
    """Joins the results of several runs; returns the exit code."""
    arguments = argparse.ArgumentParser(
        prog="python -m trainers.downstream.results.paper_tables",
        description="Join the results of several runs of `medsyn evaluate` into Markdown and LaTeX tables: a row per "
        "encoder, one column per data set and budget, with changes from the encoder that each is compared with.",
    )
    arguments.add_argument("folders", nargs="+", help="folders that `medsyn evaluate --out` wrote")
    arguments.add_argument("--out", default="tables", help="folder of tables.{md,tex} (default: %(default)s)")
    args = arguments.parse_args(argv)
    rows = pd.concat([pd.read_parquet(Path(folder) / "results.parquet") for folder in args.folders])
    print(write_tables(rows, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
