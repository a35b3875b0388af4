"""What singular values say: where a random matrix ends and structure begins.

For W (n, m) with independent entries of variance σ² and q = n/m ≤ 1, the eigenvalues of (1/m) W Wᵀ
fill the interval

    σ² (1 − √q)²  …  σ² (1 + √q)²,     density √((λ₊ − λ)(λ − λ₋)) / (2π q σ² λ)

(Marchenko and Pastur, 1967). An eigenvalue above the upper edge is structure. One below it is not
proof of noise:
directions inside the bulk can matter to the model.
"""

import math

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def check_matrix(weight: Tensor) -> Tensor:
    """The weight itself. Raises CompressionError unless it is a finite matrix."""
    if weight.dim() != 2 or weight.numel() == 0 or not torch.isfinite(weight).all():
        raise CompressionError("weight: expected a matrix without NaN or infinity.")
    return weight


def eigenvalues(weight: Tensor) -> Tensor:
    """Eigenvalues of (1/m) W Wᵀ, largest first, float64; W is turned so that n ≤ m rows remain."""
    W = check_matrix(weight).double()
    W = W if W.shape[0] <= W.shape[1] else W.T
    return torch.linalg.svdvals(W) ** 2 / W.shape[1]


def ratio(shape: tuple[int, ...]) -> float:
    """Q = n/m of a matrix of this shape, the smaller side over the larger."""
    return min(shape) / max(shape)


def edges(q: float, variance: float = 1.0) -> tuple[float, float]:
    """(λ₋, λ₊) = σ² (1 ∓ √q)²."""
    if not (0 < q <= 1 and variance > 0):
        raise CompressionError(
            f"q={q}, variance={variance}: q is the smaller side over the larger, "
            "the variance positive."
        )
    return variance * (1 - math.sqrt(q)) ** 2, variance * (1 + math.sqrt(q)) ** 2


def density(x: Tensor, q: float, variance: float = 1.0) -> Tensor:
    """The Marchenko–Pastur density at x, 0 outside the edges."""
    low, high = edges(q, variance)
    inside = (x > low) & (x < high)
    root = ((high - x) * (x - low)).clamp(min=0).sqrt()
    return torch.where(
        inside, root / (2 * math.pi * q * variance * x.where(inside, torch.ones_like(x))), 0.0
    )


def spikes(weight: Tensor, variance: float | None = None) -> int:
    """How many eigenvalues lie above the upper edge for entries of this variance; by default that
    of the entries, which the spikes themselves raise, so that the count is a careful one.
    """
    W = check_matrix(weight)
    variance = float(W.double().pow(2).mean()) if variance is None else variance
    return int((eigenvalues(W) > edges(ratio(W.shape), variance)[1]).sum())


def visible_above(n: int, m: int, sigma: float = 1.0) -> float:
    """The least singular value s of a rank-one signal that shows in noise of deviation σ: s > σ (n
    m)^¼.
    """
    return sigma * (n * m) ** 0.25


def observed_spike(s: float, n: int, m: int, sigma: float = 1.0) -> float:
    """Where a signal of singular value s appears: y² = (s² + σ²n)(s² + σ²m) / s² above the
    threshold, else at the edge σ(√n + √m) (Benaych-Georges and Nadakuditi, 2012).
    """
    if s <= visible_above(n, m, sigma):
        return sigma * (math.sqrt(n) + math.sqrt(m))
    return math.sqrt((s**2 + sigma**2 * n) * (s**2 + sigma**2 * m)) / s


def gavish_donoho(n: int, sigma: float) -> float:
    """The best hard threshold for the singular values of a square noisy matrix: (4/√3) √n σ (Gavish
    and Donoho, 2014).
    """
    return 4 / math.sqrt(3) * math.sqrt(n) * sigma


def effective_rank(weight: Tensor) -> float:
    """Exp of the entropy of p_i = λ_i / Σλ (Roy and Vetterli, 2007).

    Compare it with `shuffled`, never with the width alone.
    """
    p = eigenvalues(weight)
    p = p[p > 0] / p.sum()
    return float((-(p * p.log()).sum()).exp())


def shuffled(weight: Tensor, seed: int = 0) -> Tensor:
    """The same numbers in places drawn by chance: the control that has no structure."""
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
    return weight.reshape(-1)[order.to(weight.device)].reshape(weight.shape)


def truncated(weight: Tensor, rank: int) -> Tensor:
    """The nearest matrix of this rank (Eckart and Young, 1936); its squared error is the sum of the
    dropped σ².
    """
    if not 0 <= rank <= min(weight.shape):
        raise CompressionError(f"rank={rank}: choose 0 to {min(weight.shape)}.")
    U, s, Vt = torch.linalg.svd(check_matrix(weight), full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vt[:rank]
