"""Figures of lesson 2.5: bytes against time, the cliff, and forms of one matrix at several batch
sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from . import base as plots
from .names import name_points

LOWEST = 1e-4  # a rise in nats below this, or one that is not seen, is drawn here


def size_and_time(sizes: Mapping[str, float], ms: Mapping[str, float]) -> Figure:
    """Milliseconds a token over bytes, a mark for each version."""
    figure, axes = plots.figure(
        title="Bytes do not order the time",
        xlabel="MB on disk",
        ylabel="processor ms a token",
        size=(7.5, 3.8),
    )
    for i, name in enumerate(sizes):
        axes.plot(
            sizes[name] / 1e6,
            ms[name],
            plots.MARKERS[i],
            color=plots.COLOURS[i],
            markersize=11,
            label=name,
        )
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cliff(
    ratios: Mapping[str, float], rise: Mapping[str, tuple[float, float]], *, allowed: float
) -> Figure:
    """The rise of the loss (mean, half width) over the ratio, on a logarithmic axis that ends at
    LOWEST.
    """
    figure, axes = plots.figure(
        title="Flat at first, then a cliff",
        xlabel="compression ratio (of the 16-bit file)",
        ylabel="nats per token above the original",
        size=(7.5, 3.8),
    )
    order = sorted(rise, key=ratios.__getitem__)
    seen = {
        name: rise[name][0] if rise[name][0] > max(rise[name][1], LOWEST) else LOWEST
        for name in order
    }
    axes.semilogy([ratios[n] for n in order], [seen[n] for n in order], "o-", color=plots.BLUE)
    shown = [n for n in order if seen[n] > LOWEST]
    axes.errorbar(
        [ratios[n] for n in shown],
        [seen[n] for n in shown],
        yerr=[rise[n][1] for n in shown],
        fmt="none",
        ecolor=plots.BLUE,
    )
    axes.axhline(allowed, color=plots.RED, linestyle="--", label=f"{allowed:g} nats allowed")
    axes.set_ylim(LOWEST / 2, None)
    axes.legend(loc="lower right")
    name_points(axes, [(ratios[n], seen[n]) for n in order], order)
    return figure


def forms(speed: Mapping[str, Mapping[int, float]], tokens: Sequence[int]) -> Figure:
    """Bars for each form of a matrix, one for each number of tokens at once; 0 where a form is not
    there.
    """
    figure, axes = plots.figure(
        title="The same forms, another number of tokens",
        ylabel="times faster than FP32",
        size=(8.5, 3.8),
    )
    for i, t in enumerate(tokens):
        places = [k + 0.27 * (i - (len(tokens) - 1) / 2) for k in range(len(speed))]
        axes.bar(
            places,
            [found.get(t, 0) for found in speed.values()],
            width=0.25,
            color=plots.COLOURS[i],
            label=f"{t} token{'s' if t > 1 else ''}",
        )
    axes.axhline(1, color=plots.BLACK, linestyle="--", linewidth=1.2)
    names = [
        name.replace(", ", ",\n").replace(" of ", "\nof ").replace(" w", "\nw") for name in speed
    ]
    axes.set_xticks(range(len(speed)), names, fontsize=9)
    axes.legend(title="at once")
    return figure
