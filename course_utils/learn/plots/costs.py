"""Figures of lesson 3.6: times over sizes, and what can be read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.evaluation import scaling
from course_utils.evaluation.scaling import PowerLaw

from . import base as plots

Series = tuple[Sequence[float], Sequence[float]]  # sizes, seconds


def fitted(sizes: Sequence[float], times: Sequence[float], law: PowerLaw, *, true: float) -> Figure:
    """Measured times, the fitted line and a fan of all slopes in its 95 % interval."""
    low, high = law.interval()
    figure, axes = plots.figure(
        title=f"true {true:.2f}, fitted {law.exponent:.2f} ± {law.error:.2f}, between {low:.2f} "
              f"and {high:.2f} (95 %)",
        xlabel="size", ylabel="seconds", size=(7, 3.6),
    )  # fmt: skip
    middle = math.exp(sum(map(math.log, sizes)) / len(sizes))
    low_line, high_line = (
        [law(middle) * (s / middle) ** slope for s in sizes] for slope in (low, high)
    )
    axes.fill_between(
        sizes, low_line, high_line, color=plots.SKY, alpha=0.3, label="slopes in the interval"
    )
    axes.loglog(sizes, [law(s) for s in sizes], color=plots.BLUE, label="fitted line")
    axes.loglog(sizes, times, "o", color=plots.BLACK, label="measured")
    axes.legend()
    return figure


def local_slopes(sizes: Sequence[float], times: Sequence[float]) -> list[float]:
    """The slope of log time on log size between neighbours."""
    return [
        math.log(b / a) / math.log(n / m)
        for a, b, m, n in zip(times, times[1:], sizes, sizes[1:], strict=False)
    ]


def fits(ways: Mapping[str, Series], grows: str, caption: str = "") -> dict[str, PowerLaw]:
    """Fit each series and show exponent, 95 % interval and the slope between the two
    largest sizes.
    """
    laws = {name: scaling.fit(sizes, times) for name, (sizes, times) in ways.items()}
    rows = []
    for name, law in laws.items():
        low, high = law.interval()
        sizes, times = ways[name]
        rows.append(
            [
                name,
                f"{law.exponent:.2f}",
                f"{low:.2f} to {high:.2f}",
                f"{local_slopes(sizes, times)[-1]:.2f}",
            ]
        )
    plots.table(
        rows, ["method", f"exponent in {grows}", "95 % interval", "slope at the end"], caption
    )
    return laws


def growth(
    ways: Mapping[str, Series], *, title: str, xlabel: str, levels: Mapping[float, str]
) -> Figure:
    """Left: time over size, relative to the smallest size.

    Right: slopes between neighbours, with lines at `levels`.
    """
    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for (name, (sizes, times)), marker in zip(ways.items(), plots.MARKERS, strict=False):
        left.loglog(sizes, [t / times[0] for t in times], marker=marker, label=name)
        between = [math.sqrt(m * n) for m, n in zip(sizes, sizes[1:], strict=False)]
        right.semilogx(between, local_slopes(sizes, times), marker=marker, label=name)
    left.set(title=title, xlabel=xlabel, ylabel="time, smallest size = 1")
    right.set(title="Slope between neighbours", xlabel=xlabel, ylabel="local exponent")
    for level, what in levels.items():
        right.axhline(level, color="0.6", linestyle=":", linewidth=1.2)
        right.annotate(
            what, (1.01, level), xycoords=("axes fraction", "data"), va="center", color="0.4"
        )
    every = [size for sizes, _ in ways.values() for size in sizes]
    for axes in (left, right):
        _powers_of_two(axes, min(every), max(every))
    left.legend()
    return figure


def _powers_of_two(axes: Axes, low: float, high: float) -> None:
    ticks = [2**k for k in range(30) if low <= 2**k <= high]
    ticks = ticks[:: max(1, math.ceil(len(ticks) / 6))]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def whole_runs(panels: Mapping[str, Mapping[str, Series]]) -> Figure:
    """A panel for each thing that grows (its name is the axis), a line for each method; time
    relative to the first.
    """
    figure, axes = plots.plt.subplots(
        1, len(panels), figsize=(3.3 * len(panels), 3.8), layout="constrained", sharey=False
    )
    for axis, (what, ways) in zip(axes, panels.items(), strict=True):
        for (name, (sizes, times)), marker in zip(ways.items(), plots.MARKERS, strict=False):
            axis.loglog(
                [s / sizes[0] for s in sizes],
                [t / times[0] for t in times],
                marker=marker,
                label=name,
            )
        end = max(sizes[-1] / sizes[0] for sizes, _ in ways.values())
        axis.loglog([1, end], [1, end], color="0.6", linestyle=":", linewidth=1.2)
        axis.set(xlabel=what, ylabel="time" if axis is axes[0] else "")
        axis.legend(fontsize=9)
    figure.suptitle("Time, smallest = 1; dotted: in proportion", x=0.01, ha="left")
    return figure
