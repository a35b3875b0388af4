"""Figures of lesson 5.1: damages and bits of layers, bits against damage, keys and their channels,
learned steps, codecs, searches.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.evaluation.comparison import Comparison

from . import base
from .names import name_points


def short(name: str) -> str:
    """Block and kind of a layer: model.layers.3.mlp.down_proj → 3 down."""
    parts = name.split(".")
    return (
        f"{next((p for p in parts if p.isdigit()), '')} {parts[-1].removesuffix('_proj')}".strip()
    )


def layer_damages(
    damages: Mapping[str, Mapping[int, float]], chosen: Mapping[str, int] | None = None
) -> Figure:
    """KL of each layer alone at each number of bits; the chosen number is marked."""
    names, bits = list(damages), list(next(iter(damages.values())))
    values = np.array([[max(damages[n][b], 1e-9) for n in names] for b in bits])
    figure, axes = base.figure(
        title="KL when one layer alone is rounded, nats a token", size=(9, 3.0)
    )
    shown = axes.imshow(
        values,
        aspect="auto",
        norm=LogNorm(vmin=max(values.min(), 1e-7), vmax=values.max()),
        cmap="cividis",
    )
    axes.set_yticks(range(len(bits)), [f"{b} bits" for b in bits])
    axes.set_xticks(range(len(names)), [short(n) for n in names], rotation=90, fontsize=8)
    axes.grid(False)
    for i, name in enumerate(names):
        if chosen is not None:
            axes.plot(i, bits.index(chosen[name]), "o", color=base.ORANGE, markersize=6)
    figure.colorbar(shown, ax=axes)
    plt.close(figure)
    return figure


def fronts(table: Comparison, families: Sequence[str]) -> Figure:
    """KL over bits a weight, a line for each way to choose; the uniform widths beside."""
    figure, axes = base.figure(
        title="Where should the next bit go?",
        xlabel="bits a weight, everything counted",
        ylabel="KL, nats a token",
        size=(8, 4),
    )
    bits = {name: float(b) for name, b in table.columns["bits a weight"].items()}
    for family, colour, marker in zip(families, base.COLOURS, base.MARKERS, strict=False):
        names = [
            n for n in table.values if n == family or n.startswith((f"{family},", f"{family} "))
        ]
        names = [n for n in names if "swaps" not in n or "swaps" in family]
        ends = [table.half_width(n) for n in names]
        axes.errorbar(
            [bits[n] for n in names],
            [table.mean(n) for n in names],
            yerr=ends,
            marker=marker,
            color=colour,
            capsize=3,
            label=family,
        )
    axes.set_yscale("log")
    axes.legend()
    plt.close(figure)
    return figure


def budget(
    damages: Mapping[str, Mapping[int, float]], chosen: Mapping[str, int], title: str
) -> Figure:
    """Bits of each layer as bars."""
    figure, axes = base.figure(title=title, ylabel="bits", size=(9, 3.0))
    names = list(damages)
    colours = {b: base.COLOURS[i] for i, b in enumerate(sorted(next(iter(damages.values()))))}
    axes.bar(
        range(len(names)), [chosen[n] for n in names], color=[colours[chosen[n]] for n in names]
    )
    axes.set_xticks(range(len(names)), [short(n) for n in names], rotation=90, fontsize=8)
    axes.set_ylim(0, max(colours) + 0.5)
    return figure


def keys(states: Tensor, turned_back: Tensor, head: int) -> Figure:
    """Keys (heads, tokens, channels) of one head as they are cached, and before the rotary
    embedding.
    """
    figure, pair = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    most = float(max(states[head].abs().max(), turned_back[head].abs().max()))
    for axes, x, title in zip(
        pair,
        (turned_back, states),
        ("before the rotary embedding", "as cached, after it"),
        strict=True,
    ):
        shown = axes.imshow(x[head].T, aspect="auto", cmap="PuOr", vmin=-most, vmax=most)
        axes.set(title=title, xlabel="token", ylabel="channel")
        axes.grid(False)
    figure.colorbar(shown, ax=pair)
    return figure


def cache(tables: Mapping[int, Comparison], labels: Sequence[str]) -> Figure:
    """KL over bits a number, a line for each way to quantize the cache."""
    figure, axes = base.figure(
        title="The cache in few bits",
        xlabel="bits a number, scales counted",
        ylabel="KL, nats a token",
        size=(8, 4),
    )
    for label, colour, marker in zip(labels, base.COLOURS, base.MARKERS, strict=False):
        x = [float(t.columns["bits a number"][label]) for t in tables.values()]
        y, ends = (
            [t.mean(label) for t in tables.values()],
            [t.half_width(label) for t in tables.values()],
        )
        low = [min(e, 0.9 * v) for e, v in zip(ends, y, strict=True)]
        axes.errorbar(x, y, yerr=[low, ends], marker=marker, color=colour, capsize=3, label=label)
    axes.set_yscale("log")
    axes.legend(fontsize=9, loc="lower left")
    plt.close(figure)
    return figure


def lengths(table: Comparison) -> Figure:
    """KL in each part of the context."""
    figure, axes = base.figure(
        title="2 bits, by place in the context",
        xlabel="token",
        ylabel="KL, nats a token",
        size=(7, 3.4),
    )
    places = [int(n.split()[1]) + 32 for n in table.values]
    axes.errorbar(
        places,
        [table.mean(n) for n in table.values],
        yerr=[table.half_width(n) for n in table.values],
        marker="o",
        color=base.BLUE,
        capsize=3,
    )
    axes.set_ylim(0)
    plt.close(figure)
    return figure


def steps(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """How a learned step moves, for each optimizer and each factor on its gradient."""
    figure, row = plt.subplots(1, len(found), figsize=(9, 3.4), layout="constrained", sharey=True)
    for axes, (optimizer, curves) in zip(np.atleast_1d(row), found.items(), strict=True):
        for (label, curve), style in zip(curves.items(), ("-", "--", ":"), strict=False):
            axes.plot(curve, style, label=label)
        axes.set(
            title=optimizer,
            xlabel="training step",
            ylabel="step of the grid" if axes is np.atleast_1d(row)[0] else "",
        )
        axes.legend(fontsize=9)
    plt.close(figure)
    return figure


def ring(points: Tensor, read: Mapping[str, tuple[Tensor, str]]) -> Figure:
    """Points of a source, and the places at which each codec reads them back."""
    figure, row = plt.subplots(
        1, len(read), figsize=(9, 3.4), layout="constrained", sharey=True, sharex=True
    )
    for axes, (label, (back, said)) in zip(row, read.items(), strict=True):
        axes.plot(points[:, 0], points[:, 1], ".", color=base.SKY, markersize=2, alpha=0.5)
        axes.plot(back[:, 0], back[:, 1], ".", color=base.RED, markersize=4)
        axes.set(title=f"{label}\n{said}", aspect="equal")
    plt.close(figure)
    return figure


def searches(
    curves: Mapping[str, Sequence[Tensor]], batch: int, lines: Mapping[str, float]
) -> Figure:
    """The best damage so far over tries, as a multiple of the optimum: mean of the runs and their
    range.
    """
    figure, axes = base.figure(
        title="Searching for what can be computed",
        xlabel="allocations tried",
        ylabel="damage / exact optimum",
        size=(8, 3.8),
    )
    for (label, runs), colour in zip(curves.items(), base.COLOURS, strict=False):
        stacked = torch.stack(list(runs))
        tries = np.arange(1, stacked.shape[1] + 1) * batch
        axes.plot(tries, stacked.mean(0), color=colour, label=label)
        axes.fill_between(
            tries, stacked.min(0).values, stacked.max(0).values, color=colour, alpha=0.2
        )
    for (label, value), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(value, linestyle=style, color=base.BLACK, linewidth=1.2, label=label)
    axes.set_yscale("log")
    axes.set_yticks([1, 1.2, 1.5, 2], ["1", "1.2", "1.5", "2"])
    axes.minorticks_off()
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure


def points(
    sizes: Sequence[float], damages: Sequence[float], best: Sequence[bool], names: Sequence[str]
) -> None:
    """All allocations of a small example: bytes over damage, the best for each size marked."""
    _, axes = base.figure(
        title="All allocations of three layers", xlabel="bytes", ylabel="damage", size=(7, 3.6)
    )
    axes.plot(sizes, damages, "o", color=base.SKY)
    front = sorted((s, d, n) for s, d, n, b in zip(sizes, damages, names, best, strict=True) if b)
    axes.plot([s for s, _, _ in front], [d for _, d, _ in front], "s-", color=base.RED)
    axes.set_yscale("log")
    axes.set_yticks([2, 5, 10], ["2", "5", "10"])
    axes.minorticks_off()
    name_points(axes, [(s, d) for s, d, _ in front], [n for _, _, n in front])
    plt.show()
