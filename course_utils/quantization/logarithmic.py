"""Logarithmic numbers: a sign, and the logarithm of the size in fixed point.

    x̂ = (−1)^s · 2^((E − E_max) / 2^f),     E = 1 … E_max = 2^(n − 1) − 1;     E = 0 means 0

n bits, f of them behind the binary point of the logarithm. The largest number is 1: a scale does
the rest. Neighbours differ by the same factor 2^(2^−f) everywhere, so that the relative error is
the same for large and for small numbers.

A product is a sum of logarithms, E_a + E_b − E_max, and exact. A sum is not: log2(a + b) = log2 a +
log2(1 + b / a) needs a table (Gauss' logarithms), and its result has to be rounded. (Swartzlander
and Alexopoulos, 1975; Miyashita et al., 2016, for networks.)
"""

import torch
from torch import Tensor

from course_utils.errors import CompressionError

ROUNDINGS = ("value", "logarithm")


def check(bits: int, fraction: int) -> None:
    """Raises CompressionError unless 2 ≤ bits ≤ 16 and 0 ≤ fraction ≤ 12."""
    if not (2 <= bits <= 16 and 0 <= fraction <= 12):
        raise CompressionError(
            f"bits={bits}, fraction={fraction}: choose 2 to 16 bits, 0 to 12 of "
            "them behind the point."
        )


def top(bits: int) -> int:
    """E_max, the exponent code of 1."""
    return 2 ** (bits - 1) - 1


def decode(codes: Tensor | int, bits: int = 8, fraction: int = 3) -> Tensor:
    """The numbers (float64, same shape) of patterns s E, 0 … 2^bits − 1.

    Both patterns with E = 0 are 0.

    Raises CompressionError for a pattern that does not have `bits` bits.
    """
    check(bits, fraction)
    codes = torch.as_tensor(codes)
    if codes.is_floating_point() or (
        codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits)
    ):
        raise CompressionError(
            f"codes: expected patterns, whole numbers from 0 to {2**bits - 1}; did you mean encode?"
        )
    E = codes.long() & top(bits)
    size = torch.where(E > 0, torch.exp2((E - top(bits)).double() / 2**fraction), 0.0)
    return torch.where(codes.long() > top(bits), -size, size)


def encode(
    x: Tensor | float, bits: int = 8, fraction: int = 3, *, rounding: str = "value"
) -> Tensor:
    """The patterns (int64, same shape) nearest to x.

    Sizes above 1 become 1; those below half of the smallest become 0.

    rounding 'value': the nearest number, turning halfway between two. 'logarithm': the logarithm is
    rounded, as a circuit does it, so that the turn is at the geometric mean, a little lower. Raises
    CompressionError for NaN.
    """
    check(bits, fraction)
    if rounding not in ROUNDINGS:
        raise CompressionError(f"rounding={rounding!r}: choose one of {', '.join(ROUNDINGS)}.")
    x = torch.as_tensor(x, dtype=torch.float64)
    if torch.isnan(x).any():
        raise CompressionError(
            "x: contains NaN, and logarithmic numbers have no pattern for it; "
            "repair the values first."
        )
    size = x.abs().clamp(max=1.0)
    log = torch.log2(size.clamp(min=1e-300)) * 2**fraction + top(bits)
    if rounding == "logarithm":
        E = torch.floor(log + 0.5)
    else:  # between 2^(k/2^f) and its neighbour, the turn lies at their mean
        lower = torch.floor(log)
        middle = (
            torch.exp2((lower - top(bits)) / 2**fraction)
            + torch.exp2((lower + 1 - top(bits)) / 2**fraction)
        ) / 2
        E = lower + (size > middle)
    least = float(torch.exp2(torch.tensor((1 - top(bits)) / 2**fraction, dtype=torch.float64)))
    E = torch.where(size > least / 2, E.clamp(1, top(bits)), 0.0).long()
    return E | ((x < 0) & (E > 0)).long() << (bits - 1)


def cast(x: Tensor | float, bits: int = 8, fraction: int = 3, *, rounding: str = "value") -> Tensor:
    """X rounded to a logarithmic number: decode(encode(x)), float64."""
    return decode(encode(x, bits, fraction, rounding=rounding), bits, fraction)


def multiply(a: Tensor, b: Tensor, bits: int = 8) -> Tensor:
    """Patterns of the products of two tensors of patterns, by adding; exact but where the product
    is too small: then 0.

    It does not need to know where the point of the logarithm is.
    """
    E_a, E_b = a.long() & top(bits), b.long() & top(bits)
    E = E_a + E_b - top(bits)
    sign = (a.long() ^ b.long()) & 2 ** (bits - 1)
    return torch.where((E_a > 0) & (E_b > 0) & (E > 0), E | sign, 0)
