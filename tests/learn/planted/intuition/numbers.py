"""Right and wrong answers to the exercises of numbers."""

import math
from fractions import Fraction

import numpy as np
import torch


def bias_of(exponent_bits):
    return (1 << (exponent_bits - 1)) - 1


def by_integers(sign, exponent, mantissa, exponent_bits, mantissa_bits):
    """The significand as an integer, moved by one power of two."""
    significand = mantissa if exponent == 0 else mantissa + (1 << mantissa_bits)
    return (1 - 2 * sign) * math.ldexp(
        significand, max(exponent, 1) - bias_of(exponent_bits) - mantissa_bits
    )


def by_halves(sign, exponent, mantissa, exponent_bits, mantissa_bits):
    value, bit = (1.0 if exponent else 0.0), 0.5
    for place in reversed(range(mantissa_bits)):
        value += bit * (mantissa >> place & 1)
        bit /= 2
    value *= 2.0 ** (exponent - bias_of(exponent_bits) if exponent else 1 - bias_of(exponent_bits))
    return torch.tensor(value * (-1) ** sign, dtype=torch.float64)


def no_lead(sign, exponent, mantissa, exponent_bits, mantissa_bits):
    size = mantissa / 2**mantissa_bits * 2.0 ** (max(exponent, 1) - bias_of(exponent_bits))
    return -size if sign else size


def formula(power, fraction):
    def decode(sign, exponent, mantissa, exponent_bits, mantissa_bits):
        size = 2.0 ** power(exponent, exponent_bits) * fraction(exponent, mantissa, mantissa_bits)
        return (-1) ** sign * size

    return decode


def usual_fraction(exponent, mantissa, m):
    return (exponent > 0) + mantissa / 2**m


def usual_power(exponent, e):
    return max(exponent, 1) - bias_of(e)


def by_sorting(x, grid):
    middles = (grid[1:] + grid[:-1]) / 2
    return grid[torch.bucketize(x, middles)]


def by_cdist(x, grid):
    chosen = torch.cdist(x.reshape(-1, 1), grid.reshape(-1, 1)).argmin(1)
    return grid.index_select(0, chosen).reshape(x.shape)


def rms_by_integral(low, high, bits):
    step = (high - low) / (2**bits - 1)
    n = 200_000
    errors = (torch.arange(n, dtype=torch.float64) + 0.5) / n * step - step / 2
    return float(errors.pow(2).mean().sqrt())


def entropy_by_torch(counts):
    return torch.distributions.Categorical(probs=counts.double()).entropy() / math.log(2)


def entropy_of_text(counts):
    text = torch.arange(len(counts)).repeat_interleave(counts)
    p = torch.unique(text, return_counts=True)[1] / len(text)
    return sum(float(q) * math.log2(1 / float(q)) for q in p)


def probabilities(counts):
    return counts[counts > 0] / counts.sum()


def by_fraction(sign, exponent, mantissa, exponent_bits, mantissa_bits):
    fraction = Fraction(mantissa, 1 << mantissa_bits) + (exponent > 0)
    power = (exponent or 1) - (1 << exponent_bits - 1) + 1
    return float((-1) ** sign * fraction * Fraction(2) ** power)


def by_comparing(x, grid):
    """The nearest value so far gives way to a nearer one."""
    best = torch.full_like(x, float(grid[0]))
    for value in grid:
        best = torch.where((x - value).abs() < (x - best).abs(), value, best)
    return best


def rms_by_variance(low, high, bits):
    """The standard deviation of a uniform distribution as wide as one step."""
    half = (high - low) / ((1 << bits) - 1) / 2
    return torch.distributions.Uniform(
        torch.tensor(-half).double(), torch.tensor(half).double()
    ).stddev


def entropy_by_numpy(counts):
    p = counts[counts > 0].numpy() / counts.sum().item()
    return -float(np.dot(p, np.log2(p)))


def bits_by_logarithm(low, high, allowed):
    return math.ceil(math.log2((high - low) / (math.sqrt(12) * allowed) + 1) - 1e-9)


def bits_by_doubling(low, high, allowed):
    bits, step = 1, high - low
    while step > allowed * math.sqrt(12):
        bits += 1
        step = (high - low) / ((1 << bits) - 1)
    return bits


def bits_by_list(low, high, allowed):
    b = torch.arange(1, 17)
    errors = (high - low) / (2.0**b - 1) * 12**-0.5
    return int(b[errors.double() <= allowed * (1 + 1e-12)].min())


def bits_if(error):
    return lambda low, high, allowed: next(
        b for b in range(1, 40) if error(high - low, b) <= allowed
    )


RIGHT = {
    "numbers.bits_needed": [bits_by_logarithm, bits_by_doubling, bits_by_list],
    "numbers.decode_float": [by_fraction, by_integers, by_halves],
    "numbers.nearest": [
        lambda x, grid: torch.tensor(
            [[min(grid.tolist(), key=lambda v: abs(v - n)) for n in row] for row in x.tolist()]
        ),
        by_comparing,
        by_sorting,
        by_cdist,
    ],
    "numbers.predicted_rms": [
        lambda low, high, bits: (
            float((g := torch.linspace(low, high, 2**bits))[1] - g[0]) / 12**0.5
        ),
        rms_by_variance,
        rms_by_integral,
        lambda low, high, bits: (high - low) / (2**bits - 1) * 3**-0.5 / 2,
    ],
    "numbers.entropy": [entropy_by_numpy, entropy_by_torch, entropy_of_text],
}
WRONG = {
    "numbers.bits_needed": [
        (bits_if(lambda wide, b: wide / 2**b / 12**0.5), "one_step_more"),
        (bits_if(lambda wide, b: wide / (2**b - 1) / 2), "largest_error"),
        (bits_if(lambda wide, b: wide / (2**b - 1)), "step"),
        (bits_if(lambda wide, b: wide / (2**b - 1) / 12), "twelfth"),
        (lambda low, high, allowed: bits_by_doubling(low, high, allowed) - 1, "one_bit_less"),
        (lambda low, high, allowed: bits_by_doubling(low, high, allowed) + 1, "one_bit_more"),
        (lambda low, high, allowed: bits_by_doubling(0, high, allowed), "one_side"),
        (lambda low, high, allowed: math.log2((high - low) / (12**0.5 * allowed) + 1) + 0.01, None),
        (lambda low, high, allowed: 4, None),
    ],
    "numbers.decode_float": [
        (
            lambda sign, exponent, mantissa, exponent_bits, mantissa_bits: (
                (-1) ** sign
                * (
                    2.0 ** (exponent - 127) * (1 + mantissa / 2**mantissa_bits)
                    if exponent
                    else 2.0**-126 * mantissa / 2**mantissa_bits
                )
            ),
            "bias_of_32_bits",
        ),
        (
            lambda sign, exponent, mantissa, exponent_bits, mantissa_bits: (
                (-1) ** sign
                * bool(exponent)
                * 2.0 ** (exponent + 1 - 2 ** (exponent_bits - 1))
                * (1 + mantissa / 2**mantissa_bits)
            ),
            "subnormal_flushed",
        ),
        (no_lead, "hidden_one"),
        (formula(lambda e, w: max(e, 1), usual_fraction), "bias_forgotten"),
        (formula(lambda e, w: max(e, 1) - 2 ** (w - 1), usual_fraction), "bias_one_more"),
        (formula(lambda e, w: e - bias_of(w), lambda e, m, w: 1 + m / 2**w), "subnormal_as_normal"),
        (formula(lambda e, w: e - bias_of(w), usual_fraction), "subnormal_exponent"),
        (lambda **k: abs(by_integers(**k)), "sign_forgotten"),
        (formula(usual_power, lambda e, m, w: (e > 0) + m), "mantissa_whole"),
        (formula(usual_power, lambda e, m, w: (e > 0) + m / 10**w), None),
        (lambda **k: -by_integers(**k), None),
        (formula(lambda e, w: bias_of(w) - max(e, 1), usual_fraction), None),
        (lambda **k: torch.tensor([by_integers(**k)]), None),
    ],
    "numbers.nearest": [
        (
            lambda x, grid: torch.stack(
                [
                    grid[(grid <= v).nonzero().amax()] if v >= grid[0] else grid[0]
                    for v in x.flatten()
                ]
            ).reshape(x.shape),
            "always_below",
        ),
        (
            lambda x, grid: torch.stack(
                [
                    grid[(grid >= v).nonzero().amin()] if v <= grid[-1] else grid[-1]
                    for v in x.flatten()
                ]
            ).reshape(x.shape),
            "always_above",
        ),
        (lambda x, grid: torch.bucketize(x, (grid[1:] + grid[:-1]) / 2), "position"),
        (
            lambda x, grid: grid[
                ((len(grid) - 1) * (x - grid[0]) / (grid[-1] - grid[0]))
                .round()
                .clamp(0, len(grid) - 1)
                .long()
            ],
            "even_steps",
        ),
        (lambda x, grid: torch.full_like(x, grid[-1]), "signed_distance"),
        (lambda x, grid: (x - by_sorting(x, grid)).abs(), "distance"),
        (lambda x, grid: x.round(), None),
        (lambda x, grid: by_sorting(x, grid).flatten(), None),
        (lambda x, grid: x.clamp(grid[0], grid[-1]), None),
        (lambda x, grid: grid[(x[..., None] - grid).abs().argmax(-1)], None),
    ],
    "numbers.predicted_rms": [
        (lambda low, high, bits: (high - low) * 2**-bits / 12**0.5, "one_step_more"),
        (lambda low, high, bits: ((high - low) / (2**bits - 1)) ** 2 / 12, "mean_square"),
        (lambda low, high, bits: 0.5 * (high - low) / (2**bits - 1), "largest_error"),
        (lambda low, high, bits: (high - low) / (12 * (2**bits - 1)), "twelfth"),
        (lambda low, high, bits: (high - low) / (2**bits - 1), "step"),
        (lambda low, high, bits: high / ((2**bits - 1) * 12**0.5), "one_side"),
        (lambda low, high, bits: (high + low) / (2**bits - 1) / 12**0.5, None),
        (lambda low, high, bits: (high - low) / (2 ** (bits - 1) - 1) / 12**0.5, None),
        (lambda low, high, bits: (high - low) / (2**bits - 1) / 4, None),
    ],
    "numbers.entropy": [
        (lambda counts: -(probabilities(counts) * probabilities(counts).log()).sum(), "nats"),
        (lambda counts: (probabilities(counts) * probabilities(counts).log2()).sum(), "sign"),
        (lambda counts: math.log2(len(probabilities(counts))), "all_alike"),
        (lambda counts: math.log2(counts.numel()), "table_size"),
        (lambda counts: -(counts[counts > 0] * probabilities(counts).log2()).sum(), "total"),
        (
            lambda counts: -(counts / counts.sum() * torch.log2(counts / counts.sum())).sum(),
            "unseen",
        ),
        (lambda counts: -probabilities(counts).log2().mean(), None),
        (lambda counts: 2 ** entropy_of_text(counts), None),
        (lambda counts: -(probabilities(counts) * probabilities(counts)).sum(), None),
        (lambda counts: entropy_of_text(counts) / 8, None),
    ],
}
