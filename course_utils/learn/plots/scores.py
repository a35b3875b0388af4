"""Figures of lesson 3.4: a score against the true cost, what stays of loud inputs, a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from . import base as plots


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: 1 if both put the values in the same order, 0 if one says nothing about the
    other.

    Ties share their rank.
    """
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.flatten().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts.double() - 1) / 2)[place]


def against_truth(
    mask: Tensor, kept: Tensor, value: Tensor, true: Tensor, *, name: str, cost: float
) -> Figure:
    """Left the mask of a layer, right each weight: its score `value` against its true cost, those
    that go marked.
    """
    figure, (left, right) = plots.plt.subplots(
        1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=[1.3, 1]
    )
    left.imshow(mask, cmap="Greys", vmin=0, vmax=1.3, aspect="auto", interpolation="nearest")
    left.set(title=f"mask of the first layer: {name}", xlabel="pixel", ylabel="hidden unit")
    left.grid(visible=False)
    for which, colour, marker, label in (
        (kept, plots.BLUE, "o", "stays"),
        (~kept, plots.ORANGE, "s", "goes"),
    ):
        right.plot(
            true[which],
            value[which].clamp(min=1e-9),
            marker,
            color=colour,
            markersize=3,
            label=label,
        )
    right.set_xscale("symlog", linthresh=1e-4)
    if name == "true cost":
        right.set_yscale("symlog", linthresh=1e-4)
    else:
        right.set_yscale("log")
    right.set_xticks([-1e-2, 0, 1e-3, 1e-1])
    right.set(xlabel="true cost of the weight alone, nats", ylabel="score")
    right.set_title(
        f"mask costs {cost:.3f} nats; rank correlation {rank_correlation(value, true):.2f}",
        fontsize=11,
    )
    right.legend(loc="lower right")
    return figure


def kept_by_loudness(
    norm: Tensor, masks: Mapping[str, Tensor], *, name: str, count: int = 48
) -> Figure:
    """Above, the norms of the loudest inputs; below, the share of each input's weights that every
    mask keeps.
    """
    order = norm.argsort(descending=True)[:count]
    figure, (top, below) = plots.plt.subplots(
        2, 1, figsize=(8, 4.6), sharex=True, layout="constrained"
    )
    top.bar(range(len(order)), norm[order], color="0.5")
    top.set_yscale("log")
    top.set(title=f"{name}: the {len(order)} loudest inputs", ylabel="‖X_j‖₂ · √(2/N)")
    for (method, mask), colour, marker in zip(
        masks.items(), (plots.ORANGE, plots.BLUE), "so", strict=True
    ):
        share = mask[:, order].float().mean(0)
        below.plot(share, marker, color=colour, markersize=5, label=method)
    below.set(xlabel="input, loudest first", ylabel="share kept", ylim=(-0.05, 1.05))
    below.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2)
    return figure


def against_bound(points: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """(condition number, cost / cost of the best set) of random rows, for each method, and the
    bound: the diagonal.
    """
    figure, axes = plots.figure(
        title="How much worse than the best set?",
        size=(7.5, 3.8),
        ylabel="cost / cost of the best set",
        xlabel="condition number: κ(H) for magnitude, κ(C) for Wanda",
    )
    for (name, found), colour, marker in zip(
        points.items(), (plots.ORANGE, plots.BLUE), "so", strict=True
    ):
        mean = sum(ratio for _, ratio in found) / len(found)
        places = tuple(zip(*found, strict=True))
        axes.loglog(
            *places, marker, color=colour, markersize=3, label=f"{name}: mean ratio {mean:.2f}"
        )
    ends = axes.get_xlim()
    axes.loglog(ends, ends, ":", color=plots.BLACK, label="the bound")
    axes.legend()
    return figure
