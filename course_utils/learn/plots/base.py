"""One look for every figure: colours that colour-blind readers can tell apart (Okabe and Ito),
sizes that can be read.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.errors import CompressionError

from .. import show

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"
COLOURS = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW]  # yellow last: it is weak on white
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]  # a second sign beside the colour


def use_style() -> None:
    """Apply the course's style to every figure made from now on."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 13,
            "axes.titlelocation": "left",
            "axes.labelsize": 12,
            "font.size": 11,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "figure.dpi": 100,
            "figure.figsize": (7, 3.5),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.bbox": "tight",
        }
    )


def figure(
    *, title: str = "", xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (7, 3.5)
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, labelled; `size` in inches (7 is the width of a notebook)."""
    drawn, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return drawn, axes


def table(rows: Sequence[Sequence[Any]], columns: Sequence[str], caption: str = "") -> None:
    """Show a small table; floats are given four significant digits, other values as they are."""
    for row in rows:
        if len(row) != len(columns):
            raise CompressionError(
                f"rows: a row has {len(row)} cells and there are {len(columns)} columns; "
                "make them equal."
            )
    numeric = [
        bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        for i in range(len(columns))
    ]
    cells = [[_cell(value) for value in row] for row in rows]
    align = ["right" if n else "left" for n in numeric]
    head = "".join(
        f"<th style='text-align:{a}'>{show.inline(c)}</th>"
        for c, a in zip(columns, align, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='text-align:{a}'>{show.inline(c)}</td>"
            for c, a in zip(row, align, strict=True)
        )
        + "</tr>"
        for row in cells
    )
    above = (
        f"<caption style='text-align:left;font-weight:bold'>{html.escape(caption)}</caption>"
        if caption
        else ""
    )
    show.emit(
        (
            f"<table style='margin:0'>{above}<thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        ),
        _text(cells, columns, numeric, caption),
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(cells: list[list[str]], columns: Sequence[str], numeric: list[bool], caption: str) -> str:
    lines = [list(map(show.plain, row)) for row in [list(columns), *cells]]
    widths = [max(len(row[i]) for row in lines) for i in range(len(columns))]
    drawn = [
        "  ".join(
            cell.rjust(w) if n else cell.ljust(w)
            for cell, w, n in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in lines
    ]
    drawn.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(filter(None, [caption, *drawn]))


use_style()
