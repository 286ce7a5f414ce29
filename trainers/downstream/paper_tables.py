"""Results of several runs in the layout of the paper's Tables 1 to 3: an encoder a row, data set by budget a column.

`python -m trainers.downstream.paper_tables results/* --out tables` reads the `results.parquet` of each folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from trainers.downstream.results import MAIN_METRICS

CAPTION = (
    "{metric} in percent, a frozen encoder with {budgets} % of the training patients' labels; the mean over draws. "
    "Arrows: the change from {first}, from unrounded values; * where 0 is outside the 95 % interval of the paired "
    "bootstrap over test patients."
)


def cells(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The numbers of one table.

    Args:
        rows (`pd.DataFrame`): Of one or more runs, in the columns of `results.parquet`.
        metric (`str`): One of `MAIN_METRICS`.

    Returns:
        `pd.DataFrame` with a row an encoder and columns `(dataset, budget, part)`, where `part` is `value`, `change`
        (from the first encoder) and `clear` (1 where the interval of the change is without 0), unrounded.

    Raises:
        ValueError: A number stands twice, as when a folder is given twice.
    """
    mean = rows[rows["seed"].astype(str) == "mean"]
    found = {}
    for name, part in ((metric, "value"), (f"{metric}_difference", "change")):
        for row in mean[mean["metric"] == name].to_dict("records"):
            key = (row["encoder"], (row["dataset"], float(row["budget"])))
            if part in found.setdefault(key, {}):
                raise ValueError(
                    f"{metric} of {row['encoder']} on {row['dataset']} at {row['budget']:g} % stands twice: give each "
                    "run once, and one run of a data set"
                )
            # A difference is the first encoder less this one; the change is this one less the first.
            found[key][part] = row["value"] if part == "value" else -row["value"]
            if part == "change":
                found[key]["clear"] = float(row["ci_low"] > 0 or row["ci_high"] < 0)
    columns = sorted(
        {column for _, column in found}, key=lambda column: (list(mean["dataset"]).index(column[0]), column[1])
    )
    index = list(dict.fromkeys(encoder for encoder, _ in found))
    table = {
        (*column, part): [found.get((encoder, column), {}).get(part) for encoder in index]
        for column in columns
        for part in ("value", "change", "clear")
    }
    return pd.DataFrame(table, index=index, dtype=float)


def _cell(row: pd.Series, column: tuple, arrows: tuple[str, str], missing: str) -> str:
    value, change, clear = (row[(*column, part)] for part in ("value", "change", "clear"))
    if pd.isna(value):
        return missing
    text = f"{100 * value:.1f}"
    if pd.isna(change):
        return text
    size = f"{abs(100 * change):.1f}"
    arrow = "" if size == "0.0" else arrows[int(change < 0)]
    return f"{text} {arrow}{size}" + ("*" if clear else "")


def markdown_table(rows: pd.DataFrame, metric: str) -> str:
    """The table of one metric in Markdown, its caption below."""
    table = cells(rows, metric)
    columns = list(dict.fromkeys(column[:2] for column in table.columns))
    lines = [f"| encoder | {' | '.join(f'{name} {budget:g} %' for name, budget in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for encoder, row in table.iterrows():
        lines.append(f"| {encoder} | {' | '.join(_cell(row, column, ('↑', '↓'), '-') for column in columns)} |")
    return "\n".join([*lines, "", _caption(table, columns, metric)])


def latex_table(rows: pd.DataFrame, metric: str) -> str:
    """The same in LaTeX, for `booktabs` and `multirow`-free: the data sets span their budgets."""
    table = cells(rows, metric)
    columns = list(dict.fromkeys(column[:2] for column in table.columns))
    spans = {name: sum(column[0] == name for column in columns) for name, _ in columns}
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(_caption(table, columns, metric))}}}",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        "".join(rf" & \multicolumn{{{span}}}{{c}}{{{_escaped(name)}}}" for name, span in spans.items()) + r" \\",
        "".join(rf" & {budget:g}\%" for _, budget in columns) + r" \\",
        r"\midrule",
    ]
    arrows = (r"$\uparrow$", r"$\downarrow$")
    for encoder, row in table.iterrows():
        line = " & ".join(_cell(row, column, arrows, "--") for column in columns)
        lines.append(rf"{_escaped(str(encoder))} & {line} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _caption(table: pd.DataFrame, columns: list[tuple[str, float]], metric: str) -> str:
    budgets = ", ".join(f"{budget:g}" for budget in sorted({budget for _, budget in columns}))
    return CAPTION.format(metric=MAIN_METRICS[metric][0], budgets=budgets, first=table.index[0])


def _escaped(text: str) -> str:
    return "".join({"\\": r"\textbackslash{}"}.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


def write_tables(rows: pd.DataFrame, folder: str | Path) -> str:
    """Writes `tables.md` and `tables.tex` of every metric that `rows` hold, and returns the former."""
    metrics = [metric for metric in MAIN_METRICS if (rows["metric"] == metric).any()]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(markdown_table(rows, metric) for metric in metrics) + "\n"
    (folder / "tables.md").write_text(text, encoding="utf-8")
    latex = "\n\n".join(latex_table(rows, metric) for metric in metrics) + "\n"
    (folder / "tables.tex").write_text(latex, encoding="utf-8")
    return text


def main(argv: list[str] | None = None) -> int:
    """Joins the results of several runs; returns the exit code."""
    arguments = argparse.ArgumentParser(
        prog="python -m trainers.downstream.paper_tables",
        description="Joins the results of several runs of `medsyn evaluate` into Markdown and LaTeX tables: a row an "
        "encoder, a column a data set and budget, changes from the first encoder.",
    )
    arguments.add_argument("folders", nargs="+", help="folders that `medsyn evaluate --out` wrote")
    arguments.add_argument("--out", default="tables", help="folder of tables.{md,tex} (default: %(default)s)")
    args = arguments.parse_args(argv)
    try:
        rows = pd.concat([pd.read_parquet(Path(folder) / "results.parquet") for folder in args.folders])
        print(write_tables(rows, args.out))
    except (ValueError, OSError) as error:
        print(f"paper_tables: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
