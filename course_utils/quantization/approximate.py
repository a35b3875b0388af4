"""Products that are cheap and wrong on purpose: Mitchell's logarithms, multipliers with parts left
out, streams of random bits.
"""

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def mitchell(a: Tensor, b: Tensor) -> Tensor:
    """A · b by adding logarithms that are read off the binary point: log2(2^k (1 + f)) ≈ k + f
    (Mitchell, 1962).

    Shapes broadcast; float64. The product is never too large in size: the relative error is 0 to
    −1/9, and −3.85 % in the mean over fractions that are equally likely. Exact where one factor is
    a power of two.
    """
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    # |a| = 2^(p − 1) (1 + f) with f = 2 m − 1
    (m, p), (n, q) = torch.frexp(a.abs()), torch.frexp(b.abs())
    fractions = (2 * m - 1) + (2 * n - 1)
    carry = fractions >= 1
    value = torch.ldexp(torch.where(carry, fractions, 1 + fractions), p + q - 2 + carry.int())
    return torch.where((a == 0) | (b == 0), 0.0, value * torch.sign(a) * torch.sign(b))


def truncated_product(a: Tensor, b: Tensor, *, columns: int, bits: int = 8) -> Tensor:
    """A · b of sizes below 2^bits without the partial products a_i b_j 2^(i + j) of the lowest
    columns, i + j < `columns`.

    A multiplier adds bits² such products; c ≤ bits columns hold c (c + 1) / 2 of them. The result
    is never too large in size, and at most Σ_{k < c} (k + 1) 2^k = (c − 1) 2^c + 1 too small. Whole
    numbers, int64; shapes broadcast.
    Raises CompressionError for real numbers, sizes of more than `bits` bits, or more columns than
    bits.
    """
    a, b = torch.broadcast_tensors(torch.as_tensor(a), torch.as_tensor(b))
    if a.is_floating_point() or b.is_floating_point() or not 0 <= columns <= bits <= 30:
        raise CompressionError(
            f"a, b, columns={columns}, bits={bits}: expected whole numbers, "
            "and 0 to bits ≤ 30 columns."
        )
    m, n = a.long().abs(), b.long().abs()
    if m.numel() and max(int(m.max()), int(n.max())) >= 2**bits:
        raise CompressionError(f"a, b: a size above {2**bits - 1}, the largest of {bits} bits.")
    lost = torch.zeros_like(m)
    for i in range(columns):
        # bit i of a meets the bits j < columns − i of b
        lost += (m >> i & 1) * (n & (2 ** (columns - i) - 1)) << i
    return (m * n - lost) * torch.sign(a.long()) * torch.sign(b.long())


def stochastic_product(
    p: Tensor,
    q: Tensor,
    bits: int,
    *,
    bipolar: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """P · q by streams of `bits` random bits, one gate for all of them (Gaines, 1969).

    Shapes broadcast; float64.

    Unipolar: numbers in [0, 1], a bit is 1 with probability p, the gate is AND, the product the
    share of ones.
    Bipolar: numbers in [−1, 1], a bit is 1 with probability (1 + p) / 2, the gate is XNOR, the
    product 2 · share − 1.
    Both are unbiased, with the variance of `stream_variance`. Raises CompressionError for numbers
    outside.
    """
    p, q = torch.broadcast_tensors(
        torch.as_tensor(p, dtype=torch.float64), torch.as_tensor(q, dtype=torch.float64)
    )
    low = -1.0 if bipolar else 0.0
    if bits < 1 or not bool(((p >= low) & (p <= 1) & (q >= low) & (q <= 1)).all()):
        raise CompressionError(
            f"p, q, bits={bits}: "
            f"{'bipolar numbers lie between −1' if bipolar else 'probabilities lie between 0'} "
            "and 1, and a stream has at least one bit."
        )
    shares = [(1 + x) / 2 if bipolar else x for x in (p, q)]
    one, two = (
        torch.rand(*p.shape, bits, generator=generator, dtype=torch.float64) < x[..., None]
        for x in shares
    )
    return 2 * (one == two).double().mean(-1) - 1 if bipolar else (one & two).double().mean(-1)


def stream_variance(
    p: Tensor | float, q: Tensor | float, bits: int, *, bipolar: bool = False
) -> Tensor:
    """The variance of `stochastic_product`: pq (1 − pq) / bits, bipolar (1 − p² q²) / bits.

    A bit of the product is 1 with probability r, so that the share of ones has the variance r (1 −
    r) / bits; r = pq, or (1 + pq) / 2 and a factor of 2² for 2 · share − 1. One more bit of
    precision takes four times the stream.
    """
    product = torch.as_tensor(p, dtype=torch.float64) * torch.as_tensor(q, dtype=torch.float64)
    return ((1 - product**2) if bipolar else product * (1 - product)) / bits
