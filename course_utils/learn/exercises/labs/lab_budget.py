"""Lab 5.2: bytes of a layer, the exact allocation under two budgets, sensitivities by KL."""

import math

import torch

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
    return {"rows": pick(rng, 3, 40, 137, 192), "columns": columns[0], "bits": pick(rng, 2, 3, 5, 7), "group_size": turn(rng, columns[1], group)}


def layer_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """rows · (⌈columns · bits / 8⌉ + 4 ⌈columns / group_size⌉)."""
    return rows * (math.ceil(columns * bits / 8) + 4 * math.ceil(columns / group_size))


def bytes_with(row):
    return lambda rows, columns, bits, group_size: rows * row(columns, bits, group_size)


EXERCISES = [
    Exercise(
        "lab_budget.layer_bytes", bytes_inputs, layer_bytes,
        {
            "codes_only": bytes_with(lambda c, b, g: math.ceil(c * b / 8)),
            "scales_only": bytes_with(lambda c, b, g: math.ceil(c * b / 8) + 2 * math.ceil(c / g)),
            "whole_groups": bytes_with(lambda c, b, g: math.ceil(c * b / 8) + 4 * (c // g)),
            "part_bytes": bytes_with(lambda c, b, g: c * b / 8 + 4 * math.ceil(c / g)),
            "in_bits": bytes_with(lambda c, b, g: 8 * (math.ceil(c * b / 8) + 4 * math.ceil(c / g))),
            "one_scale_a_row": bytes_with(lambda c, b, g: math.ceil(c * b / 8) + 4),
        },
        lesson=LAB, trials=6,
    ),
    Exercise(
        "lab_budget.allocate", allocation_inputs, allocate, ALLOCATION_MISTAKES,
        lesson=LAB, trials=12, counts=value, refuses="budget",
    ),
    Exercise("lab_budget.measure", measure_inputs, measure, MEASURE_MISTAKES, lesson=LAB, trials=6, tolerance=1e-6),
]  # fmt: skip
