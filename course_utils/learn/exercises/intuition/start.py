"""The one exercise of the start page, which shows how a check answers."""

import torch

from course_utils.learn.checks.exercise import Exercise

WIDTHS = (2, 3, 4, 5, 6, 16, 32)  # not 8, for which wrong formulas are right


def inputs(rng: torch.Generator) -> dict[str, int]:
    count = int(torch.randint(1, 1000, (), generator=rng)) * 1000
    bits = WIDTHS[int(torch.randint(len(WIDTHS), (), generator=rng))]
    return {"count": count, "bits": bits}


def bytes_needed_spec(count: int, bits: int) -> float:
    """Count numbers of `bits` bits each, in bytes."""
    return count * bits / 8


EXERCISES = [
    Exercise(
        id="start.bytes_needed",
        kind="step",
        difficulty=1,
        minutes=2,
        inputs=inputs,
        spec=bytes_needed_spec,
        mistakes={
            "bits_not_bytes": lambda count, bits: count * bits,
            "bits_forgotten": lambda count, bits: count,
            "upside_down": lambda count, bits: count * 8 / bits,
        },
        lesson="start",
    )
]
