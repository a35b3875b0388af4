"""Figures of the lessons on quantization that take more than a few lines."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.quantization import dequantize, make_grid, quantize

from . import plots


def shared_scales(x: Tensor, *, bits: int, granularity: str, group_size: int, rows: str, columns: str) -> Figure:
    """Three maps of a small matrix (rows, columns): its values with the regions that share a scale, the scales, the errors.

    `rows` and `columns` name the two directions. The grid is asymmetric, from each region's minimum to its maximum.
    """
    grid = make_grid(x, bits=bits, granularity=granularity, group_size=group_size)
    error = (dequantize(quantize(x, grid), grid) - x).abs()
    scale = grid.scale[:, grid.group_index].expand_as(x)
    stored = bits + (16 + bits) * grid.scale.numel() / x.numel()
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
        vmax=float(make_grid(x, bits=bits, granularity="per_tensor").scale) / 2,
    )
    if granularity != "per_tensor":
        panels[0].hlines(torch.arange(1, len(x)) - 0.5, -0.5, x.shape[1] - 0.5, color="0.35", linewidth=0.4)
    panels[0].vlines(
        torch.arange(1, grid.scale.shape[1]) * group_size - 0.5, -0.5, len(x) - 0.5, color="0.35", linewidth=0.8
    )
    for axes in panels:
        axes.set_xlabel(columns)
    panels[0].set_ylabel(rows)
    scales = grid.scale.numel()
    figure.suptitle(
        f"{scales} scale{'s' if scales > 1 else ''}: {stored:.2f} bits a number, relative error {relative:.1%}",
        x=0.01,
        ha="left",
    )
    return figure


def _map(axes: Axes, values: Tensor, title: str, **colours) -> None:
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **colours)
    axes.set_title(title)
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, shrink=0.9)
