"""Lesson 5.1: bits that are really taken, damage of one layer alone, the exact allocation, ideal
bits, whose scale keys share.
"""

import itertools
import math

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until
from ._mixed_measures import (
    by_key_error,
    by_largest,
    damages,
    damages_with,
    key_inputs,
    loss_change,
    mean_kl,
    network_inputs,
    scale_axis,
    weight_errors,
)

LESSON = "5.1-mixed-precision"

# --- bits that are really taken ---


def stored_inputs(rng: torch.Generator) -> dict:
    """Matrices of unlike sizes and widths; rows and groups that do not come out even."""
    n = pick(rng, 2, 3, 4)
    shapes = [(pick(rng, 3, 5, 16, 40), pick(rng, 33, 50, 70, 129)) for _ in range(n)]
    bits = [pick(rng, 2, 3, 4, 5) for _ in range(n)]
    bits[0], bits[1] = 3, pick(rng, 2, 5)
    return {"shapes": shapes, "bits": bits, "group_size": turn(rng, 32, 16, 64)}


def taken_bits(shapes: list, bits: list, group_size: int) -> float:
    """8 · Σ bytes / Σ weights: each row ⌈columns · b / 8⌉ bytes of codes, and 4 bytes for each
    group, the last one shorter.
    """
    taken, weights = 0, 0
    for (rows, columns), b in zip(shapes, bits, strict=True):
        taken += rows * (math.ceil(columns * b / 8) + 4 * math.ceil(columns / group_size))
        weights += rows * columns
    return 8 * taken / weights


def taken_with(row=lambda c, b, g: math.ceil(c * b / 8) + 4 * math.ceil(c / g), factor=8.0):
    def answer(shapes, bits, group_size):
        taken = sum(
            rows * row(columns, b, group_size)
            for (rows, columns), b in zip(shapes, bits, strict=True)
        )
        return factor * taken / sum(rows * columns for rows, columns in shapes)

    return answer


def mean_of_layers(shapes, bits, group_size):
    return sum(taken_bits([s], [b], group_size) for s, b in zip(shapes, bits, strict=True)) / len(
        bits
    )


# --- the exact allocation ---


def total(table: list[list], chosen) -> float:
    return sum(row[o] for row, o in zip(table, chosen, strict=True))


def allocate(damages: list[list[float]], sizes: list[list[int]], budget: float) -> list[int]:
    """The options, one for each layer, of the least total damage with a total size of at most
    `budget`: all are tried.
    """
    choices = itertools.product(*(range(len(row)) for row in sizes))
    return list(
        min((c for c in choices if total(sizes, c) <= budget), key=lambda c: total(damages, c))
    )


def least(damages, fits):
    choices = itertools.product(*(range(len(row)) for row in damages))
    return list(
        min(filter(fits, choices), key=lambda c: total(damages, c), default=(0,) * len(damages))
    )


def greedy(damages, sizes, budget):
    """From the smallest, always the step that saves most damage for each byte and fits."""
    chosen = [0] * len(sizes)
    while True:
        steps = [
            ((d[o] - d[o + 1]) / (s[o + 1] - s[o]), i)
            for i, (d, s, o) in enumerate(zip(damages, sizes, chosen, strict=True))
            if o + 1 < len(s)
            and total(sizes, chosen) + s[o + 1] - s[o] <= budget
            and d[o] > d[o + 1]
        ]
        if not steps:
            return chosen
        chosen[max(steps)[1]] += 1


def equal_layers(damages, sizes, budget):
    """Counts widths, as if a step cost the same in every layer."""
    share = budget / sum(row[0] for row in sizes) * len(sizes)
    return least(
        damages, lambda c: sum(s[o] / s[0] for s, o in zip(sizes, c, strict=True)) <= share
    )


def strictly_below(damages, sizes, budget):
    return least(damages, lambda c: total(sizes, c) < budget)


def even_share(damages, sizes, budget):
    """Each layer is given its part of the budget, by its size, and takes the best that fits into
    it.
    """
    part = budget / sum(row[0] for row in sizes)
    return [
        min((o for o in range(len(s)) if o == 0 or s[o] <= part * s[0]), key=lambda o: d[o])
        for d, s in zip(damages, sizes, strict=True)
    ]


def without_limit(damages, sizes, budget):
    return [min(range(len(d)), key=lambda o: d[o]) for d in damages]


def one_price(damages, sizes, budget):
    """Each layer's least damage + price · size, at the lowest price that fits; what is then left
    over is not spent.
    """
    prices = sorted(
        {
            (d[a] - d[b]) / (s[b] - s[a])
            for d, s in zip(damages, sizes, strict=True)
            for a, b in itertools.combinations(range(len(d)), 2)
        }
    )
    for price in [0.0, *(p * (1 + 1e-9) for p in prices if p > 0)]:
        chosen = [
            min(range(len(d)), key=lambda o: d[o] + price * s[o])
            for d, s in zip(damages, sizes, strict=True)
        ]
        if total(sizes, chosen) <= budget:
            return chosen
    return [0] * len(sizes)


def most_damaged_first(damages, sizes, budget):
    """In the order of what the smallest option costs, each layer takes the best that is left for
    it.
    """
    chosen = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -damages[i][0]):
        left = budget - total(sizes, chosen) + sizes[i][0]
        chosen[i] = min(
            (o for o in range(len(sizes[i])) if sizes[i][o] <= left), key=lambda o: damages[i][o]
        )
    return chosen


ALLOCATION_MISTAKES = {
    "greedy": greedy, "equal_layers": equal_layers, "strictly_below": strictly_below,
    "even_share": even_share, "without_limit": without_limit, "one_price": one_price,
    "most_damaged_first": most_damaged_first,
}  # fmt: skip


def draw_tables(rng: torch.Generator) -> dict:
    """Layers of unlike sizes; a layer's damage falls with its width, in one of them not; the best
    choice fills the budget exactly.
    """
    layers = turn(rng, 3, 4, 5)
    unit = [pick(rng, 3, 5, 8, 13) for _ in range(layers)]
    sizes = [[u * b for b in (2, 3, 4)] for u in unit]
    damages = []
    for _ in range(layers):
        start = float((2 * torch.randn((), generator=rng)).exp())
        falls = 0.2 + 0.5 * torch.rand(2, generator=rng)
        damages.append(
            [
                round(start, 4),
                round(start * float(falls[0]), 4),
                round(start * float(falls.prod()), 4),
            ]
        )
    odd = int(torch.randint(layers, (), generator=rng))
    damages[odd][1] = round(1.05 * damages[odd][0], 4)
    choice = [pick(rng, 0, 1, 2) for _ in range(layers)]
    return {
        "damages": damages,
        "sizes": sizes,
        "budget": total(sizes, allocate(damages, sizes, total(sizes, choice))),
    }


def tells_apart(given: dict, needed: str) -> bool:
    """Most mistakes give another choice, the needed one too, and the next best choice is clearly
    worse.
    """
    right = allocate(**given)
    told = [name for name, wrong in ALLOCATION_MISTAKES.items() if wrong(**given) != right]
    near = sorted(
        total(given["damages"], c)
        for c in itertools.product(range(3), repeat=len(right))
        if total(given["sizes"], c) <= given["budget"]
    )
    return (
        len(near) > 1
        and near[1] > 1.001 * near[0] + 1e-4
        and {"greedy", "strictly_below", needed} <= set(told)
        and len(told) >= 5
    )


def allocation_inputs(rng: torch.Generator) -> dict:
    needed = turn(rng, "one_price", "most_damaged_first", "equal_layers")
    return until(rng, draw_tables, lambda given: tells_apart(given, needed))


# --- ideal bits ---


def ideal_inputs(rng: torch.Generator) -> dict:
    """Sensitivities over decades, layers of unlike sizes."""
    n = turn(rng, 2, 4, 5)
    alpha = (10 ** (3 * torch.rand(n, generator=rng, dtype=torch.float64) - 2)).tolist()
    return {
        "sensitivities": alpha,
        "weights": [pick(rng, 100, 300, 700, 1600) for _ in range(n)],
        "mean_bits": pick(rng, 2.25, 3.0, 4.5),
    }


def ideal_bits(sensitivities: list[float], weights: list[int], mean_bits: float) -> list[float]:
    """b_l = b̄ + ½ log₂(α_l / n_l) − Σ n_k ½ log₂(α_k / n_k) / Σ n_k: of Σ α_l 4^−b_l at Σ n_l b_l
    = b̄ Σ n_l the least.
    """
    half = [0.5 * math.log2(a / n) for a, n in zip(sensitivities, weights, strict=True)]
    middle = sum(n * h for n, h in zip(weights, half, strict=True)) / sum(weights)
    return [mean_bits + h - middle for h in half]


def ideal_with(half=lambda a, n: 0.5 * math.log2(a / n), middle=None, sign=1):
    def answer(sensitivities, weights, mean_bits):
        h = [half(a, n) for a, n in zip(sensitivities, weights, strict=True)]
        m = (
            sum(n * x for n, x in zip(weights, h, strict=True)) / sum(weights)
            if middle is None
            else middle(sensitivities, weights, h)
        )
        return [mean_bits + sign * (x - m) for x in h]

    return answer


EXERCISES = [
    Exercise(
        "mixed_precision.taken_bits",
        stored_inputs,
        taken_bits,
        {
            "codes_only": taken_with(lambda c, b, g: math.ceil(c * b / 8)),
            "scales_only": taken_with(lambda c, b, g: math.ceil(c * b / 8) + 2 * math.ceil(c / g)),
            "whole_groups": taken_with(lambda c, b, g: math.ceil(c * b / 8) + 4 * (c // g)),
            "part_groups": taken_with(lambda c, b, g: math.ceil(c * b / 8) + 4 * c / g),
            "part_bytes": taken_with(lambda c, b, g: c * b / 8 + 4 * math.ceil(c / g)),
            "in_bytes": taken_with(factor=1.0),
            "mean_of_layers": mean_of_layers,
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=6,
    ),
    Exercise(
        "mixed_precision.damages",
        network_inputs,
        damages,
        {
            "together": damages_with(mean_kl, lambda w, r, i: r),
            "stays_rounded": damages_with(mean_kl, lambda w, r, i: [*r[: i + 1], *w[i + 1 :]]),
            "all_but_one": damages_with(mean_kl, lambda w, r, i: [*r[:i], w[i], *r[i + 1 :]]),
            "reversed": damages_with(lambda p, q, labels: mean_kl(q, p, labels)),
            "loss": damages_with(loss_change),
            "summed": damages_with(lambda p, q, labels: mean_kl(p, q, labels) * len(p)),
            "over_classes": damages_with(lambda p, q, labels: float((p.exp() * (p - q)).mean())),
            "in_bits": damages_with(lambda p, q, labels: mean_kl(p, q, labels) / math.log(2)),
            "weight_error": weight_errors,
        },
        lesson=LESSON,
        kind="debug",
        difficulty=2,
        minutes=8,
    ),
    Exercise(
        "mixed_precision.allocate",
        allocation_inputs,
        allocate,
        ALLOCATION_MISTAKES,
        lesson=LESSON,
        kind="design",
        difficulty=3,
        minutes=15,
        trials=6,
    ),
    Exercise(
        "mixed_precision.ideal_bits",
        ideal_inputs,
        ideal_bits,
        {
            "sizes_forgotten": ideal_with(lambda a, n: 0.5 * math.log2(a)),
            "plain_mean": ideal_with(middle=lambda a, n, h: sum(h) / len(h)),
            "no_half": ideal_with(lambda a, n: math.log2(a / n)),
            "natural": ideal_with(lambda a, n: 0.5 * math.log(a / n)),
            "reversed": ideal_with(sign=-1),
            "mean_of_sensitivities": ideal_with(
                middle=lambda a, n, h: (
                    0.5 * math.log2(sum(m * s / m for s, m in zip(a, n, strict=True)) / sum(n))
                )
            ),
            "total_for_each": ideal_with(lambda a, n: 0.5 * math.log2(a * n)),
        },
        lesson=LESSON,
        kind="step",
        difficulty=3,
        minutes=8,
    ),
    Exercise(
        "mixed_precision.scale_axis",
        key_inputs,
        scale_axis,
        {
            "key_error": by_key_error,
            "largest": by_largest,
            "always_channel": lambda queries, keys, bits: "channel",
            "always_token": lambda queries, keys, bits: "token",
            "swapped": lambda queries, keys, bits: {"channel": "token", "token": "channel"}[
                scale_axis(queries, keys, bits)
            ],
        },
        lesson=LESSON,
        kind="decide",
        difficulty=2,
        minutes=8,
        trials=16,
    ),
]
