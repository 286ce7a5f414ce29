"""Scores as tables that can be read aloud: numbers with bars behind them, several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SAYS = {1: ("present", "yes"), 0: ("absent", "no"), -1: ("uncertain", "maybe"), None: ("", "none")}


def bar(value: float, share: float) -> str:
    """A number over a bar that fills `share` (0 to 1) of its cell."""
    return (
        f'<td class="score"><span class="bar" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span>'
        f'<span class="number">{value:.2f}</span></td>'
    )


def score_table(
    caption: str,
    scores: Mapping[str, Mapping[str, float]],
    head: str = "Finding",
    truth: Mapping[str, int | None] | None = None,
    truth_head: str = "Report",
    elem_id: str = "",
) -> str:
    """
    Scores between 0 and 1, a row a finding and a column a model.

    Args:
        caption (`str`): Stands above the table.
        scores (`Mapping[str, Mapping[str, float]]`): Model, then finding, then score; all models the same findings.
        head (`str`, *optional*, defaults to `"Finding"`): Of the first column.
        truth (`Mapping[str, int | None]`, *optional*): What is known of the image: 1, 0, -1 or `None` a finding.
        truth_head (`str`, *optional*, defaults to `"Report"`): Of that column.
        elem_id (`str`, *optional*): Of the table.
    """
    heads = [head, *([truth_head] if truth is not None else []), *scores]
    rows = []
    for finding in next(iter(scores.values())):
        cells = [f'<th scope="row">{escape(finding)}</th>']
        if truth is not None:
            said, kind = SAYS[truth.get(finding)]
            silent = '<span aria-hidden="true">–</span><span class="unseen">not mentioned</span>'
            cells.append(f'<td class="truth {kind}">{said or silent}</td>')
        cells += [bar(column[finding], column[finding]) for column in scores.values()]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _table(caption, heads, rows, elem_id)


def similarity_table(caption: str, columns: Mapping[str, Sequence[tuple[str, float]]], elem_id: str = "") -> str:
    """
    Similarities of any size, a row a text and a column a model; bars run from a column's lowest to its highest.

    Args:
        caption (`str`): Stands above the table.
        columns (`Mapping[str, Sequence[tuple[str, float]]]`): Model -> texts with similarities, all in one order.
        elem_id (`str`, *optional*): Of the table.
    """
    rows = []
    for number, (text, _) in enumerate(next(iter(columns.values()))):
        cells = [f'<th scope="row">{escape(text)}</th>']
        for column in columns.values():
            values = [value for _, value in column]
            low, high = min(values), max(values)
            # The lowest keeps a little bar: it is the least near, not nothing.
            share = 0.08 + 0.92 * (values[number] - low) / (high - low) if high > low else 1.0
            cells.append(bar(values[number], share))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _table(caption, ["Your words", *columns], rows, elem_id)


def plain_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], elem_id: str = "") -> str:
    """A table of texts; the first cell of a row is its head."""
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>'
        for first, *others in rows
    ]
    return _table(caption, heads, lines, elem_id, wide=True)


def _table(caption: str, heads: Sequence[str], rows: Sequence[str], elem_id: str, wide: bool = False) -> str:
    """A table; one that may be wider than a phone can be scrolled by keyboard."""
    named = f' id="{escape(elem_id)}"' if elem_id else ""
    # A name such as runs/mgca may break after the slash.
    columns = "".join(f'<th scope="col">{escape(head).replace("/", "/<wbr>")}</th>' for head in heads)
    frame = f'tabindex="0" role="region" aria-label="{escape(caption)}"' if wide else ""
    return (
        f'<div class="table-frame" {frame}><table{named}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
