"""Figures of lesson 4.3: predicted against measured damage, the error of a step, the depth, the
straight-through walk.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.theory import noise

from . import base


def predicted_and_measured(predicted: Mapping[int, float], measured: Mapping[int, float]) -> None:
    """KL over bits, as predicted from 5 % noise and as measured."""
    _, axes = base.figure(
        title="Damage, predicted and measured",
        xlabel="bits, groups of 64",
        ylabel="KL, nats a token",
        size=(7, 3.6),
    )
    bits = list(predicted)
    axes.plot(
        bits,
        [predicted[b] for b in bits],
        "--",
        marker="o",
        color=base.BLUE,
        label="predicted from noise of 5 %",
    )
    axes.plot(bits, [measured[b] for b in bits], marker="s", color=base.ORANGE, label="measured")
    axes.set_yscale("log")
    axes.set_xticks(bits)
    axes.invert_xaxis()
    axes.legend()
    plt.show()


def part_way(found: Mapping[str, Mapping[float, float]], predicted: Mapping[str, float]) -> Figure:
    """KL over share² of the same error at smaller sizes, divided by the prediction: level while KL
    is quadratic.
    """
    figure, axes = base.figure(
        title="The same error, smaller",
        xlabel="share of the rounding error",
        ylabel="KL / share² over the prediction",
        size=(7, 3.6),
    )
    for (label, curve), marker in zip(found.items(), base.MARKERS, strict=False):
        axes.plot(
            list(curve),
            [curve[s] / s**2 / predicted[label] for s in curve],
            marker=marker,
            label=label,
        )
    axes.axhline(1, color=base.BLACK, linestyle="--", linewidth=1, label="as predicted")
    axes.set_ylim(bottom=0)
    axes.legend()
    plt.close(figure)
    return figure


def error_of_a_step(step: float) -> Figure:
    """Left: the error of rounding as a function of x under the normal density.

    Right: its variance over Δ²/12, for all steps.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    x = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    left.plot(x, torch.round(x / step) * step - x, color=base.ORANGE, label="error")
    left.fill_between(
        x,
        torch.exp(-x * x / 2) * step / 2,
        color=base.SKY,
        alpha=0.5,
        label="density of x (scaled)",
    )
    left.set(title=f"step {step:.1f}", xlabel="x", ylabel="error")
    left.legend(fontsize=9, loc="lower right")
    steps = torch.logspace(math.log10(0.2), math.log10(6), 60).tolist()
    right.semilogx(
        steps,
        [noise.gaussian_error_variance(s) / (s * s / 12) for s in steps],
        color=base.BLUE,
        label="exact",
    )
    right.plot(
        [step],
        [noise.gaussian_error_variance(step) / (step**2 / 12)],
        "o",
        color=base.RED,
        label="this step",
    )
    right.axhline(1, color=base.BLACK, linestyle="--", linewidth=1, label="Δ²/12")
    right.set_xticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    right.minorticks_off()
    right.set(
        title="mean squared error / (Δ²/12)", xlabel="step, in standard deviations", ylim=(0, 1.2)
    )
    right.legend(fontsize=9)
    return figure


def depth(together: Sequence[float], summed: Sequence[float], alone: Tensor) -> Figure:
    """Relative error of the stream behind each block: all blocks rounded, the sum of single ones,
    and each single one.
    """
    figure, axes = base.figure(
        title="Errors through the depth, 3 bits",
        xlabel="behind block",
        ylabel="relative error of the stream",
        size=(7.5, 3.6),
    )
    places = range(len(together))
    for i, row in enumerate(alone.tolist()):
        axes.plot(
            range(i, len(row)),
            row[i:],
            color=base.BLACK,
            alpha=0.35,
            linewidth=1,
            label="one block alone" if i == 0 else None,
        )
    axes.plot(places, together, marker="o", color=base.BLUE, label="all blocks rounded")
    axes.plot(
        places, summed, "--", marker="s", color=base.ORANGE, label="root of the sum of squares"
    )
    axes.set_xticks(list(places))
    axes.set_ylim(0)
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure


def straight_through(rate: float, noise_level: float, steps: int = 300) -> Figure:
    """The latent weight, its code, and the code's mean so far; target .3."""
    latent, codes = noise.straight_through(0.3, 0.0, rate, steps, gradient_noise=noise_level)
    figure, axes = base.figure(
        title="One weight, target .3", xlabel="step", ylabel="value", size=(8, 3.6)
    )
    axes.plot(latent, color=base.BLUE, linewidth=1.2, label="latent weight w")
    axes.plot(codes, ".", color=base.ORANGE, markersize=4, label="code round(w)")
    mean = codes.double().cumsum(0) / torch.arange(1, steps + 1)
    axes.plot(mean, "--", color=base.GREEN, label="mean of the codes so far")
    axes.axhline(0.3, color=base.BLACK, linewidth=1, linestyle=":", label="target")
    axes.axhline(0.5, color=base.BLACK, linewidth=1, alpha=0.4)
    axes.set_ylim(-0.3, 1.6)
    axes.legend(fontsize=9, ncols=2)
    return figure
