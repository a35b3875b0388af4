"""Figures of the lessons on quantization that take more than a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.quantization import dequantize, make_grid, qat, quantize

from . import base as plots
from .names import name_points


def shared_scales(
    x: Tensor, *, bits: int, granularity: str, group_size: int, rows: str, columns: str = "input"
) -> Figure:
    """Three maps of a small matrix (rows, columns): its values with the regions that share a scale,
    the scales, the errors.

    `rows` and `columns` name the two directions. The grid is symmetric, s = max|x| / (2^(b−1) − 1)
    in each region, with scales of 16 bits.
    """
    grid = make_grid(
        x, bits=bits, granularity=granularity, group_size=group_size, symmetric=True, narrow=True
    )
    error = (dequantize(quantize(x, grid), grid) - x).abs()
    scale = grid.scale[:, grid.group_index].expand_as(x)
    stored = bits + 16 * grid.scale.numel() / x.numel()
    relative = float(error.norm() / x.norm())

    figure, panels = plots.plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained", sharey=True)
    largest = float(x.abs().max())
    _map(panels[0], x, "values", cmap="PuOr", vmin=-largest, vmax=largest)
    _map(panels[1], scale, "scale", cmap="cividis", vmin=0, vmax=float(scale.max()))
    _map(
        panels[2],
        error,
        "error",
        cmap="cividis",
        vmin=0,
        vmax=largest / (2 ** (bits - 1) - 1) / 2,
    )
    if granularity != "per_tensor":
        panels[0].hlines(
            torch.arange(1, len(x)) - 0.5, -0.5, x.shape[1] - 0.5, color="0.35", linewidth=0.4
        )
    panels[0].vlines(
        torch.arange(1, grid.scale.shape[1]) * group_size - 0.5,
        -0.5,
        len(x) - 0.5,
        color="0.35",
        linewidth=0.8,
    )
    for axes in panels:
        axes.set_xlabel(columns)
    panels[0].set_ylabel(rows)
    scales = grid.scale.numel()
    figure.suptitle(
        (
            f"{scales} scale{'s' if scales > 1 else ''}: {stored:.2f} bits a number, "
            f"relative error {relative:.1%}"
        ),
        x=0.01,
        ha="left",
    )
    return figure


def _map(axes: Axes, values: Tensor, title: str, **colours) -> None:
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **colours)
    axes.set_title(title)
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


def clipping(x: Tensor, *, bits: int, share: float, name: str) -> Figure:
    """The numbers with the grid that reaches to `share` of the largest magnitude, and the error of
    every share.

    Left: a histogram of x, grid lines, the clipped part shaded. Right: mean squared error against
    the share, with its parts from rounding and clipping (symmetric grid), relative to the mean of
    x². A star marks the least sum, a cross where the parts are equal.
    """
    x = x.double().flatten()
    largest, top = float(x.abs().max()), 2 ** (bits - 1) - 1
    shares = torch.linspace(0.02, 1, 99, dtype=torch.float64)
    beyond, inside = clipping_costs(x, shares, bits=bits).T
    total = beyond + inside
    here, best = int((shares - share).abs().argmin()), int(total.argmin())
    threshold = float(shares[here]) * largest

    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    counts, edges = torch.histogram(x.float(), bins=161, range=(-largest, largest))
    left.stairs(counts / len(x), edges, fill=True, color=plots.SKY, alpha=0.8)
    left.set_yscale("log")
    if bits <= 6:
        left.vlines(
            torch.arange(-top, top + 1) * threshold / top,
            0,
            0.05,
            color=plots.BLACK,
            linewidth=0.8,
            transform=left.get_xaxis_transform(),
        )
    for side in (-1, 1):
        left.axvspan(side * threshold, side * largest, color=plots.RED, alpha=0.15, linewidth=0)
        left.axvline(side * threshold, color=plots.RED)
    left.set(
        title=f"{name}: {float((x.abs() > threshold).double().mean()):.2%} clipped",
        xlabel="value",
        ylabel="share of the values",
    )
    right.semilogy(shares, beyond.clamp(min=1e-12), "--", color=plots.RED, label="clipping")
    right.semilogy(shares, inside.clamp(min=1e-12), ":", color=plots.BLUE, label="rounding")
    right.semilogy(shares, total, color=plots.BLACK, label="in all")
    right.plot(
        shares[best],
        total[best],
        "*",
        color=plots.GREEN,
        markersize=14,
        label=f"best: {float(shares[best]):.2f}",
    )
    equal = int((inside >= beyond).int().argmax())
    right.plot(
        shares[equal],
        inside[equal],
        "x",
        color=plots.PURPLE,
        markersize=9,
        label=f"equal: {float(shares[equal]):.2f}",
    )
    right.axvline(float(shares[here]), color=plots.RED, linewidth=1)
    right.set_ylim(float(total.min()) / 30, 3)
    right.set(
        title=f"{bits} bits: error {float(total[here]):.2%}",
        xlabel="range, as a share of the largest magnitude",
        ylabel="squared error, relative",
    )
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=5)
    return figure


def clipping_costs(x: Tensor, shares: Tensor, *, bits: int) -> Tensor:
    """(shares, 2): the errors of clipping and of rounding, relative to the mean of x², for ranges
    ±share · max|x|.
    """
    x, top = x.double().flatten(), 2 ** (bits - 1) - 1
    errors = [_parts(x, float(share * x.abs().max()), top) for share in shares]
    return torch.tensor(errors, dtype=torch.float64) / x.square().mean()


def _parts(x: Tensor, threshold: float, top: int) -> tuple[float, float]:
    """The mean squared error of numbers beyond a threshold, and of those inside, each over the
    count of all.
    """
    step = threshold / top
    squares = (x - step * (x / step).round().clamp(-top, top)) ** 2
    outside = x.abs() > threshold
    return float((squares * outside).mean()), float((squares * ~outside).mean())


def token_ranges(x: Tensor, static: Mapping[str, float], *, name: str) -> Figure:
    """The largest magnitude of each token of x (tokens, inputs), sorted, and the ranges that serve
    all tokens, as lines.
    """
    figure, axes = plots.figure(
        title=f"Input of {name}",
        xlabel="token, sorted",
        ylabel="largest magnitude",
        size=(7.5, 3.6),
    )
    axes.semilogy(x.abs().amax(1).sort().values, color=plots.BLUE, label="of the token (dynamic)")
    colours = (plots.RED, plots.ORANGE, plots.GREEN, plots.PURPLE)
    lines = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))
    for (label, value), colour, line in zip(static.items(), colours, lines, strict=False):
        axes.axhline(value, color=colour, linestyle=line, label=label)
    axes.legend(loc="lower right", fontsize=9)
    return figure


def loudness(inputs: Mapping[str, Tensor]) -> Figure:
    """How far the largest magnitudes of channels (left) and of tokens (right) spread, for the
    inputs of some layers.

    `inputs` maps names to (tokens, channels). Both are sorted and divided by their median.
    """
    figure, panels = plots.plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for axes, dim, what in zip(panels, (0, 1), ("channel", "token"), strict=True):
        for i, (name, x) in enumerate(inputs.items()):
            ranges = x.abs().amax(dim).sort(descending=True).values
            share = torch.linspace(0, 100, len(ranges))
            axes.semilogy(
                share,
                ranges / ranges.median(),
                color=plots.COLOURS[i],
                linestyle=("-", "--", "-.", ":")[i % 4],
                label=name,
            )
        axes.axhline(1, color=plots.BLACK, linewidth=0.8)
        axes.set(title=f"Each {what}", xlabel=f"{what}s, loudest first, %")
    panels[0].set_ylabel("largest magnitude,\nmedian = 1")
    panels[1].legend(fontsize=9)
    return figure


def straight_through(scale: float, zero: int, bits: int) -> Figure:
    """Fake quantization over w (left), and its gradient by the straight-through
    estimator (right).
    """
    w = torch.linspace(-1.5, 2.0, 701, requires_grad=True)
    stairs = qat.fake_quantize(w, torch.tensor(scale), torch.tensor(float(zero)), bits)
    stairs.sum().backward()
    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.plot(w.detach(), w.detach(), ":", color=plots.BLACK, label="w")
    left.plot(
        w.detach(),
        stairs.detach(),
        color=plots.BLUE,
        label=f"ŵ, {bits} bits, s = {scale}, z = {zero}",
    )
    left.set(title="Forward", xlabel="w", ylabel="ŵ")
    right.plot(w.detach(), w.grad, color=plots.ORANGE, label="straight-through")
    right.plot(w.detach(), torch.zeros(701), ":", color=plots.BLACK, label="true, where it exists")
    right.set(title="Backward", xlabel="w", ylabel="dŵ / dw", ylim=(-0.1, 1.6))
    for axes in (left, right):
        axes.legend(loc="upper left")
    return figure


def bytes_against_distance(
    points: Mapping[str, tuple[float, float]], kinds: Mapping[str, Sequence[str]]
) -> Figure:
    """Each method's (MB, KL) on logarithmic axes;
    `kinds` maps a label to the names of its methods.
    """
    figure, axes = plots.figure(
        title="Bytes against distance",
        xlabel="MB on disk",
        ylabel="KL from the original, nats per token",
        size=(8, 4.6),
    )
    for i, (label, names) in enumerate(kinds.items()):
        x, y = zip(*(points[name] for name in names), strict=True)
        axes.loglog(x, y, plots.MARKERS[i], color=plots.COLOURS[i], markersize=8, label=label)
    ticks = [
        t for t in (0.5, 1, 1.5, 2, 3, 4, 6) if axes.get_xlim()[0] < t < axes.get_xlim()[1] * 1.3
    ]
    axes.set_xlim(axes.get_xlim()[0] / 1.15, axes.get_xlim()[1] * 1.5)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=9)
    shown = sorted(
        (name for names in kinds.values() for name in names), key=lambda name: -points[name][1]
    )
    name_points(
        axes,
        [points[name] for name in shown],
        [name.replace("W8A8 ", "") for name in shown],
        fontsize=8,
    )
    return figure


def errors_by_cost(
    weight: Tensor, ways: Mapping[str, Callable[[int], tuple[Tensor, float]]], *, title: str
) -> Figure:
    """Relative error of a weight over the bits that each of its numbers takes in all; way(bits)
    gives (what comes back, cost).
    """
    figure, axes = plots.figure(
        title=title,
        xlabel="bits of a weight, scales included",
        ylabel="relative error of the weights",
        size=(7, 3.8),
    )
    for (name, way), marker in zip(ways.items(), plots.MARKERS, strict=False):
        points = [way(bits) for bits in (2, 3, 4, 5, 6, 8)]
        errors = [float((back - weight).norm() / weight.norm()) for back, _ in points]
        axes.semilogy([cost for _, cost in points], errors, marker=marker, label=name)
    axes.legend()
    return figure
