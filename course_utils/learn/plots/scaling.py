"""Figures of lesson 3.3: the outlier viewer, the best share of a clipped range."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.quantization.smoothquant import smoothing_scale

from . import base as plots


def outliers(
    x: Tensor, weight: Tensor, *, alpha: float | None, name: str, tokens: int = 64
) -> Figure:
    """Activations x (tokens, in) beside the weight (out, in) they meet: a map of |x|, and the
    largest value of each channel.

    With `alpha` both are shown after smoothing, x / s and W · s, and what they were before as thin
    lines. The title says how many of the 127 levels of a per-tensor INT8 grid the median channel
    can use.
    """
    before = x.abs().amax(0), weight.abs().amax(0)
    if alpha is not None:
        scale = smoothing_scale(*before, alpha)
        x, weight = x / scale, weight * scale
    largest, columns = x.abs().amax(0), weight.abs().amax(0)
    levels = int(127 * largest.median() / largest.max())

    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    image = left.imshow(
        x[:tokens].abs().clamp(min=1e-3), aspect="auto", interpolation="nearest", cmap="cividis",
        norm=LogNorm(0.05, max(10.0, float(before[0].max()))),
    )  # fmt: skip
    left.set(title="activations |x|", xlabel="input channel", ylabel="token")
    left.grid(visible=False)
    figure.colorbar(image, ax=left, shrink=0.9)
    places = torch.arange(len(largest))
    for values, first, colour, label, mark in (
        (
            largest,
            before[0],
            plots.BLUE,
            "activations, max |x|",
            {"marker": "o", "fillstyle": "none", "markersize": 6},
        ),
        (columns, before[1], plots.ORANGE, "weights, max |w|", {"marker": ".", "markersize": 5}),
    ):
        if alpha is not None:
            right.semilogy(places, first, color=colour, linewidth=0.7, alpha=0.6)
        right.semilogy(places, values, linestyle="none", color=colour, label=label, **mark)
    if alpha is not None:
        right.plot([], [], color=plots.BLACK, linewidth=0.7, alpha=0.6, label="before")
    right.set(title="largest value of each channel", xlabel="input channel", ylabel="magnitude")
    figure.legend(loc="outside lower right", ncols=3)
    figure.suptitle(f"{name}: the median channel uses {levels} of 127 levels", x=0.01, ha="left")
    return figure


def clip_shares(shares: Tensor, errors: Mapping[int, Tensor]) -> Figure:
    """`errors[bits]` (rows, shares): left their mean relative to the first share, right how many
    rows are best at each.
    """
    figure, (left, right) = plots.plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for (bits, values), marker, colour in zip(
        errors.items(), plots.MARKERS, plots.COLOURS, strict=False
    ):
        how = {"marker": marker, "color": colour, "label": f"{bits} bits"}
        left.plot(shares, values.mean(0) / values.mean(0)[0], **how)
        best = shares[values.argmin(1)]
        right.plot(shares, [float((best == c).double().mean()) for c in shares], **how)
    left.set(
        title="one c for all rows",
        xlabel="c, share of the range",
        ylabel="output error, relative to c = 1",
        yscale="log",
    )
    right.set(
        title="the best c of each row", xlabel="c, share of the range", ylabel="share of the rows"
    )
    left.legend()
    return figure
