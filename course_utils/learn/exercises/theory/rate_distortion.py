"""Lesson 4.1: water-filling, the gap to the limit in decibels, mutual information."""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

# --- reverse water-filling ---


def cascade(rng: torch.Generator) -> dict:
    """Each time that the sources below the level are left out, the level rises above some others:
    four times.
    """
    steps = [
        torch.full((k,), v, dtype=torch.float64)
        for k, v in ((8, 0.01), (6, 1.02), (4, 1.58), (2, 1.87), (4, 60.0))
    ]
    variances = torch.cat(steps) * 10 ** (torch.rand((), generator=rng, dtype=torch.float64) - 0.5)
    return {
        "variances": variances[torch.randperm(24, generator=rng)],
        "distortion": 24 * float(variances.max()) / 60,
    }


def parts_inputs(rng: torch.Generator) -> dict:
    """Variances over four orders of magnitude; the level covers some of them, all but one, or none;
    or a cascade.
    """
    if turn(rng, False, False, False, True):
        return cascade(rng)
    n = pick(rng, 2, 3, 5, 8, 13)
    variances = 10 ** (4 * torch.rand(n, generator=rng, dtype=torch.float64) - 2)
    if pick(rng, True, False):
        variances[1] = variances[0]
    if bool((variances.diff() >= 0).all()):  # what is given in order asks less
        variances = variances.flip(0)
    share = pick(rng, 0.02, 0.2, 0.5, 0.9)
    least = n * float(variances.min())
    total = pick(rng, share * float(variances.sum()), 0.5 * least)
    return {"variances": variances, "distortion": total}


def water_filling(variances: Tensor, distortion: float) -> Tensor:
    """R_i = max(0, ½ log₂ σ_i²/θ) with the θ at which Σ min(θ, σ_i²) is the distortion; θ by
    halving an interval.
    """
    low, high = 0.0, float(variances.max())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (
            (level, high)
            if sum(min(level, v) for v in variances.tolist()) < distortion
            else (low, level)
        )
    return torch.tensor(
        [max(0.0, 0.5 * math.log2(v / high)) for v in variances.tolist()], dtype=torch.float64
    )


def level_of(variances: Tensor, distortion: float) -> float:
    rates = water_filling(variances, distortion)
    first = int(rates.argmax())
    return float(variances[first] / 4 ** rates[first])


def equal_distortion(variances, distortion):
    return 0.5 * torch.log2(variances * len(variances) / distortion)


def equal_clamped(variances, distortion):
    return equal_distortion(variances, distortion).clamp(min=0)


def equal_rates(variances, distortion):
    return torch.full_like(
        variances, 0.5 * math.log2(max(1.0, float(variances.sum()) / distortion))
    )


def rates_with(change):
    def answer(variances, distortion):
        return change(variances, level_of(variances, distortion))

    return answer


# --- the gap in decibels ---


def gap_inputs(rng: torch.Generator) -> dict:
    bits = float(torch.rand((), generator=rng)) * 6 + 0.3
    variance = 10 ** float(torch.rand((), generator=rng) * 4 - 2)
    # a source that is not normal may lie below
    gap = turn(rng, 1.1, 0.5, 1.5) * (1 + float(torch.rand((), generator=rng)) * 0.6)
    return {"bits": bits, "distortion": variance * 4**-bits * gap, "variance": variance}


def gap_db(bits: float, distortion: float, variance: float) -> float:
    """10 log₁₀(D / (σ² 4^−R)): how far the error lies above the least one at this rate."""
    return 10 * math.log10(distortion / (variance * 4**-bits))


# --- mutual information ---


def joint_inputs(rng: torch.Generator) -> dict:
    """A joint distribution with zeros, perhaps a whole column of them, perhaps a deterministic
    code.
    """
    rows, columns = pick(rng, 2, 3, 6), pick(rng, 2, 4, 5)
    p = torch.rand(rows, columns, generator=rng, dtype=torch.float64)
    kind = pick(rng, "zeros", "column", "code")
    if kind == "zeros":
        p[torch.rand(p.shape, generator=rng) < 0.3] = 0
        p[0, 0] = 1
    elif kind == "column":
        p[:, 1] = 0
    else:
        which = torch.randint(columns, (rows,), generator=rng)
        p = p * (torch.arange(columns) == which[:, None])
    p = p / p.sum()
    # 0 has no relative error
    return {"joint": p} if mutual_information(p) > 0.02 else joint_inputs(rng)


def mutual_information(joint: Tensor) -> float:
    """Σ p(x, q) log₂ p(x, q) / (p(x) p(q)) over the pairs that occur."""
    total, x, q = 0.0, joint.sum(1).tolist(), joint.sum(0).tolist()
    for i, row in enumerate(joint.tolist()):
        for j, p in enumerate(row):
            if p > 0:
                total += p * math.log2(p / (x[i] * q[j]))
    return total


def entropy_of_p(p: Tensor) -> Tensor:
    p = p.flatten()
    return -(p[p > 0] * p[p > 0].log2()).sum()


EXERCISES = [
    Exercise(
        "rate_distortion.water_filling",
        parts_inputs,
        water_filling,
        {
            "equal_distortion": equal_distortion,
            "level_not_found": equal_clamped,
            "equal_rates": equal_rates,
            "negative": rates_with(lambda v, level: 0.5 * torch.log2(v / level)),
            "nats": rates_with(lambda v, level: 0.5 * torch.log(v / level).clamp(min=0)),
            "half_forgotten": rates_with(lambda v, level: torch.log2(v / level).clamp(min=0)),
            "deviations": rates_with(
                lambda v, level: 0.5 * torch.log2(v.sqrt() / level).clamp(min=0)
            ),
            "distortions": rates_with(lambda v, level: v.clamp(max=level)),
        },
        lesson="4.1-information-and-rate-distortion",
        kind="design",
        difficulty=3,
        minutes=15,
        tolerance=1e-4,
        trials=8,
    ),
    Exercise(
        "rate_distortion.gap_db",
        gap_inputs,
        gap_db,
        {
            "twenty": lambda bits, distortion, variance: 2 * gap_db(bits, distortion, variance),
            "inverted": lambda bits, distortion, variance: -gap_db(bits, distortion, variance),
            "natural": lambda bits, distortion, variance: (
                10 * math.log(distortion / (variance * 4**-bits))
            ),
            "powers_of_two": lambda bits, distortion, variance: (
                10 * math.log10(distortion / (variance * 2**-bits))
            ),
            "signal_to_noise": lambda bits, distortion, variance: (
                10 * math.log10(variance / distortion)
            ),
            "in_bits": lambda bits, distortion, variance: (
                bits - 0.5 * math.log2(variance / distortion)
            ),
            "variance_forgotten": lambda bits, distortion, variance: (
                10 * math.log10(distortion / 4**-bits)
            ),
        },
        lesson="4.1-information-and-rate-distortion",
        kind="formula",
        difficulty=1,
        minutes=4,
    ),
    Exercise(
        "rate_distortion.mutual_information",
        joint_inputs,
        mutual_information,
        {
            "nats": lambda joint: mutual_information(joint) * math.log(2),
            "joint_entropy": lambda joint: entropy_of_p(joint),
            "sum_of_entropies": lambda joint: (
                entropy_of_p(joint.sum(0)) + entropy_of_p(joint.sum(1))
            ),
            "conditional": lambda joint: entropy_of_p(joint) - entropy_of_p(joint.sum(1)),
            "code_entropy": lambda joint: entropy_of_p(joint.sum(0)),
            "source_entropy": lambda joint: entropy_of_p(joint.sum(1)),
            "sign": lambda joint: -mutual_information(joint),
        },
        lesson="4.1-information-and-rate-distortion",
        kind="debug",
        difficulty=2,
        minutes=8,
    ),
]
