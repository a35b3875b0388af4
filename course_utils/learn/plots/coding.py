"""Figures of lesson 4.1: bytes against damage, quantizers against R(D), bits against water-filling,
cells of lattices.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.evaluation.comparison import Comparison
from course_utils.theory import entropy, lattices
from course_utils.theory import rate_distortion as limits

from . import base
from .names import name_points


def bits_against_damage(table: Comparison) -> None:
    """Every row of the table as a point with its interval; fixed lengths apart from entropy-coded
    rows.
    """
    bits = table.columns["bits a weight"]
    figure, axes = base.figure(
        title="The same bits, another damage",
        xlabel="bits a weight, everything counted",
        ylabel="KL, nats a token",
        size=(8, 4.2),
    )
    kinds = {
        "codes of fixed length": [n for n in table.values if "step" not in n],
        "entropy-coded, rounding": [n for n in table.values if "step" in n and "walk" not in n],
        "entropy-coded, with calibration": [n for n in table.values if "walk" in n],
    }
    for (kind, names), colour, marker in zip(
        kinds.items(), (base.RED, base.BLUE, base.GREEN), base.MARKERS, strict=False
    ):
        x, y = [bits[n] for n in names], [table.mean(n) for n in names]
        axes.errorbar(
            x,
            y,
            yerr=[table.half_width(n) for n in names],
            fmt=marker,
            color=colour,
            capsize=3,
            label=kind,
            linestyle="none",
        )
    axes.set_yscale("log")
    axes.legend(loc="upper right")
    short = {n: n.rsplit(", ", 1)[0] for n in table.values}
    name_points(axes, [(bits[n], table.mean(n)) for n in table.values], list(short.values()))
    plt.show()


def entropies_of_samples(
    sizes: Sequence[int],
    plain: Sequence[Sequence[float]],
    mended: Sequence[Sequence[float]],
    truth: float,
) -> None:
    """Mean and middle 90 % of entropies measured on samples of each size, as they are and
    corrected, beside the truth.
    """
    _, axes = base.figure(
        title="An entropy measured on few numbers is too low",
        xlabel="numbers",
        ylabel="entropy, bits",
        size=(7.5, 3.4),
    )
    for found, colour, marker, label in (
        (plain, base.ORANGE, "s", "measured"),
        (mended, base.BLUE, "o", "corrected"),
    ):
        low, high = np.quantile(found, 0.05, axis=1), np.quantile(found, 0.95, axis=1)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.2)
        axes.plot(sizes, np.mean(found, axis=1), marker=marker, color=colour, label=label)
    axes.axhline(truth, linestyle="--", color=base.BLACK, linewidth=1, label="truth")
    axes.set_xscale("log")
    axes.legend()
    plt.show()


def points_of_quantizers(
    sources: Mapping[str, Tensor], most: int = 400_000
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(source, quantizer) → [(bits, mean squared error), …] of numbers of variance 1, measured."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    steps = [limits.uniform_step(b) for b in (0.7, 1.2, 2.0, 3.0, 4.0)]
    best = {levels: torch.from_numpy(limits.lloyd_max(levels)[0]) for levels in (2, 4, 8, 16)}
    for source, x in sources.items():
        x = x[: len(x) // 8 * 8][:most]
        codes = [(x / s).round() for s in steps]
        found[source, "even cells, entropy-coded"] = [
            (entropy.entropy(q.long()), float((q * s - x).pow(2).mean()))
            for q, s in zip(codes, steps, strict=True)
        ]
        found[source, "Lloyd–Max cells, fixed length"] = [
            (math.log2(levels), float((points[_nearest(x, points)] - x).pow(2).mean()))
            for levels, points in best.items()
        ]
    return found


def _nearest(x: Tensor, points: Tensor) -> Tensor:
    return torch.bucketize(x, (points[1:] + points[:-1]) / 2)


def rates_and_errors(points: Mapping[tuple[str, str], Sequence[tuple[float, float]]]) -> None:
    """The measured points above the Gaussian R(D)."""
    _, axes = base.figure(
        title="How far from the limit?",
        xlabel="bits a number",
        ylabel="mean squared error",
        size=(7.5, 3.8),
    )
    rates = np.linspace(0.3, 4.2, 50)
    axes.plot(rates, 4.0**-rates, color=base.BLACK, label="limit of N(0, 1)")
    axes.plot(
        rates,
        4.0 ** (limits.SPACE_FILLING_LOSS - rates),
        ":",
        color=base.BLACK,
        linewidth=1.2,
        label="+ .255 bit",
    )
    for ((source, quantizer), found), colour, marker in zip(
        points.items(), (base.BLUE, base.ORANGE, base.SKY, base.RED), "os^D", strict=False
    ):
        axes.plot(
            *zip(*found, strict=True),
            marker,
            color=colour,
            label=f"{quantizer}: {source}",
            fillstyle="none" if "normal" in source else "full",
        )
    axes.set_yscale("log")
    axes.legend(fontsize=9)
    plt.show()


def spent_against_ideal(ideal: Mapping[str, float], spent: Mapping[str, float]) -> None:
    """Bits of each layer: what water-filling says, and what its codes cost."""
    kinds = sorted({name.rsplit(".", 1)[-1] for name in spent})
    _, axes = base.figure(
        title="Does one step fill the water?",
        xlabel="bits by water-filling + .255",
        ylabel="bits spent, entropy",
        size=(6.5, 4.2),
    )
    for kind, colour, marker in zip(
        kinds, [*base.COLOURS, *base.COLOURS], [*base.MARKERS, *base.MARKERS], strict=False
    ):
        chosen = [name for name in spent if name.endswith(kind)]
        axes.plot(
            [ideal[n] for n in chosen],
            [spent[n] for n in chosen],
            marker,
            color=colour,
            linestyle="none",
            label=kind,
        )
    ends = [min([*ideal.values(), *spent.values()]), max([*ideal.values(), *spent.values()])]
    axes.plot(ends, ends, color=base.BLACK, linewidth=1, linestyle="--")
    axes.legend(fontsize=9, ncols=2)
    plt.show()


def cells(rotation: float, step: float, seed: int = 0) -> Figure:
    """400 pairs of normal numbers, turned by an angle in degrees, on a square and on a hexagonal
    lattice of equal density.
    """
    turn = math.radians(rotation)
    matrix = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64
    )
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (x * torch.tensor([1.0, 0.5])) @ matrix.T
    figure, panels = plt.subplots(
        1, 2, figsize=(9, 3.9), layout="constrained", sharex=True, sharey=True
    )
    for axes, name, title in zip(panels, ("Z", "A2"), ("squares", "hexagons"), strict=True):
        found = lattices.quantize(x, name, step)
        for a, b in zip(x, found, strict=True):
            axes.plot([a[0], b[0]], [a[1], b[1]], color=base.ORANGE, linewidth=0.8)
        axes.plot(*x.T, ".", color=base.BLUE, markersize=4, label="numbers")
        axes.plot(*found.T, "s", color=base.BLACK, markersize=3, label="lattice points in use")
        axes.set(
            title=f"{title}: error {float((found - x).pow(2).mean()) / step**2:.4f} Δ²",
            xlabel="first number",
            aspect="equal",
        )
    panels[0].set_ylabel("second number")
    panels[0].legend(fontsize=9)
    return figure
