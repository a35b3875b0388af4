"""Quantization as noise: its variance, its models, what it does to a model's answers, and what the
STE learns from it.

s²/12 supposes that an error is uniform in its cell. For N(0, σ²) rounded to multiples of Δ the
exact variance is

    (Δ²/12) [1 + (12/π²) Σ_k (−1)^k k⁻² exp(−2π² k² σ²/Δ²)]

(Sripad and Snyder, 1977): s²/12 holds while Δ < 2σ, and fails upwards when all values share a cell.
To second order a change δ of the logits costs KL = ½ δᵀ F δ with F = diag(p) − p pᵀ; so damage
grows with the square of the error, and the damages of layers add, as long as they are small.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from course_utils.errors import CompressionError

MODELS = ("additive", "multiplicative", "signal", "largest")


def gaussian_error_variance(step: float, sigma: float = 1.0, terms: int = 200) -> float:
    """The variance of rounding N(0, σ²) to multiples of `step`, by the series above."""
    if not (step > 0 and sigma > 0):
        raise CompressionError(f"step={step}, sigma={sigma}: both must be positive.")
    decay = -2 * math.pi**2 * (sigma / step) ** 2
    series = sum((-1) ** k / k**2 * math.exp(max(decay * k * k, -700)) for k in range(1, terms))
    return step**2 / 12 * (1 + 12 / math.pi**2 * series)


def stochastic_round(x: Tensor, step: float, rng: torch.Generator | None = None) -> Tensor:
    """Up with the probability of the remainder: unbiased for each value, with variance Δ² r (1 −
    r), Δ²/6 on average.
    """
    below = torch.floor(x / step)
    up = torch.rand(x.shape, generator=rng, dtype=x.dtype) < x / step - below
    return (below + up) * step


def noisy(
    weight: Tensor, level: float, kind: str = "additive", rng: torch.Generator | None = None
) -> Tensor:
    """A weight (out, in) with Gaussian noise of one of four models, where e ~ N(0, 1).

    additive: w + level · rms(W) · e. multiplicative: w (1 + level · e). signal: w + level · √(|w| ·
    rms(W)) · e, whose variance grows with |w|. largest: w + level · max|W| · e, as in an analog
    array with one range for all.
    """
    if kind not in MODELS:
        raise CompressionError(f"kind={kind!r}: choose one of {', '.join(MODELS)}.")
    e = torch.randn(weight.shape, generator=rng, dtype=weight.dtype)
    rms = weight.pow(2).mean().sqrt()
    spread = {
        "additive": rms,
        "multiplicative": weight,
        "signal": (weight.abs() * rms).sqrt(),
        "largest": weight.abs().max(),
    }
    return weight + level * spread[kind] * e


def relative_error(weight: Tensor, changed: Tensor) -> float:
    """t² = ‖Ŵ − W‖² / ‖W‖²."""
    return float((changed - weight).pow(2).sum() / weight.pow(2).sum())


def quadratic_kl(logits: Tensor, change: Tensor) -> Tensor:
    """½ δᵀ (diag(p) − p pᵀ) δ = ½ Var_p(δ) for each row: KL(softmax(z) ‖ softmax(z + δ)) to second
    order.
    """
    p = logits.double().softmax(-1)
    mean = (p * change).sum(-1, keepdim=True)
    return 0.5 * (p * (change - mean) ** 2).sum(-1)


def predicted(sensitivities: Mapping[str, float], errors: Mapping[str, float]) -> float:
    """Σ_l α_l t_l²: the damage of changing all layers, from what each does alone (HIGGS' linearity,
    Malinovskii et al., 2025).
    """
    if sensitivities.keys() != errors.keys():
        odd = sorted(sensitivities.keys() ^ errors.keys())[:3]
        raise CompressionError(f"sensitivities and errors name other layers: {', '.join(odd)}.")
    return sum(sensitivities[name] * errors[name] for name in sensitivities)


def straight_through(
    target: float, start: float, rate: float | Callable[[int], float], steps: int, *,
    step: float = 1.0, gradient_noise: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(latent weights, their codes) of `steps` descents on ½ (Δ round(w/Δ) − target)² with the
    straight-through gradient.

    The gradient is that of the rounded weight, Δ q − target (+ noise), and is given to w as if
    rounding were not there. When the target is no grid point it is never 0: w drifts to the edge of
    a cell and crosses it again and again. `rate` may fall with the step.
    """
    rng = torch.Generator().manual_seed(seed)
    w, latent, codes = start, [], []
    for n in range(steps):
        q = round(w / step)
        latent.append(w)
        codes.append(q)
        lr = rate(n) if callable(rate) else rate
        w = w - lr * (step * q - target + gradient_noise * float(torch.randn((), generator=rng)))
    return torch.tensor(latent), torch.tensor(codes)
