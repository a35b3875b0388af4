"""Figures of lesson 2.4: widths that fit, advice beside its controls, and how sure a place on the
front is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from course_utils.evaluation.comparison import Comparison

from . import base as plots
from .names import name_points

STYLE = {
    "edge": (plots.GREEN, "D"), "memory": (plots.BLUE, "s"), "speed": (plots.RED, "^"),
    "cloud": (plots.SKY, "v"), "quality": (plots.PURPLE, "P"), "control": ("0.5", "X"),
    "original": (plots.BLACK, "o"),
}  # fmt: skip


def widths(sizes: Mapping[int, float], memory: float, *, title: str) -> Figure:
    """GB of each width as bars, grey where they do not fit the memory."""
    figure, axes = plots.figure(
        xlabel="GB of weights, 7 billion of them", ylabel="bits", size=(7.5, 3.4)
    )
    colours = [plots.BLUE if size <= memory else "0.8" for size in sizes.values()]
    axes.barh([str(bits) for bits in sizes], list(sizes.values()), color=colours)
    axes.axvline(memory, color=plots.RED, linestyle="--", label="memory")
    axes.set_xlim(0, 16)
    axes.set_title(title, fontsize=11)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def advice(
    table: Comparison, front: Sequence[int], names: Sequence[str], *, top: float = 0.06
) -> Figure:
    """Loss above the original with its interval over megabytes; what lies above `top` stands at the
    edge with its loss.
    """
    figure, axes = plots.figure(
        title="Advice, measured",
        xlabel="MB written",
        ylabel="nats per token above the original",
        size=(8.5, 5),
    )
    size = table.columns["MB"]
    change = {
        name: (0.0, 0.0) if name == "original" else table.difference(name, "original")
        for name in names
    }
    line = [names[i] for i in front]
    axes.step(
        [size[n] for n in line],
        [min(change[n][0], 2 * top) for n in line],
        where="post",
        color="0.7",
        zorder=0,
        label="front",
    )
    for kind, (colour, marker) in STYLE.items():
        mine = [n for n in names if n.split(":")[0] == kind]
        axes.plot(
            [size[n] for n in mine],
            [min(change[n][0], top) for n in mine],
            marker,
            color=colour,
            markersize=9,
            label=kind,
        )
        inside = [n for n in mine if change[n][0] <= top]
        axes.errorbar(
            [size[n] for n in inside],
            [change[n][0] for n in inside],
            yerr=[change[n][1] for n in inside],
            fmt="none",
            ecolor=colour,
        )
    axes.set(xlim=(0, 1.25 * max(size.values())), ylim=(-0.15 * top, 1.1 * top))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = [
        n.split(": ")[-1] + (f": {change[n][0]:.2f} ↑" if change[n][0] > top else "") for n in names
    ]
    name_points(axes, [(size[n], min(change[n][0], top)) for n in names], said, fontsize=8)
    return figure


def front_share(
    share: Sequence[float],
    names: Sequence[str],
    front: Sequence[int],
    *,
    sizes: Mapping[str, float],
) -> Figure:
    """How often each version is on the front of resampled texts, by size."""
    order = sorted(range(len(names)), key=lambda i: sizes[names[i]])
    figure, axes = plots.figure(
        title="How often is a version on the front?",
        xlabel="share of the resampled texts",
        size=(8, 4.2),
    )
    axes.barh(
        [names[i] for i in order],
        [share[i] for i in order],
        color=[plots.BLUE if i in front else plots.ORANGE for i in order],
    )
    axes.set_xlim(0, 1)
    words = ((plots.BLUE, "on the front above"), (plots.ORANGE, "beaten above"))
    patches = [
        plots.plt.Rectangle((0, 0), 1, 1, color=colour, label=what) for colour, what in words
    ]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.3, -0.15), ncols=2)
    return figure
