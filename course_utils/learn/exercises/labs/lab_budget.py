"""Lab 5.2: bytes of a layer, times from runs, the exact allocation under two budgets, sensitivities
by KL.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn
from ._budget_allocate import ALLOCATION_MISTAKES, allocate, value
from ._budget_measure import MEASURE_MISTAKES, measure, measure_inputs
from ._budget_tables import allocation_inputs

LAB = "lab-5.2-mixed-precision"

# --- bytes ---


def bytes_inputs(rng: torch.Generator) -> dict:
    """Rows whose codes and groups do not come out even, and some that do."""
    columns, group = turn(rng, (131, 32), (70, 16), (519, 64)), pick(rng, 16, 32, 64)
    return {
        "rows": pick(rng, 3, 40, 137, 192),
        "columns": columns[0],
        "bits": pick(rng, 2, 3, 5, 7),
        "group_size": turn(rng, columns[1], group),
    }


def layer_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """Rows · (⌈columns · bits / 8⌉ + 4 ⌈columns / group_size⌉)."""
    return rows * (math.ceil(columns * bits / 8) + 4 * math.ceil(columns / group_size))


def bytes_with(row):
    return lambda rows, columns, bits, group_size: rows * row(columns, bits, group_size)


# --- times ---


def time_inputs(rng: torch.Generator) -> dict:
    """Runs with a slow beginning and a few that something else disturbed; even and odd numbers of
    them.
    """
    (layers, options), runs = turn(
        rng, ((2, 3), (9, 14)), ((133, 1), (6, 7)), ((1, 133), (5, 8)), ((2, 2), (140, 171))
    )
    warmup = turn(rng, 2, 3, 1)
    seconds: dict[str, dict[int, Tensor]] = {}
    for i in range(layers):
        seconds[f"layer {i}"] = {}
        for b in range(2, 2 + options):
            count = pick(rng, *runs)
            noise = torch.rand(count, generator=rng, dtype=torch.float64)
            disturbed = torch.rand(count, generator=rng) < 0.15
            found = 1e-6 * (20 + 3 * b + i % 7) * (1 + 0.2 * noise + 5 * disturbed)
            found[:warmup] = found[:warmup] * 30 + 1e-3
            seconds[f"layer {i}"][b] = found
    return {"seconds": seconds, "warmup": warmup}


def time_table(seconds: dict, warmup: int) -> dict:
    """{layer: {bits: microseconds}}: the median of the runs after the first `warmup`."""
    return {
        name: {b: 1e6 * middle(runs[warmup:]) for b, runs in options.items()}
        for name, options in seconds.items()
    }


def middle(runs: Tensor) -> float:
    """The median; of an even number the mean of the two in the middle."""
    n, found = len(runs), runs.sort().values
    return float(found[(n - 1) // 2] + found[n // 2]) / 2


def times_with(of, factor=1e6, skip=lambda warmup: warmup):
    return lambda seconds, warmup: {
        name: {b: factor * float(of(runs[skip(warmup) :])) for b, runs in options.items()}
        for name, options in seconds.items()
    }


EXERCISES = [
    Exercise(
        "lab_budget.layer_bytes", bytes_inputs, layer_bytes,
        {
            "codes_only": bytes_with(lambda c, b, g: math.ceil(c * b / 8)),
            "scales_only": bytes_with(lambda c, b, g: math.ceil(c * b / 8) + 2 * math.ceil(c / g)),
            "whole_groups": bytes_with(lambda c, b, g: math.ceil(c * b / 8) + 4 * (c // g)),
            "part_bytes": bytes_with(lambda c, b, g: c * b / 8 + 4 * math.ceil(c / g)),
            "in_bits": bytes_with(lambda c, b, g:
                8 * (math.ceil(c * b / 8) + 4 * math.ceil(c / g))),
            "one_scale_a_row": bytes_with(lambda c, b, g: math.ceil(c * b / 8) + 4),
        },
        lesson=LAB, trials=6,
    ),
    Exercise(
        "lab_budget.time_table", time_inputs, time_table,
        {
            "mean": times_with(lambda runs: runs.mean()),
            "warmup_counted": times_with(middle, skip=lambda warmup: 0),
            "least": times_with(lambda runs: runs.min()),
            "lower_middle": times_with(lambda runs: runs.sort().values[(len(runs) - 1) // 2]),
            "in_seconds": times_with(middle, factor=1.0),
            "in_milliseconds": times_with(middle, factor=1e3),
            "one_run_skipped": times_with(middle, skip=lambda warmup: 1),
        },
        lesson=LAB, trials=6,
    ),
    Exercise(
        "lab_budget.allocate", allocation_inputs, allocate, ALLOCATION_MISTAKES,
        lesson=LAB, trials=12, counts=value, refuses="budget",
    ),
    Exercise("lab_budget.measure", measure_inputs, measure, MEASURE_MISTAKES, lesson=LAB, trials=6,
             tolerance=1e-6),
]  # fmt: skip
