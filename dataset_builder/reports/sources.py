"""Which kind of reports a path holds: MIMIC-CXR, Open-i, or a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataset_builder.reports.mimic_cxr import NO_REPORTS, find_mimic_cxr, read_mimic_cxr
from dataset_builder.reports.mimic_cxr import SOURCE as MIMIC_CXR
from dataset_builder.reports.openi import SOURCE as OPENI
from dataset_builder.reports.openi import find_openi, read_openi
from dataset_builder.reports.record import ReportRecord
from dataset_builder.reports.table import read_table
from medsyn.errors import UserError
from medsyn.tables import SUFFIXES


def open_reports(
    path: str | Path, *, per: str | None = None, any_view: bool = False, columns: dict[str, str] | None = None
) -> tuple[Iterator[ReportRecord], dict]:
    """
    The reports of a path, by what it holds.

    Args:
        path (`str` or `Path`): A MIMIC-CXR folder or its zipped reports, an Open-i folder, a table, or a folder of
            one table.
        per (`str`, *optional*): `study` (the default) or `image`; of MIMIC-CXR alone.
        any_view (`bool`, *optional*, defaults to `False`): Of MIMIC-CXR alone; see
            [`~dataset_builder.reports.mimic_cxr.read_mimic_cxr`].
        columns (`dict[str, str]`, *optional*): Arguments of [`~dataset_builder.reports.table.read_table`].

    Returns:
        `tuple[Iterator[ReportRecord], dict]`: The records, and what was recognised, for the manifest: `format` is
            `mimic-cxr` or `openi`, or `table` is the file's name.

    Raises:
        FileNotFoundError: No such path.
        UserError: Nothing that can be read, or an option that does not go with what was found.
    """
    path = Path(path)
    columns = columns or {}
    if not path.exists():
        raise FileNotFoundError(f"there are no reports at {path}: no table and no folder")
    if path.is_dir() or path.suffix == ".zip":
        files = find_mimic_cxr(path)
        if files is not None:
            _refuse({"column": columns}, "MIMIC-CXR", path)
            per = per or "study"
            return read_mimic_cxr(path, per=per, any_view=any_view), files.describe(per, any_view)
        if find_openi(path) is not None:
            _refuse({"column": columns, "per": per, "any_view": any_view}, "Open-i", path)
            return read_openi(path), {"format": OPENI}
    if path.is_dir():
        tables = sorted(file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES))
        if any(file.name.startswith("mimic-cxr-2.") for file in tables):
            raise UserError(NO_REPORTS.format(path=path))
        if len(tables) != 1:
            contents = (
                f"{len(tables)} tables ({', '.join(file.name for file in tables[:5])})" if tables else "no table"
            )
            raise UserError(
                f"{path} holds neither MIMIC-CXR (mimic-cxr-reports.zip or files/p10/...) nor Open-i "
                f"(ecgen-radiology/*.xml), and {contents}; name one table or the right folder"
            )
        path = tables[0]
    _refuse({"per": per, "any_view": any_view}, "a table", path)
    return read_table(path, **columns), {"table": path.name, **columns}


def describe_source(source: dict, counts: dict[str, int]) -> list[str]:
    """What was recognised, what each filter left, and what MIMIC-CXR's missing tables mean, in lines for a person."""
    if "format" not in source:
        return []
    per = f", a record {'an image' if source['per'] == 'image' else 'a study'}" if "per" in source else ""
    left = " -> ".join(f"{count:,} {step.replace('_', ' ')}" for step, count in counts.items())
    lines = [f"reports: {source['format']}{per}: {left}"]
    if source["format"] == MIMIC_CXR:
        if source["any_view"]:
            lines.append("views are unknown (--any-view): studies without a frontal image are among the rows")
        if source["split"] is None:
            lines.append("no mimic-cxr-2.0.0-split.csv.gz: subjects were split by a hash, not officially")
        if source["chexpert"] is None:
            lines.append("no mimic-cxr-2.0.0-chexpert.csv.gz: labels not taken from the film were read off the text")
    return lines


def _refuse(options: dict, found: str, path: Path) -> None:
    for name, value in options.items():
        if value:
            raise UserError(f"{path} is {found}, to which {name.replace('_', ' ')} does not apply; leave it out")
