"""Lesson 4.3: damage predicted from errors, which noise it is, the straight-through gradient,
stochastic rounding's price.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.theory import noise

from ..draws import pick, turn

LESSON = "4.3-quantization-noise"

# --- predict the damage ---


def layer_inputs(rng: torch.Generator) -> dict:
    """A few layers of unlike sizes and scales; sensitivities were measured with noise of relative
    size `level`.
    """
    n = pick(rng, 2, 3, 5)
    weights, quantized = [], []
    for _ in range(n):
        shape = (
            int(torch.randint(2, 9, (), generator=rng)),
            int(torch.randint(2, 9, (), generator=rng)),
        )
        w = torch.randn(shape, generator=rng, dtype=torch.float64) * 10 ** (
            2 * float(torch.rand((), generator=rng)) - 1
        )
        weights.append(w)
        quantized.append(
            w + 0.1 * w.abs().max() * torch.randn(shape, generator=rng, dtype=torch.float64)
        )
    damages = (0.01 * torch.rand(n, generator=rng, dtype=torch.float64) + 1e-4).tolist()
    return {
        "weights": weights,
        "quantized": quantized,
        "damages": damages,
        "level": pick(rng, 0.02, 0.05, 0.1),
    }


def predicted_kl(
    weights: list[Tensor], quantized: list[Tensor], damages: list[float], level: float
) -> float:
    """Σ_l (damage_l / level²) ‖Ŵ_l − W_l‖² / ‖W_l‖²."""
    total = 0.0
    for w, q, damage in zip(weights, quantized, damages, strict=True):
        total += damage / level**2 * float((q - w).pow(2).sum()) / float(w.pow(2).sum())
    return total


def predicted_with(term, join=sum):
    def answer(weights, quantized, damages, level):
        parts = [
            term(float((q - w).pow(2).sum()), float(w.pow(2).sum()), damage, level)
            for w, q, damage in zip(weights, quantized, damages, strict=True)
        ]
        return join(parts)

    return answer


# --- which noise is it? ---


def sample_inputs(rng: torch.Generator) -> dict:
    """A weight, normal, even or heavy-tailed, and a noisy copy of it: one of the models, at a level
    drawn anew.
    """
    w = torch.randn(70, 90, generator=rng, dtype=torch.float64)
    tails = torch.rand(70, 90, generator=rng, dtype=torch.float64)
    w = turn(rng, w, 2 * tails - 1, -w.sign() * tails.log()) * 10 ** (
        2 * float(torch.rand((), generator=rng)) - 1
    )
    kind, level = (
        pick(rng, "additive", "multiplicative", "signal"),
        0.02 + 0.1 * float(torch.rand((), generator=rng)),
    )
    return {"weight": w, "changed": noise.noisy(w, level, kind, rng)}


def noise_growth(weight: Tensor, changed: Tensor) -> float:
    """The exponent k in E[e²] ∝ |w|^k: the slope of log mean e² over log |w|, in tenths of the
    weights by size.
    """
    order = weight.abs().flatten().argsort()
    w, e2 = weight.flatten()[order], (changed - weight).flatten()[order] ** 2
    return _slope(
        [part.abs().log().mean() for part in w.chunk(10)],
        [part.mean().log() for part in e2.chunk(10)],
    )


def _slope(x: list[Tensor], y: list[Tensor]) -> float:
    a, b = torch.stack(x), torch.stack(y)
    return float(((a - a.mean()) * (b - b.mean())).sum() / ((a - a.mean()) ** 2).sum())


def which_noise(weight: Tensor, changed: Tensor) -> str:
    """ "additive", "signal" or "multiplicative": the nearest of k = 0, 1, 2."""
    return ("additive", "signal", "multiplicative")[
        min(2, max(0, round(noise_growth(weight, changed))))
    ]


def by_first_power(weight, changed):
    """Looks at |e|, whose exponent is half as large, as if it were e²."""
    return ("additive", "signal", "multiplicative")[
        min(2, max(0, round(noise_growth(weight, changed) / 2)))
    ]


def by_mean_of_relative(weight, changed):
    """Calls noise multiplicative as soon as large weights err more."""
    return "multiplicative" if noise_growth(weight, changed) > 0.5 else "additive"


# --- the straight-through gradient ---


def ste_inputs(rng: torch.Generator) -> dict:
    """Weights inside both ends of the range, just beyond them, and far; a gradient that is 0
    nowhere.
    """
    bits, scale = turn(rng, 4, 2, 5), 0.05 + float(torch.rand((), generator=rng))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    w = (
        (torch.rand(6, 7, generator=rng, dtype=torch.float64) * 2 - 1)
        * 1.6
        * 2 ** (bits - 1)
        * scale
    )
    for j, t in enumerate(
        (low + 0.02, low - 0.02, high - 0.02, high + 0.02, high + 0.25, low - 0.25, -high - 0.6)
    ):
        w[0, j] = t * scale
    return {
        "weight": w,
        "gradient": torch.randn(6, 7, generator=rng, dtype=torch.float64),
        "scale": scale,
        "bits": bits,
    }


def ste(weight: Tensor, gradient: Tensor, scale: float, bits: int) -> tuple[Tensor, Tensor]:
    """(ŵ, gradient of w): ŵ = s clamp(round(w/s), −2^(b−1), 2^(b−1) − 1); g where w/s is inside of
    the two ends, else 0.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    hat, back = torch.zeros_like(weight), torch.zeros_like(gradient)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            t = float(weight[i, j]) / scale
            hat[i, j] = scale * min(max(round(t), low), high)
            back[i, j] = gradient[i, j] if low <= t <= high else 0.0
    return hat, back


def ste_with(quantize=None, pass_through=None):
    def answer(weight, gradient, scale, bits):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        t = weight / scale
        hat = (
            ste(weight, gradient, scale, bits)[0]
            if quantize is None
            else quantize(t, scale, low, high)
        )
        back = (
            ste(weight, gradient, scale, bits)[1]
            if pass_through is None
            else pass_through(t, gradient, scale, low, high)
        )
        return hat, back

    return answer


EXERCISES = [
    Exercise(
        "quantization_noise.predicted_kl", layer_inputs, predicted_kl,
        {
            "not_squared": predicted_with(lambda e, w, d, level: d / level**2 * math.sqrt(e / w)),
            "absolute": predicted_with(lambda e, w, d, level: d / level**2 * e),
            "wrong_scale": predicted_with(lambda e, w, d, level: d * e / w),
            "level_not_squared": predicted_with(lambda e, w, d, level: d / level * e / w),
            "root_of_sum": predicted_with(lambda e, w, d, level: (d / level**2 * e / w) ** 2,
                                          lambda p: math.sqrt(sum(p))),
            "mean": predicted_with(lambda e, w, d, level: d / level**2 * e / w,
                                   lambda p: sum(p) / len(p)),
            "largest": predicted_with(lambda e, w, d, level: d / level**2 * e / w, max),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=8,
    ),
    Exercise(
        "quantization_noise.which_noise", sample_inputs, which_noise,
        {"first_power": by_first_power, "two_kinds_only": by_mean_of_relative,
         "always_additive": lambda weight, changed: "additive"},
        lesson=LESSON, kind="design", difficulty=3, minutes=15, trials=12,
    ),
    Exercise(
        "quantization_noise.ste", ste_inputs, ste,
        {
            "passed_everywhere": ste_with(None, lambda t, g, s, low, high: g),
            "true_gradient": ste_with(None, lambda t, g, s, low, high: torch.zeros_like(g)),
            "not_clamped": ste_with(lambda t, s, low, high: s * t.round()),
            "symmetric_ends": ste_with(lambda t, s, low, high: s * t.round().clamp(-high, high)),
            "codes": ste_with(lambda t, s, low, high: t.round().clamp(low, high)),
            "gradient_scaled": ste_with(None, lambda t, g, s, low, high:
                g / s * ((t >= low) & (t <= high))),
            "by_rounded": ste_with(None, lambda t, g, s, low, high:
                g * ((t.round() >= low) & (t.round() <= high))),
        },
        lesson=LESSON, kind="formula", difficulty=2, minutes=8,
    ),
]  # fmt: skip
