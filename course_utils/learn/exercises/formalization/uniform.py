"""Lesson 3.1: the affine map, what rounding and clipping cost, stochastic rounding,
a lower bound.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until

# --- there and back ---


def range_inputs(rng: torch.Generator) -> dict:
    """A range around 0 that is not centred on it; numbers inside and beyond both ends.

    The zero point is rounded down in one trial, and up in the next.
    """
    bits = turn(rng, 3, 4, 2, every=2)

    def ends(rng: torch.Generator) -> tuple[float, float]:
        return -float(torch.rand((), generator=rng)) - 0.3, 2.2 + float(
            torch.rand((), generator=rng)
        )

    def turned(found: tuple[float, float]) -> bool:
        part = -found[0] / (found[1] - found[0]) * (2**bits - 1) % 1
        return turn(rng, 0.1 < part < 0.45, 0.55 < part < 0.9)

    low, high = until(rng, ends, turned)
    x = torch.rand(5, 8, generator=rng, dtype=torch.float64) * (high - low) * 1.3 + 1.4 * low
    x[0, 0], x[0, 1] = low - 0.5, high + 0.5
    return {"x": x, "low": low, "high": high, "bits": bits}


def round_trip(x: Tensor, low: float, high: float, bits: int) -> Tensor:
    """x̂ = s (clamp(round(x/s) + z, 0, 2^b − 1) − z), s = (high − low) / (2^b − 1), z =
    round(−low/s).
    """
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    back = [
        scale * (min(max(round(v / scale) + zero, 0), 2**bits - 1) - zero)
        for v in x.flatten().tolist()
    ]
    return torch.tensor(back, dtype=x.dtype).view_as(x)


def through(formula, levels=lambda bits: 2**bits - 1):
    """A wrong trip: `formula(x, scale, zero, low, top)`."""

    def trip(x, low, high, bits):
        scale = (high - low) / levels(bits)
        return formula(x, scale, round(-low / scale), low, 2**bits - 1)

    return trip


def with_zero_by(rounding):
    """The right trip with another rounding of the zero point."""

    def trip(x, low, high, bits):
        scale = (high - low) / (2**bits - 1)
        zero = rounding(-low / scale)
        return scale * (((x / scale).round() + zero).clamp(0, 2**bits - 1) - zero)

    return trip


# --- the two parts of the error ---


def heavy_inputs(rng: torch.Generator) -> dict:
    """Numbers with a long tail on both sides, and a threshold that some of them pass."""
    u = torch.rand(300, generator=rng, dtype=torch.float64) - 0.5
    x = -u.sign() * torch.log1p(-1.998 * u.abs())
    return {
        "x": x,
        "threshold": float(torch.rand((), generator=rng)) + 1.5,
        "bits": pick(rng, 3, 4, 5),
    }


def error_parts(x: Tensor, threshold: float, bits: int) -> tuple[float, float]:
    """(1/n) Σ (x − x̂)² over |x| ≤ t and over |x| > t, for the symmetric grid with s = t / (2^(b−1)
    − 1).
    """
    top = 2 ** (bits - 1) - 1
    scale, rounding, clipping = threshold / top, 0.0, 0.0
    for value in x.tolist():
        error = (value - scale * min(max(round(value / scale), -top), top)) ** 2
        if abs(value) <= threshold:
            rounding += error / len(x)
        else:
            clipping += error / len(x)
    return rounding, clipping


def errors_of(x: Tensor, threshold: float, scale: float, power: int = 2) -> tuple[Tensor, Tensor]:
    error = (x - (x / scale).round().mul(scale).clamp(-threshold, threshold)).abs() ** power
    return error * (x.abs() <= threshold), error * (x.abs() > threshold)


def parts(join=lambda e, x: e.mean(), power: int = 2, levels=lambda bits: 2 ** (bits - 1) - 1):
    def answer(x, threshold, bits):
        return tuple(join(e, x) for e in errors_of(x, threshold, threshold / levels(bits), power))

    return answer


def own_means(x, threshold, bits):
    inside, outside = errors_of(x, threshold, threshold / (2 ** (bits - 1) - 1))
    beyond = x.abs() > threshold
    return inside.sum() / (~beyond).sum(), outside.sum() / beyond.sum()


def lost_whole(x, threshold, bits):
    return error_parts(x, threshold, bits)[0], (x**2 * (x.abs() > threshold)).mean()


def by_formula(x, threshold, bits):
    step = threshold / (2 ** (bits - 1) - 1)
    return step**2 / 12 * (x.abs() <= threshold).double().mean(), error_parts(x, threshold, bits)[1]


# --- the best threshold ---


def threshold_inputs(rng: torch.Generator) -> dict:
    """Long tails and one far outlier: neither the largest nor the smallest
    threshold is the best.
    """
    x = heavy_inputs(rng)["x"]
    x[0] = 16.0
    bits = 3 + rng.initial_seed() % 2
    return {"x": x, "bits": bits, "thresholds": torch.linspace(0.2, 20.0, 25, dtype=torch.float64)}


def best_threshold(x: Tensor, bits: int, thresholds: Tensor) -> float:
    """The threshold t of the list with the least rounding + clipping."""
    return min(thresholds.tolist(), key=lambda t: sum(error_parts(x, t, bits)))


# --- stochastic rounding ---


def stochastic_inputs(rng: torch.Generator) -> dict:
    x = torch.randn(4, 7, generator=rng, dtype=torch.float64)
    scale = float(torch.rand((), generator=rng)) * 0.3 + 0.2
    return {"x": x, "scale": scale, "u": torch.rand(4, 7, generator=rng, dtype=torch.float64)}


def stochastic_round(x: Tensor, scale: float, u: Tensor) -> Tensor:
    """S (⌊x/s⌋ + 1) where u < x/s − ⌊x/s⌋, else s ⌊x/s⌋."""
    out = torch.zeros_like(x)
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            steps = float(x[r, c]) / scale
            below = math.floor(steps)
            out[r, c] = scale * (below + (float(u[r, c]) < steps - below))
    return out


def toward_zero(x, scale, u):
    steps = x / scale
    return scale * (steps.trunc() + (u < steps - steps.trunc()))


# --- a lower bound ---


def bound_inputs(rng: torch.Generator) -> dict:
    return {
        "peak": float(torch.rand((), generator=rng)) * 3 + 0.2,
        "bits": int(torch.randint(2, 9, (), generator=rng)),
    }


def lower_bound(peak: float, bits: int) -> float:
    """1 / (12 M² N²), N = 2^bits values, density at most M."""
    return 1 / (12 * peak**2 * 2 ** (2 * bits))


EXERCISES = [
    Exercise(
        id="uniform.round_trip",
        inputs=range_inputs,
        spec=round_trip,
        lesson="3.1-uniform-quantization",
        trials=6,
        kind="debug",
        difficulty=2,
        minutes=8,
        mistakes={
            "forms_mixed": through(
                lambda x, s, z, low, top: s * ((x - z) / s).round().clamp(0, top) + z
            ),
            "minimum_as_zero": through(
                lambda x, s, z, low, top: s * ((x - low) / s).round().clamp(0, top) + low
            ),
            "zero_unrounded": through(
                lambda x, s, z, low, top: s * (((x / s).round() - low / s).clamp(0, top) + low / s)
            ),
            "not_clamped": through(lambda x, s, z, low, top: s * (x / s).round()),
            "one_step_more": through(
                lambda x, s, z, low, top: s * (((x / s).round() + z).clamp(0, top) - z),
                lambda bits: 2**bits,
            ),
            "codes": through(lambda x, s, z, low, top: ((x / s).round() + z).clamp(0, top)),
            "zero_not_taken_off": through(
                lambda x, s, z, low, top: s * ((x / s).round() + z).clamp(0, top)
            ),
            "truncated": through(
                lambda x, s, z, low, top: s * (((x / s).trunc() + z).clamp(0, top) - z)
            ),
            "zero_rounded_up": with_zero_by(math.ceil),
            "zero_truncated": with_zero_by(math.floor),
            "signed_range": through(
                lambda x, s, z, low, top: (
                    s * (((x / s).round() + z).clamp(-(top + 1) // 2, top // 2) - z)
                )
            ),
            "clamped_too_early": through(
                lambda x, s, z, low, top: s * (x / s).round().clamp(0, top)
            ),
            "scale_inverted": through(
                lambda x, s, z, low, top: (((x * s).round() + z).clamp(0, top) - z) / s
            ),
        },
    ),
    Exercise(
        id="uniform.error_parts",
        inputs=heavy_inputs,
        spec=error_parts,
        lesson="3.1-uniform-quantization",
        kind="step",
        difficulty=2,
        minutes=8,
        mistakes={
            "own_means": own_means,
            "sums": parts(lambda e, x: e.sum()),
            "magnitudes": parts(power=1),
            "all_levels": parts(levels=lambda bits: (2**bits - 1) / 2),
            "one_step_more": parts(levels=lambda bits: 2 ** (bits - 1)),
            "swapped": lambda x, threshold, bits: error_parts(x, threshold, bits)[::-1],
            "lost_whole": lost_whole,
            "roots": parts(lambda e, x: e.mean().sqrt()),
            "formula": by_formula,
        },
    ),
    Exercise(
        id="uniform.best_threshold",
        inputs=threshold_inputs,
        spec=best_threshold,
        lesson="3.1-uniform-quantization",
        kind="decide",
        difficulty=1,
        minutes=5,
        mistakes={
            "largest": lambda x, bits, thresholds: thresholds.max(),
            "rounding_only": lambda x, bits, thresholds: min(
                thresholds.tolist(), key=lambda t: error_parts(x, t, bits)[0]
            ),
            "clipping_only": lambda x, bits, thresholds: min(
                thresholds.tolist(), key=lambda t: error_parts(x, t, bits)[1]
            ),
            "position": lambda x, bits, thresholds: thresholds.tolist().index(
                best_threshold(x, bits, thresholds)
            ),
            "error": lambda x, bits, thresholds: min(
                sum(error_parts(x, t, bits)) for t in thresholds.tolist()
            ),
        },
    ),
    Exercise(
        id="uniform.stochastic_round",
        inputs=stochastic_inputs,
        spec=stochastic_round,
        lesson="3.1-uniform-quantization",
        kind="formula",
        difficulty=1,
        minutes=5,
        mistakes={
            "nearest": lambda x, scale, u: scale * (x / scale).round(),
            "reversed": lambda x, scale, u: (
                scale * ((x / scale).floor() + (u > x / scale - (x / scale).floor()))
            ),
            "codes": lambda x, scale, u: stochastic_round(x, scale, u) / scale,
            "toward_zero": toward_zero,
            "noise_then_nearest": lambda x, scale, u: scale * (x / scale + u).round(),
            "other_half": lambda x, scale, u: scale * (x / scale + u).floor(),
            "always_down": lambda x, scale, u: scale * (x / scale).floor(),
            "not_in_steps": lambda x, scale, u: (
                scale * ((x / scale).floor() + (u < x - scale * (x / scale).floor()))
            ),
            "a_coin": lambda x, scale, u: scale * ((x / scale).floor() + (u < 0.5)),
        },
    ),
    Exercise(
        id="uniform.lower_bound",
        inputs=bound_inputs,
        spec=lower_bound,
        tolerance=1e-6,
        trials=6,
        lesson="3.1-uniform-quantization",
        kind="step",
        difficulty=2,
        minutes=6,
        mistakes={
            "values_not_squared": lambda peak, bits: 1 / (12 * peak**2 * 2**bits),
            "bits_for_values": lambda peak, bits: 1 / (12 * peak**2 * bits**2),
            "steps_for_values": lambda peak, bits: 1 / (12 * peak**2 * (2**bits - 1) ** 2),
            "peak_not_squared": lambda peak, bits: 1 / (12 * peak * 2 ** (2 * bits)),
            "peak_above": lambda peak, bits: peak**2 / (12 * 2 ** (2 * bits)),
            "root": lambda peak, bits: math.sqrt(lower_bound(peak, bits)),
            "radius": lambda peak, bits: 1 / (4 * peak**2 * 2 ** (2 * bits)),
        },
    ),
]
