"""Lesson 5.2: a list of values of the learner's own for numbers of an unknown distribution; beside
`number_formats`.
"""

import functools

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.quantization import value_tables

from ..draws import turn

ALLOWED = 10**0.05  # times the least possible error: half a decibel


def hidden(rng: torch.Generator) -> dict:
    """240 numbers of a distribution drawn anew: one-sided, two humps of unlike height, heavy tails,
    or skewed.
    """
    n, kind = 240, turn(rng, "skewed", "humps", "tails", "one-sided")
    z, u = (
        torch.randn(n, generator=rng, dtype=torch.float64),
        torch.rand(n, generator=rng, dtype=torch.float64),
    )
    shift = 1 + float(torch.rand((), generator=rng))
    if kind == "skewed":
        x = torch.where(u < 0.7, 0.3 * z, shift + z.abs())
    elif kind == "humps":
        x = torch.where(u < 0.25 + 0.2 * shift / 2, -2 * shift + 0.3 * z, shift + 0.6 * z)
    elif kind == "tails":
        x = z * (0.4 + 2.0 * (u < 0.1)) + 0.2 * shift
    else:
        x = (0.8 * z).exp() * (1 - (u < 0.1).double())
    return {
        "sample": x * 10 ** (2 * float(torch.rand((), generator=rng)) - 1),
        "bits": turn(rng, 3, 2, 4, every=4) if kind != "tails" else 3,
    }


def own_format(sample: Tensor, bits: int) -> Tensor:
    """2^bits values, one of them 0, of the least mean squared error (exact)."""
    return value_tables.best_values(sample, 2**bits, zero=True)


def within_reach(given: dict, result: Tensor) -> float:
    """1 if the error is within ALLOWED times the least one, else how many times it."""
    points = torch.as_tensor(result, dtype=torch.float64)
    found = value_tables.mean_error(given["sample"], points) / _least(
        given["sample"].numpy().tobytes(), given["bits"]
    )
    return 1.0 if found <= ALLOWED else found


@functools.lru_cache(maxsize=256)
def _least(numbers: bytes, bits: int) -> float:
    """The least mean squared error, remembered: a check asks for it several times."""
    sample = torch.frombuffer(bytearray(numbers), dtype=torch.float64)
    return value_tables.mean_error(sample, own_format(sample, bits))


def holds_zero(given: dict, result: Tensor) -> bool:
    points = torch.as_tensor(result, dtype=torch.float64)
    return bool((points.abs() <= 1e-9 * points.abs().max()).any())


def near_the_least(given: dict, result: Tensor) -> bool:
    return within_reach(given, result) == 1.0


def zero_put_in(points: Tensor) -> Tensor:
    points = points.clone()
    points[points.abs().argmin()] = 0.0
    return points.sort().values


def even(sample: Tensor, bits: int) -> Tensor:
    """Equal steps from the smallest to the largest number, 0 put in."""
    return zero_put_in(
        torch.linspace(float(sample.min()), float(sample.max()), 2**bits, dtype=torch.float64)
    )


def equal_shares(sample: Tensor, bits: int) -> Tensor:
    """A value for each 2^bits-th part of the numbers, 0 put in."""
    at = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
    return zero_put_in(torch.quantile(sample, at))


def mirrored(sample: Tensor, bits: int) -> Tensor:
    """Fitted to the sizes, and the same values on both sides; 0 twice."""
    half = value_tables.best_values(sample.abs(), 2 ** (bits - 1), zero=True)
    return torch.cat([-half, half]).sort().values


def zero_afterwards(sample: Tensor, bits: int) -> Tensor:
    return zero_put_in(value_tables.best_values(sample, 2**bits))


OWN = Exercise(
    "number_formats.own_format", hidden, own_format,
    {"even": even, "equal_shares": equal_shares, "mirrored": mirrored,
     "zero_afterwards": zero_afterwards},
    {"holds_zero": holds_zero, "near_the_least": near_the_least},
    lesson="5.2-number-formats", kind="design", difficulty=3, minutes=10, trials=4, seconds=20.0,
    counts=within_reach,
)  # fmt: skip
