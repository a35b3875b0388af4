"""A Comparison as HTML and as plain text: a line for each row, its difference from the reference,
what it was run on.
"""

from __future__ import annotations

import html
import math
from typing import Any

from .comparison import Comparison

BETTER, WORSE, SAME = "better", "worse", "no difference seen"
# no colour of text is readable on a light page and on a dark one
STYLES = {BETTER: ";font-weight:bold", WORSE: "", SAME: ";opacity:.75"}


def plus_minus(mean: float, half: float, *, sign: bool = False) -> str:
    """ "0.6455 ± 0.0021": as many digits as give the half width two; the mean alone where there is
    no half width.
    """
    plus = "+" if sign else ""
    if not half > 0:
        return f"{mean:{plus}.4g}".replace("-", "−")
    places = 1 - math.floor(math.log10(half))
    if places <= 6:
        digits = max(0, places)
        return f"{mean:{plus}.{digits}f} ± {half:.{digits}f}".replace("-", "−")
    power = math.floor(math.log10(max(abs(mean), half)))
    digits = max(1, places + power)
    return (
        f"({mean / 10.0**power:{plus}.{digits}f} ± {half / 10.0**power:.{digits}f})e{power}"
    ).replace("-", "−")


def verdict(table: Comparison, label: str) -> str:
    """How a row compares with the reference; empty for the reference itself and where there is no
    interval.
    """
    if table.against is None or label == table.against:
        return ""
    mean, half = table.difference(label, table.against)
    if math.isnan(half):
        return ""
    if abs(mean) <= half:
        return SAME
    return BETTER if (mean < 0) == (table.better == "lower") else WORSE


def cells(table: Comparison) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table, as texts."""
    unit = f", {table.unit}" if table.unit else ""
    head = ["", f"mean ± 95 %{unit}", *table.columns]
    if table.against is not None:
        head[2:2] = [f"difference from {table.against}", ""]
    lines = []
    for label in table.values:
        line = [label, plus_minus(table.mean(label), table.half_width(label))]
        if table.against is not None:
            same = label == table.against
            line += [
                "" if same else plus_minus(*table.difference(label, table.against), sign=True),
                verdict(table, label),
            ]
        lines.append([*line, *(_value(column.get(label, "")) for column in table.columns.values())])
    return head, lines


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def notes(table: Comparison) -> str:
    """How the numbers were made, in one line."""
    windows = max(v.shape[1] for v in table.values.values())
    moving = any(not bool((v == v[:1]).all()) for v in table.values.values())
    said = [table.protocol.rstrip(".")] if table.protocol else []
    said += [f"{len(table.seeds)} seeds" if moving else "the same for every seed"]
    said += [f"{windows} windows"] if windows > 1 and "window" not in table.protocol else []
    said += ["differences are paired"] if table.against is not None else []
    line = "; ".join(said) + "."
    return line + (f" Made by {table.command} on {table.date}." if table.command else "")


def as_text(table: Comparison) -> str:
    """The table in letters of equal width."""
    head, lines = cells(table)
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    drawn = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [head, *lines]
    ]
    drawn.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([table.title, *drawn, notes(table)])


def as_html(table: Comparison) -> str:
    """The table for a notebook."""
    head, lines = cells(table)
    left = "text-align:left"
    top = "".join(f"<th style='{left}'>{html.escape(cell)}</th>" for cell in head)
    body = []
    for label, line in zip(table.values, lines, strict=True):
        word = verdict(table, label)
        drawn = []
        for i, cell in enumerate(line):
            style = STYLES[word] if i == 3 and word and table.against is not None else ""
            drawn.append(f"<td style='{left};white-space:nowrap{style}'>{html.escape(cell)}</td>")
        body.append(f"<tr>{''.join(drawn)}</tr>")
    caption = f"<caption style='{left};font-weight:bold'>{html.escape(table.title)}</caption>"
    note = (
        "<p style='margin:.2em 0 "
        f".6em;font-size:90%;opacity:.75;max-width:52em'>{html.escape(notes(table))}</p>"
    )
    return (
        f"<table style='margin:0'>{caption}<thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>{note}"
    )
