"""Lesson 2.1: what a scale for each token is worth, and the best grid within a budget of bits."""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.quantization import fake_quantize

from ..draws import pick

# --- the gain of a scale for each token ---


def token_inputs(rng: torch.Generator) -> dict:
    """Tokens of unlike size, one of them up to fifty times louder; the largest magnitude is often
    negative.
    """
    tokens, features = pick(rng, 5, 8, 13), pick(rng, 6, 9)
    x = torch.randn(tokens, features, generator=rng, dtype=torch.float64)
    x = x * (torch.rand(tokens, 1, generator=rng, dtype=torch.float64) + 0.2)
    row = int(torch.randint(tokens, (), generator=rng))
    x[row] *= pick(rng, 1.0, 4.0, 50.0)
    x[row, int(torch.randint(features, (), generator=rng))] = pick(rng, -1, 1) * 1.2 * x.abs().max()
    return {"x": x}


def token_gain(x: Tensor) -> float:
    """max_t a_t² / mean_t a_t² with a_t = max_j |x_tj|: the error of a grid grows with the square
    of its range.
    """
    ranges = [max(abs(value) for value in token) for token in x.tolist()]
    return max(ranges) ** 2 / (sum(a**2 for a in ranges) / len(ranges))


def from_ranges(formula, dim: int = 1):
    """A wrong answer: `formula` of the largest magnitudes along a dimension."""
    return lambda x: formula(x.abs().amax(dim))


# --- the best grid within a budget ---


def cost(bits: int, group_size: int) -> float:
    """Bits of a weight in all: its code, and its share of a scale of 16 bits and a zero point of
    `bits` bits.
    """
    return bits + (16 + bits) / group_size


CHOICES = [(b, g) for b in (2, 3, 4, 5) for g in (8, 16, 32, 64)]


def budget_inputs(rng: torch.Generator) -> dict:
    """Eight choices; the budget is the cost of one of them, or too small for it by half of its zero
    points' share.

    Two of three matrices have a few large numbers, for which small groups are worth more than bits.
    The best choice is best by 3 % at least.
    """
    while True:
        x = torch.randn(4, 64, generator=rng, dtype=torch.float64)
        x[torch.rand(4, 64, generator=rng) < 0.04] *= pick(rng, 1.0, 25.0, 40.0)
        choices = [CHOICES[i] for i in torch.randperm(len(CHOICES), generator=rng)[:8].tolist()]
        bits, group_size = choices[int(torch.randint(8, (), generator=rng))]
        budget = cost(bits, group_size) - pick(rng, 0.0, 0.5) * bits / group_size
        errors = sorted(error_of(x, *c) for c in choices if cost(*c) <= budget)
        if len(errors) > 2 and errors[0] < 0.97 * errors[1]:
            return {"x": x, "choices": choices, "budget": budget}


def error_of(x: Tensor, bits: int, group_size: int) -> float:
    return float((fake_quantize(x, bits=bits, group_size=group_size) - x).square().sum())


def best_in_budget(x: Tensor, choices: list[tuple[int, int]], budget: float) -> tuple[int, int]:
    """Of the (bits, group size) with bits + (16 + bits) / group size ≤ budget, the one with the
    least squared error.
    """
    best, least = choices[0], float("inf")
    for bits, group_size in choices:
        if (
            bits + (16 + bits) / group_size <= budget
            and (found := error_of(x, bits, group_size)) < least
        ):
            best, least = (bits, group_size), found
    return best


def choosing(price=cost, fits=lambda price, budget: price <= budget, key=None):
    """A wrong choice: by another price, another limit,
    or the smallest `key(x, bits, group_size)`.
    """

    def answer(x, choices, budget):
        fitting = [c for c in choices if fits(price(*c), budget)]
        return min(fitting, key=lambda c: (key or error_of)(x, *c))

    return answer


EXERCISES = [
    Exercise(
        id="scales_at_work.token_gain",
        inputs=token_inputs,
        spec=token_gain,
        lesson="2.1-quantization",
        trials=5,
        kind="confirm",
        difficulty=2,
        minutes=12,
        mistakes={
            "not_squared": from_ranges(lambda a: a.max() / a.mean()),
            "mean_squared": from_ranges(lambda a: (a.max() / a.mean()) ** 2),
            "inverted": from_ranges(lambda a: a.square().mean() / a.max() ** 2),
            "of_columns": from_ranges(lambda a: a.max() ** 2 / a.square().mean(), dim=0),
            "to_the_smallest": from_ranges(lambda a: (a.max() / a.min()) ** 2),
            "to_the_median": from_ranges(lambda a: (a.max() / a.quantile(0.5)) ** 2),
            "of_all_numbers": lambda x: x.abs().max() ** 2 / x.square().mean(),
        },
    ),
    Exercise(
        id="scales_at_work.best_in_budget",
        inputs=budget_inputs,
        spec=best_in_budget,
        lesson="2.1-quantization",
        trials=24,
        kind="design",
        difficulty=3,
        minutes=15,
        mistakes={
            "scales_free": choosing(price=lambda bits, group_size: bits),
            "zero_free": choosing(price=lambda bits, group_size: bits + 16 / group_size),
            "budget_not_reached": choosing(fits=lambda price, budget: price < budget),
            "dearest": choosing(key=lambda x, bits, group_size: -cost(bits, group_size)),
            "cheapest": choosing(key=lambda x, bits, group_size: cost(bits, group_size)),
            "most_bits": choosing(key=lambda x, bits, group_size: (-bits, group_size)),
            "smallest_group": choosing(key=lambda x, bits, group_size: (group_size, -bits)),
            "budget_ignored": choosing(fits=lambda price, budget: True),
        },
    ),
]
