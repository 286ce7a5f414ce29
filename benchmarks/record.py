"""How benchmarks record what they measured: rows as CSV with the facts of the machine, and tables in Markdown."""

from __future__ import annotations

import csv
import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"


def machine_facts(*packages: str) -> dict[str, object]:
    """Returns the machine, Python and the versions of `packages`, as columns of a row."""
    facts = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
    return facts | {name.replace("-", "_"): version(name) for name in packages}


def write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes rows whose columns may differ, in the order in which the columns first appear."""
    rows = list(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def markdown_table(columns: list[str], rows: list[list[object]]) -> str:
    """Returns a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def replace_table(document: Path, name: str, table: str) -> None:
    """Puts `table` between the comments `<!-- name -->` and `<!-- /name -->` of a Markdown file.

    Raises:
        ValueError: If the file has no such comments.
    """
    text = document.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {re.escape(name)}\b[^>]*-->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{document} has no place between <!-- {name} --> and <!-- /{name} --> for the table")
    document.write_text(pattern.sub(lambda match: match[1] + table + match[2], text), encoding="utf-8")
