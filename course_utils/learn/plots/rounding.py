"""Figures of lesson 3.1: how far s²/12 reaches, where rules end a range,
how small an error can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from . import base as plots


def twelfth(steps: Tensor, exact: Sequence[float], measured: Sequence[float]) -> Figure:
    """E[e²] / (s²/12) of normal numbers against the step: computed, measured at every fourth step,
    and what it tends to.
    """
    figure, axes = plots.figure(
        title="Is the mean squared error s²/12?", xlabel="step, in standard deviations of x",
        ylabel="mean squared error / (s²/12)", size=(7.5, 3.5),
    )  # fmt: skip
    axes.semilogx(steps, exact, color=plots.BLUE, label="normal numbers, computed")
    axes.semilogx(steps[::4], measured, "o", color=plots.ORANGE, label="200,000 of them, rounded")
    axes.semilogx(
        steps, 12 / steps**2, ":", color=plots.RED, label="everything becomes 0: error = variance"
    )
    axes.axhline(1, color=plots.BLACK, linewidth=1, linestyle="--", label="s²/12")
    axes.set_ylim(0, 1.6)
    axes.legend(fontsize=9)
    return figure


def range_ends(x: Tensor, ends: Mapping[tuple[int, str], float]) -> Figure:
    """A histogram of |x| for each number of bits in `ends`, with a line where each rule ends the
    range.
    """
    bits = sorted({b for b, _ in ends}, reverse=True)
    figure, panels = plots.plt.subplots(
        1, len(bits), figsize=(9, 3.3), layout="constrained", sharey=True
    )
    counts, edges = torch.histogram(x.abs().cpu(), bins=150)
    for axes, b in zip(panels, bits, strict=True):
        axes.stairs(counts / len(x), edges, fill=True, color=plots.SKY, alpha=0.7)
        rules = {rule: end for (at, rule), end in ends.items() if at == b}
        for (rule, end), colour, line in zip(
            rules.items(),
            (plots.BLACK, plots.ORANGE, plots.GREEN, plots.RED),
            ("-", "--", ":", "-."),
            strict=True,
        ):
            axes.axvline(end, color=colour, linestyle=line, label=rule)
        axes.set_yscale("log")
        axes.set(title=f"{b} bits", xlabel="magnitude of an activation")
    panels[0].set_ylabel("share of the activations")
    panels[0].legend()
    return figure
