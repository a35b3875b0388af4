"""Figures of lesson 5.9: predicted against measured, where connections are, how well searches do,
who leaves early, which head looks where.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from . import base


def predicted(pairs: Mapping[str, tuple[float, float]]) -> Figure:
    """One dot for each model: (predicted, measured) divergence on logarithmic axes, and the
    diagonal.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    everything = [v for pair in pairs.values() for v in pair if v > 0]
    ends = (min(everything) / 3, max(everything) * 4)
    axes.plot(ends, ends, "--", color=base.BLACK, linewidth=1, label="equal")
    for i, (name, (x, y)) in enumerate(pairs.items()):
        axes.plot(x, y, base.MARKERS[i % 8], color=base.COLOURS[i % 7], label=name, markersize=8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="½ δᵀFδ, nats",
        ylabel="measured KL, nats",
        xlim=ends,
        ylim=ends,
    )
    axes.set_title("A square, and where it ends")
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def connections(images: Tensor, masks: Mapping[str, Tensor]) -> Figure:
    """The mean image, and how many connections of the first layer (out, 64) each pixel has, for
    each mask.
    """
    figure, axes = plt.subplots(
        1, 1 + len(masks), figsize=(2.6 * (1 + len(masks)), 2.7), layout="constrained"
    )
    counts = {name: mask.float().sum(0).view(8, 8) for name, mask in masks.items()}
    most = max(float(c.max()) for c in counts.values())
    axes[0].imshow(images.mean(0).view(8, 8), cmap="gray_r", vmin=0)
    axes[0].set_title("mean image", fontsize=11)
    for place, (name, count) in zip(axes[1:], counts.items(), strict=True):
        shown = place.imshow(count, cmap="viridis", vmin=0, vmax=most)
        place.set_title(name, fontsize=11)
    figure.colorbar(shown, ax=axes[1:], label="connections of the pixel", shrink=0.8)
    for place in axes:
        place.set(xticks=[], yticks=[])
        place.grid(False)
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def searches(ratios: Mapping[str, float], factor: float) -> Figure:
    """Energies divided by the least one, as bars on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
    names, values = list(ratios), list(ratios.values())
    bars = axes.barh(names, values, color=[base.COLOURS[i] for i in range(len(names))])
    axes.bar_label(bars, [f" {v:.2f}" for v in values], fontsize=10)
    axes.axvline(1, color=base.BLACK, linewidth=1)
    axes.set(xscale="log", xlim=(0.8, 20), xlabel="energy, divided by that of the best subset")
    axes.set_title(f"Parts {factor:g} and {1 - factor:g} of the same channels".replace("-", "−"))
    axes.invert_yaxis()
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def heads(
    before: Tensor, after: Tensor, names: tuple[str, str], distances: Sequence[int]
) -> Figure:
    """Two pictures (heads, distances): the weight that each head of a block gives to the token so
    far back.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    most = float(torch.maximum(before, after).max())
    for place, values, name in zip(axes, (before, after), names, strict=True):
        shown = place.imshow(values, cmap="viridis", vmin=0, vmax=most, aspect="auto")
        place.set(xticks=range(len(distances)), xlabel="tokens back", yticks=range(len(values)))
        place.set_xticklabels([str(d) for d in distances])
        place.set_title(name)
        place.grid(False)
    axes[0].set_ylabel("head")
    figure.colorbar(shown, ax=axes, label="attention")
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def depths(words: Sequence[str], depth: Sequence[int], last: int) -> Figure:
    """How many blocks each token of a text ran, as bars with the token below."""
    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    axes.bar(
        range(len(words)), depth, color=[base.BLUE if d < last else base.ORANGE for d in depth]
    )
    axes.set(
        ylim=(0, last + 0.3),
        ylabel="blocks run",
        yticks=range(last + 1),
        xlim=(-0.7, len(words) - 0.3),
    )
    axes.set_xticks(
        range(len(words)),
        [w.replace("\n", "↵").strip() or "␣" for w in words],
        rotation=90,
        fontsize=9,
    )
    axes.set_title("Who leaves early (blue) and who does not")
    axes.grid(axis="x", visible=False)
    plt.close(figure)  # shown once, by whoever asked for it
    return figure
