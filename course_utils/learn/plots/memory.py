"""Figures of lessons 1.1 and 2.5: what a model holds in memory, part by part, and which machines
have that much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from . import base as plots

GIB = 2**30
PARTS = {
    "weights": ("weights", plots.BLUE), "kv_cache": ("keys and values", plots.ORANGE),
    "activations": ("activations", plots.GREEN), "gradients": ("gradients", plots.RED),
    "optimizer": ("optimizer", plots.PURPLE),
}  # fmt: skip
CARDS = (8, 16, 24, 48, 80, 141)  # GiB


def staircase(sizes: Mapping[str, float], machines: Mapping[str, float], *, title: str) -> Figure:
    """Steps of GB by format, with a line for each machine; sizes and machines in bytes."""
    figure, axes = plots.figure(title=title, ylabel="memory in GB", size=(7.5, 3.8))
    heights = [size / 1e9 for size in sizes.values()]
    axes.stairs(heights, range(len(heights) + 1), fill=True, color=plots.BLUE, alpha=0.85)
    for name, size in machines.items():
        axes.axhline(size / 1e9, color=plots.RED, linestyle="--", linewidth=1.2)
        axes.text(len(heights), size / 1e9 + 0.35, name, ha="right", color=plots.RED)
    for i, height in enumerate(heights):
        axes.text(
            i + 0.5,
            height + 0.4,
            f"{height:.1f}",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.set_xticks([i + 0.5 for i in range(len(heights))], list(sizes))
    axes.grid(visible=False)
    return figure


def plans(budgets: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """A bar for each budget (bytes of each part), with its total."""
    figure, axes = plots.figure(title=title, xlabel="memory in GB", size=(7.5, 3.4))
    left = [0.0] * len(budgets)
    for part, (label, colour) in PARTS.items():
        wide = [budget[part] / 1e9 for budget in budgets.values()]
        axes.barh(list(budgets), wide, left=left, color=colour, label=label)
        left = [a + w for a, w in zip(left, wide, strict=True)]
    for i, total in enumerate(left):
        axes.text(total + 0.015 * max(left), i, f"{total:.0f} GB", va="center")
    axes.set_xlim(0, max(left) * 1.12)
    axes.grid(visible=False, axis="y")
    axes.legend(
        ncols=5,
        loc="upper center",
        bbox_to_anchor=(0.45, -0.2),
        columnspacing=1.0,
        handlelength=1.2,
    )
    return figure


def one_plan(budget: Mapping[str, float], *, title: str) -> Figure:
    """One budget as a bar, with lines at the memory of common cards (in GiB, as they are sold)."""
    figure, axes = plots.figure(title=title, xlabel="memory in GB", size=(7.5, 2.8))
    left = 0.0
    for part, (label, colour) in PARTS.items():
        wide = budget[part] / 1e9
        if wide:
            axes.barh(0, wide, left=left, color=colour, label=f"{label} {wide:.1f}")
        left += wide
    end, last = 1.2 * max(left, 8 * GIB / 1e9), 0.0
    for card in CARDS:
        place = card * GIB / 1e9
        if last + 0.1 * end < place < end:  # only where the labels have room
            last = place
            axes.axvline(place, ymax=0.86, color=plots.BLACK, linestyle=":", linewidth=1.5)
            axes.text(place, 0.5, f"{card} GiB", ha="center", va="bottom")
    axes.text(
        left,
        0,
        f" {left:.1f} GB",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )
    axes.set(xlim=(0, end), ylim=(-0.45, 0.65), yticks=[])
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25), handlelength=1.2)
    return figure


def by_context(budgets: Mapping[int, Mapping[str, float]], *, title: str) -> Figure:
    """Weights, cache and activations (bytes) as stacked bars, one for each context."""
    figure, axes = plots.figure(title=title, xlabel="context, tokens", ylabel="GB", size=(7.5, 3.6))
    bottom = [0.0] * len(budgets)
    for part in ("weights", "kv_cache", "activations"):
        label, colour = PARTS[part]
        values = [budget[part] / 1e9 for budget in budgets.values()]
        axes.bar(
            [str(context) for context in budgets], values, bottom=bottom, color=colour, label=label
        )
        bottom = [b + v for b, v in zip(bottom, values, strict=True)]
    axes.legend(loc="upper left")
    return figure


def on_disk(
    labels: Sequence[str],
    measured: Sequence[float],
    formula: Sequence[float],
    bare: Sequence[float],
    outside: float,
    *,
    title: str,
) -> Figure:
    """Bytes of files as bars, with the part `outside` the blocks, the formula's value, and N · b /
    8.
    """
    figure, axes = plots.figure(title=title, ylabel="MB", size=(7.5, 3.5))
    axes.bar(
        labels, [m / 1e6 for m in measured], color=plots.BLUE, label="measured: bytes of the folder"
    )
    axes.bar(
        labels,
        [outside / 1e6] * len(labels),
        color=plots.SKY,
        label="of these: embeddings and norms, in 16 bits",
    )
    axes.plot(
        labels,
        [f / 1e6 for f in formula],
        "D",
        color=plots.RED,
        label="formula with scales and zero points",
    )
    axes.plot(
        labels, [b / 1e6 for b in bare], "_", markersize=28, color=plots.BLACK, label="N · b / 8"
    )
    for i, m in enumerate(measured):
        axes.text(i, m / 1e6 + 0.02 * measured[0] / 1e6, f"{measured[0] / m:.2f}×", ha="center")
    axes.set_ylim(0, measured[0] / 1e6 * 1.15)
    axes.grid(visible=False, axis="x")
    axes.legend()
    return figure
