"""Gates between 0 and 1 that can be trained: the binary concrete and the hard concrete
distribution, concrete dropout.

A gate that is open with probability σ(α) has no gradient. Its binary concrete relaxation (Maddison
et al., 2017) has one:

    s = σ((ln u − ln(1 − u) + α) / β),  u uniform in (0, 1)

but is never exactly 0. The hard concrete gate (Louizos et al., 2018) stretches s to (γ, ζ) ∋ 0, 1
and clips:

    z = clip(s (ζ − γ) + γ, 0, 1),     P(z ≠ 0) = σ(α − β ln(−γ / ζ))

so that z is 0 with a probability that is known in closed form, and whose sum can be bounded by a
budget.
"""

import math

import torch
from torch import Tensor

from course_utils.errors import CompressionError

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # Louizos et al., 2018


def logistic_noise(
    shape: torch.Size | tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Ln u − ln(1 − u), u uniform in (0, 1): the difference of two Gumbel numbers."""
    edge = torch.finfo(dtype).eps / 2
    u = torch.rand(shape, generator=generator, dtype=dtype).clamp(edge, 1 - edge)
    return u.log() - (-u).log1p()


def binary(alpha: Tensor, noise: Tensor, beta: float = BETA) -> Tensor:
    """S = σ((noise + α) / β), in (0, 1). Raises CompressionError unless β > 0."""
    if not beta > 0:
        raise CompressionError(f"beta={beta}: the temperature of a gate is above 0.")
    return torch.sigmoid((noise + alpha) / beta)


def hard(
    alpha: Tensor, noise: Tensor, beta: float = BETA, gamma: float = GAMMA, zeta: float = ZETA
) -> Tensor:
    """Z = clip(s (ζ − γ) + γ, 0, 1): exactly 0 and exactly 1 with positive probability.

    Raises CompressionError unless γ < 0 and ζ > 1.
    """
    _check_stretch(gamma, zeta)
    return (binary(alpha, noise, beta) * (zeta - gamma) + gamma).clamp(0, 1)


def hard_spec(
    alpha: float, u: float, beta: float = BETA, gamma: float = GAMMA, zeta: float = ZETA
) -> float:
    """One gate by plain arithmetic, from a uniform number."""
    s = 1 / (1 + math.exp(-(math.log(u) - math.log(1 - u) + alpha) / beta))
    return min(1.0, max(0.0, s * (zeta - gamma) + gamma))


def open_probability(
    alpha: Tensor, beta: float = BETA, gamma: float = GAMMA, zeta: float = ZETA
) -> Tensor:
    """P(z ≠ 0) = σ(α − β ln(−γ / ζ)) of a hard concrete gate."""
    _check_stretch(gamma, zeta)
    return torch.sigmoid(alpha - beta * math.log(-gamma / zeta))


def settled(alpha: Tensor, gamma: float = GAMMA, zeta: float = ZETA) -> Tensor:
    """The gate of a trained network, without noise: clip(σ(α) (ζ − γ) + γ, 0, 1)."""
    _check_stretch(gamma, zeta)
    return (torch.sigmoid(alpha) * (zeta - gamma) + gamma).clamp(0, 1)


def cumulative(x: Tensor, alpha: Tensor, beta: float = BETA) -> Tensor:
    """P(s ≤ x) = σ(β (ln x − ln(1 − x)) − α) of a binary concrete gate, 0 < x < 1."""
    return torch.sigmoid(beta * torch.logit(x) - alpha)


def expected(
    alpha: Tensor, beta: float = BETA, gamma: float = GAMMA, zeta: float = ZETA, points: int = 2000
) -> Tensor:
    """E[z] of a hard concrete gate = ∫₀¹ P(z > t) dt, by the midpoint rule."""
    _check_stretch(gamma, zeta)
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return (1 - cumulative((t - gamma) / (zeta - gamma), alpha.double()[..., None], beta)).mean(-1)


def entropy(p: Tensor) -> Tensor:
    """H(p) = −p ln p − (1 − p) ln(1 − p) in nats; 0 at 0 and at 1."""
    return -(torch.xlogy(p, p) + torch.special.xlog1py(1 - p, -p))


def dropout_penalty(p: Tensor, weight: Tensor, *, length: float = 1.0, examples: int = 1) -> Tensor:
    """What concrete dropout adds to the mean loss (Gal et al., 2017, eq. 3): Σ_j (ℓ² (1 − p_j)
    ‖w_j‖² / 2 − H(p_j)) / examples.

    p (in,): the probability that input j is dropped; w_j: the column of `weight` (out, in) that
    reads it; ℓ: the prior's length.
    """
    return (length**2 * (1 - p) * weight.square().sum(0) / 2 - entropy(p)).sum() / examples


def drop_gate(logit: Tensor, noise: Tensor, beta: float = 0.1) -> Tensor:
    """Concrete dropout's gate z = 1 − s with s = σ((noise + logit) / β) and p = σ(logit), to
    multiply an input; divide it by 1 − p.
    """
    return 1 - binary(logit, noise, beta)


def _check_stretch(gamma: float, zeta: float) -> None:
    if not gamma < 0 or not zeta > 1:
        raise CompressionError(
            f"gamma={gamma}, zeta={zeta}: a hard gate is stretched beyond both ends; "
            "choose gamma < 0 and zeta > 1."
        )
