"""Figures of lesson 5.4: soft choices, gates, the price that meets a size, pixels, widths, subnets
and searches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.pruning import concrete, gumbel

from . import base


def soft_choice(temperature: float, draws: int = 8) -> Figure:
    """Eight draws of a soft choice among six patterns at this temperature: the share of each
    pattern, and the mask that comes of it.
    """
    logits, kept = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.0, 1.0]), gumbel.patterns(2, 4)
    share = gumbel.relaxed(
        logits, temperature, gumbel.noise((draws, 6), torch.Generator().manual_seed(0))
    )
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", width_ratios=(6, 4))
    names = ["".join("x" if v else "·" for v in row) for row in kept.tolist()]
    for place, values, labels, title in (
        (axes[0], share, names, "share of each pattern"),
        (axes[1], share @ kept, ["1", "2", "3", "4"], "mask of the four weights"),
    ):
        place.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in zip(
            ((i, j) for i in range(draws) for j in range(values.shape[1])),
            values.flatten().tolist(),
            strict=True,
        ):
            place.text(
                j,
                i,
                f"{value:.2f}".lstrip("0"),
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value > 0.6 else "black",
            )
        place.set_xticks(range(len(labels)), labels)
        place.set_yticks([])
        place.grid(False)
        place.set_title(title)
    axes[0].set_ylabel("eight draws")
    plt.close(figure)
    return figure


def gate(alpha: float, stretched: bool) -> Figure:
    """The distribution of a gate: 20,000 draws,
    and how many of them are exactly 0 and exactly 1.
    """
    noise = concrete.logistic_noise((20_000,), torch.Generator().manual_seed(0))
    a = torch.tensor(alpha)
    z = concrete.hard(a, noise) if stretched else concrete.binary(a, noise)
    inside = z[(z > 0) & (z < 1)]
    ends = [float((z == end).float().mean()) for end in (0, 1)]
    figure, axes = base.figure(
        title=f"closed {ends[0]:.0%}, fully open {ends[1]:.0%}, between {1 - sum(ends):.0%}",
        xlabel="gate",
        ylabel="share of draws",
        size=(7, 3.2),
    )
    axes.hist(
        inside, bins=40, range=(0, 1), weights=torch.full_like(inside, 1 / len(z)), color=base.SKY
    )
    axes.bar([-0.03, 1.03], ends, width=0.03, color=[base.RED, base.GREEN])
    if stretched:
        axes.annotate(
            f"P(z ≠ 0) = {float(concrete.open_probability(a)):.2f}",
            (0.5, 0.92),
            xycoords="axes fraction",
            ha="center",
        )
    axes.set_xlim(-0.08, 1.08)
    plt.close(figure)
    return figure


def price_and_size(told: Mapping[str, Sequence[float]], keep: int) -> Figure:
    """The expected number of open gates and the multiplier, step by step."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for place, key, title, colour in (
        (axes[0], "open", "pixels expected open", base.BLUE),
        (axes[1], "price", "multiplier λ", base.ORANGE),
    ):
        place.plot(told[key], color=colour)
        place.set(title=title, xlabel="step")
        place.set_ylim(bottom=min(0, *told[key]))
    axes[0].axhline(keep, color=base.BLACK, linestyle="--", linewidth=1)
    axes[0].annotate("wanted", (0, keep), xytext=(2, 4), textcoords="offset points", fontsize=9)
    plt.close(figure)
    return figure


def pixels(scores: Mapping[str, Tensor], keep: int) -> Figure:
    """The pixels that each way keeps, on the 8 × 8 grid."""
    figure, axes = plt.subplots(
        1, len(scores), figsize=(2.1 * len(scores), 2.4), layout="constrained"
    )
    for place, (name, score) in zip(axes, scores.items(), strict=True):
        kept = torch.zeros(64)
        kept[score.argsort(descending=True)[:keep]] = 1
        place.imshow(kept.view(8, 8), cmap="Blues", vmin=0, vmax=1.3)
        place.set_title(name, fontsize=11)
        place.set_xticks([])
        place.set_yticks([])
    plt.close(figure)
    return figure


def widths(found: Mapping[str, Sequence[Sequence[float]]], sizes: Sequence[int]) -> Figure:
    """Test accuracy over the number of hidden units: the mean of the seeds, and each of them as a
    small point.
    """
    figure, axes = base.figure(
        title="One network at five widths",
        xlabel="hidden units",
        ylabel="test accuracy",
        size=(7, 3.6),
    )
    for (name, runs), colour, marker in zip(
        found.items(), base.COLOURS, base.MARKERS, strict=False
    ):
        values = torch.tensor(runs)
        axes.plot(sizes, values.mean(0), color=colour, marker=marker, label=name)
        for run in values:
            axes.plot(sizes, run, ".", color=colour, markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.set_ylim(0, 1)
    axes.legend(fontsize=9, loc="lower right")
    plt.close(figure)
    return figure


def subnets(size: Mapping, loss: Mapping, most: float, best: Any) -> Figure:
    """Each subnet of a space: its numbers and its loss; the budget, and the best that keeps it."""
    figure, axes = base.figure(
        title=f"{len(size)} models in one set of weights",
        xlabel="million numbers",
        ylabel="nats a token",
        size=(7, 3.6),
    )
    depths = sorted({len(s.blocks) for s in size})
    for depth, colour, marker in zip(depths, base.COLOURS, base.MARKERS, strict=False):
        those = [s for s in size if len(s.blocks) == depth]
        axes.plot(
            [size[s] / 1e6 for s in those],
            [loss[s] for s in those],
            marker,
            color=colour,
            markersize=5,
            alpha=0.7,
            label=f"{depth} blocks",
        )
    axes.axvline(most / 1e6, color=base.BLACK, linestyle="--", linewidth=1)
    axes.plot(
        [size[best] / 1e6],
        [loss[best]],
        "o",
        markersize=13,
        fillstyle="none",
        color=base.BLACK,
        label="best within the budget",
    )
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure


def searches(runs: Mapping[str, Sequence], best: float) -> Figure:
    """The best loss so far over the evaluations: the mean of the runs,
    and the middle 80 % of them.
    """
    figure, axes = base.figure(
        title="The best so far",
        xlabel="subnets measured",
        ylabel="nats above the best",
        size=(7, 3.4),
    )
    for (name, found), colour in zip(runs.items(), base.COLOURS, strict=False):
        values = torch.tensor([search.best_after for search in found]) - best
        steps = range(1, values.shape[1] + 1)
        axes.plot(steps, values.mean(0), color=colour, label=name)
        axes.fill_between(
            steps,
            values.quantile(0.1, 0),
            values.quantile(0.9, 0),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure
