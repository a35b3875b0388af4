"""Right and wrong answers to the exercises of lab 5.4."""

import math

import numpy as np
from scipy.stats import norm

from course_utils.evaluation import pareto
from course_utils.theory import intervals

# --- bytes of a plan ---


def up(count, bits):
    """Whole bytes of codes; rates are whole eighths."""
    return -(-count * round(8 * bits) // 64)


def by_walking(plan, header):
    seen, total = set(), header
    for name, count, bits, side in plan:
        if name not in seen:
            total += up(count, bits) + side
            seen.add(name)
    return total


def by_numpy(plan, header):
    _, first = np.unique([name for name, *_ in plan], return_index=True)
    count, bits, side = np.array([plan[i][1:] for i in first]).T
    return float(header + np.ceil(np.round(count * bits / 8, 6)).sum() + side.sum())


def by_recursion(plan, header):
    if not plan:
        return header
    name, count, bits, side = plan[0]
    return (
        by_recursion([entry for entry in plan if entry[0] != name], header) + up(count, bits) + side
    )


# --- a gate ---


def by_library(right, n, needed):
    low, high = intervals.wilson(right, n)
    return low, high, high >= needed


def by_roots(right, n, needed):
    """The interval's ends are the roots of (p − x)² = z² x (1 − x) / n."""
    z, p = norm.ppf(0.975), right / n
    low, high = sorted(np.roots([1 + z * z / n, -2 * p - z * z / n, p * p]).real)
    return max(0.0, low), min(1.0, high), bool(high >= needed - 1e-12)


def with_rounded_z(right, n, needed):
    z = 1.959964
    centre, half = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    low, high = (centre - half) / (n + z * z), (centre + half) / (n + z * z)
    return [low, high, not high < needed]


def gated(change):
    """The right answer, changed."""
    return lambda right, n, needed: change(*by_library(right, n, needed), right / n, needed)


def plainly(right, n, needed):
    p = right / n
    half = 1.959963984540054 * (p * (1 - p) / n) ** 0.5
    return max(0, p - half), min(1, p + half), min(1, p + half) >= needed


def narrower(right, n, needed):
    low, high = intervals.wilson(right, n, 0.9)
    return low, high, high >= needed


def not_divided(right, n, needed):
    z2 = norm.ppf(0.975) ** 2
    middle, half = (
        right / n + z2 / 2 / n,
        math.sqrt(z2 * (right / n * (1 - right / n) / n + z2 / 4 / n / n)),
    )
    return max(0.0, middle - half), min(1.0, middle + half), min(1.0, middle + half) >= needed


# --- the front ---


def by_pareto(entries):
    there = [i for i, e in enumerate(entries) if e[2]]
    return sorted(there[k] for k in pareto.front([(entries[i][0], -entries[i][1]) for i in there]))


def by_sweep(entries):
    order = sorted((e[0], -e[1], i) for i, e in enumerate(entries) if e[2])
    kept, best, last = [], -1.0, None
    for size, lost, i in order:
        if -lost > best or (size, lost) == last:
            kept.append(i)
            best, last = max(best, -lost), (size, lost)
    return sorted(kept)


def by_arrays(entries):
    size, facts, passed = (np.array(column) for column in zip(*entries, strict=True))
    better = (
        (size[:, None] <= size)
        & (facts[:, None] >= facts)
        & ((size[:, None] < size) | (facts[:, None] > facts))
        & passed[:, None]
    )
    return [int(i) for i in np.flatnonzero(passed & ~better.any(0))]


def fronted(beats, count=lambda e: e[2], want=False):
    """The entries that are beaten or not by a rule of one's own."""
    return lambda entries: [
        i
        for i, e in enumerate(entries)
        if count(e)
        and any(count(o) and beats(o, e) for o in entries[:i] + entries[i + 1 :]) is want
    ]


def better(o, e):
    """What beats."""
    return (o[0] < e[0] and o[1] >= e[1]) or (o[0] <= e[0] and o[1] > e[1])


RIGHT = {
    "lab_challenge.plan_bytes": [by_walking, by_numpy, by_recursion],
    "lab_challenge.gate": [by_library, by_roots, with_rounded_z],
    "lab_challenge.front": [by_pareto, by_sweep, by_arrays],
}
WRONG = {
    "lab_challenge.plan_bytes": [
        (lambda plan, header: header + sum(up(c, b) + s for _, c, b, s in plan), "tied_twice"),
        (lambda plan, header: by_walking(plan, 0), "header_forgotten"),
        (lambda plan, header: by_walking([(n, c, b, 0) for n, c, b, _ in plan], header),
         "side_forgotten"),
        (lambda plan, header:
            header + sum(c * round(8 * b) // 64 + s
                         for _, c, b, s in {e[0]: e for e in plan}.values()), "rounded_down"),
        (lambda plan, header:
            header + -(-sum(c * round(8 * b) + 64 * s for _, c, b, s in {
                e[0]: e for e in plan}.values()) // 64), "rounded_once"),
        (lambda plan, header:
            header + sum(-(-c * round(8 * b) // 8) + s
                         for _, c, b, s in {e[0]: e for e in plan}.values()), "in_bits"),
        (lambda plan, header: header, None),
        (lambda plan, header: header + sum(c for _, c, *_ in plan), None),
    ],
    "lab_challenge.gate": [
        (plainly, "wald"),
        (narrower, "one_sided"),
        (not_divided, "undivided"),
        (gated(lambda low, high, passed, p, needed: (low, high, p >= needed)), "by_the_value"),
        (gated(lambda low, high, passed, p, needed: (low, high, low >= needed)), "low_above"),
        (gated(lambda low, high, passed, p, needed: (low, high, not passed)), "reversed"),
        (gated(lambda low, high, passed, p, needed: (low, high, True)), None),
        (gated(lambda low, high, passed, p, needed: (high, low, passed)), None),
    ],
    "lab_challenge.front": [
        (fronted(lambda o, e: o[0] <= e[0] and o[1] >= e[1]), "equal_dropped"),
        (fronted(lambda o, e: o[0] < e[0] and o[1] > e[1]), "ties_kept"),
        (fronted(lambda o, e: (o[0] < e[0] and o[1] <= e[1]) or (o[0] <= e[0] and o[1] < e[1])),
         "facts_reversed"),
        (fronted(better, count=lambda e: True), "failed_kept"),
        (fronted(lambda o, e: o[0] < e[0]), "smallest_only"),
        (fronted(better, want=True), "beaten_ones"),
        (lambda entries: list(range(len(entries))), None),
        (lambda entries: [], None),
    ],
}  # fmt: skip
