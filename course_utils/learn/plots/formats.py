"""Figures of lesson 5.2: where the order of formats turns, formats as points on a line, their
precision, streams, one's own format.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.quantization import approximate, formats, value_tables

from . import base


def turning(sizes: Sequence[float], curves: Mapping[str, Sequence[float]], every: int) -> Figure:
    """Decibels of each format over the size of the outliers."""
    figure, axes = base.figure(
        title=f"One number in {every} grows",
        xlabel="how many times as large",
        ylabel="SQNR, dB",
        size=(8, 3.8),
    )
    for (name, values), marker in zip(curves.items(), base.MARKERS, strict=False):
        axes.plot(sizes, values, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [f"{s:g}" for s in sizes])
    axes.set_ylim(bottom=0)
    axes.legend(ncols=2, fontsize=9)
    return figure


def number_lines(lists: Mapping[str, Tensor]) -> None:
    """The values of each format, the largest at 1."""
    _, axes = base.figure(
        title="Sixteen patterns, six lists",
        xlabel="value / largest value",
        size=(8, 0.9 + 0.5 * len(lists)),
    )
    for i, values in enumerate(list(lists.values())[::-1]):
        axes.axhline(i, color=base.BLACK, linewidth=0.5, alpha=0.4)
        axes.plot(
            values / values.abs().max(),
            [i] * len(values),
            "|",
            markersize=16,
            markeredgewidth=2,
            color=base.COLOURS[i % 7],
        )
    axes.set_yticks(range(len(lists)), list(lists)[::-1])
    axes.set_ylim(-0.6, len(lists) - 0.4)
    axes.grid(False)
    plt.show()


def small_float(exponent: int, mantissa: int) -> Figure:
    """Every number of sign, exponent and mantissa bits, without infinity; on a line, and on a line
    of logarithms.
    """
    made = formats.Format("own", 1 + exponent + mantissa, "float", exponent, mantissa)
    values = formats.values(made)
    positive = values[values > 0]
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 2.6), layout="constrained")
    above.plot(values, [0] * len(values), "|", markersize=18, markeredgewidth=1.2, color=base.BLUE)
    below.plot(
        positive, [0] * len(positive), "|", markersize=18, markeredgewidth=1.2, color=base.ORANGE
    )
    below.set_xscale("log", base=2)
    above.set_title(
        f"{1 + exponent + mantissa} bits, {len(values)} numbers, largest {made.largest:g}, "
        f"smallest {float(positive.min()):.3g}"
    )
    below.set_xlabel("the positive ones, logarithmic")
    for axes in (above, below):
        axes.set_yticks([])
        axes.grid(False)
    return figure


def relative_errors(names: Sequence[str]) -> None:
    """The largest relative error in each half octave, over the size of the number; each format at a
    scale that puts its best place at 1.
    """
    _, axes = base.figure(
        title="How precise, at which size?",
        xlabel="size of the number",
        ylabel="largest relative error",
        size=(8, 4),
    )
    edges = torch.logspace(-9, 9, 73, base=2.0, dtype=torch.float64)
    for name, marker in zip(names, base.MARKERS, strict=False):
        values = value_tables.values(name)
        centre = {"INT8": 128.0, "LNS8": 2.0**-8}.get(name, 1.0)
        found = []
        for low, high in zip(edges, edges[1:], strict=False):
            x = torch.linspace(float(low), float(high), 200, dtype=torch.float64)
            found.append(
                float(((value_tables.nearest(x * centre, values) / centre - x) / x).abs().max())
            )
        axes.plot(edges[:-1], found, label=name, marker=marker, markevery=6, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(0.003, 1.3)
    axes.legend(ncols=3, fontsize=9)
    plt.show()


def streams(x: float) -> Figure:
    """Relative standard deviation of x · x over the length of the streams, unipolar and bipolar,
    beside rounding to 8 bits.
    """
    figure, axes = base.figure(
        title=f"{x:.2f} · {x:.2f} by streams",
        xlabel="bits of a stream",
        ylabel="deviation / product",
        size=(8, 3.6),
    )
    lengths = [2**k for k in range(4, 17)]
    for label, bipolar, marker in (("unipolar, AND", False, "o"), ("bipolar, XNOR", True, "s")):
        off = [
            math.sqrt(float(approximate.stream_variance(x, x, n, bipolar=bipolar))) / x**2
            for n in lengths
        ]
        axes.plot(lengths, off, marker=marker, label=label)
    axes.axhline(
        math.sqrt(2) / (2 * 127 * math.sqrt(3)) / x,
        color=base.BLACK,
        linestyle="--",
        linewidth=1,
        label="both factors rounded to 8 bits",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 100)
    axes.legend(fontsize=9)
    return figure


def own_values(sample: Tensor, lists: Mapping[str, Tensor]) -> None:
    """A histogram of the numbers, and below it the values of each list."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 4.2), layout="constrained", sharex=True, height_ratios=(2, 1)
    )
    counts, edges = torch.histogram(sample.float().cpu(), bins=160)
    above.stairs(counts / len(sample), edges, fill=True, color=base.SKY)
    above.set(
        yscale="log",
        ylabel="share of the numbers",
        title="Where the numbers are, and where the values",
    )
    for i, values in enumerate(list(lists.values())[::-1]):
        below.plot(
            values,
            [i] * len(values),
            "|",
            markersize=14,
            markeredgewidth=2,
            color=base.COLOURS[i % 7],
        )
    below.set_yticks(range(len(lists)), list(lists)[::-1])
    below.set_ylim(-0.6, len(lists) - 0.4)
    figure.align_ylabels()
    plt.show()
