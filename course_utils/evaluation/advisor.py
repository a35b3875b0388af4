"""From the constraints of a deployment to a pipeline, with the reasons.

The rules are those people usually go by. They know neither your model nor your machine: measure
what they advise.

    an edge device       → distil a small student, then quantize it
    memory is short      → INT4, or a student
    speed comes first    → structured pruning, then INT8
    a service in a cloud → light pruning, then 16 bits
    quality comes first  → GPTQ or AWQ, or gradual pruning
"""

import math
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CompressionError

PLACES = ("anywhere", "edge", "cloud")
GOALS = ("edge", "memory", "speed", "cloud", "quality")
WIDTHS = (16, 8, 4, 3, 2)
GROUP = 64
# of the parameters; below this a student is another project, not a compression
SMALLEST_STUDENT = 0.1
HIGH_QUALITY = 0.99

Step = tuple[str, dict[str, Any]]  # as in `course_utils.pipeline`


@dataclass(frozen=True)
class Advice:
    """`pipelines`: the recommended one first, then the alternative if there is one.

    `reasons`: (name, values) of texts.
    """

    goal: str
    pipelines: tuple[tuple[Step, ...], ...]
    reasons: tuple[tuple[str, dict[str, Any]], ...]


def weight_bytes(parameters: float, bits: int, group_size: int = GROUP) -> float:
    """N b / 8; below 16 bits also a 16-bit scale and a b-bit zero point for each `group_size`
    weights.
    """
    overhead = (16 + bits) / group_size if bits < 16 else 0
    return parameters * (bits + overhead) / 8


def bits_that_fit(parameters: float, memory: float, group_size: int = GROUP) -> int:
    """The largest width in WIDTHS whose weights take at most `memory` bytes; 0 if none does."""
    return next(
        (bits for bits in WIDTHS if weight_bytes(parameters, bits, group_size) <= memory), 0
    )


def goal_of(*, bits: int, speedup: float, place: str) -> str:
    """Which rule decides.

    `bits`: the widest weights that fit. The first that applies, in the order of GOALS.
    """
    if place == "edge":
        return "edge"
    if bits < 8:
        return "memory"
    if speedup > 1:
        return "speed"
    return "cloud" if place == "cloud" else "quality"


def advise(
    parameters: float, *, memory: float = math.inf, speedup: float = 1.0, quality: float = 0.95,
    place: str = "anywhere",
    training: bool = True,
) -> Advice:  # fmt: skip
    """What to do with a model of `parameters` weights in 16 bits.

    memory: bytes that its weights may take. speedup: how many times faster it must become. quality:
    the share of its quality that must stay, 0 to 1. place: 'anywhere', 'edge' or 'cloud'. training:
    data and time for it are there.
    Raises CompressionError for values outside these ranges, and when nothing known here reaches the
    memory.
    """
    _check(parameters, memory, speedup, quality, place, training)
    bits = bits_that_fit(parameters, memory)
    goal = goal_of(bits=bits, speedup=speedup, place=place)
    why: list[tuple[str, dict[str, Any]]] = [
        (goal, {"ratio": 2 * parameters / memory, "bits": bits, "speedup": speedup})
    ]
    careful = quality >= HIGH_QUALITY
    method = "gptq" if careful or 0 < bits < 4 else "rtn"
    pipelines: list[tuple[Step, ...]]
    if goal in ("edge", "memory"):
        width = 4 if goal == "edge" and bits >= 4 else min(bits, 4)
        students = _students(parameters, memory, method) if training else None
        rounded = ("quantize", {"method": method, "bits": width})
        alone = (rounded,) if width else None
        pipelines = [p for p in ((students, alone) if goal == "edge" else (alone, students)) if p]
        if not training:
            why.append(("no_training", {}))
        if width and width < 4:
            why.append(("few_bits", {"bits": width}))
    elif goal == "speed":
        keep = round(max(0.25, 1 / speedup), 2)
        repair: list[Step] = [("distil", {})] if training else []
        # a width below 8 would have made memory the goal, so INT8 fits
        pipelines = [
            (("channels", {"keep": keep}), *repair, ("quantize", {"method": method, "bits": 8}))
        ]
        if not training:
            why.append(("no_repair", {}))
        if careful:
            why.append(("speed_costs", {"quality": quality}))
        if 1 / speedup < 0.25:
            why.append(("too_fast", {"speedup": speedup}))
    elif goal == "cloud":
        pipelines = [(("channels", {"keep": 0.875}), ("half", {}))]
        if bits < 16:
            pipelines = [
                (("channels", {"keep": 0.875}), ("quantize", {"method": "rtn", "bits": 8}))
            ]
            why.append(("half_too_large", {}))
    else:
        pipelines = [(("quantize", {"method": way, "bits": 4}),) for way in ("gptq", "awq")]
        # a map of one bit, and half of the weights
        if training and parameters * (1 + 0.5 * 16) / 8 <= memory:
            pipelines.append((("gradual", {"sparsity": 0.5}),))
    if not pipelines:
        raise CompressionError(
            f"memory={memory:.3g}: {parameters:.3g} weights do not fit even in 2 bits"
            + (
                f", nor does a student of {SMALLEST_STUDENT:.0%} in 4 bits"
                if training
                else ", and without training there is no student"
            )
            + "; give more memory or start from a smaller model."
        )
    if goal in ("edge", "memory") and speedup > 1:
        why.append(("speed_too", {"speedup": speedup}))
    if careful and goal in ("edge", "memory"):
        why.append(("careful", {"quality": quality}))
    return Advice(goal, tuple(pipelines), tuple(why))


def _students(parameters: float, memory: float, method: str) -> tuple[Step, ...] | None:
    """A student in 4 bits that fits, at most half of the parameters; `method` rounds it."""
    share = min(0.5, memory / weight_bytes(parameters, 4))
    if share < SMALLEST_STUDENT:
        return None
    return (("student", {"keep": round(share, 2)}), ("quantize", {"method": method, "bits": 4}))


def _check(
    parameters: Any, memory: Any, speedup: Any, quality: Any, place: Any, training: Any
) -> None:
    def number(value: Any) -> bool:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and not math.isnan(value)
        )

    if not number(parameters) or not 0 < parameters < math.inf:
        raise CompressionError(
            f"parameters={parameters!r}: give the number of weights, such as 7e9."
        )
    if not number(memory) or memory <= 0:
        raise CompressionError(
            f"memory={memory!r}: give a positive number of bytes, such as 4e9, or leave it out."
        )
    if not number(speedup) or not 1 <= speedup < math.inf:
        raise CompressionError(f"speedup={speedup!r}: give 1 (as fast as now) or more.")
    if not number(quality) or not 0 < quality <= 1:
        raise CompressionError(
            f"quality={quality!r}: give the share that must stay, above 0 and up to 1."
        )
    if place not in PLACES:
        raise CompressionError(f"place={place!r}: choose one of {', '.join(map(repr, PLACES))}.")
    if not isinstance(training, bool):
        raise CompressionError(f"training={training!r}: give True or False.")
