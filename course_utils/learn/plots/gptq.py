"""Figures of lesson 3.2: the valley of two weights, errors on new text, time by block size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from . import base as plots


def slide(w: Tensor, H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(where the second of two weights slides to, GPTQ's grid point, the best grid point) on whole
    numbers.

    The first weight is rounded; the second moves by −(w_0 − ŵ_0) [H⁻¹]_01 / [H⁻¹]_00 and is rounded
    there. The best is found by trying all points within 3 of the weights.
    """
    inverse = torch.linalg.inv(H)
    first = w[0].round()
    slid = torch.stack([first, w[1] - (w[0] - first) * inverse[0, 1] / inverse[0, 0]])
    near = [[int(v) for v in torch.arange(int(x.floor()) - 3, int(x.floor()) + 5)] for x in w]
    points = torch.tensor(list(itertools.product(*near)), dtype=w.dtype)
    errors = ((points - w) @ H * (points - w)).sum(1)
    return slid, slid.round(), points[errors.argmin()]


def valley(first: float, second: float, correlation: float) -> Figure:
    """Two weights among whole numbers: ellipses of equal output error, rounding, GPTQ and its way,
    the best point.

    The inputs are equally loud, so H is 1 on the diagonal and `correlation` beside it.
    """
    w, H = torch.tensor([first, second]), torch.tensor([[1.0, correlation], [correlation, 1.0]])
    error = lambda point: float((point - w) @ H @ (point - w))  # noqa: E731
    slid, found, best = slide(w, H)
    nearest = w.round()
    figure, axes = plots.figure(
        title=f"output error: rounding {error(nearest):.3f}, GPTQ {error(found):.3f}, "
              f"best {error(best):.3f}",
        xlabel="first weight", ylabel="second weight", size=(6.6, 5),
    )  # fmt: skip
    ends = (-2.6, 3.6)
    a, b = torch.meshgrid(torch.linspace(*ends, 240), torch.linspace(*ends, 240), indexing="xy")
    d = torch.stack([a - w[0], b - w[1]], -1)
    levels = [0.03, 0.1, 0.25, 0.5, 1, 2]
    axes.contour(a, b, ((d @ H) * d).sum(-1), levels=levels, colors="0.6", linewidths=1)
    axes.plot(
        *zip(*itertools.product(range(-2, 4), repeat=2), strict=True),
        ".",
        color="0.3",
        markersize=7,
        label="grid",
    )
    axes.plot(*w, "o", color=plots.BLACK, label="weights")
    axes.plot(*best, "*", color=plots.GREEN, markersize=22, label="best grid point")
    axes.plot(
        *nearest,
        "s",
        color=plots.ORANGE,
        markersize=13,
        fillstyle="none",
        markeredgewidth=2.5,
        label="rounding",
    )
    axes.plot(*zip(w, slid, found, strict=True), "--", color=plots.BLUE, linewidth=1.5)
    axes.plot(*found, "D", color=plots.BLUE, markersize=7, label="GPTQ, and its way there")
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def by_tokens(
    counts: Sequence[int], lines: Mapping[str, Sequence[float]], *, inputs: int, title: str
) -> Figure:
    """Error on new text relative to rounding's, against the number of calibration tokens; a line
    for each setting.
    """
    figure, axes = plots.figure(
        title=title,
        xlabel="calibration tokens",
        ylabel="error on validation text,\nGPTQ / rounding",
        size=(7.5, 3.8),
    )
    for (name, values), marker in zip(lines.items(), plots.MARKERS, strict=False):
        axes.loglog(counts, values, marker=marker, label=name)
    axes.axhline(1, color=plots.BLACK, linestyle=":", label="as bad as rounding")
    axes.axvline(inputs, color="0.6", linestyle="--", label="as many tokens as inputs")
    axes.set_xticks(list(counts), [str(n) for n in counts])
    ticks = [
        t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10) if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]
    ]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.legend()
    return figure


def block_times(sizes: Sequence[int], times: Sequence[float], *, title: str) -> Figure:
    """Bars: the time of each block size relative to the first."""
    figure, axes = plots.figure(
        title=title, xlabel="columns in a block", ylabel="time relative to 1 column", size=(7, 3.2)
    )
    axes.bar([str(size) for size in sizes], [t / times[0] for t in times], color=plots.BLUE)
    axes.grid(visible=False, axis="x")
    return figure
