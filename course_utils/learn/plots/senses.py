"""Figures of lesson 5.7: written sums and what was read, the seven powers of keys,
paths of cars.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from . import base


def written_sum(images: Tensor, title: str) -> Figure:
    """Pictures (4, 64) as a sum of two numbers, with what was said above it."""
    figure, axes = plt.subplots(
        1,
        5,
        figsize=(6, 1.9),
        layout="constrained",
        gridspec_kw={"width_ratios": [1, 1, 0.4, 1, 1]},
    )
    for place, image in zip((axes[0], axes[1], axes[3], axes[4]), images, strict=True):
        place.imshow(image.view(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axes[2].text(0.5, 0.5, "+", fontsize=24, ha="center", va="center")
    axes[2].set_frame_on(False)
    for place in axes:
        place.set(xticks=[], yticks=[])
        place.grid(False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def heard(powers: Tensor, names: Sequence[str], hertz: Sequence[int]) -> Figure:
    """What the ear gets of each sound (n, 7)."""
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    shown = axes.imshow(powers, cmap="viridis", aspect="auto")
    axes.set(
        xticks=range(len(hertz)), yticks=range(len(names)), xlabel="frequency, Hz", ylabel="key"
    )
    axes.set_xticklabels([str(f) for f in hertz])
    axes.set_yticklabels(names)
    axes.grid(False)
    axes.set_title("Power of noisy keys at seven frequencies", loc="left")
    figure.colorbar(shown, ax=axes, label="log power")
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def paths(drives: Mapping[str, Tensor], limit: float) -> Figure:
    """Offsets (T, n) of cars over time, one picture for each driver; the edges of the road are
    dashed.
    """
    figure, axes = plt.subplots(
        1, len(drives), figsize=(2.7 * len(drives), 2.6), layout="constrained", sharey=True
    )
    for place, (name, offsets), colour in zip(axes, drives.items(), base.COLOURS, strict=False):
        place.plot(offsets, color=colour, linewidth=0.7, alpha=0.7)
        for edge in (-limit, limit):
            place.axhline(edge, color=base.BLACK, linestyle="--", linewidth=1)
        place.set(xlabel="step", ylim=(-1.4 * limit, 1.4 * limit))
        place.set_title(name, fontsize=11)
    axes[0].set_ylabel("offset, half lanes")
    plt.close(figure)  # shown once, by whoever asked for it
    return figure
