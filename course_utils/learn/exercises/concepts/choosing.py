"""Lesson 2.4: the bits that fit, the decision flow, the version to ship."""

import torch

from course_utils.evaluation.advisor import WIDTHS, goal_of, weight_bytes
from course_utils.learn.checks.exercise import Exercise

from ..draws import pick


def below(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


# --- the bits that fit ---


def fitting(rng: torch.Generator) -> dict:
    """Memory near an edge: just enough for a width, hardly too little, or enough for its codes (and
    scales) alone.
    """
    parameters, group_size = 10**6 * pick(rng, 50, 300, 1300, 7000), pick(rng, 16, 32, 64)
    bits = pick(rng, *WIDTHS, 1)
    whole, codes = weight_bytes(parameters, bits, group_size), parameters * bits / 8
    scales = codes + parameters * 2 / group_size
    between = 0.2 + 0.6 * below(rng)
    memory = pick(
        rng, whole, whole - parameters / group_size / 16, whole - parameters / group_size / 16,
        whole * (1 + between / 10), codes + (scales - codes) * between,
        scales + (whole - scales) * between,
    )  # fmt: skip
    return {"parameters": parameters, "memory": memory, "group_size": group_size}


def bits_that_fit(
    parameters: float, memory: float, group_size: int, *, widths=WIDTHS, size=weight_bytes
) -> int:
    """The first of 16, 8, 4, 3, 2 with N (b + (16 + b) / g) / 8 ≤ memory (no scales at 16 bits); 0
    if there is none.
    """
    for bits in widths:
        if size(parameters, bits, group_size) <= memory:
            return bits
    return 0


def with_size(size):
    return lambda parameters, memory, group_size: bits_that_fit(
        parameters, memory, group_size, size=size
    )


# --- the decision flow ---


def situations(rng: torch.Generator) -> dict:
    return {
        "bits": pick(rng, 16, 8, 8, 4, 3, 0),
        "speedup": pick(rng, 1.0, 1.0, 1.5, 3.0),
        "place": pick(rng, "anywhere", "edge", "cloud"),
    }


def goal(bits: int, speedup: float, place: str) -> str:
    """The first rule that applies: edge, memory (8 bits do not fit), speed, cloud, quality."""
    return goal_of(bits=bits, speedup=speedup, place=place)


def in_order(*rules):
    """A flow that asks in another order."""
    applies = {
        "edge": lambda bits, speedup, place: place == "edge",
        "memory": lambda bits, speedup, place: bits < 8,
        "speed": lambda bits, speedup, place: speedup > 1,
        "cloud": lambda bits, speedup, place: place == "cloud",
    }

    def flow(bits, speedup, place):
        return next((rule for rule in rules if applies[rule](bits, speedup, place)), "quality")

    return flow


# --- the version to ship ---


def versions(rng: torch.Generator) -> dict:
    """Versions of which one is smallest, one best, one fastest, and some fulfil only one of the two
    conditions.
    """
    n = int(torch.randint(6, 10, (), generator=rng))
    sizes = (torch.randperm(60, generator=rng)[:n] + 5).tolist()
    losses = [round(0.6 + 0.6 * below(rng), 3) for _ in range(n)]
    speeds = [round(0.5 + 2.5 * below(rng), 2) for _ in range(n)]
    max_loss = sorted(losses)[pick(rng, 0, n // 2, n // 2, n - 2)]
    min_speed = sorted(speeds)[pick(rng, 1, n // 2, n // 2, n - 1)]
    return {
        "sizes": sizes,
        "losses": losses,
        "speeds": speeds,
        "max_loss": max_loss,
        "min_speed": min_speed,
    }


def ship(sizes: list, losses: list, speeds: list, max_loss: float, min_speed: float) -> int:
    """Index of the smallest version with loss ≤ max_loss and speed ≥ min_speed; −1 if there is
    none.
    """
    best = -1
    for i in range(len(sizes)):
        allowed = losses[i] <= max_loss and speeds[i] >= min_speed
        if allowed and (best == -1 or sizes[i] < sizes[best]):
            best = i
    return best


def among(allowed, key):
    """A wrong choice: the lowest key among the versions that `allowed` lets through."""

    def choose(sizes, losses, speeds, max_loss, min_speed):
        rows = [
            i for i in range(len(sizes)) if allowed(losses[i] <= max_loss, speeds[i] >= min_speed)
        ]
        return min(rows, key=lambda i: key(sizes[i], losses[i], speeds[i]), default=-1)

    return choose


def strict(sizes, losses, speeds, max_loss, min_speed):
    rows = [i for i in range(len(sizes)) if losses[i] < max_loss and speeds[i] > min_speed]
    return min(rows, key=sizes.__getitem__, default=-1)


EXERCISES = [
    Exercise(
        id="choosing.bits_that_fit", kind="debug", difficulty=2, minutes=10,
        inputs=fitting, spec=bits_that_fit, tolerance=0, lesson="2.4-choosing", trials=100,
        mistakes={
            "scales_forgotten": with_size(lambda n, bits, g: n * bits / 8),
            "zero_points_forgotten": with_size(lambda n, bits, g:
                n * (bits + 16 / g if bits < 16 else 16) / 8),
            "bits_for_bytes": with_size(lambda n, bits, g: 8 * weight_bytes(n, bits, g)),
            "smallest_width": lambda parameters, memory, group_size: bits_that_fit(
                parameters, memory, group_size, widths=WIDTHS[::-1]
            ),
            "scales_at_16": with_size(lambda n, bits, g: n * (bits + (16 + bits) / g) / 8),
            "no_3_bits": lambda parameters, memory, group_size: bits_that_fit(
                parameters, memory, group_size, widths=(16, 8, 4, 2)
            ),
        },
    ),
    Exercise(
        id="choosing.goal", kind="formula", difficulty=1, minutes=6,
        inputs=situations, spec=goal, tolerance=0, lesson="2.4-choosing", trials=60,
        mistakes={
            "memory_before_edge": in_order("memory", "edge", "speed", "cloud"),
            "speed_before_memory": in_order("edge", "speed", "memory", "cloud"),
            "cloud_before_speed": in_order("edge", "memory", "cloud", "speed"),
            "cloud_first": in_order("cloud", "edge", "memory", "speed"),
            "eight_is_short": lambda bits, speedup, place: goal(bits - 1, speedup, place),
            "any_speed": lambda bits, speedup, place: goal(bits, speedup + 1, place),
            "no_memory": in_order("edge", "speed", "cloud"),
        },
    ),
    Exercise(
        id="choosing.ship", kind="decide", difficulty=2, minutes=6,
        inputs=versions, spec=ship, tolerance=0, lesson="2.4-choosing", trials=40,
        mistakes={
            "one_condition_enough": among(lambda loss, speed: loss or speed,
                                          lambda size, loss, speed: size),
            "speed_ignored": among(lambda loss, speed: loss, lambda size, loss, speed: size),
            "loss_ignored": among(lambda loss, speed: speed, lambda size, loss, speed: size),
            "lowest_loss": among(lambda loss, speed: loss and speed,
                                 lambda size, loss, speed: loss),
            "fastest": among(lambda loss, speed: loss and speed, lambda size, loss, speed: -speed),
            "largest": among(lambda loss, speed: loss and speed, lambda size, loss, speed: -size),
            "smallest_of_all": among(lambda loss, speed: True, lambda size, loss, speed: size),
            "limits_excluded": strict,
        },
    ),
]  # fmt: skip
