"""Figures of the lessons on pruning that take more than a few lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.evaluation.comparison import Comparison
from course_utils.pruning import schedules, storage

from . import base as plots

PRECISIONS = (("INT8", 8), ("FP16", 16), ("FP32", 32))


def weight_map(weight: Tensor, kept: Tensor, *, score: str, name: str, corner: int = 64) -> Figure:
    """The corner of a weight (out, in), what went in grey, beside the histogram of all weights and
    of those kept.
    """
    weight, kept = weight.cpu(), kept.cpu()
    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
    limit = (
        float(weight.abs().quantile(0.99)) if weight.numel() < 2**24 else float(weight.abs().max())
    )
    shown = weight[:corner, :corner].masked_fill(~kept[:corner, :corner], float("nan"))
    colours = plots.plt.get_cmap("RdBu").with_extremes(bad="0.85")
    image = left.imshow(shown, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=left, label="weight")
    left.set(
        title=f"{score}, {1 - float(kept.float().mean()):.0%} gone", xlabel="input", ylabel="output"
    )
    left.grid(visible=False)
    edges = torch.linspace(-2 * limit, 2 * limit, 60).tolist()
    right.hist(weight.flatten(), bins=edges, color="0.75", label="all weights")
    right.hist(weight[kept], bins=edges, color=plots.BLUE, alpha=0.8, label="weights that stay")
    right.set(title=name.split(".", 2)[-1], xlabel="weight", ylabel="number")
    right.set_ylim(top=1.35 * right.get_ylim()[1])
    right.legend()
    return figure


def sensitivity(harm: Mapping[str, float], *, title: str, ylabel: str) -> Figure:
    """What pruning each matrix alone does, by block, a line for each kind.

    Names end in the kind, blocks are in order.
    """
    kinds = list(dict.fromkeys(name.split(".")[-1] for name in harm))
    figure, axes = plots.figure(title=title, xlabel="block", ylabel=ylabel, size=(8, 3.8))
    for i, kind in enumerate(kinds):
        values = [v for name, v in harm.items() if name.split(".")[-1] == kind]
        axes.semilogy(
            values,
            marker=plots.MARKERS[i % 8],
            color=plots.COLOURS[i % 8],
            linestyle="-" if i < 4 else "--",
            label=kind,
        )
    axes.set_xticks(range(len(harm) // len(kinds)))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def head_map(score: Tensor, keep: int, *, title: str) -> Figure:
    """Each head's share (blocks, heads) of its block's score; a cross on all but the best `keep` of
    each block.
    """
    share = score / score.sum(1, keepdim=True)
    figure, axes = plots.figure(title=title, xlabel="head", ylabel="block", size=(7.5, 3.6))
    image = axes.imshow(share, cmap="cividis", aspect="auto", vmin=0)
    figure.colorbar(image, ax=axes, label="share of the block")
    rank = share.argsort(1, descending=True).argsort(1)
    for block, head in (rank >= keep).nonzero().tolist():
        axes.text(
            head,
            block,
            "×",
            ha="center",
            va="center",
            color="white",
            fontsize=18,
            fontweight="bold",
        )
    axes.set(xticks=range(share.shape[1]), yticks=range(share.shape[0]))
    axes.grid(visible=False)
    return figure


def bytes_by_sparsity(shape: tuple[int, int]) -> Figure:
    """Bytes of each storage format over those of dense storage, over sparsity, for values of 8, 16
    and 32 bits.
    """
    total = shape[0] * shape[1]
    levels = [i / 50 for i in range(51)]
    figure, panels = plots.plt.subplots(1, 3, figsize=(9.5, 3.5), layout="constrained", sharey=True)
    styles = (("bitmask", plots.BLUE, "-"), ("csr", plots.ORANGE, "--"), ("csr16", plots.RED, "-."))
    for axes, (label, bits) in zip(panels, PRECISIONS, strict=True):
        whole = storage.size("dense", shape, total, bits)
        axes.axhline(1, color=plots.BLACK, linestyle=":", label="dense")
        for name, colour, style in styles:
            sizes = [
                storage.size(name, shape, round((1 - s) * total), bits) / whole for s in levels
            ]
            axes.plot(levels, sizes, style, color=colour, label=name)
        two_of_four = storage.size("2:4", shape, total // 2, bits) / whole
        axes.plot([0.5], [two_of_four], "D", color=plots.GREEN, markersize=9, label="2:4")
        axes.plot(levels, [1 - s for s in levels], color="0.7", linewidth=1, label="values alone")
        axes.set(title=label, xlabel="sparsity", ylim=(0, 2))
    panels[0].set_ylabel("bytes, dense = 1")
    panels[-1].legend(loc="upper right", fontsize=9)
    return figure


def schedule_curves(axes: Axes, *, final: float, rounds: int, end: float) -> None:
    """Sparsity over the share of the training steps: at once, in rounds, and cubic up to `end` (a
    share of the steps).
    """
    t = range(101)
    axes.step(t, [final] * 101, color=plots.ORANGE, label="at once")
    stairs = [schedules.staircase(i, steps=100, rounds=rounds, final=final) for i in t]
    axes.step(t, stairs, "--", where="post", color=plots.GREEN, label="in rounds")
    curve = [schedules.cubic(i, end=round(100 * end), final=final) for i in t]
    axes.plot(t, curve, "-.", color=plots.BLUE, label="gradually")
    axes.set(title="Schedules", xlabel="training, % of the steps", ylabel="sparsity", ylim=(0, 1))
    axes.legend()


def csr_times(
    levels: Sequence[float], faster: Mapping[int, Sequence[float]], *, size: int
) -> Figure:
    """How many times faster than dense the CSR product of a size × size matrix is, over sparsity,
    for some numbers of tokens.
    """
    figure, axes = plots.figure(
        title="Does a product that skips zeros pay? CSR on this CPU",
        xlabel="sparsity",
        ylabel="times faster than dense",
    )
    axes.axhline(1, color=plots.BLACK, linestyle=":", label="dense")
    for (tokens, found), marker in zip(faster.items(), plots.MARKERS, strict=False):
        axes.plot(
            levels,
            found,
            marker=marker,
            label=f"{tokens} token{'s' if tokens > 1 else ''}, {size} × {size}",
        )
    axes.set_yscale("log")
    axes.set_yticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    axes.minorticks_off()
    axes.legend()
    return figure


def schedules_and_accuracy(table: Comparison) -> Figure:
    """Left: three schedules.

    Right: accuracy with its intervals over the weights gone, from rows such as "at once, 95% gone".
    """
    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    schedule_curves(left, final=0.95, rounds=3, end=0.6)
    _ways(right, table, "gone", {"at once": (plots.ORANGE, "s-"), "gradually": (plots.BLUE, "o-.")})
    right.set(
        title="Digits, as many steps for both", xlabel="weights gone, %", ylabel="test accuracy"
    )
    right.legend(loc="lower left")
    return figure


def tickets(table: Comparison) -> Figure:
    """Accuracy with its intervals over the weights that stay, from rows such as "ticket, 13.0%
    left", and the dense network.
    """
    figure, axes = plots.figure(
        title="Test accuracy on digits",
        xlabel="weights that stay, %",
        ylabel="accuracy",
        size=(7.5, 4),
    )
    ways = dict.fromkeys(label.split(",")[0] for label in table.values if "," in label)
    styles = {way: (plots.COLOURS[i], f"{plots.MARKERS[i]}-") for i, way in enumerate(ways)}
    levels = _ways(axes, table, "left", styles)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()
    axes.legend(loc="lower left")
    return figure


def _ways(
    axes: Axes, table: Comparison, word: str, styles: Mapping[str, tuple[str, str]]
) -> list[float]:
    """Lines with 95 % bars of the rows "way, x% word", and the row "dense" as a band;
    the levels x.
    """
    low, high = table.interval("dense")
    axes.axhspan(low, high, color="0.85")
    axes.axhline(table.mean("dense"), color=plots.BLACK, linestyle=":", label="dense")
    levels: list[float] = []
    for way, (colour, style) in styles.items():
        rows = {
            float(re.findall(r"[\d.]+", label.split(",")[1])[0]): label
            for label in table.values
            if label.startswith(f"{way},")
        }
        levels = sorted(rows)
        means, bars = (
            [table.mean(rows[x]) for x in levels],
            [table.half_width(rows[x]) for x in levels],
        )
        axes.errorbar(levels, means, bars, fmt=style, color=colour, capsize=3, label=way)
    return levels


def harm_map(harm: Tensor, *, title: str) -> Figure:
    """Harm (blocks, key-value heads) as a map with its numbers."""
    figure, axes = plots.figure(title=title, xlabel="key-value head", ylabel="block", size=(6, 3.8))
    image = axes.imshow(harm, cmap="cividis", aspect="auto")
    for b, row in enumerate(harm.tolist()):
        for g, value in enumerate(row):
            axes.text(
                g,
                b,
                f"{value:.3f}",
                ha="center",
                va="center",
                color="black" if value > harm.max() / 2 else "white",
            )
    figure.colorbar(image)
    axes.set(xticks=range(harm.shape[1]), yticks=range(harm.shape[0]))
    axes.grid(visible=False)
    return figure
