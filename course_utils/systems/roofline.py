"""The roofline (Williams, Waterman and Patterson, 2009): how fast a product can be at most, from
its operations and its bytes.

    operations a second ≤ min(P, M · I),     I = operations / bytes

P: the most operations a second (a multiplication and an addition are two), M: the most bytes a
second from memory, I: the intensity. Below the ridge I = P / M the bytes decide, above it the
operations.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from course_utils import kernels
from course_utils.errors import CompressionError

from . import timing

FP32, SCALE = 4, 2  # bytes


def operations(rows: int, columns: int, tokens: int) -> int:
    """2 · rows · columns · tokens: each weight is multiplied and added once for each token."""
    _positive(rows=rows, columns=columns, tokens=tokens)
    return 2 * rows * columns * tokens


def bytes_moved(
    rows: int,
    columns: int,
    tokens: int,
    *,
    bits: float = 32,
    group_size: int | None = None,
    zero_points: bool = False,
) -> float:
    """Bytes of y = x Wᵀ, x (tokens, columns): weights once, scales (2 bytes a group), inputs and
    outputs in float32.

    `group_size` None: no scales, as with floats. `zero_points`: `bits` more for each group.
    """
    _positive(rows=rows, columns=columns, tokens=tokens, bits=bits)
    groups = (
        0
        if group_size is None
        else rows * math.ceil(columns / (columns if group_size == -1 else group_size))
    )
    return (
        rows * columns * bits / 8
        + groups * (SCALE + zero_points * bits / 8)
        + FP32 * tokens * (rows + columns)
    )


def intensity(rows: int, columns: int, tokens: int, **stored: Any) -> float:
    """Operations for each byte moved; `stored` as in `bytes_moved`."""
    return operations(rows, columns, tokens) / bytes_moved(rows, columns, tokens, **stored)


@dataclass(frozen=True)
class Roof:
    """`peak` operations and `bandwidth` bytes a second."""

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """The intensity at which the two limits meet, operations a byte."""
        return self.peak / self.bandwidth

    def __call__(self, intensity: float) -> float:
        """The most operations a second at this intensity."""
        return min(self.peak, self.bandwidth * intensity)

    def seconds(self, rows: int, columns: int, tokens: int, **stored: Any) -> float:
        """The least time of a product: max(operations / P, bytes / M)."""
        return max(
            operations(rows, columns, tokens) / self.peak,
            bytes_moved(rows, columns, tokens, **stored) / self.bandwidth,
        )

    def tokens_at_ridge(self, rows: int, columns: int, **stored: Any) -> int | None:
        """The fewest tokens at once for which operations decide; None where inputs and outputs
        alone keep it below the ridge.

        2 n t / (w + a t) ≥ ridge with n weights, w bytes of them and a = 4 (rows + columns) bytes a
        token.
        """
        weights = bytes_moved(rows, columns, 1, **stored) - FP32 * (rows + columns)
        gain = 2 * rows * columns - self.ridge * FP32 * (rows + columns)
        return None if gain <= 0 else math.ceil(self.ridge * weights / gain - 1e-9)


def measure(*, numbers: int = 2**25, side: int = 768, turns: int = 8) -> Roof:
    """The roof of this machine, one thread, now: a sum over `numbers` float32 and a product of two
    matrices of `side`, in turns.

    Other programs lower both. A product that lies above a measured roof says that the roof was
    measured under load.
    """
    big = torch.ones(numbers)
    a, b = (torch.randn(side, side, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    found = timing.best({"read": big.sum, "multiply": lambda: a @ b}, turns=turns)
    return Roof(2 * side**3 / found["multiply"], FP32 * numbers / found["read"])


def products(
    width: int, tokens: tuple[int, ...], *, memory: int = 2**27, turns: int = 3
) -> dict[str, dict[int, float]]:
    """{format: {tokens: seconds}} of a square layer in FP32, and packed in 8 and 4 bits with groups
    of 64.

    Each walks over copies of its weight that together hold `memory` bytes, or it would be read from
    a cache and not from memory.
    """
    rng = torch.Generator().manual_seed(0)
    makers = {
        "FP32": _dense(width, memory, rng),
        "INT8": _packed(width, 8, memory, rng),
        "INT4": _packed(width, 4, memory, rng),
    }
    jobs, inputs = {}, {t: torch.randn(t, width, generator=rng) for t in tokens}
    for (name, product), t in itertools.product(makers.items(), tokens):
        jobs[f"{name} {t}"] = lambda product=product, x=inputs[t]: product(x)
    found = timing.best(jobs, turns=turns)
    return {name: {t: found[f"{name} {t}"] for t in tokens} for name in makers}


def packed_times(
    width: int, bits: tuple[int, ...], *, memory: int = 2**26, turns: int = 3
) -> dict[int, float]:
    """{bits: seconds} of a square layer packed in groups of 64, for one token, read from memory as
    in `products`.
    """
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, width, generator=rng)
    products_ = {b: _packed(width, b, memory, rng) for b in bits}
    found = timing.best(
        {str(b): partial(product, x) for b, product in products_.items()}, turns=turns
    )
    return {b: found[str(b)] for b in bits}


STORED: dict[str, dict] = {
    "FP32": {},
    "INT8": {"bits": 8, "group_size": 64},
    "INT4": {"bits": 4, "group_size": 64},
}


def _round(make: Callable[[], Any], nbytes: int, memory: int) -> Any:
    return itertools.cycle([make() for _ in range(max(1, -(-memory // nbytes)))])


def _dense(width: int, memory: int, rng: torch.Generator) -> Any:
    weight = torch.randn(width, width, generator=rng)
    copies = _round(weight.clone, weight.nbytes, memory)
    return lambda x: torch.nn.functional.linear(x, next(copies))


def _packed(width: int, bits: int, memory: int, rng: torch.Generator) -> Any:
    codes = torch.randint(2**bits, (width, width), generator=rng, dtype=torch.uint8)
    scale = (0.001 + 0.01 * torch.rand(width, width // 64, generator=rng)).half().float()
    one = kernels.from_codes(codes, scale, bits=bits)

    def clone() -> kernels.PackedWeight:
        return kernels.PackedWeight(one.codes.clone(), one.scale.clone(), None, bits, width)

    copies = _round(clone, one.nbytes, memory)

    def product(x: Tensor) -> Tensor:
        return kernels.linear(x, next(copies))

    return product


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise CompressionError(f"{name}={value}: give a number above 0.")
