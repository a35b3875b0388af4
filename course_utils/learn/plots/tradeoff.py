"""Figures of lesson 1.3 and lab 1.1: what each version of a model weighs, and what it has lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.evaluation.comparison import Comparison

from . import base as plots
from .names import name_points

KINDS = {
    "original": (plots.BLACK, "o"), "quantized": (plots.BLUE, "s"), "pruned": (plots.RED, "^"),
    "distilled": (plots.GREEN, "D"), "combined": (plots.PURPLE, "P"), "yours": (plots.ORANGE, "*"),
}  # fmt: skip


@dataclass(frozen=True)
class Version:
    """`loss`: nats per token above the original, `half`: half the width of its 95 % interval."""

    name: str
    kind: str
    megabytes: float
    loss: float
    half: float

    @property
    def seen(self) -> float:
        """The loss where the interval does not hold 0; else 0, since no difference is seen."""
        return self.loss if abs(self.loss) > self.half else 0.0


def versions(
    table: Comparison, kinds: Mapping[str, str], megabytes: Mapping[str, float]
) -> list[Version]:
    """The rows of a comparison against "original", with their kind and size."""
    found = []
    for name in table.values:
        loss, half = (
            (0.0, 0.0) if name == table.against else table.difference(name, table.against or name)
        )
        found.append(Version(name, kinds[name], megabytes[name], loss, half))
    return found


def size_against_loss(
    all_versions: Sequence[Version], *, front: Sequence[int] = (), top: float = 0.3,
    limit: float | None = None, chosen: int | None = None, title: str = "Size against loss",
) -> Figure:  # fmt: skip
    """Loss with its interval over megabytes.

    What lies above `top` stands at the upper edge with an arrow and its loss.

    front: indices joined by a line; limit: a shaded band of allowed loss; chosen: the index of a
    version to circle.
    """
    figure, axes = plots.figure(
        title=title, xlabel="MB on disk", ylabel="nats per token above the original", size=(8, 4.8)
    )
    low = min(0.0, *(v.loss - v.half for v in all_versions)) - 0.06 * top
    axes.set(xlim=(0, 1.12 * max(v.megabytes for v in all_versions)), ylim=(low, 1.08 * top))
    if limit is not None:
        axes.axhspan(low, limit, color=plots.GREEN, alpha=0.12, label="allowed")
    if front:
        line = [all_versions[i] for i in front]
        axes.step(
            [v.megabytes for v in line],
            [min(v.seen, 2 * top) for v in line],
            where="post",
            color=plots.SKY,
            zorder=0,
            label="worth having",
        )
    for kind, (colour, marker) in KINDS.items():
        _kind(axes, [v for v in all_versions if v.kind == kind], kind, colour, marker, top)
    if chosen is not None:
        here = all_versions[chosen]
        axes.plot(
            here.megabytes,
            min(here.loss, top),
            "o",
            markersize=20,
            markerfacecolor="none",
            markeredgecolor=plots.GREEN,
            markeredgewidth=3,
        )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = [v.name if v.loss <= top else f"{v.name}: {v.loss:.2f} ↑" for v in all_versions]
    name_points(axes, [(v.megabytes, min(v.loss, top)) for v in all_versions], said, fontsize=9)
    return figure


def _kind(
    axes: Axes, members: Sequence[Version], kind: str, colour: str, marker: str, top: float
) -> None:
    if not members:
        return
    inside = [v for v in members if v.loss <= top]
    axes.errorbar(
        [v.megabytes for v in inside],
        [v.loss for v in inside],
        yerr=[v.half for v in inside],
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
    )
    axes.plot(
        [v.megabytes for v in members],
        [min(v.loss, top) for v in members],
        marker,
        color=colour,
        markersize=9,
        label=kind,
    )


def shares(
    table: Mapping[str, Mapping[str, tuple[float, float, float]]], *, title: str, ylabel: str
) -> Figure:
    """Bars in groups: table[group][bar] = (share, low, high), with the interval on each bar."""
    figure, axes = plots.figure(title=title, ylabel=ylabel, size=(8, 3.8))
    groups, bars = list(table), list(next(iter(table.values())))
    width = 0.8 / len(bars)
    for i, bar in enumerate(bars):
        values = [table[group][bar] for group in groups]
        place = [k + width * (i - (len(bars) - 1) / 2) for k in range(len(groups))]
        error = [[v[0] - v[1] for v in values], [v[2] - v[0] for v in values]]
        axes.bar(
            place, [v[0] for v in values], width=0.92 * width, color=plots.COLOURS[i], label=bar
        )
        axes.errorbar(
            place, [v[0] for v in values], yerr=error, fmt="none", ecolor=plots.BLACK, elinewidth=1
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1.05)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(visible=False, axis="x")
    return figure


def two_ways(
    ways: Mapping[str, Sequence[tuple[str, float, float]]], *, original: tuple[float, float]
) -> Figure:
    """Perplexity over megabytes: a line of (name, bytes, perplexity) for each way, and the
    original's (bytes, perplexity).
    """
    figure, axes = plots.figure(
        title="The same bytes, two ways", xlabel="MB on disk", ylabel="perplexity", size=(7.5, 4)
    )
    for i, (label, points) in enumerate(ways.items()):
        colour = (plots.BLUE, plots.RED)[i]
        axes.semilogy(
            [p[1] / 1e6 for p in points],
            [p[2] for p in points],
            plots.MARKERS[i + 1] + "-",
            color=colour,
            label=label,
        )
        # the first way's names stand below its points, the second one's above
        for name, size, perplexity in points:
            axes.annotate(
                name,
                (size / 1e6, perplexity),
                (0, 8 if i else -17),
                textcoords="offset points",
                ha="center",
                color=colour,
            )
    axes.axhline(original[1], color=plots.BLACK, linestyle="--", linewidth=1.2, label="original")
    every = [p for points in ways.values() for p in points]
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 1000) if t < 1.5 * max(p[2] for p in every)]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set(xlim=(0, 1.05 * original[0] / 1e6), ylim=(0.75 * original[1], None))
    axes.legend()
    return figure
