"""Lesson 1.2: what a floating-point pattern means, the nearest grid value, the error of rounding,
entropy.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

# --- one pattern of bits ---


def pattern(rng: torch.Generator) -> dict:
    """A finite number, normal or subnormal, never 0."""
    exponent_bits, mantissa_bits = pick(rng, (4, 3), (5, 2), (3, 4), (5, 10), (4, 6))
    exponent = int(torch.randint(1, 2**exponent_bits - 1, (), generator=rng)) * turn(rng, 1, 0, 1)
    mantissa = int(torch.randint(1, 2**mantissa_bits, (), generator=rng))
    return {
        "sign": pick(rng, 0, 1, 1), "exponent": exponent, "mantissa": mantissa,
        "exponent_bits": exponent_bits, "mantissa_bits": mantissa_bits,
    }  # fmt: skip


def decode(
    sign: int, exponent: int, mantissa: int, exponent_bits: int, mantissa_bits: int
) -> float:
    """(−1)^sign · 2^(E − B) · (1 + M / 2^m), and for E = 0: (−1)^sign · 2^(1 − B) · M / 2^m, with B
    = 2^(e−1) − 1.
    """
    bias = 2 ** (exponent_bits - 1) - 1
    if exponent == 0:
        value = 2.0 ** (1 - bias) * (mantissa / 2**mantissa_bits)
    else:
        value = 2.0 ** (exponent - bias) * (1 + mantissa / 2**mantissa_bits)
    return -value if sign == 1 else value


def variant(
    bias: Callable[[int], int] = lambda e: 2 ** (e - 1) - 1, hidden: bool = True,
    subnormal: str = "right", signed: bool = True, whole_mantissa: bool = False,
):  # fmt: skip
    """`decode` with one thing wrong."""

    def wrong(sign, exponent, mantissa, exponent_bits, mantissa_bits):
        power = exponent - bias(exponent_bits)
        lead = 1 if hidden else 0
        if exponent == 0 and subnormal != "as_normal":
            lead, power = 0, power + (1 if subnormal == "right" else 0)
        if exponent == 0 and subnormal == "flushed":
            return 0.0
        value = 2.0**power * (lead + (mantissa if whole_mantissa else mantissa / 2**mantissa_bits))
        return -value if sign and signed else value

    return wrong


# --- rounding to a grid ---


def grid_inputs(rng: torch.Generator) -> dict:
    """An uneven grid, and numbers within and beyond it, none halfway between two values."""
    grid = torch.randn(pick(rng, 5, 9, 16), generator=rng, dtype=torch.float64).sort().values
    x = 1.5 * torch.randn(4, 6, generator=rng, dtype=torch.float64)
    x[0, 0], x[0, 1] = grid[0] - 1, grid[-1] + 1
    return {"x": x, "grid": grid}


def nearest(x: Tensor, grid: Tensor) -> Tensor:
    """For each number the grid value with the smallest distance, by trying them all."""
    out = torch.empty_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = min(grid.tolist(), key=lambda value: abs(value - float(x[i, j])))  # noqa: B023
    return out


def below(x: Tensor, grid: Tensor) -> Tensor:
    return grid[(torch.searchsorted(grid, x, right=True) - 1).clamp(min=0)]


def above(x: Tensor, grid: Tensor) -> Tensor:
    return grid[torch.searchsorted(grid, x).clamp(max=len(grid) - 1)]


def as_if_even(x: Tensor, grid: Tensor) -> Tensor:
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    return grid[((x - grid[0]) / step).round().long().clamp(0, len(grid) - 1)]


# --- the error of rounding ---


def range_inputs(rng: torch.Generator) -> dict:
    low = -0.1 - float(torch.rand((), generator=rng))
    return {
        "low": low,
        "high": 0.1 + float(torch.rand((), generator=rng)),
        "bits": pick(rng, 2, 3, 4, 5, 6),
    }


def predicted_rms(low: float, high: float, bits: int) -> float:
    """S / √12 with s = (high − low) / (2^bits − 1): the root of the mean of e² over e in (−s/2,
    s/2).
    """
    step = (high - low) / (2**bits - 1)
    return math.sqrt(step**2 / 12)


# --- the bits that an error asks for ---


def allowed_inputs(rng: torch.Generator) -> dict:
    """An error that `bits` bits just reach, that one bit less hardly misses,
    or something between.
    """
    given = range_inputs(rng) | {"bits": pick(rng, 2, 3, 4, 6, 9)}
    bits = given.pop("bits")
    just, less = predicted_rms(**given, bits=bits), predicted_rms(**given, bits=bits - 1)
    between = just + (less - just) * (0.1 + 0.8 * float(torch.rand((), generator=rng)))
    return {
        **given,
        "allowed": pick(rng, just * (1 + 1e-6), less * (1 - 0.5 / 2 ** (bits - 1)), between),
    }


def bits_needed(low: float, high: float, allowed: float) -> int:
    """The smallest b with (high − low) / (2^b − 1) / √12 ≤ allowed."""
    return fewest(lambda bits: predicted_rms(low, high, bits) <= allowed)


def fewest(enough: Callable[[int], bool]) -> int:
    return next((bits for bits in range(1, 40) if enough(bits)), 40)


# --- entropy ---


def count_inputs(rng: torch.Generator) -> dict:
    """Counts of 6 to 12 symbols, far from equal; one symbol never occurs."""
    n = pick(rng, 6, 8, 12)
    counts = (200 * torch.rand(n, generator=rng) ** 3).long() + 1
    counts[int(torch.randint(n, (), generator=rng))] = 0
    return {"counts": counts}


def entropy(counts: Tensor) -> float:
    """−Σ p log₂ p over the symbols that occur, p = count / sum of counts."""
    total, bits = int(counts.sum()), 0.0
    for count in counts.tolist():
        if count > 0:
            bits -= count / total * math.log2(count / total)
    return bits


EXERCISES = [
    Exercise(
        id="numbers.decode_float", kind="debug", difficulty=2, minutes=10,
        inputs=pattern, spec=decode, tolerance=1e-6, lesson="1.2-numbers-in-a-box",
        trials=12,
        mistakes={
            "hidden_one": variant(hidden=False),
            "bias_forgotten": variant(bias=lambda e: 0),
            "bias_one_more": variant(bias=lambda e: 2 ** (e - 1)),
            "subnormal_as_normal": variant(subnormal="as_normal"),
            "subnormal_exponent": variant(subnormal="exponent"),
            "sign_forgotten": variant(signed=False),
            "mantissa_whole": variant(whole_mantissa=True),
            "bias_of_32_bits": variant(bias=lambda e: 127),
            "subnormal_flushed": variant(subnormal="flushed"),
        },
    ),
    Exercise(
        id="numbers.nearest", kind="step", difficulty=1, minutes=5,
        inputs=grid_inputs, spec=nearest, tolerance=1e-6, lesson="1.2-numbers-in-a-box",
        mistakes={
            "always_below": below, "always_above": above, "even_steps": as_if_even,
            "position": lambda x, grid: (x[..., None] - grid).abs().argmin(-1),
            "signed_distance": lambda x, grid: grid[(x[..., None] - grid).argmin(-1)],
            "distance": lambda x, grid: (x[..., None] - grid).abs().amin(-1),
        },
    ),
    Exercise(
        id="numbers.predicted_rms", kind="formula", difficulty=1, minutes=5,
        inputs=range_inputs, spec=predicted_rms, tolerance=1e-4,
        lesson="1.2-numbers-in-a-box", trials=6,
        mistakes={
            "one_step_more": lambda low, high, bits: (high - low) / 2**bits / math.sqrt(12),
            "mean_square": lambda low, high, bits: predicted_rms(low, high, bits) ** 2,
            "largest_error": lambda low, high, bits: (high - low) / (2**bits - 1) / 2,
            "twelfth": lambda low, high, bits: (high - low) / (2**bits - 1) / 12,
            "step": lambda low, high, bits: (high - low) / (2**bits - 1),
            "one_side": lambda low, high, bits: high / (2**bits - 1) / math.sqrt(12),
        },
    ),
    Exercise(
        id="numbers.bits_needed", kind="decide", difficulty=2, minutes=8,
        inputs=allowed_inputs, spec=bits_needed, tolerance=0, lesson="1.2-numbers-in-a-box",
        trials=24,
        mistakes={
            "one_step_more": lambda low, high, allowed:
                fewest(lambda b: (high - low) / 2**b / math.sqrt(12) <= allowed),
            "largest_error": lambda low, high, allowed:
                fewest(lambda b: (high - low) / (2**b - 1) / 2 <= allowed),
            "step": lambda low, high, allowed:
                fewest(lambda b: (high - low) / (2**b - 1) <= allowed),
            "twelfth": lambda low, high, allowed:
                fewest(lambda b: (high - low) / (2**b - 1) / 12 <= allowed),
            "one_bit_less": lambda low, high, allowed: bits_needed(low, high, allowed) - 1,
            "one_bit_more": lambda low, high, allowed: bits_needed(low, high, allowed) + 1,
            "one_side": lambda low, high, allowed: bits_needed(0, high, allowed),
        },
    ),
    Exercise(
        id="numbers.entropy", kind="debug", difficulty=2, minutes=8,
        inputs=count_inputs, spec=entropy, tolerance=1e-6, lesson="1.2-numbers-in-a-box",
        mistakes={
            "nats": lambda counts: entropy(counts) * math.log(2),
            "sign": lambda counts: -entropy(counts),
            "all_alike": lambda counts: math.log2(int((counts > 0).sum())),
            "table_size": lambda counts: math.log2(len(counts)),
            "total": lambda counts: entropy(counts) * int(counts.sum()),
            "unseen": lambda counts:
                -float((counts / counts.sum() * (counts / counts.sum()).log2()).sum()),
        },
    ),
]  # fmt: skip
