"""Right and wrong answers to the exercises of lab_pipeline."""

import functools
import math


def per_weight(bits, group_size):
    return (bits * group_size + 16 + bits) / group_size / 8


def bytes_by_groups(outside, inside, keep, bits, group_size):
    weights = inside * keep
    groups = weights / group_size
    return outside * 2 + weights * bits / 8 + groups * 2 + groups * bits / 8


def keep_by_search(outside, inside, bits, group_size, budget):
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if bytes_by_groups(outside, inside, middle, bits, group_size) <= budget:
            low = middle
        else:
            high = middle
    return low


def keep_by_cases(outside, inside, bits, group_size, budget):
    left = budget - outside - outside
    if left <= 0:
        return 0.0
    return min(left / inside / per_weight(bits, group_size), 1.0)


def free(outside, inside, bits, group_size, budget):
    return (budget - 2 * outside) / inside / per_weight(bits, group_size)


def run_by_reduce(start, order, steps):
    return functools.reduce(lambda done, name: [*done, steps[name](done[-1])], order, [start])


def run_by_variable(start, order, steps):
    now, out = start, [start]
    for step in map(steps.get, order):
        now = step(now)
        out += [now]
    return tuple(out)


def best_sorted(results, budget):
    ranked = sorted((loss, size, name) for name, (size, loss) in results.items() if size <= budget)
    return ranked[0][2] if ranked else ""


def best_two_passes(results, budget):
    fits = {name: r for name, r in results.items() if r[0] <= budget}
    if not fits:
        return ""
    lowest = min(r[1] for r in fits.values())
    return min((r[0], name) for name, r in fits.items() if r[1] == lowest)[1]


def picking(test, key):
    def pick(results, budget):
        rows = [
            (key(size, loss), name) for name, (size, loss) in results.items() if test(size, budget)
        ]
        return min(rows)[1] if rows else ""

    return pick


def fits(size, budget):
    return size <= budget


def bytes_by_bits(outside, inside, keep, bits, group_size):
    in_bits = 16 * outside
    in_bits += inside * keep * bits
    in_bits += inside * keep / group_size * (16 + bits)
    return in_bits / 8


def keep_by_clamp(outside, inside, bits, group_size, budget):
    """The middle one of 0, the share and 1."""
    share = (8 * budget - 16 * outside) / (inside * bits + inside * (16 + bits) / group_size)
    return sorted([0.0, share, 1.0])[1]


def run_recursively(start, order, steps):
    if not order:
        return [start]
    return [start, *run_recursively(steps[order[0]](start), order[1:], steps)]


def recovered_in_tensors(before, damaged, after):
    import torch

    before, damaged, after = torch.tensor([before, damaged, after], dtype=torch.float64)
    return torch.sub(damaged, after).div(torch.sub(damaged, before))


def best_by_filter(results, budget):
    """Every order that fits and that no other one beats."""
    fitting = [(name, r) for name, r in results.items() if r[0] <= budget]
    for name, (size, loss) in fitting:
        if not any(
            other[1] < loss or (other[1] == loss and other[0] < size) for _, other in fitting
        ):
            return name
    return ""


def in_whole_bytes(outside, inside, keep, bits, group_size):
    """Whole weights, whole groups, whole bytes."""
    weights = round(inside * keep)
    groups = math.ceil(weights / group_size)
    return 2 * outside + math.ceil(weights * bits / 8) + 2 * groups + math.ceil(groups * bits / 8)


RIGHT = {
    "lab_pipeline.plan_bytes": [
        in_whole_bytes,
        bytes_by_bits,
        bytes_by_groups,
        lambda outside, inside, keep, bits, group_size: (
            2 * outside + keep * inside * per_weight(bits, group_size)
        ),
    ],
    "lab_pipeline.largest_keep": [keep_by_clamp, keep_by_search, keep_by_cases],
    "lab_pipeline.run_in_order": [run_recursively, run_by_reduce, run_by_variable],
    "lab_pipeline.recovered": [
        recovered_in_tensors,
        lambda before, damaged, after: 1 - (after - before) / (damaged - before),
        lambda before, damaged, after: (after - damaged) / (before - damaged),
    ],
    "lab_pipeline.best_order": [best_by_filter, best_sorted, best_two_passes],
}
WRONG = {
    "lab_pipeline.plan_bytes": [
        (lambda outside, inside, keep, bits, group_size: outside * 2 + inside * keep * bits / 8,
         "scales_forgotten"),
        (lambda outside, inside, keep, bits, group_size:
            outside * 2 + inside * keep * (bits / 8 + 2 / group_size), "zero_points_forgotten"),
        (lambda outside, inside, keep, bits, group_size:
            keep * inside * per_weight(bits, group_size), "outside_forgotten"),
        (lambda outside, inside, keep, bits, group_size:
            4 * outside + keep * inside * per_weight(bits, group_size), "outside_in_4_bytes"),
        (lambda outside, inside, keep, bits, group_size:
            2 * outside + (1 - keep) * inside * per_weight(bits, group_size), "removed_for_kept"),
        (lambda outside, inside, keep, bits, group_size:
            keep * (2 * outside + inside * per_weight(bits, group_size)), "outside_pruned"),
        (lambda outside, inside, keep, bits, group_size:
            16 * outside + 8 * keep * inside * per_weight(bits, group_size), "in_bits"),
        (lambda outside, inside, keep, bits, group_size: (outside + inside * keep) * bits / 8,
         None),
        (lambda outside, inside, keep, bits, group_size: 2 * (outside + inside), None),
    ],
    "lab_pipeline.largest_keep": [
        (lambda **given: float(f"{float(keep_by_cases(**given)):.2f}"), "rounded"),
        (free, "not_limited"),
        (lambda outside, inside, bits, group_size, budget:
            max(free(outside, inside, bits, group_size, budget), 0), "no_upper_limit"),
        (lambda outside, inside, bits, group_size, budget:
            min(free(outside, inside, bits, group_size, budget), 1), "no_lower_limit"),
        (lambda outside, inside, bits, group_size, budget:
            keep_by_cases(0, inside, bits, group_size, budget), "outside_forgotten"),
        (lambda outside, inside, bits, group_size, budget:
            min(1, max(0, (budget - 2 * outside) * 8 / bits / inside)), "scales_forgotten"),
        (lambda outside, inside, bits, group_size, budget:
            min(1, budget / bytes_by_groups(outside, inside, 1, bits, group_size)), "share_of_all"),
        (lambda outside, inside, bits, group_size, budget:
            1 - keep_by_cases(outside, inside, bits, group_size, budget), "removed"),
        (lambda outside, inside, bits, group_size, budget: 0.5, None),
        (lambda outside, inside, bits, group_size, budget: budget / (2 * inside + 2 * outside),
         None),
    ],
    "lab_pipeline.run_in_order": [
        (lambda start, order, steps:
            [start] + [start := steps[name](start) for i, name in enumerate(order) if name
                       not in order[:i]], "repeats_dropped"),
        (lambda start, order, steps: run_by_reduce(start, list(reversed(order)), steps),
         "reversed"),
        (lambda start, order, steps: [start] + [steps[name](start) for name in order],
         "from_the_start"),
        (lambda start, order, steps: run_by_reduce(start, order, steps)[1:], "start_missing"),
        (lambda start, order, steps: run_by_reduce(start, order, steps)[-1], "last_only"),
        (lambda start, order, steps: run_by_reduce(start, steps.keys(), steps), "order_ignored"),
        (lambda start, order, steps: run_by_reduce(start, order[:-1], steps), "last_step_missing"),
        (lambda start, order, steps: [start] * (len(order) + 1), None),
        (lambda start, order, steps: run_by_reduce(start, sorted(order), steps), None),
    ],
    "lab_pipeline.recovered": [
        (lambda before, damaged, after: min(max((damaged - after) / (damaged - before), 0), 1),
         "clamped"),
        (lambda before, damaged, after: max((damaged - after) / (damaged - before), 0),
         "not_below_zero"),
        (lambda before, damaged, after: abs(damaged - after) / (damaged - before), "absolute"),
        (lambda before, damaged, after: (after - before) / (damaged - before), "still_lost"),
        (lambda before, damaged, after: 1 - after / damaged, "of_the_damaged"),
        (lambda before, damaged, after: damaged - after, "in_nats"),
        (lambda before, damaged, after: before / after, "ratio"),
        (lambda before, damaged, after: (before - damaged) / (after - damaged), "inverse"),
        (lambda before, damaged, after: (damaged - after) / (before - damaged), "sign"),
        (lambda before, damaged, after: 1.0, None),
        (lambda before, damaged, after: 100 * (damaged - after) / (damaged - before), None),
    ],
    "lab_pipeline.best_order": [
        (lambda results, budget: min((n for n in results if results[n][0] <= budget), key=lambda n:
            (results[n][1], results[n][0]), default=None), None),
        (picking(lambda size, budget: True, lambda size, loss: (loss, size)), "budget_ignored"),
        (picking(fits, lambda size, loss: size), "smallest"),
        (picking(lambda size, budget: size < budget, lambda size, loss: (loss, size)),
         "limit_excluded"),
        (picking(fits, lambda size, loss: (loss, -size)), "larger_of_equals"),
        (lambda results, budget: next((name for name in results if results[name][0] <= budget), ""),
         "first_that_fits"),
        (picking(fits, lambda size, loss: -loss), "worst"),
        (picking(lambda size, budget: size > budget, lambda size, loss: (loss, size)), "too_large"),
        (lambda results, budget: "prune, distil, quantize", None),
        (lambda results, budget: results[best_sorted(results, budget) or "prune, distil, quantize"],
         None),
    ],
}  # fmt: skip
