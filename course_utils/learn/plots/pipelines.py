"""The figure of lab 3.4: the loss after each part of a pipeline, in every order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from . import base as plots

COLOURS = {
    "original": plots.BLACK,
    "prune": plots.RED,
    "drop": plots.ORANGE,
    "train": plots.GREEN,
    "quantize": plots.BLUE,
    "closed": plots.BLACK,
}


def traces(trace: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """For each order its (part, loss) from left to right; the last is its closed file, drawn as a
    cross.
    """
    figure, grid = plots.plt.subplots(2, 3, figsize=(9.5, 5.4), sharey=True, layout="constrained")
    for axes, parts in zip(grid.flat, trace.values(), strict=True):
        axes.plot([value for _, value in parts], color="0.6", zorder=0)
        for i, (part, value) in enumerate(parts):
            axes.plot(i, value, "X" if part == "closed" else "o", color=COLOURS[part], markersize=9)
        axes.set_xticks(range(len(parts)), [part for part, _ in parts], rotation=35, fontsize=9)
        axes.axhline(parts[0][1], color="0.8", linestyle=":")
    for axes in grid[:, 0]:
        axes.set_ylabel("nats per token")
    return figure
