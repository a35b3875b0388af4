"""TurboQuant: vectors without any data, by a random rotation and one best scalar quantizer (Zandieh
et al., 2025).

    y = √d · R x / ‖x‖,     q_i = index of the nearest centroid to y_i,     x̂ = ‖x‖ / √d · Rᵀ c[q]

After a random rotation R every coordinate of a unit vector has the same known density, ∝ (1 −
y²/d)^((d−3)/2), nearly N(0, 1): so one table of 2^b centroids, Lloyd's and Max's for that density,
serves every vector. Mean squared error E‖x − x̂‖² ≤ (√3 π / 2) 4^−b ‖x‖², Panter's and Dite's
constant again; no code of b bits a coordinate does better than 4^−b for all vectors. Products ⟨y,
x̂⟩ come out too small. `unbiased` spends one of the bits on the residual r = x − x̂:

    r̂ = ‖r‖ √(π/2) / d · Sᵀ sign(S r),     S normal (d, d):     E⟨y, r̂⟩ = ⟨y, r⟩

(QJL, Zandieh et al., 2024). Stored are codes, the norm in float16, and with `unbiased` the signs
and ‖r‖.
"""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, unpack

MOST_BITS, ROUNDS = 8, 5000


@dataclass(frozen=True)
class PackedVectors:
    """Vectors (…, d): `packed` (n, bytes) uint8, `norm` (n,) float16 (float32 where one is above
    65,504); with one bit for the residual `signs` and `rest`.
    """

    packed: Tensor
    norm: Tensor
    shape: tuple[int, ...]
    bits: int
    seed: int
    signs: Tensor | None = None
    rest: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the packed vectors take."""
        return sum(
            t.numel() * t.element_size()
            for t in (self.packed, self.norm, self.signs, self.rest)
            if t is not None
        )

    def take(self, rows: Tensor) -> "PackedVectors":
        """The vectors of some members of the batch, the first dimension of `shape`."""
        per_member = len(self.packed) // self.shape[0]
        chosen = (
            rows[:, None] * per_member + torch.arange(per_member, device=rows.device)
        ).flatten()
        signs, rest = (None if t is None else t[chosen] for t in (self.signs, self.rest))
        return replace(
            self,
            packed=self.packed[chosen],
            norm=self.norm[chosen],
            shape=(len(rows), *self.shape[1:]),
            signs=signs,
            rest=rest,
        )


@functools.lru_cache(maxsize=64)
def rotation(width: int, seed: int = 0) -> Tensor:
    """A random rotation (width, width), uniform over all of them: Q of a normal matrix, the signs
    of R's diagonal taken out.
    """
    rng = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=torch.float64))
    return (Q * R.diagonal().sign()).float()


@functools.lru_cache(maxsize=64)
def projection(width: int, seed: int = 0) -> Tensor:
    """S (width, width), standard normal, independent of the rotation of the same seed."""
    return torch.randn(width, width, generator=torch.Generator().manual_seed(2**20 + seed))


@functools.lru_cache(maxsize=64)
def centroids(bits: int, width: int) -> Tensor:
    """The 2^b best values (float32, rising) for a coordinate of √d times a uniformly random unit
    vector of d = `width` numbers.
    """
    if not 1 <= bits <= MOST_BITS or width < 8:
        raise CompressionError(
            f"bits={bits}, width={width}: choose 1 to {MOST_BITS} bits for codes, and vectors "
            "of at least 8 numbers."
        )
    end = math.sqrt(width)
    y = np.linspace(-end, end, 2**16 + 1)
    density = (1 - y * y / width).clip(min=0) ** ((width - 3) / 2)

    def sums(f: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum((f[1:] + f[:-1]) / 2)])

    mass, first, finest = sums(density), sums(density * y), sums(np.cbrt(density))
    # Panter's and Dite's density of points
    points = np.interp((np.arange(2**bits) + 0.5) / 2**bits * finest[-1], finest, y)
    for _ in range(ROUNDS):
        edges = np.concatenate([[-end], (points[1:] + points[:-1]) / 2, [end]])
        moved = np.diff(np.interp(edges, y, first)) / np.diff(np.interp(edges, y, mass))
        points, before = (moved - moved[::-1]) / 2, points
        if np.abs(points - before).max() < 1e-9:
            break
    return torch.from_numpy(points).float()


def compress(
    vectors: Tensor, *, bits: int = 4, unbiased: bool = False, seed: int = 0
) -> PackedVectors:
    """Codes of vectors (…, d), d at least 8.

    Raises CompressionError for NaN, infinity, or bits outside 1 to 8 (`unbiased`: 2 to 9).
    """
    if unbiased and bits < 2:
        raise CompressionError(
            f"bits={bits}: unbiased products take one bit for the residual and at "
            "least one for the codes."
        )
    flat = vectors.reshape(-1, vectors.shape[-1]).float()
    if not torch.isfinite(flat).all():
        raise CompressionError("vectors: they hold NaN or infinity; look at what made them.")
    width, table = flat.shape[1], centroids(bits - unbiased, flat.shape[1]).to(flat.device)
    norm = _short(flat.norm(dim=1))
    unit = (
        flat
        @ rotation(width, seed).T.to(flat)
        * (math.sqrt(width) / norm.float().clamp(min=1e-20))[:, None]
    )
    codes = torch.bucketize(unit, (table[1:] + table[:-1]) / 2).to(torch.uint8)
    made = PackedVectors(
        pack(codes, bits - unbiased), norm, tuple(vectors.shape), bits - unbiased, seed
    )
    if not unbiased:
        return made
    residual = flat - restore(made).reshape(-1, width)
    signs = (residual @ projection(width, seed).T.to(flat) >= 0).to(torch.uint8)
    return replace(made, signs=pack(signs, 1), rest=_short(residual.norm(dim=1)))


def _short(norm: Tensor) -> Tensor:
    return norm.half() if float(norm.max()) < 65_504 else norm


def restore(packed: PackedVectors, dtype: torch.dtype = torch.float32) -> Tensor:
    """x̂, or x̂ + r̂, in the shape that `compress` was given."""
    width = packed.shape[-1]
    table = centroids(packed.bits, width).to(packed.packed.device)
    unit = table[unpack(packed.packed, packed.bits, width).long()] @ rotation(
        width, packed.seed
    ).to(table)
    found = unit * (packed.norm.float() / math.sqrt(width))[:, None]
    if packed.signs is not None and packed.rest is not None:
        signs = unpack(packed.signs, 1, width).float() * 2 - 1
        found = (
            found
            + signs
            @ projection(width, packed.seed).to(table)
            * (packed.rest.float() * math.sqrt(math.pi / 2) / width)[:, None]
        )
    return found.view(packed.shape).to(dtype)
