"""Lattices as quantizers: the shape of a cell decides how much squared error a given density of
points leaves.

Normalized second moment of a lattice in n dimensions whose cells have the volume V (Conway and
Sloane, 1982):

    G = E‖x − Q(x)‖² / (n V^(2/n)),   x uniform in a cell

G = 1/12 for rounding each number alone (Z); no lattice goes below 1/(2πe), the value of spheres in
many dimensions.
At high rates a lattice followed by an entropy coder lies ½ log₂(2πe G) bits above the Gaussian
R(D).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.errors import CompressionError

MOMENTS = {
    "Z": 1 / 12,
    "A2": 5 / (36 * math.sqrt(3)),
    "D4": 0.076603,
    "E8": 929 / 12960,
    "Leech": 0.065771,
}
LIMIT = 1 / (2 * math.pi * math.e)


def nearest_z(x: Tensor) -> Tensor:
    """The nearest point of Zⁿ: each number rounded."""
    return torch.round(x)


def nearest_a2(x: Tensor) -> Tensor:
    """The nearest point of the hexagonal lattice with unit distance, x (…, 2): a grid of 1 × √3 and
    the same grid moved to the middle of its rectangles, whichever is nearer.
    """
    _check_dimension(x, 2)
    size = x.new_tensor([1.0, math.sqrt(3)])
    first = torch.round(x / size) * size
    second = (torch.round(x / size - 0.5) + 0.5) * size
    return _nearer(x, first, second)


def nearest_d(x: Tensor) -> Tensor:
    """The nearest point of Dₙ, the whole vectors with an even sum: round; if the sum is odd, the
    number with the largest rounding error goes the other way (Conway and Sloane, 1982).
    """
    rounded = torch.round(x)
    error = x - rounded
    worst = error.abs().argmax(-1, keepdim=True)
    step = torch.where(error.gather(-1, worst) < 0, -1.0, 1.0).to(x.dtype)
    odd = rounded.sum(-1, keepdim=True) % 2 != 0
    return rounded.scatter_add(-1, worst, torch.where(odd, step, torch.zeros_like(step)))


def nearest_e8(x: Tensor) -> Tensor:
    """The nearest point of E₈ = D₈ ∪ (D₈ + ½), x (…, 8)."""
    _check_dimension(x, 8)
    return _nearer(x, nearest_d(x), nearest_d(x - 0.5) + 0.5)


def _nearer(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    closer = (x - first).pow(2).sum(-1, keepdim=True) <= (x - second).pow(2).sum(-1, keepdim=True)
    return torch.where(closer, first, second)


def _check_dimension(x: Tensor, n: int) -> None:
    if x.dim() == 0 or x.shape[-1] != n:
        raise CompressionError(
            f"x: its last dimension is {x.shape[-1] if x.dim() else 0}; "
            f"this lattice takes vectors of {n}."
        )


def e8_points(largest: int) -> Tensor:
    """The points of E₈ with norm² at most `largest`, (points, 8) float32, ascending by norm².

    There are 240 σ₃(n) with norm² 2n, σ₃(n) the sum of the cubes of n's divisors: 1, 240, 2160,
    6720, 17520, 30240 for 0, 2, … 10.

    Raises CompressionError for `largest` outside 0 to 12 (117,361 points).
    """
    if not 0 <= largest <= 12:
        raise CompressionError(
            f"largest={largest}: choose a squared norm from 0 to 12; "
            "the ball grows with its 4th power."
        )
    found = []
    for shift in (0.0, 0.5):
        edge = math.floor(math.sqrt(largest) + 0.5)
        line = torch.arange(-edge, edge + 1, dtype=torch.float32) - shift
        points = torch.zeros(1, 0)
        for left in range(7, -1, -1):  # the numbers still to come have at least `shift`² each
            points = torch.cat(
                [points.repeat_interleave(len(line), 0), line.repeat(len(points))[:, None]], 1
            )
            points = points[points.square().sum(1) <= largest - left * shift**2]
        found.append(points[points.sum(1) % 2 == 0])
    points = torch.cat(found)
    return points[points.square().sum(1).argsort(stable=True)]


# nearest point, dimension, volume of a cell
LATTICES: dict[str, tuple[Callable[[Tensor], Tensor], int, float]] = {
    "Z": (nearest_z, 1, 1.0),
    "A2": (nearest_a2, 2, math.sqrt(3) / 2),
    "D4": (nearest_d, 4, 2.0),
    "E8": (nearest_e8, 8, 1.0),
}


def quantize(x: Tensor, name: str, step: float = 1.0) -> Tensor:
    """X (…, n), in vectors of the lattice's dimension, moved to the nearest points of the lattice
    whose cells have the volume stepⁿ: lattices of one `step` have as many points in a unit of
    volume, so that their errors can be compared.
    """
    if name not in LATTICES:
        raise CompressionError(f"lattice {name!r}: choose one of {', '.join(LATTICES)}.")
    nearest, n, volume = LATTICES[name]
    if x.dim() == 0 or x.shape[-1] % n or not step > 0:
        raise CompressionError(
            f"x, step: {name} takes a multiple of {n} numbers and a positive step; "
            "pad or cut the last dimension."
        )
    scale = step / volume ** (1 / n)
    vectors = x.reshape(*x.shape[:-1], -1, n) / scale
    return (nearest(vectors) * scale).reshape(x.shape)


def normalized_second_moment(
    name: str, samples: int = 200_000, seed: int = 0
) -> tuple[float, float]:
    """(G, its standard error) by Monte Carlo: points uniform in a large box are uniform in the
    cells.
    """
    nearest, n, volume = LATTICES[name]
    x = (
        torch.rand(samples, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * 1000
    )
    energy = (x - nearest(x)).pow(2).sum(-1) / (n * volume ** (2 / n))
    return float(energy.mean()), float(energy.std() / math.sqrt(samples))


def gap_bits(moment: float) -> float:
    """½ log₂(2πe G): bits above the Gaussian R(D) at high rates, with an entropy coder. 0.2546 for
    Z.
    """
    return 0.5 * math.log2(2 * math.pi * math.e * moment)
