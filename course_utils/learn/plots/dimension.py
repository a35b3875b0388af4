"""Figures of lesson 4.4: accuracy over directions, spectra against chance, the edge of sparsity,
the sharp transition.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.theory import dimension, spectra

from . import base


def subspace_curves(
    dimensions: Sequence[int], found: Mapping[str, Sequence[float]], whole: float
) -> Figure:
    """Test accuracy over the number of trained directions, a line for each network; the goal is 90
    % of `whole`.
    """
    figure, axes = base.figure(
        title="Digits in a random subspace",
        xlabel="directions d that are trained",
        ylabel="test accuracy",
        size=(7, 3.6),
    )
    for (label, values), marker in zip(found.items(), base.MARKERS, strict=False):
        axes.plot(dimensions, values, marker=marker, label=label)
    axes.axhline(
        0.9 * whole,
        color=base.BLACK,
        linestyle="--",
        linewidth=1,
        label="90 % of training everything",
    )
    axes.set_xscale("log")
    axes.set_xticks(list(dimensions), [str(d) for d in dimensions])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.legend(fontsize=9, loc="lower right")
    plt.close(figure)
    return figure


def spectrum(matrices: Mapping[str, Tensor]) -> Figure:
    """Histograms of eigenvalues of (1/m) W Wᵀ with the Marchenko–Pastur density for entries of the
    same variance.
    """
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(4.6 * len(matrices), 3.6), layout="constrained", squeeze=False
    )
    for ax, (label, W) in zip(axes[0], matrices.items(), strict=True):
        variance, q = float(W.double().pow(2).mean()), spectra.ratio(tuple(W.shape))
        low, high = spectra.edges(q, variance)
        values = spectra.eigenvalues(W)
        top = max(2.5 * high, float(values.quantile(0.98)))
        ax.hist(
            values.clamp(max=top).numpy(),
            bins=60,
            range=(0, top),
            density=True,
            color=base.SKY,
            label="eigenvalues",
        )
        x = torch.linspace(low, high, 400, dtype=torch.float64)[1:-1]
        ax.plot(x, spectra.density(x, q, variance), color=base.ORANGE, label="Marchenko–Pastur")
        ax.axvline(high, color=base.BLACK, linestyle="--", linewidth=1, label="upper edge")
        ax.set(
            title=f"{label}: {spectra.spikes(W)} above",
            xlabel="eigenvalue",
            ylim=(0, 1.3 / (high - low) * 2.5),
        )
        ax.legend(fontsize=9)
    axes[0][0].set_ylabel("density")
    plt.close(figure)
    return figure


def sparsity_edge(measured: Mapping[float, float], predicted: Mapping[float, float]) -> Figure:
    """KL over sparsity as measured, and as the quadratic prediction has it."""
    figure, axes = base.figure(
        title="Damage of magnitude pruning",
        xlabel="sparsity",
        ylabel="KL, nats a token",
        size=(7, 3.6),
    )
    axes.plot(
        list(predicted),
        list(predicted.values()),
        "--",
        marker="o",
        color=base.BLUE,
        label="predicted from noise of 5 %",
    )
    axes.plot(
        list(measured), list(measured.values()), marker="s", color=base.ORANGE, label="measured"
    )
    axes.set_yscale("log")
    axes.legend()
    plt.close(figure)
    return figure


def recovery(shares: Sequence[float], rates: Mapping[int, Sequence[float]], delta: float) -> Figure:
    """The share of sparse vectors found exactly, over k/m, for several sizes n; the threshold ρ(δ)
    is marked.
    """
    figure, axes = base.figure(
        title=f"Least ℓ₁, m = {delta:g} n measurements",
        xlabel="nonzeros k / measurements m",
        ylabel="found exactly",
        size=(7, 3.6),
    )
    for (n, values), marker in zip(rates.items(), base.MARKERS, strict=False):
        axes.plot(shares, values, marker=marker, label=f"n = {n}")
    axes.axvline(
        dimension.recovery_threshold(delta),
        color=base.BLACK,
        linestyle="--",
        linewidth=1,
        label=f"ρ({delta:g})",
    )
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure
