"""Lab 5.4: the bytes of a plan, a gate with its interval, and who is on the front."""

import math

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

LAB = "lab-5.4-challenge"

# --- bytes of a plan ---


def plan_inputs(rng: torch.Generator) -> dict:
    """Few tensors or many, within a byte or at a whole one; one used twice.

    Rates are exact in binary.
    """
    plan = []
    for i in range(turn(rng, 3, 5, 8, 140)):
        count, side = (
            int(torch.randint(100, 9000, (), generator=rng)),
            int(torch.randint(4, 300, (), generator=rng)),
        )
        plan.append((f"layer {i}", count, pick(rng, 1.75, 2.375, 3.0, 4.875), side))
    plan.append(("whole", 64 * pick(rng, 3, 7, 20), pick(rng, 1.75, 2.375, 3.0), 9))
    plan.insert(int(torch.randint(len(plan) + 1, (), generator=rng)), ("tied", 5001, 4.875, 77))
    if turn(rng, True, True, False):
        plan.append(("tied", 5001, 4.875, 77))
    return {"plan": plan, "header": int(torch.randint(50, 2000, (), generator=rng))}


def plan_bytes(plan: list, header: int) -> int:
    """Header + Σ (⌈count · bits / 8⌉ + side), a name that stands twice counted once."""
    return header + sum(
        math.ceil(count * bits / 8) + side
        for count, bits, side in {name: rest for name, *rest in plan}.values()
    )


def bytes_with(of, once=True, head=True, last=lambda total: total):
    def answer(plan, header):
        rows = (
            {name: rest for name, *rest in plan}.values() if once else [rest for _, *rest in plan]
        )
        return last(header * head + sum(of(*row) for row in rows))

    return answer


def right_row(count, bits, side):
    """Bytes of one tensor."""
    return math.ceil(count * bits / 8) + side


# --- a gate ---


def gate_inputs(rng: torch.Generator) -> dict:
    """Shares around what is needed, few and many items, also all right."""
    n, needed = pick(rng, 40, 80, 200, 1000), pick(rng, 0.9, 0.95, 0.98)
    below = turn(rng, 0.0, 0.02, 0.15, -1.0)
    return {
        "right": min(n, max(0, round(n * (needed - below)))) if below >= 0 else n,
        "n": n,
        "needed": needed,
    }


def gate(right: int, n: int, needed: float) -> tuple[float, float, bool]:
    """(low, high, passed): Wilson's 95 % interval; stopped only where all of it lies below
    `needed`.
    """
    low, high = wilson_with(right, n)
    return low, high, high >= needed


def wilson_with(right, n, z=1.959963984540054):
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def gate_with(interval=wilson_with, verdict=lambda low, high, p, needed: high >= needed):
    def answer(right, n, needed):
        low, high = interval(right, n)
        return low, high, bool(verdict(low, high, right / n, needed))

    return answer


def wald(right, n):
    p = right / n
    half = 1.959963984540054 * math.sqrt(p * (1 - p) / n)
    return max(0.0, p - half), min(1.0, p + half)


def undivided(right, n):
    z, p = 1.959963984540054, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


# --- the front ---


def front_inputs(rng: torch.Generator) -> dict:
    """Entries with ties in bytes, in facts, in both; some failed a gate,
    one of them beats others.
    """
    count = turn(rng, 6, 12, 3, 240)
    steps = torch.randperm(count, generator=rng).tolist()
    if count == 240:  # a long front: what costs more has more facts, nearly always
        entries = [
            (
                1000 + 10 * i,
                0.88 + i / 2000 - pick(rng, *[0] * 9, 0.05),
                pick(rng, *[True] * 9, False),
            )
            for i in steps
        ]
    else:
        sizes, shares = (7, 8, 9, 10, 12), (0.98, 0.985, 0.99, 1.0)
        entries = [
            (1000 * pick(rng, *sizes), pick(rng, *shares), pick(rng, *[True] * 4, False))
            for _ in steps
        ]
    best = min((e for e in entries if e[2]), default=(9000, 1.0, True))
    # one that failed beats the smallest that did not; a passed one stands twice
    entries += [(best[0] - 500, best[1], False), best]
    return {"entries": entries}


def front(entries: list) -> list[int]:
    """Indices of the entries that passed and that no other such entry beats, in ascending order;
    equal entries stay together.
    """
    return front_with(beaten)(entries)


def beaten(one, other):
    """Whether `one` beats `other`: no more bytes, no fewer facts, and better in one of them."""
    return one[0] <= other[0] and one[1] >= other[1] and one[:2] != other[:2]


def front_with(beats, passed=lambda entry: entry[2], keep=lambda lost: not lost):
    def answer(entries):
        return [
            i
            for i, e in enumerate(entries)
            if passed(e)
            and keep(any(passed(o) and beats(o, e) for j, o in enumerate(entries) if j != i))
        ]

    return answer


EXERCISES = [
    Exercise(
        "lab_challenge.plan_bytes",
        plan_inputs,
        plan_bytes,
        {
            "tied_twice": bytes_with(right_row, once=False),
            "header_forgotten": bytes_with(right_row, head=False),
            "side_forgotten": bytes_with(lambda c, b, s: math.ceil(c * b / 8)),
            "rounded_down": bytes_with(lambda c, b, s: int(c * b / 8) + s),
            "rounded_once": bytes_with(
                lambda c, b, s: c * b / 8 + s, last=lambda total: math.ceil(total)
            ),
            "in_bits": bytes_with(lambda c, b, s: math.ceil(c * b) + s),
        },
        lesson=LAB,
        trials=6,
        tolerance=1e-6,
    ),
    Exercise(
        "lab_challenge.gate",
        gate_inputs,
        gate,
        {
            "wald": gate_with(wald),
            "one_sided": gate_with(lambda right, n: wilson_with(right, n, 1.6448536269514722)),
            "undivided": gate_with(undivided),
            "by_the_value": gate_with(verdict=lambda low, high, p, needed: p >= needed),
            "low_above": gate_with(verdict=lambda low, high, p, needed: low >= needed),
            "reversed": gate_with(verdict=lambda low, high, p, needed: high < needed),
        },
        lesson=LAB,
        trials=8,
    ),
    Exercise(
        "lab_challenge.front",
        front_inputs,
        front,
        {
            "equal_dropped": front_with(
                lambda one, other: one[0] <= other[0] and one[1] >= other[1]
            ),
            "ties_kept": front_with(lambda one, other: one[0] < other[0] and one[1] > other[1]),
            "facts_reversed": front_with(
                lambda one, other: (
                    one[0] <= other[0] and one[1] <= other[1] and one[:2] != other[:2]
                )
            ),
            "failed_kept": front_with(beaten, passed=lambda entry: True),
            "smallest_only": front_with(lambda one, other: one[0] < other[0]),
            "beaten_ones": front_with(beaten, keep=lambda lost: lost),
        },
        lesson=LAB,
        trials=8,
    ),
]
