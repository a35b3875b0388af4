"""Lab 3.4: the bytes of a plan, the largest plan that fits, steps in order, what training won back,
the best order.
"""

import torch

from course_utils.learn.checks.exercise import Exercise

from ..concepts.pitfalls import between
from ..draws import pick, turn

# --- the bytes of a plan ---


def plan_inputs(rng: torch.Generator) -> dict:
    inside = 10_000 * int(torch.randint(50, 900, (), generator=rng))
    return {"outside": int(inside * between(rng, 0.05, 0.4)), "inside": inside,
            "keep": turn(rng, between(rng, 0.2, 0.9), between(rng, 0.2, 0.9), 0.0, 1.0),
            "bits": pick(rng, 2, 3, 4, 8), "group_size": pick(rng, 16, 32, 64)}  # fmt: skip


def a_weight(bits: int, group_size: int) -> float:
    """Bits of a weight with its share of a 16-bit scale and a zero point."""
    return bits + (16 + bits) / group_size


def plan_bytes(outside: int, inside: int, keep: float, bits: int, group_size: int) -> float:
    """2 outside + inside · keep · (bits + (16 + bits) / group_size) / 8."""
    stays = 2 * outside
    left = inside * keep
    return stays + left * a_weight(bits, group_size) / 8


# --- the largest plan that fits ---


def budget_inputs(rng: torch.Generator) -> dict:
    """Most budgets lie between nothing and all; some are too small or larger than needed."""
    given = plan_inputs(rng)
    keep = between(rng, 0.2, 0.9)
    given.pop("keep")
    whole = plan_bytes(keep=1.0, **given)
    budget = turn(
        rng,
        plan_bytes(keep=keep, **given),
        plan_bytes(keep=keep, **given),
        2 * given["outside"] * 0.9,
        whole * 1.3,
    )
    return {**given, "budget": budget}


def largest_keep(outside: int, inside: int, bits: int, group_size: int, budget: float) -> float:
    """(budget − 2 outside) / (bytes of all weights inside), between 0 and 1."""
    for_inside = budget - 2 * outside
    share = for_inside / (inside * a_weight(bits, group_size) / 8)
    return min(1.0, max(0.0, share))


def unclamped(outside, inside, bits, group_size, budget):
    return (budget - 2 * outside) / (inside * a_weight(bits, group_size) / 8)


def clamped(share: float) -> float:
    return min(1.0, max(0.0, share))


# --- steps in order ---


def step_inputs(rng: torch.Generator) -> dict:
    """Functions that do not commute, an order that is not that of the dictionary, steps that come
    twice.
    """
    a, b = between(rng, 2, 5), between(rng, 1, 3)
    steps = {
        "shift": lambda x: x + a,
        "stretch": lambda x: b * x,
        "square": lambda x: x * x,
        "flip": lambda x: 1 / (1 + x.abs()),
    }
    names = list(steps)
    order = [names[i] for i in (torch.randperm(3, generator=rng) + 1).tolist()]
    order += turn(
        rng, [order[0]], [order[-1], "shift"], ["flip", "shift", *["flip"] * 137, order[0]]
    )
    return {
        "start": torch.rand(3, generator=rng, dtype=torch.float64) + 1.5,
        "order": order,
        "steps": steps,
    }


def run_in_order(start, order: list, steps: dict) -> list:
    """[start, after the first step, after the second, …]."""
    found = [start]
    for name in order:
        found.append(steps[name](found[-1]))
    return found


# --- what training won back ---


def recovery_inputs(rng: torch.Generator) -> dict:
    before = between(rng, 0.5, 2)
    damaged = before + between(rng, 0.1, 1)
    share = turn(
        rng, between(rng, 0.1, 0.9), between(rng, -0.6, -0.1), between(rng, 1.1, 1.4), 0.03, 1.0
    )
    return {"before": before, "damaged": damaged, "after": damaged - (damaged - before) * share}


def recovered(before: float, damaged: float, after: float) -> float:
    """(damaged − after) / (damaged − before)."""
    lost = damaged - before
    won = damaged - after
    return won / lost


# --- the best order ---

NAMES = ["prune, distil, quantize", "prune, quantize, distil", "distil, prune, quantize",
         "distil, quantize, prune",
         "quantize, prune, distil", "quantize, distil, prune"]  # fmt: skip


def order_inputs(rng: torch.Generator) -> dict:
    """(bytes, loss) of six orders: two that fit may have the same loss; often the best of all does
    not fit, sometimes none.
    """
    budget = int(torch.randint(500, 2000, (), generator=rng))
    place = torch.randperm(6, generator=rng).tolist()
    low = between(rng, 0.6, 1.0)
    sizes = [budget, budget - 17, budget + 1, budget - 40, 3 * budget, budget - 90]
    losses = [
        low,
        low + pick(rng, 0, 0.02),
        low + pick(rng, -0.2, 0.2),
        low + 0.5,
        low + 0.05,
        low + 0.3,
    ]
    if turn(rng, False, False, True):
        sizes = [budget + 7 + i for i in range(6)]
    return {
        "results": {NAMES[i]: (sizes[p], losses[p]) for i, p in enumerate(place)},
        "budget": budget,
    }


def best_order(results: dict, budget: int) -> str:
    """The order with the lowest loss among those with at most `budget` bytes; of equal ones the
    smaller; '' if none fits.
    """
    best = ""
    for name, (size, loss) in results.items():
        if size > budget:
            continue
        if best == "" or (loss, size) < (results[best][1], results[best][0]):
            best = name
    return best


def chosen(allowed, key):
    def choose(results, budget):
        fits = [name for name in results if allowed(results[name][0], budget)]
        return min(fits, key=lambda name: key(*results[name]), default="")

    return choose


def first_that_fits(results, budget):
    return next((name for name, (size, _) in results.items() if size <= budget), "")


EXERCISES = [
    Exercise(
        # whole bytes and whole groups are right too
        id="lab_pipeline.plan_bytes",
        inputs=plan_inputs,
        spec=plan_bytes,
        tolerance=1e-4,
        lesson="lab-3.4-pipeline",
        trials=6,
        mistakes={
            "scales_forgotten": lambda outside, inside, keep, bits, group_size: (
                2 * outside + inside * keep * bits / 8
            ),
            "zero_points_forgotten": lambda outside, inside, keep, bits, group_size: (
                2 * outside + inside * keep * (bits + 16 / group_size) / 8
            ),
            "outside_forgotten": lambda outside, inside, keep, bits, group_size: plan_bytes(
                0, inside, keep, bits, group_size
            ),
            "outside_in_4_bytes": lambda outside, inside, keep, bits, group_size: plan_bytes(
                2 * outside, inside, keep, bits, group_size
            ),
            "removed_for_kept": lambda outside, inside, keep, bits, group_size: plan_bytes(
                outside, inside, 1 - keep, bits, group_size
            ),
            "outside_pruned": lambda outside, inside, keep, bits, group_size: plan_bytes(
                outside * keep, inside, keep, bits, group_size
            ),
            "in_bits": lambda outside, inside, keep, bits, group_size: (
                8 * plan_bytes(outside, inside, keep, bits, group_size)
            ),
        },
    ),
    Exercise(
        id="lab_pipeline.largest_keep",
        inputs=budget_inputs,
        spec=largest_keep,
        tolerance=1e-6,
        lesson="lab-3.4-pipeline",
        trials=24,
        mistakes={
            "not_limited": unclamped,
            "no_upper_limit": lambda **given: max(0.0, unclamped(**given)),
            "no_lower_limit": lambda **given: min(1.0, unclamped(**given)),
            "outside_forgotten": lambda outside, **given: largest_keep(0, **given),
            "scales_forgotten": lambda outside, inside, bits, group_size, budget: clamped(
                (budget - 2 * outside) / (inside * bits / 8)
            ),
            "share_of_all": lambda outside, inside, bits, group_size, budget: clamped(
                budget / plan_bytes(outside, inside, 1.0, bits, group_size)
            ),
            "removed": lambda **given: 1 - largest_keep(**given),
            "rounded": lambda **given: round(largest_keep(**given), 2),
        },
    ),
    Exercise(
        id="lab_pipeline.run_in_order",
        inputs=step_inputs,
        spec=run_in_order,
        tolerance=1e-6,
        lesson="lab-3.4-pipeline",
        mistakes={
            "reversed": lambda start, order, steps: run_in_order(start, order[::-1], steps),
            "from_the_start": lambda start, order, steps: [
                start,
                *(steps[name](start) for name in order),
            ],
            "start_missing": lambda start, order, steps: run_in_order(start, order, steps)[1:],
            "last_only": lambda start, order, steps: run_in_order(start, order, steps)[-1],
            "order_ignored": lambda start, order, steps: run_in_order(start, list(steps), steps),
            "repeats_dropped": lambda start, order, steps: run_in_order(
                start, list(dict.fromkeys(order)), steps
            ),
            "last_step_missing": lambda start, order, steps: run_in_order(start, order, steps)[:-1],
        },
    ),
    Exercise(
        id="lab_pipeline.recovered",
        inputs=recovery_inputs,
        spec=recovered,
        tolerance=1e-5,
        lesson="lab-3.4-pipeline",
        trials=5,
        mistakes={
            "still_lost": lambda before, damaged, after: (after - before) / (damaged - before),
            "of_the_damaged": lambda before, damaged, after: (damaged - after) / damaged,
            "in_nats": lambda before, damaged, after: damaged - after,
            "ratio": lambda before, damaged, after: before / after,
            "inverse": lambda before, damaged, after: (damaged - before) / (damaged - after),
            "clamped": lambda before, damaged, after: clamped(recovered(before, damaged, after)),
            "not_below_zero": lambda before, damaged, after: max(
                0.0, recovered(before, damaged, after)
            ),
            "absolute": lambda before, damaged, after: abs(recovered(before, damaged, after)),
            "sign": lambda before, damaged, after: (after - damaged) / (damaged - before),
        },
    ),
    Exercise(
        id="lab_pipeline.best_order",
        inputs=order_inputs,
        spec=best_order,
        tolerance=0,
        lesson="lab-3.4-pipeline",
        trials=24,
        mistakes={
            "budget_ignored": chosen(lambda size, budget: True, lambda size, loss: (loss, size)),
            "smallest": chosen(lambda size, budget: size <= budget, lambda size, loss: size),
            "limit_excluded": chosen(
                lambda size, budget: size < budget, lambda size, loss: (loss, size)
            ),
            "larger_of_equals": chosen(
                lambda size, budget: size <= budget, lambda size, loss: (loss, -size)
            ),
            "first_that_fits": first_that_fits,
            "worst": chosen(lambda size, budget: size <= budget, lambda size, loss: -loss),
            "too_large": chosen(
                lambda size, budget: size > budget, lambda size, loss: (loss, size)
            ),
        },
    ),
]
