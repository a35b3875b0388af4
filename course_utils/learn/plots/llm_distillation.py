"""Figures of lesson 5.6: what each KL picks, how errors add up, what a vote is worth, a leap that a
metric makes, words that go.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from . import base


def directions(grid: Tensor, teacher: Tensor, students: Mapping[str, Tensor]) -> Figure:
    """The teacher's probabilities, filled, and each student's as a line."""
    figure, axes = base.figure(
        title="One bump for a teacher of two", xlabel="x", ylabel="probability"
    )
    axes.fill_between(grid, teacher, color=base.BLACK, alpha=0.2, label="teacher")
    for (name, q), style, colour in zip(
        students.items(), ("-", "--", ":"), base.COLOURS, strict=False
    ):
        axes.plot(grid, q, style, color=colour, label=name)
    axes.legend(fontsize=9)
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def lines(
    x: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Figure:
    """One line with its own marker for each row, over the same x."""
    figure, axes = base.figure(title=title, xlabel=xlabel, ylabel=ylabel)
    for i, (name, y) in enumerate(rows.items()):
        axes.plot(x, y, marker=base.MARKERS[i], color=base.COLOURS[i], label=name, markersize=5)
    if logarithmic:
        axes.set(yscale="log")
    axes.legend(fontsize=9)
    plt.close(figure)  # shown once, by whoever asked for it
    return figure
