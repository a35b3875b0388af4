"""Figures of lesson 4.2: how far a wide network moves, double descent, what is promised and what
comes.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course_utils.theory import generalization

from . import base


def lazy(moved: Mapping[int, Sequence[float]], kernel: Mapping[int, Sequence[float]]) -> Figure:
    """Relative change of the weights and of the tangent kernel over the width, a point for each
    seed; dashed: 1/√width.
    """
    figure, axes = base.figure(
        title="A wide network hardly moves", xlabel="width", ylabel="relative change", size=(7, 3.6)
    )
    for found, marker, colour, label in (
        (moved, "o", base.BLUE, "weights"),
        (kernel, "s", base.ORANGE, "tangent kernel"),
    ):
        for i, (width, values) in enumerate(found.items()):
            axes.plot(
                [width] * len(values), values, marker, color=colour, label=label if i == 0 else None
            )
    widths = list(moved)
    first = sum(moved[widths[0]]) / len(moved[widths[0]])
    axes.plot(
        widths,
        [first * (widths[0] / w) ** 0.5 for w in widths],
        "--",
        color=base.BLACK,
        linewidth=1,
        label="1/√width",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(widths, [str(w) for w in widths])
    axes.minorticks_off()
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure


def double_descent(found: Mapping[int, Sequence[float]], examples: int) -> Figure:
    """Test accuracy over the number of random features: the mean of the seeds, and all of them."""
    figure, axes = base.figure(
        title=f"Least squares on {examples} images, 15 % of the labels drawn",
        xlabel="random features",
        ylabel="test accuracy",
        size=(7, 3.6),
    )
    widths = list(found)
    for width, values in found.items():
        axes.plot([width] * len(values), values, ".", color=base.SKY, markersize=6)
    axes.plot(
        widths,
        [sum(v) / len(v) for v in found.values()],
        marker="o",
        color=base.BLUE,
        label="mean of the seeds",
    )
    axes.axvline(
        examples, color=base.BLACK, linestyle="--", linewidth=1, label="as many features as images"
    )
    axes.set_xscale("log")
    axes.set_xticks([20, 100, 300, 1000, 3000], ["20", "100", "300", "1000", "3000"])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.legend(fontsize=9, loc="lower right")
    plt.close(figure)
    return figure


def promise(bits: float, error: float) -> Figure:
    """What can be promised of a network of this many bits and this training error, over the number
    of examples.
    """
    figure, axes = base.figure(
        title=f"{bits:g} bits, training error {error:.0%}",
        xlabel="training examples",
        ylabel="error on new data",
        size=(7, 3.6),
    )
    counts = [round(10 ** (2 + i / 10)) for i in range(41)]
    axes.plot(
        counts,
        [generalization.occam_bound(error, n, bits) for n in counts],
        color=base.BLUE,
        label="promised: below this",
    )
    axes.axhline(error, color=base.ORANGE, linestyle="--", label="on the training examples")
    axes.axhline(0.9, color=base.BLACK, linestyle=":", linewidth=1, label="guessing one of ten")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=9)
    plt.close(figure)
    return figure
