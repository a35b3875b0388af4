"""Number formats as what they are, lists of numbers: the nearest one, the best scale, the error in
decibels, the best list.

    x̂ = s · nearest(x / s),     SQNR = 10 log10(Σ x² / Σ (x − x̂)²)

`best_scale` looks for s in the same way for every format, so that none is judged by a scale that
suits another one.
`best_values` makes the list itself: the exact least squared error for given numbers, by dynamic
programming over the sorted numbers (a cell is an interval of them; Bruce, 1965).
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from course_utils.errors import CompressionError

from . import formats, logarithmic, posit
from .grids import check_matrix

LOGARITHMIC = {"LNS8": (8, 3), "LNS4": (4, 1)}  # bits, of them behind the point
POSITS = {"posit8": 8, "posit4": 4}  # es = 2, the standard of 2022
NAMES = (
    "INT8",
    "FP8 E4M3",
    "FP8 E5M2",
    "posit8",
    "LNS8",
    "INT4",
    "FP4 E2M1",
    "NF4",
    "posit4",
    "LNS4",
)
STEPS = 4  # scales that `best_scale` tries for each factor of 2


@functools.cache
def values(name: str) -> Tensor:
    """Every finite number of a format of 4 or 8 bits: float64, ascending, each once.

    Raises CompressionError for other names.
    """
    if name in LOGARITHMIC:
        bits, fraction = LOGARITHMIC[name]
        return torch.unique(logarithmic.decode(torch.arange(2**bits), bits, fraction) + 0.0)
    if name in POSITS:
        found = posit.decode(torch.arange(2 ** POSITS[name]), POSITS[name])
        return torch.unique(found[torch.isfinite(found)])
    if name not in NAMES:
        raise CompressionError(f"name={name!r}: choose one of {', '.join(NAMES)}.")
    return formats.values(name).double()


def nearest(x: Tensor, points: Tensor) -> Tensor:
    """The nearest of the ascending `points` for each x; halfway between two, the lower one.

    In x's type.
    """
    points = points.to(x)
    return points[torch.bucketize(x, (points[1:] + points[:-1]) / 2)]


def best_scale(x: Tensor, points: Tensor) -> Tensor:
    """(rows, 1): for each row the scale s of the least squared error, among those 2^(k/4) times the
    largest |x| / largest point.

    k runs from where the row's deviation would be the largest point (all that is larger saturates)
    up to where its largest number would be the smallest point: a format whose numbers lie closest
    at 1 is used there. Octaves are tried first, then the quarters around the best of them. A row of
    zeros gets 1.
    """
    x, points = check_matrix(x).double(), points.double()
    peak, rms = x.abs().amax(1, keepdim=True), x.square().mean(1, keepdim=True).sqrt()
    ends = torch.where(peak > 0, peak / points.abs().max(), 1.0)
    deviation = float((rms / peak.clamp(min=1e-300)).clamp(min=1e-6).min())
    least = math.floor(STEPS * math.log2(deviation)) if bool(peak.all()) else 0
    most = math.ceil(STEPS * math.log2(float(points.abs().max() / points[points > 0].min())))
    best, error = torch.zeros_like(ends), torch.full_like(ends, math.inf)
    octaves = [
        torch.full_like(ends, float(k)) for k in range(least - least % STEPS, most + 1, STEPS)
    ]
    for stage in range(2):
        around = octaves if stage == 0 else [best + k for k in range(-STEPS + 1, STEPS)]
        for power in around:
            tried = ends * torch.exp2(power / STEPS)
            found = (nearest(x / tried, points) * tried - x).square().sum(1, keepdim=True)
            best, error = torch.where(found < error, power, best), torch.minimum(found, error)
    return ends * torch.exp2(best / STEPS)


def scaled(x: Tensor, points: Tensor) -> Tensor:
    """A matrix (rows, columns) rounded to s · points with the best scale s of each row; float64."""
    scale = best_scale(x, points)
    return nearest(x.double() / scale, points.double()) * scale


def sqnr(x: Tensor, rounded: Tensor) -> float:
    """10 log10(Σ x² / Σ (x − x̂)²) decibels; infinite where nothing was lost.

    Raises CompressionError for x = 0 or unlike shapes.
    """
    if x.shape != rounded.shape or not x.any():
        raise CompressionError(
            f"x {tuple(x.shape)}, rounded {tuple(rounded.shape)}: expected one shape, "
            "and some number that is not 0."
        )
    noise = float((x.double() - rounded.double()).square().sum())
    return 10 * math.log10(float(x.double().square().sum()) / noise) if noise > 0 else math.inf


def mean_error(sample: Tensor, points: Tensor) -> float:
    """The mean squared error of `sample` at the nearest of `points` (in any order)."""
    x = sample.double().flatten()
    return float((nearest(x, points.double().sort().values) - x).square().mean())


def best_values(sample: Tensor, levels: int, *, zero: bool = False) -> Tensor:
    """The `levels` values (float64, ascending) of the least mean squared error for `sample`; with
    `zero`, 0 is one of them.

    Exact: best[k][j], the least cost of the j smallest numbers in k cells, is min_i best[k − 1][i]
    + cost(i, j), where a cell costs Σ (x − mean)², or Σ x² if it is that of 0. Time ∝ levels · n²:
    give at most a few thousand numbers.
    Raises CompressionError for NaN, infinity, or fewer numbers than levels.
    """
    x = np.sort(sample.detach().double().flatten().cpu().numpy())
    n = len(x)
    if not np.isfinite(x).all() or not 1 <= levels <= n:
        raise CompressionError(
            f"sample: {n} numbers for {levels} levels; expected finite ones, "
            "at least one for each level."
        )
    first, second = (np.concatenate([[0.0], np.cumsum(x**power)]) for power in (1, 2))
    count = np.arange(n + 1)[None, :] - np.arange(n + 1)[:, None]  # [i, j]: numbers i … j − 1
    inside = count > 0
    about_zero = np.where(inside, second[None, :] - second[:, None], np.inf)
    about_mean = np.where(
        inside, about_zero - (first[None, :] - first[:, None]) ** 2 / np.maximum(count, 1), np.inf
    )
    np.fill_diagonal(about_zero, 0.0)  # no number need be nearest to 0
    states = (about_mean, about_zero) if zero else (about_mean,)
    start = np.where(np.arange(n + 1) == 0, 0.0, np.inf)
    best = {(0, 0): start, (0, 1): np.full(n + 1, np.inf)}
    chosen: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for k in range(1, levels + 1):
        for used in range(len(states)):
            ways = [best[k - 1, used][:, None] + about_mean] + (
                [best[k - 1, 0][:, None] + about_zero] if used else []
            )
            costs = np.stack([way.min(0) for way in ways])
            kind = costs.argmin(0)
            best[k, used] = costs.min(0)
            chosen[k, used] = (
                kind,
                np.stack([way.argmin(0) for way in ways])[kind, np.arange(n + 1)],
            )
    points, j, used = [], n, len(states) - 1
    for k in range(levels, 0, -1):
        kind, cut = chosen[k, used][0][j], int(chosen[k, used][1][j])
        points.append(0.0 if kind == 1 else (first[j] - first[cut]) / (j - cut))
        used, j = used - int(kind == 1), cut
    return torch.tensor(sorted(points), dtype=torch.float64)
