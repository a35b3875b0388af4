"""How many bits a source needs at a given squared error, and how near to that real quantizers come.

Rates are bits per value, distortions mean squared errors. For N(0, σ²) (Shannon, 1959; Cover and
Thomas, ch. 10)

    R(D) = ½ log₂(σ² / D)      D(R) = σ² 4^−R

A scalar quantizer pays for its shape. At high rates uniform rounding with step Δ has D = Δ²/12 and,
entropy-coded, lies ½ log₂(2πe/12) = 0.2546 bit (1.533 dB) above R(D) (Gish and Pierce, 1968); with
codes of fixed length the best cells give D = (√3 π / 2) σ² 4^−b (Panter and Dite, 1951).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import integrate, optimize
from scipy.special import ndtr
from torch import Tensor

from course_utils.errors import CompressionError

# bits: uniform cells against spheres
SPACE_FILLING_LOSS = 0.5 * math.log2(2 * math.pi * math.e / 12)
# D of the best fixed-length scalar code of N(0, 1), times 4^b, many bits
PANTER_DITE = math.sqrt(3) * math.pi / 2


def gaussian_rate(distortion: float, variance: float = 1.0) -> float:
    """R(D) = max(0, ½ log₂(σ²/D)) bits. Raises CompressionError unless both are positive."""
    if not (distortion > 0 and variance > 0):
        raise CompressionError(
            f"distortion={distortion}, variance={variance}: both must be positive."
        )
    return max(0.0, 0.5 * math.log2(variance / distortion))


def gaussian_distortion(rate: float, variance: float = 1.0) -> float:
    """D(R) = σ² 4^−R."""
    if not (rate >= 0 and variance > 0):
        raise CompressionError(
            f"rate={rate}, variance={variance}: the rate cannot be negative, "
            "the variance must be positive."
        )
    return variance * 4.0**-rate


def laplace_lower_bound(distortion: float, variance: float = 1.0) -> float:
    """Shannon's lower bound for a Laplace source under squared error, max(0, ½ log₂(e σ² / (π D)))
    bits.

    h(X) − ½ log₂(2πe D) with h = log₂(2e b) and σ² = 2b².
    """
    return (
        gaussian_rate(distortion, math.e / math.pi * variance)
        if distortion > 0
        else gaussian_rate(distortion)
    )


def laplace_absolute_rate(distortion: float, scale: float = 1.0) -> float:
    """R(D) = max(0, log₂(b / D)) bits for a Laplace source of scale b under the absolute error E|x
    − x̂|, exact.
    """
    if not (distortion > 0 and scale > 0):
        raise CompressionError(f"distortion={distortion}, scale={scale}: both must be positive.")
    return max(0.0, math.log2(scale / distortion))


def binary_rate(distortion: float, p: float = 0.5) -> float:
    """R(D) = max(0, h(p) − h(D)) bits for a Bernoulli(p) source under the share of wrong bits, D ≤
    min(p, 1 − p).
    """
    if not (0 <= distortion <= 1 and 0 <= p <= 1):
        raise CompressionError(f"distortion={distortion}, p={p}: both are shares between 0 and 1.")
    return (
        max(0.0, binary_entropy(p) - binary_entropy(distortion))
        if distortion < min(p, 1 - p)
        else 0.0
    )


def binary_entropy(p: float) -> float:
    """h(p) = −p log₂ p − (1 − p) log₂(1 − p)."""
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


def blahut_arimoto(
    probability: np.ndarray,
    cost: np.ndarray,
    slope: float,
    *,
    tolerance: float = 1e-9,
    iterations: int = 100_000,
) -> tuple[float, float]:
    """(rate in bits, distortion) at the point of a discrete source's R(D) whose slope dR/dD is
    −`slope` (nats per unit).

    `probability` (n,), `cost` (n, m) of each source symbol and reproduction. Alternates between the
    best channel q(y|x) ∝ r(y) e^{−slope · cost} and its output r(y) = Σ p(x) q(y|x) (Blahut, 1972;
    Arimoto, 1972), until Blahut's bounds on the rate are `tolerance` apart.
    """
    p, d = np.asarray(probability, float), np.asarray(cost, float)
    if (
        p.ndim != 1
        or d.ndim != 2
        or len(d) != len(p)
        or (p < 0).any()
        or not np.isclose(p.sum(), 1)
        or not slope > 0
    ):
        raise CompressionError(
            "probability must sum to 1, cost be (symbols, reproductions), and slope be positive."
        )
    A = np.exp(-slope * (d - d.min(1, keepdims=True)))
    r = np.full(d.shape[1], 1 / d.shape[1])
    for _ in range(iterations):
        total = A @ r
        ratio = (p / total) @ A
        if (
            math.log(ratio.max()) - float((r * ratio) @ np.log(np.maximum(ratio, 1e-300)))
            < tolerance
        ):
            break
        r = r * ratio
    else:
        raise CompressionError(
            f"blahut_arimoto: not within {tolerance} after {iterations} steps; ask for less."
        )
    q = A * r / (A @ r)[:, None]
    distortion = float(p @ (q * d).sum(1))
    inside = q > 0
    logs = np.zeros_like(q)
    logs[inside] = np.log2((q / np.maximum(p @ q, 1e-300))[inside])
    return float(p @ (q * logs).sum(1)), distortion


def water_filling(variances: Tensor, distortion: float) -> tuple[Tensor, Tensor]:
    """Rates R_i and distortions D_i of independent Gaussian parts whose D_i sum to `distortion`,
    with the least Σ R_i.

    Reverse water-filling: D_i = min(θ, σ_i²), R_i = ½ log₂(σ_i² / D_i) (Cover and Thomas, theorem
    10.3.3). Parts below the water level θ get no bits. Raises CompressionError unless 0 <
    distortion ≤ Σ σ_i².
    """
    v = variances.double()
    if (
        v.dim() != 1
        or not (torch.isfinite(v).all() and (v >= 0).all())
        or not 0 < distortion <= float(v.sum()) * (1 + 1e-12)
    ):
        raise CompressionError(
            f"distortion={distortion}: must lie above 0 and at most at the sum of the "
            f"variances, {float(v.sum()):g}."
        )
    ordered = v.sort().values
    # what the smaller parts contribute whole
    below = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])[:-1]
    level = (distortion - below) / torch.arange(len(v), 0, -1, dtype=v.dtype)
    fits = torch.nonzero(level <= ordered * (1 + 1e-12))
    theta = level[int(fits[0])] if len(fits) else ordered[-1]
    D = torch.minimum(theta, v)
    rate = torch.where(v > D, 0.5 * torch.log2(v / D.clamp(min=1e-300)), 0.0)
    return rate, D


def lloyd_max(
    levels: int,
    density: Callable[[float], float] | None = None,
    *,
    low: float = -8.0,
    high: float = 8.0,
) -> tuple[np.ndarray, float, float]:
    """(points, mean squared error, entropy in bits) of the best `levels`-point quantizer of a
    density (Max, 1960).

    By default the density of N(0, 1). Points are the means of their cells, edges lie halfway
    (Lloyd's two conditions). The fixed point is unique for log-concave densities, as N(0, 1) and
    Laplace are.
    """
    if levels < 1:
        raise CompressionError(f"levels={levels}: choose at least 1.")
    p = density or (lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi))

    def moments(a: float, b: float) -> tuple[float, float, float]:
        if density is None:
            at = [0.0 if math.isinf(t) else p(t) for t in (a, b)]
            mass = float(ndtr(b) - ndtr(a))
            second = (
                mass + (0 if math.isinf(a) else a * at[0]) - (0 if math.isinf(b) else b * at[1])
            )
            return mass, at[0] - at[1], second
        a, b = max(a, low), min(b, high)
        return tuple(
            integrate.quad(lambda x, k=k: x**k * p(x), a, b, epsabs=1e-13, limit=200)[0]
            for k in range(3)
        )  # type: ignore[return-value]

    def edges(points: np.ndarray) -> np.ndarray:
        return np.concatenate([[-math.inf], (points[1:] + points[:-1]) / 2, [math.inf]])

    def gap(points: np.ndarray) -> np.ndarray:
        cells = [moments(a, b) for a, b in zip(edges(points), edges(points)[1:], strict=False)]
        return np.array([first / mass for mass, first, _ in cells]) - points

    points = np.linspace(-1, 1, levels) * (0 if levels == 1 else 1.2 * math.log2(levels) ** 0.5)
    for _ in range(30):
        points = points + gap(points)
    if levels > 1:
        points = np.sort(optimize.fsolve(gap, points, xtol=1e-13))
    cells = [moments(a, b) for a, b in zip(edges(points), edges(points)[1:], strict=False)]
    error = sum(
        second - 2 * c * first + c * c * mass
        for c, (mass, first, second) in zip(points, cells, strict=True)
    )
    bits = -sum(mass * math.log2(mass) for mass, _, _ in cells if mass > 0)
    return points, float(error), float(bits)


def uniform_gaussian(step: float, *, centroids: bool = False) -> tuple[float, float]:
    """(entropy in bits, mean squared error) of N(0, 1) rounded to multiples of `step`, in closed
    form.

    Cells k have the mass Φ((k+½)Δ) − Φ((k−½)Δ); each contributes ∫(x − kΔ)² φ, or, with
    `centroids`, its mean in the place of kΔ: the same codes, read back better where cells are wide.
    """
    if not step > 0:
        raise CompressionError(f"step={step}: must be positive.")
    k = np.arange(-math.ceil(9 / step) - 1, math.ceil(9 / step) + 2)
    a, b = (k - 0.5) * step, (k + 0.5) * step
    phi = lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    mass = np.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
    first = phi(a) - phi(b)
    second = mass + a * phi(a) - b * phi(b)
    used = mass > 0
    entropy = -float((mass[used] * np.log2(mass[used])).sum())
    if centroids:
        return entropy, float((second - first**2 / np.where(used, mass, 1.0))[used].sum())
    return entropy, float((second - 2 * k * step * first + (k * step) ** 2 * mass).sum())


def uniform_step(bits: float) -> float:
    """The step at which rounding N(0, 1) to its multiples has this entropy.

    Inverse of the first of `uniform_gaussian`.
    """
    if not 0 < bits < 16:
        raise CompressionError(f"bits={bits}: choose an entropy between 0 and 16 bits.")
    return float(optimize.brentq(lambda s: uniform_gaussian(s)[0] - bits, 1e-5, 60.0, xtol=1e-12))
