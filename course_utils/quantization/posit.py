"""Posit numbers: a sign, a regime of variable length, an exponent and a fraction.

A pattern of n bits that is neither 0 (zero) nor 10…0 (NaR, not a real) means

    (−1)^s · 2^(r · 2^es + e) · (1 + f)

where a negative pattern is first negated as a two's complement number. After the sign comes a run
of k equal bits that another bit, or the end, closes: a run of ones gives r = k − 1, of zeros r =
−k. Then up to es bits of e and the fraction f; bits beyond the end are zeros. The fraction has most
bits near 1, and both ends of the range have none.

The standard of 2022 (Posit Working Group) sets es = 2 for every n. Earlier papers have es = 0 or 1
for 8 bits (Gustafson and Yonemoto, 2017).
"""

import functools

import torch
from torch import Tensor

from course_utils.errors import CompressionError

LARGEST_BITS = 16  # `encode` looks in a list of all patterns


def _check(bits: int, es: int, most: int) -> None:
    if not 3 <= bits <= most or not 0 <= es <= 3:
        raise CompressionError(
            f"bits={bits}, es={es}: choose 3 to {most} bits, and an es of 0 to "
            "3 (the standard has 2)."
        )


def decode(codes: Tensor | int, bits: int = 8, es: int = 2) -> Tensor:
    """The numbers (float64, same shape) of patterns 0 … 2^bits − 1; exact up to 32 bits.

    NaR is NaN.

    Raises CompressionError for a pattern that does not have `bits` bits.
    """
    _check(bits, es, 32)
    codes = torch.as_tensor(codes)
    if codes.is_floating_point() or (
        codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits)
    ):
        raise CompressionError(
            f"codes: expected patterns, whole numbers from 0 to {2**bits - 1}; did you mean encode?"
        )
    codes = codes.long()
    negative = codes >> (bits - 1) == 1
    body = torch.where(negative, 2**bits - codes, codes) & (2 ** (bits - 1) - 1)
    ones = body >> (bits - 2) == 1
    # the run as zeros from the left
    counted = torch.where(ones, ~body & (2 ** (bits - 1) - 1), body)
    # bits that are left when the run is gone
    length = torch.frexp(counted.double()).exponent.long()
    run = bits - 1 - length
    regime = torch.where(ones, run - 1, -run)
    left = (length - 1).clamp(min=0)  # without the bit that closes the run
    tail = body & ((1 << left) - 1)
    exponent = torch.where(
        left >= es, tail >> (left - es).clamp(min=0), tail << (es - left).clamp(min=0)
    )
    places = (left - es).clamp(min=0)
    fraction = torch.ldexp((tail & ((1 << places) - 1)).double(), -places)
    value = torch.ldexp(1 + fraction, regime * 2**es + exponent)
    value = torch.where(negative, -value, value)
    value = torch.where(codes == 0, 0.0, value)
    return torch.where(codes == 2 ** (bits - 1), torch.nan, value)


def fields(code: int, bits: int = 8, es: int = 2) -> tuple[str, str, str, str]:
    """Sign, regime with the bit that closes it, exponent and fraction of one pattern, as bits; of a
    negative one after its negation.
    """
    _check(bits, es, 32)
    if not 0 <= code < 2**bits:
        raise CompressionError(f"code={code}: expected a whole number from 0 to {2**bits - 1}.")
    sign = format(code, f"0{bits}b")[0]
    body = format((2**bits - code) % 2**bits if sign == "1" else code, f"0{bits}b")[1:]
    end = len(body) - len(body.lstrip(body[0])) + 1
    return sign, body[:end], body[end : end + es], body[end + es :]


@functools.cache
def _boundaries(bits: int, es: int) -> Tensor:
    """Between the patterns p and p + 1 of n bits lies the pattern 2 p + 1 of n + 1 bits: there the
    rounding turns.
    """
    return decode(torch.arange(1, 2**bits, 2), bits + 1, es)


def encode(x: Tensor | float, bits: int = 8, es: int = 2) -> Tensor:
    """The patterns (int64, same shape) of the numbers nearest to x, as the standard rounds.

    x is written out as an endless pattern and rounded there, half to even. That is the nearest
    number, except where the pattern ends within the exponent: there the turning point is a
    geometric mean. Nothing rounds to 0 or to NaR: numbers that are too small become the smallest,
    too large the largest. NaN and infinity become NaR.
    """
    _check(bits, es, LARGEST_BITS)
    x = torch.as_tensor(x, dtype=torch.float64)
    turns = _boundaries(bits, es).to(x.device)
    size = x.abs().nan_to_num(1.0, 1.0)
    below, above = torch.searchsorted(turns, size), torch.searchsorted(turns, size, right=True)
    code = torch.where(below % 2 == 0, below, above)  # equal but on a turning point
    code = code.clamp(1, 2 ** (bits - 1) - 1)
    code = torch.where(x < 0, 2**bits - code, code)
    code = torch.where(x == 0, 0, code)
    return torch.where(torch.isfinite(x), code, 2 ** (bits - 1))


def cast(x: Tensor | float, bits: int = 8, es: int = 2) -> Tensor:
    """X rounded to a posit: decode(encode(x)), float64."""
    return decode(encode(x, bits, es), bits, es)
