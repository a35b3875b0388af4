"""Plain curves over one axis, and the rows of a comparison with their intervals: figures that many
lessons draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from course_utils.errors import CompressionError
from course_utils.evaluation.comparison import Comparison

from . import base as plots

STYLES = ("-", "--", "-.", ":")


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, title: str, xlabel: str,
    ylabel: str, logx: bool = False, logy: bool = False, level: tuple[float, str] | None = None,
    ticks: Sequence[float] | None = None, markers: bool = False,
    size: tuple[float, float] = (7.5, 3.5),
) -> Figure:  # fmt: skip
    """Each line of `lines` over x, told apart by colour and by dashes (or markers).

    `level`: (height, name) of a dotted line.

    Raises CompressionError for a line whose length is not that of x.
    """
    figure, axes = plots.figure(title=title, xlabel=xlabel, ylabel=ylabel, size=size)
    x = [float(v) for v in x]
    for i, (name, values) in enumerate(lines.items()):
        if len(values) != len(x):
            raise CompressionError(
                f"{name}: {len(values)} values over {len(x)} places; give one for each."
            )
        (line,) = axes.plot(x, [float(v) for v in values], color=plots.COLOURS[i % 8], label=name)
        if markers:
            line.set_marker(plots.MARKERS[i % 8])
        else:
            line.set(linestyle=STYLES[i % 4])
    if level is not None:
        axes.axhline(level[0], color=plots.BLACK, linewidth=1, linestyle=":", label=level[1])
    axes.set_xscale("log" if logx else "linear")
    axes.set_yscale("log" if logy else "linear")
    if ticks is not None:
        axes.set_xticks(list(ticks), [f"{t:g}" for t in ticks])
        axes.minorticks_off()
    axes.legend(fontsize=10)
    return figure


def intervals(
    tables: Mapping[str, Comparison],
    *,
    title: str,
    xlabel: str,
    rows: Sequence[str] | None = None,
    log: bool = True,
) -> Figure:
    """One line for each row of the tables, a dot at its mean and a bar over its 95 % interval; one
    sign for each table.

    A row that a table does not have is left out of it. An interval that reaches to 0 ends at the
    left edge of a logarithmic axis.
    """
    names = list(
        rows or dict.fromkeys(label for table in tables.values() for label in table.values)
    )
    figure, axes = plots.figure(
        title=title, xlabel=xlabel, size=(8, 1.2 + 0.32 * len(names) * max(1, 0.6 * len(tables)))
    )
    for i, (name, table) in enumerate(tables.items()):
        shift = (i - (len(tables) - 1) / 2) * 0.22
        here = [k for k, label in enumerate(names) if label in table.values]
        means = [table.mean(names[k]) for k in here]
        ends = [table.interval(names[k]) for k in here]
        low = [m - max(e[0], m / 20 if log else e[0]) for m, e in zip(means, ends, strict=True)]
        high = [e[1] - m for m, e in zip(means, ends, strict=True)]
        axes.errorbar(
            means, [k + shift for k in here], xerr=[low, high], linestyle="none", capsize=3,
            markersize=6, marker=plots.MARKERS[i % 8], color=plots.COLOURS[i % 8], label=name,
        )  # fmt: skip
    if log:
        axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    if len(tables) > 1:
        figure.legend(loc="outside lower right", ncols=len(tables))
    return figure
