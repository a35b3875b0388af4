"""Figures of lesson 1.2: grids, bit patterns, what formats reach, and bytes against error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.quantization import dequantize, formats, make_grid, quantize

from . import base as plots
from .names import name_points

FIELDS = {
    "sign": plots.RED, "exponent": plots.ORANGE, "mantissa": plots.BLUE, "magnitude": plots.BLUE,
    "index": plots.GREEN,
}  # fmt: skip


def grid_and_error(group: Tensor, bits: int) -> Figure:
    """A row of weights (1, n) with the lines of its min-max grid and the nearest line of each;
    below, the errors.
    """
    grid = make_grid(group, bits=bits, granularity="per_channel")
    rounded = dequantize(quantize(group, grid), grid)
    step, zero, place = float(grid.scale), float(grid.zero_point), range(group.shape[1])
    figure, (above, below) = plots.plt.subplots(
        2, 1, figsize=(7.5, 5), sharex=True, layout="constrained", height_ratios=[2, 1]
    )
    for code in range(2**bits):
        above.axhline(
            step * (code - zero), color=plots.SKY, linewidth=0.8 if bits < 7 else 0.3, zorder=0
        )
    above.vlines(place, group[0], rounded[0], color=plots.RED, linewidth=1.5)
    above.plot(place, group[0], "o", color=plots.BLUE, markersize=4, label="weight")
    above.plot(place, rounded[0], "_", color=plots.BLACK, markersize=7, label="nearest value")
    error = float((group - rounded).norm() / group.norm())
    above.set(title=f"{bits} bits: {2**bits} values, relative error {error:.2%}", ylabel="weight")
    above.grid(visible=False)
    above.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2)
    below.axhspan(-step / 2, step / 2, color=plots.SKY, alpha=0.3, label="half a step")
    below.bar(place, (rounded - group)[0], color=plots.RED)
    limit = 0.6 * max(step, float(make_grid(group, bits=4, granularity="per_channel").scale))
    below.set(xlabel="position in the row", ylabel="error", ylim=(-limit, limit))
    below.legend(loc="lower right", bbox_to_anchor=(1, 0.95))
    return figure


def layouts(names: Sequence[str]) -> Figure:
    """A box for each bit of each format, coloured by what it is for."""
    figure, axes = plots.figure(title="Who gets the bits", size=(7.5, 4))
    for row, name in enumerate(names):
        at = 0
        for field, width in formats.layout(name).items():
            axes.broken_barh(
                [(at + i + 0.06, 0.88) for i in range(width)],
                (-row - 0.38, 0.76),
                color=FIELDS[field],
            )
            at += width
    axes.set_yticks([-row for row in range(len(names))], list(names))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    words = {
        "sign": "sign",
        "exponent": "exponent",
        "mantissa": "mantissa, or magnitude",
        "index": "place in a table",
    }
    handles = [
        plots.plt.Rectangle((0, 0), 1, 1, color=FIELDS[k], label=v) for k, v in words.items()
    ]
    axes.legend(handles=handles, loc="lower right")
    return figure


def pattern(boxes: Sequence[bool], name: str) -> Figure:
    """Eight bits, first to last, as a number of a format, its formula, and all values of the format
    with it marked.

    A format of 4 bits takes the last four boxes; one of 16 bits takes them as its first eight, and
    zeros behind them.
    """
    f = formats.find(name)
    code = sum(bool(on) << (len(boxes) - 1 - i) for i, on in enumerate(boxes))
    code = code << (f.bits - 8) if f.bits > 8 else code & (2**f.bits - 1)
    value = float(formats.decode(code, f))
    figure, (above, line) = plots.plt.subplots(
        2, 1, figsize=(7.5, 3), layout="constrained", height_ratios=[3, 1.4]
    )
    _boxes(above, code, f)
    said = "not a number" if math.isnan(value) else f"{value:g}".replace("inf", "infinity")
    above.set(
        xlim=(0, f.bits), ylim=(-0.75, 1.35), title=f"{name}: pattern {code:0{f.bits}b} is {said}"
    )
    above.text(
        f.bits / 2,
        -0.4,
        _formula(code, f) if math.isfinite(value) else "a special pattern",
        ha="center",
        va="center",
    )
    above.axis("off")
    line.vlines(formats.values(f) if f.bits <= 8 else [], 0, 1, color=plots.BLUE, linewidth=0.8)
    if math.isfinite(value):
        line.plot([value], [0.5], "v", color=plots.RED, markersize=12, clip_on=False)
    if f.kind == "float" and f.bits >= 8:
        _powers(line, f)
    line.set_ylim(0, 1)
    line.set_yticks([])
    line.grid(visible=False)
    line.spines[["left"]].set_visible(False)
    return figure


def _boxes(axes: Axes, code: int, f: formats.Format) -> None:
    at = 0
    for field, width in formats.layout(f).items():
        for i in range(at, at + width):
            bit = code >> (f.bits - 1 - i) & 1
            axes.add_patch(
                plots.plt.Rectangle(
                    (i + 0.04, 0), 0.92, 1, color=FIELDS[field], alpha=0.95 if bit else 0.25
                )
            )
            axes.text(
                i + 0.5, 0.5, str(bit), ha="center", va="center", fontsize=16 if f.bits <= 8 else 12
            )
        axes.text(at + width / 2, 1.1, field, ha="center", color=FIELDS[field])
        at += width


def _formula(code: int, f: formats.Format) -> str:
    if f.kind == "integer":
        places = ", ".join(str(2**i) for i in reversed(range(f.bits - 1)))
        return f"two's complement: the sign bit counts −{2 ** (f.bits - 1)}, the others {places}"
    if f.kind == "table":
        return f"place {code} in the table of {2**f.bits} values"
    fields = formats.fields(code, f)
    sign, E, M = fields["sign"], fields["exponent"], fields["mantissa"]
    lead, power = int(E > 0), max(E, 1) - f.bias
    minus, whole = "-" if sign else "", lead + M / 2**f.mantissa
    return (
        rf"$(-1)^{{{sign}}} \cdot 2^{{{max(E, 1)} - {f.bias}}} \cdot ({lead} + "
        rf"{M} / {2**f.mantissa})"
        rf" \;=\; {minus}2^{{{power}}} \cdot {whole:g}$"
    )


def _powers(axes: Axes, f: formats.Format) -> None:
    """A logarithmic axis in both directions, linear around 0."""
    top = int(math.log2(f.largest))
    axes.set_xscale("symlog", linthresh=2.0 ** (1 - f.bias), linscale=0.6)
    step = max(4, 2 * round((top + f.bias) / 10))
    exponents = range(top - step * int((top + f.bias - 1) / step), top + 1, step)
    marks = [s * 2.0**e for s in (-1, 1) for e in exponents]
    axes.set_xticks(
        marks,
        [f"{'−' if s < 0 else ''}$2^{{{e}}}$" for s in (-1, 1) for e in exponents],
        fontsize=9,
    )
    axes.minorticks_off()
    axes.set_xlim(
        -1.3 * f.largest if f.largest < 1e38 else -f.largest,
        1.3 * f.largest if f.largest < 1e38 else f.largest,
    )


def reach(names: Sequence[str]) -> Figure:
    """From the smallest number above 0 to the largest, with the relative step of each format."""
    figure, axes = plots.figure(
        title="From the smallest number above 0 to the largest", xlabel="size", size=(7.5, 3)
    )
    for row, name in enumerate(names):
        f = formats.find(name)
        ends = [
            math.log10(v)
            for v in (
                float(formats.decode(1, f)),
                float(formats.decode(2**f.mantissa, f)),
                f.largest,
            )
        ]
        axes.plot(ends[1:], [-row, -row], color=plots.BLUE, linewidth=9, solid_capstyle="butt")
        axes.plot(ends[:2], [-row, -row], color=plots.SKY, linewidth=9, solid_capstyle="butt")
        axes.text(40, -row, f"relative step at most 1/{2**f.mantissa:,}", va="center")
    axes.set_yticks([-row for row in range(len(names))], list(names))
    axes.set_xticks(range(-45, 40, 15), [f"$10^{{{e}}}$" for e in range(-45, 40, 15)])
    axes.set_xlim(-47, 75)
    axes.grid(visible=False, axis="y")
    kinds = ((plots.BLUE, "normal"), (plots.SKY, "subnormal (less exact)"))
    handles = [plots.plt.Line2D([], [], color=c, linewidth=9, label=t) for c, t in kinds]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=2)
    return figure


def values_under(scaled: Tensor, grids: Mapping[str, Tensor]) -> Figure:
    """A histogram of weights divided by the largest of their group, and below it the values of each
    grid.
    """
    figure, axes = plots.figure(
        title="Weights in groups of 64, divided by the largest of their group",
        xlabel="scaled weight",
        size=(7.5, 3.8),
    )
    counts, edges = torch.histogram(scaled.float(), bins=121, range=(-1.0, 1.0))
    axes.stairs(counts / counts[1:-1].max(), edges, fill=True, color=plots.SKY, alpha=0.6)
    for row, (name, values) in enumerate(grids.items()):
        colour = plots.COLOURS[row]
        axes.vlines(values, -0.16 - 0.2 * row, -0.04 - 0.2 * row, color=colour, linewidth=2.5)
        axes.text(1.06, -0.1 - 0.2 * row, name, va="center", color=colour)
    axes.set(
        xlim=(-1.1, 1.55),
        ylim=(-0.1 - 0.2 * len(grids), 1.05),
        yticks=[],
        xticks=[-1, -0.5, 0, 0.5, 1],
    )
    axes.grid(visible=False)
    return figure


def bytes_against_error(kinds: Mapping[str, Sequence[tuple[str, float, float]]]) -> Figure:
    """Points (name, share of plain BF16, relative error) of each kind."""
    figure, axes = plots.figure(
        title="Bytes against error",
        xlabel="bytes, share of plain BF16",
        ylabel="relative error of the weights",
        size=(7.5, 4),
    )
    for i, (label, points) in enumerate(kinds.items()):
        axes.plot(
            [p[1] for p in points],
            [p[2] for p in points],
            plots.MARKERS[i],
            color=plots.COLOURS[i],
            markersize=9,
            label=label,
        )
    axes.set_xlim(0, 1.08)
    axes.legend()
    named = [(name, (x, y)) for points in kinds.values() for name, x, y in points if name]
    name_points(axes, [place for _, place in named], [name for name, _ in named], fontsize=9)
    return figure


def outlier(
    error_of_others: Callable[[str, int], float], names: Sequence[str], factor: int
) -> Figure:
    """The relative error of the other weights when the largest is `factor` times larger;
    error_of_others(name, factor).
    """
    figure, axes = plots.figure(
        title=f"The largest weight {factor} times larger",
        xlabel="how many times larger",
        ylabel="relative error of the others",
        size=(7.5, 3.5),
    )
    factors = list(range(1, 41))
    for name, colour in zip(names, plots.COLOURS, strict=False):
        axes.plot(factors, [error_of_others(name, k) for k in factors], color=colour, label=name)
        axes.plot([factor], [error_of_others(name, factor)], "o", color=colour, markersize=9)
    axes.axvline(factor, color=plots.BLACK, linestyle=":", linewidth=1)
    axes.set_ylim(0, 1.15)
    axes.legend(ncols=len(names), loc="upper left")
    return figure
