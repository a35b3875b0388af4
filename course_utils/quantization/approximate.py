"""Products that are cheap and wrong on purpose: Mitchell's logarithms, and streams of random bits."""

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def mitchell(a: Tensor, b: Tensor) -> Tensor:
    """a · b by adding logarithms that are read off the binary point: log2(2^k (1 + f)) ≈ k + f (Mitchell, 1962).

    Shapes broadcast; float64. The product is never too large in size: the relative error is 0 to −1/9, and −3.85 % in the
    mean over fractions that are equally likely. Exact where one factor is a power of two.
    """
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    (m, p), (n, q) = torch.frexp(a.abs()), torch.frexp(b.abs())  # |a| = 2^(p − 1) (1 + f) with f = 2 m − 1
    fractions = (2 * m - 1) + (2 * n - 1)
    carry = fractions >= 1
    value = torch.ldexp(torch.where(carry, fractions, 1 + fractions), p + q - 2 + carry.int())
    return torch.where((a == 0) | (b == 0), 0.0, value * torch.sign(a) * torch.sign(b))


def stochastic_product(p: Tensor, q: Tensor, bits: int, *, generator: torch.Generator | None = None) -> Tensor:
    """p · q for numbers in [0, 1] as streams of `bits` random bits that are 1 with probability p and q, joined by AND.

    The share of ones is unbiased, with the standard deviation √(pq (1 − pq) / bits): one more bit of precision takes four
    times the stream (Gaines, 1969). Shapes broadcast; float64. Raises CompressionError for numbers outside [0, 1].
    """
    p, q = torch.broadcast_tensors(torch.as_tensor(p, dtype=torch.float64), torch.as_tensor(q, dtype=torch.float64))
    if bits < 1 or not bool(((p >= 0) & (p <= 1) & (q >= 0) & (q <= 1)).all()):
        raise CompressionError(f"p, q, bits={bits}: probabilities lie between 0 and 1, and a stream has at least one bit.")
    streams = [torch.rand(*p.shape, bits, generator=generator, dtype=torch.float64) < x[..., None] for x in (p, q)]
    return (streams[0] & streams[1]).double().mean(-1)
