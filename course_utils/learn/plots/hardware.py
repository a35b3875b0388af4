"""Figures of lesson 5.5: the roof, forecasts of latency, steps of width, what was pruned where,
energy, ranges of a crossbar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.systems import roofline
from course_utils.systems.roofline import Roof

from . import base as plots
from .mixed import short


def roof(limit: Roof, width: int, seconds: Mapping[str, Mapping[int, float]]) -> Figure:
    """The roof over the intensity, and what products of a square layer reach: one line for each
    format, one mark for each number of tokens.
    """
    figure, axes = plots.figure(
        title="What the machine allows, and what products reach",
        xlabel="intensity, operations a byte",
        ylabel="billion operations a second",
        size=(8, 4.2),
    )
    found = {n: [(roofline.intensity(width, width, t, **roofline.STORED[n]),
                  roofline.operations(width, width, t) / s, t) for t, s in times.items()]
             for n, times in seconds.items()}  # fmt: skip
    every = [x for points in found.values() for x, _, _ in points]
    line = np.geomspace(min(every) / 2, max(max(every), limit.ridge) * 2, 200)
    axes.loglog(line, [limit(x) / 1e9 for x in line], color=plots.BLACK, label="roof, measured")
    axes.axvline(limit.ridge, color="0.6", linestyle=":", linewidth=1.2)
    for i, (name, points) in enumerate(found.items()):
        axes.loglog(
            [x for x, _, _ in points],
            [y / 1e9 for _, y, _ in points],
            plots.MARKERS[i] + "-",
            color=plots.COLOURS[i],
            linewidth=1.2,
            label=name,
        )
        for x, y, t in (points[0], points[-1]):
            axes.annotate(
                f"{t}",
                (x, y / 1e9),
                xytext=(0, -13),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=plots.COLOURS[i],
            )
    axes.legend(loc="lower right", title="small numbers: tokens at once", title_fontsize=9)
    plots.plt.close(figure)
    return figure


def forecasts(ratios: Mapping[str, Mapping[str, float]], allowed: float = 0.15) -> Figure:
    """{way: {model: forecast / measured}} as groups of bars around 1, with the band of what is
    allowed.
    """
    figure, axes = plots.figure(
        title="Forecasts of whole models", ylabel="forecast / measured", size=(8.5, 3.8)
    )
    names = list(next(iter(ratios.values())))
    axes.axhspan(
        1 - allowed, 1 + allowed, color=plots.SKY, alpha=0.25, label=f"within {allowed:.0%}"
    )
    axes.axhline(1, color=plots.BLACK, linewidth=1)
    for i, (way, values) in enumerate(ratios.items()):
        places = np.arange(len(names)) + 0.36 * (i - (len(ratios) - 1) / 2)
        axes.bar(places, [values[n] for n in names], width=0.34, color=plots.COLOURS[i], label=way)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plots.plt.close(figure)
    return figure


def tiles(tile: int, widths: Sequence[int] = tuple(range(16, 513, 4))) -> Figure:
    """Time of a layer in units of the widest, if a machine works in whole tiles of channels; the
    count of operations beside it.
    """
    figure, axes = plots.figure(
        title=f"Tiles of {tile} channels",
        xlabel="channels that stay",
        ylabel="time, whole layer = 1",
        size=(7.5, 3.6),
    )
    most = math.ceil(max(widths) / tile)
    axes.step(
        widths,
        [math.ceil(w / tile) / most for w in widths],
        where="post",
        color=plots.BLUE,
        label="in whole tiles",
    )
    axes.plot(
        widths,
        [w / max(widths) for w in widths],
        color=plots.ORANGE,
        linestyle="--",
        label="by operations",
    )
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend()
    plots.plt.close(figure)
    return figure


def widths(seconds: Mapping[int, float], base: int) -> Figure:
    """Measured times around a width, relative to its own; multiples of 16 are filled."""
    figure, axes = plots.figure(
        title=f"Widths around {base}, this machine",
        xlabel="channels",
        ylabel=f"time, {base} channels = 1",
        size=(8, 3.6),
    )
    order = sorted(seconds)
    axes.plot(
        order,
        [w / base for w in order],
        color="0.6",
        linestyle="--",
        linewidth=1.2,
        label="in proportion",
    )
    for even, face, label in (
        (True, plots.BLUE, "multiples of 16"),
        (False, "white", "other widths"),
    ):
        some = [w for w in order if (w % 16 == 0) is even]
        axes.plot(
            some,
            [seconds[w] / seconds[base] for w in some],
            "o",
            markeredgecolor=plots.BLUE,
            markerfacecolor=face,
            label=label,
        )
    axes.legend()
    plots.plt.close(figure)
    return figure


def kept(chosen: Mapping[str, Mapping[str, int]], whole: Mapping[str, int]) -> Figure:
    """{way: {part: width}} as the share of each part that stays."""
    figure, axes = plots.figure(
        title="What stays of each part", ylabel="share that stays", size=(8.5, 3.4)
    )
    for i, (way, widths_) in enumerate(chosen.items()):
        places = np.arange(len(whole)) + 0.38 * (i - (len(chosen) - 1) / 2)
        axes.bar(
            places,
            [widths_[n] / whole[n] for n in whole],
            width=0.36,
            color=plots.COLOURS[i],
            label=way,
        )
    labels = [short(n).replace(" o", " attention").replace(" down", " MLP") for n in whole]
    axes.set_xticks(range(len(whole)), labels, rotation=45, ha="right", fontsize=9)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plots.plt.close(figure)
    return figure


def energy(panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """{panel: {label: {part: picojoules}}} as stacked bars,
    each panel in units of its first bar.
    """
    figure, axes = plots.plt.subplots(
        1, len(panels), figsize=(9.5, 3.8), layout="constrained", sharey=True
    )
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        unit = sum(next(iter(bars.values())).values())
        bottom = np.zeros(len(bars))
        for i, part in enumerate(next(iter(bars.values()))):
            heights = np.array([found[part] / unit for found in bars.values()])
            axis.bar(range(len(bars)), heights, bottom=bottom, color=plots.COLOURS[i], label=part)
            bottom += heights
        for place, height in enumerate(bottom):
            axis.annotate(f"{height:.2f}", (place, height), ha="center", va="bottom", fontsize=9)
        axis.set_xticks(range(len(bars)), list(bars), fontsize=9)
        axis.set_title(title)
    axes[0].set_ylabel("energy of a token, FP32 = 1")
    axes[-1].legend()
    plots.plt.close(figure)
    return figure


def ranges(weight: Tensor, title: str) -> Figure:
    """The largest magnitude of each output, ascending, and that of the whole matrix."""
    figure, axes = plots.figure(
        title=title, xlabel="outputs, in order", ylabel="largest |w|", size=(7.5, 3.4)
    )
    top = weight.abs().amax(1).sort().values
    axes.plot(top.numpy(), color=plots.BLUE, label="range of an output")
    axes.plot(
        weight.square().mean(1).sqrt()[weight.abs().amax(1).argsort()].numpy(),
        color=plots.GREEN,
        linewidth=1.2,
        label="root mean square of its weights",
    )
    axes.axhline(float(top[-1]), color=plots.RED, linestyle="--", label="range of the matrix")
    axes.set_ylim(0, None)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plots.plt.close(figure)
    return figure
