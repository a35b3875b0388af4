"""Lesson 5.5: widths of layers for a latency; beside `hardware`."""

import itertools

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until
from .mixed_precision import least, total


def to_target(damages: list, seconds: list, weights: list, rest: float, target: float) -> list[int]:
    """The options, one a layer, of the least total damage with rest + Σ seconds ≤ target: all are
    tried.
    """
    return least(damages, lambda c: rest + total(seconds, c) <= target)


def by_weights(damages, seconds, weights, rest, target):
    """Cuts weights in the ratio in which the time has to fall."""
    whole = (0,) * len(weights)
    share = target / (rest + total(seconds, whole))
    return least(damages, lambda c: total(weights, c) <= share * total(weights, whole))


def greedy_steps(damages, seconds, weights, rest, target):
    """From the whole model, always the next narrower width that costs least damage for each second
    saved.
    """
    chosen = [0] * len(seconds)
    while rest + total(seconds, chosen) > target:
        steps = [((d[o + 1] - d[o]) / max(s[o] - s[o + 1], 1e-12), i)
                 for i, (d, s, o) in enumerate(zip(damages, seconds, chosen, strict=True)) if o + 1
                     < len(s)]  # fmt: skip
        if not steps:
            break
        chosen[min(steps)[1]] += 1
    return chosen


def same_everywhere(damages, seconds, weights, rest, target):
    for o in range(len(seconds[0])):
        if rest + total(seconds, [o] * len(seconds)) <= target:
            return [o] * len(seconds)
    return [len(row) - 1 for row in seconds]


TARGET_MISTAKES = {
    "rest_forgotten": lambda damages, seconds, weights, rest, target: least(
        damages, lambda c: total(seconds, c) <= target
    ),
    "by_weights": by_weights,
    "greedy": greedy_steps,
    "same_everywhere": same_everywhere,
    "fastest": lambda damages, seconds, weights, rest, target: [
        min(range(len(s)), key=lambda o: s[o]) for s in seconds
    ],
    "without_target": lambda damages, seconds, weights, rest, target: [
        min(range(len(d)), key=lambda o: d[o]) for d in damages
    ],
}


def draw_target(rng: torch.Generator) -> dict:
    """Widths from the whole down; damage grows as they shrink, times fall, but in one layer a
    narrower width is the slower one.
    """
    n = turn(rng, 3, 4)
    damages, seconds, weights = [], [], []
    for _ in range(n):
        size = pick(rng, 2, 3, 5)
        grow = (0.3 + torch.rand(3, generator=rng)).cumsum(0) * float(
            (1.5 * torch.randn((), generator=rng)).exp()
        )
        damages.append([0.0, *(round(float(g), 4) for g in grow)])
        fall = [1.0, *(1 - (0.1 + 0.2 * torch.rand(3, generator=rng)).cumsum(0)).tolist()]
        seconds.append([round(size * f, 3) for f in fall])
        weights.append([size * (4 - o) * 100 for o in range(4)])
    odd = int(torch.randint(n, (), generator=rng))
    seconds[odd][1] = round(1.1 * seconds[odd][0], 3)
    rest = round(2 + 2 * float(torch.rand((), generator=rng)), 3)
    goal = [pick(rng, 0, 1, 2, 3) for _ in range(n)]
    # never met exactly: floats
    return {
        "damages": damages,
        "seconds": seconds,
        "weights": weights,
        "rest": rest,
        "target": round(rest + total(seconds, goal), 3) + 5e-4,
    }


def tells(given: dict, needed: str) -> bool:
    right = to_target(**given)
    told = {name for name, wrong in TARGET_MISTAKES.items() if wrong(**given) != right}
    fits = [
        c
        for c in itertools.product(range(4), repeat=len(right))
        if given["rest"] + total(given["seconds"], c) <= given["target"]
    ]
    near = sorted(total(given["damages"], c) for c in fits)
    return (
        len(near) > 1
        and near[1] > 1.001 * near[0] + 1e-4
        and {"rest_forgotten", needed} <= told
        and len(told) >= 5
    )


def target_inputs(rng: torch.Generator) -> dict:
    needed = turn(rng, "greedy", "by_weights", "same_everywhere")
    return until(rng, draw_target, lambda given: tells(given, needed))


TO_TARGET = Exercise(
    "hardware.to_target", target_inputs, to_target, TARGET_MISTAKES,
    lesson="5.5-hardware-aware", kind="design", difficulty=3, minutes=9, trials=6,
)  # fmt: skip
