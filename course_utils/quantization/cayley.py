"""Learned rotations: gradient steps that never leave the rotations (SpinQuant, Liu et al., 2025; Li
et al., 2020).

For a loss L(R) with the gradient G = ∂L/∂R at an orthogonal R, let

    A = G Rᵀ,     W = A − Aᵀ   (skew: Wᵀ = −W),     R⁺ = (I + η/2 W)⁻¹ (I − η/2 W) R.

The Cayley transform of a skew matrix is orthogonal, so R⁺ is a rotation if R is, however large the
step η. To first order R⁺ = R − η W R, and L falls by η/2 ‖W‖². (The papers' Ŵ = G Rᵀ − ½ R Rᵀ G Rᵀ
is A / 2 for a square R: their η is twice this one.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from .qat import round_ste

AMISS = 1e-3  # how far R Rᵀ may be from I


def check_rotation(R: Tensor) -> None:
    """Raises CompressionError unless R Rᵀ = I."""
    if (
        R.ndim != 2
        or R.shape[0] != R.shape[1]
        or not (R.double() @ R.double().T - torch.eye(len(R), device=R.device)).abs().max() < AMISS
    ):
        raise CompressionError(
            "R: an orthogonal matrix is needed, R Rᵀ = I; begin with hadamard.randomized(width)."
        )


def direction(R: Tensor, G: Tensor) -> Tensor:
    """The skew W = G Rᵀ − R Gᵀ (n, n)."""
    A = G @ R.T
    return A - A.T


def step(R: Tensor, G: Tensor, rate: float) -> Tensor:
    """R⁺ (n, n) for R, G (n, n) and η = `rate`, solved in float64.

    Raises CompressionError if R is no rotation or G not finite.
    """
    check_rotation(R)
    if not torch.isfinite(G).all():
        raise CompressionError(
            "G: contains NaN or infinity; take a smaller rate or begin elsewhere."
        )
    W = rate / 2 * direction(R.double(), G.double())
    eye = torch.eye(len(R), dtype=torch.float64, device=R.device)
    return torch.linalg.solve(eye + W, (eye - W) @ R.double()).to(R.dtype)


def learn(
    loss: Callable[[Tensor], Tensor], R: Tensor, *, steps: int = 60, rate: float = 0.05
) -> tuple[Tensor, list[float]]:
    """The best R met on the way, and the losses at each step, the start first.

    Steps have a length of their own, η = rate · √n / ‖W‖ falling to 0: gradients through rounding
    (straight-through) have no reliable size. Rounding also makes the loss jump, so that the last R
    need not be the best. Works in R's dtype, best float64.
    """
    check_rotation(R)
    R = R.detach().clone()
    best, losses = R, []
    for i in range(steps + 1):
        R.requires_grad_(True)
        value = loss(R)
        (G,) = torch.autograd.grad(value, R)
        R = R.detach()
        losses.append(float(value.detach()))
        if losses[-1] <= min(losses):
            best = R
        if i < steps:
            size = direction(R, G).norm().clamp(min=1e-30)
            R = step(R, G, float(rate * (1 - i / steps) * len(R) ** 0.5 / size))
    return best, losses


def rounded(x: Tensor, bits: int) -> Tensor:
    """Each row of x (…, n) on the affine grid of its own range, 2^bits values; the gradient passes
    through the rounding.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-12).detach()
    zero = (-low / scale).round().detach()
    return (round_ste(x / scale + zero).clamp(0, 2**bits - 1) - zero) * scale


def product_error(x: Tensor, weight: Tensor, R: Tensor, bits: int) -> Tensor:
    """‖X Wᵀ − Q(X Rᵀ) Q(W Rᵀ)ᵀ‖² / ‖X Wᵀ‖² for inputs X (tokens, n) and a weight W (out, n), both
    rounded row by row.
    """
    exact = x @ weight.T
    return (
        rounded(x @ R.T, bits) @ rounded(weight @ R.T, bits).T - exact
    ).square().sum() / exact.square().sum()
