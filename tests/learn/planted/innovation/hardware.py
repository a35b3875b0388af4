"""Right and wrong answers to the exercises of hardware."""

import bisect
import itertools
import math
import statistics

import numpy as np
import torch

# --- intensity ---


def by_rows(rows, columns, tokens, bits, group_size):
    """Walks through the groups of each row."""
    moved = 0.0
    for _ in range(rows):
        moved += columns * bits / 8
        for _start in range(0, columns, group_size):
            moved += 2
    moved += 4 * tokens * columns + 4 * tokens * rows
    return 2.0 * rows * columns * tokens / moved


def by_integers(rows, columns, tokens, bits, group_size):
    groups = -(-columns // group_size)
    bits_moved = rows * columns * bits + 16 * rows * groups + 32 * tokens * (rows + columns)
    return 16 * rows * columns * tokens / bits_moved


def by_token(rows, columns, tokens, bits, group_size):
    weights = rows * (columns * bits / 8 + 2 * math.ceil(columns / group_size))
    return torch.tensor(2 * rows * columns / (weights / tokens + 4 * (rows + columns)))


def ratio(ops, moved):
    return lambda rows, columns, tokens, bits, group_size: (
        ops(rows, columns, tokens) / moved(rows, columns, tokens, bits, group_size)
    )


def two(r, c, t):
    return 2 * r * c * t


def scales(r, c, g):
    return 2 * r * -(-c // g)


# --- where bytes stop to count ---


def by_counting(rows, columns, bits, peak, bandwidth):
    """Doubles until there are enough, then halves the interval."""

    def enough(t):
        return (
            2 * rows * columns * t / peak
            >= (rows * columns * bits / 8 + 4 * t * (rows + columns)) / bandwidth
        )

    high = 1
    while not enough(high):
        high *= 2
        if high > 10**12:
            return 0
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def by_ridge(rows, columns, bits, peak, bandwidth):
    ridge = peak / bandwidth
    left = 2 * rows * columns - ridge * 4 * (rows + columns)
    return -int(-ridge * rows * columns * bits / 8 // left) if left > 0 else 0


def by_numpy(rows, columns, bits, peak, bandwidth):
    a = np.array([2 * rows * columns / peak, 4 * (rows + columns) / bandwidth])
    gain = a[0] - a[1]
    return int(np.ceil(rows * columns * bits / 8 / bandwidth / gain)) * int(gain > 0)


def tokens(gain, weights, up=math.ceil):
    def answer(rows, columns, bits, peak, bandwidth):
        g = gain(rows, columns, peak, bandwidth)
        return up(weights(rows, columns, bits) / bandwidth / g) if g > 0 else 0

    return answer


def usual(r, c, p, m):
    return 2 * r * c / p - 4 * (r + c) / m


def codes(r, c, b):
    return r * c * b / 8


# --- times from turns ---


def by_sorting(turns, calls, empty):
    return {n: sorted(t)[0] / calls[n] - sorted(empty)[0] for n, t in turns.items()}


def by_arrays(turns, calls, empty):
    off = np.min(empty)
    return {n: float((np.array(t) / calls[n]).min() - off) for n, t in turns.items()}


def by_tensors(turns, calls, empty):
    found = {}
    for name in calls:
        one = torch.tensor(turns[name], dtype=torch.float64) / calls[name]
        found[name] = (one - min(empty)).amin()
    return found


def timed(one, off):
    return lambda turns, calls, empty: {n: one(t, calls[n]) - off(empty) for n, t in turns.items()}


# --- a latency table ---


def by_bisection(widths, measured, rest):
    steps = sorted(measured)
    return sum((measured[steps[bisect.bisect_left(steps, w)]] for w in widths), rest)


def by_climbing(widths, measured, rest):
    taken = rest
    for w in widths:
        while w not in measured:
            w += 1
        taken += measured[w]
    return taken


def by_table(widths, measured, rest):
    m = torch.tensor(sorted(measured))
    t = torch.tensor([measured[int(w)] for w in m], dtype=torch.float64)
    return float(t[torch.searchsorted(m, torch.tensor(widths))].sum()) + rest


def lines(widths, measured, rest):
    m = sorted(measured)
    return rest + float(np.interp(widths, m, [measured[w] for w in m]).sum())


def looked_up(of, every=list, extra=lambda rest: rest):
    return lambda widths, measured, rest: sum(of(w, measured) for w in every(widths)) + extra(rest)


def up(w, m):
    return m[min(x for x in m if x >= w)]


# --- pruning to a latency ---


def by_fronts(damages, seconds, weights, rest, target):
    """Layer by layer, without what another choice beats in both."""
    front = [(rest, 0.0, [])]
    for d, s in zip(damages, seconds, strict=True):
        grown = sorted(
            (t + b, h + a, [*c, o])
            for t, h, c in front
            for o, (a, b) in enumerate(zip(d, s, strict=True))
        )
        front = []
        for t, h, c in grown:
            if t <= target + 1e-9 and (not front or h < front[-1][1]):
                front.append((t, h, c))
    return front[-1][2]


def by_recursion(damages, seconds, weights, rest, target):
    def best(i, left):
        if i == len(damages):
            return 0.0, ()
        found = (math.inf, ())
        for o, (d, s) in enumerate(zip(damages[i], seconds[i], strict=True)):
            if s <= left + 1e-9:
                harm, more = best(i + 1, left - s)
                found = min(found, (harm + d, (o, *more)))
        return found

    return best(0, target - rest)[1]


def by_milp(damages, seconds, weights, rest, target):
    from scipy.optimize import Bounds, LinearConstraint, milp

    pairs = [(i, o) for i, row in enumerate(damages) for o in range(len(row))]
    cost, time = (np.array([table[i][o] for i, o in pairs]) for table in (damages, seconds))
    one = np.array([[i == layer for i, _ in pairs] for layer in range(len(damages))], dtype=float)
    limits = [LinearConstraint(one, 1, 1), LinearConstraint(time, ub=target - rest + 1e-9)]
    found = milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"mip_rel_gap": 0},
    )
    return [o for (_, o), x in zip(pairs, found.x, strict=True) if x > 0.5]


def every(damages, fits):
    found = [c for c in itertools.product(*(range(len(r)) for r in damages)) if fits(c)]
    return min(
        found,
        key=lambda c: sum(r[o] for r, o in zip(damages, c, strict=True)),
        default=(0,) * len(damages),
    )


def summed(table, c):
    return sum(r[o] for r, o in zip(table, c, strict=True))


def cut_weights(damages, seconds, weights, rest, target):
    whole = [0] * len(weights)
    most = summed(weights, whole) * target / (rest + summed(seconds, whole))
    return every(damages, lambda c: summed(weights, c) <= most + 1e-9)


def stepwise(damages, seconds, weights, rest, target):
    c = [0] * len(damages)
    while rest + summed(seconds, c) > target + 1e-9:
        open_ = [i for i in range(len(c)) if c[i] + 1 < len(damages[i])]
        if not open_:
            return c
        worth = {
            i: (damages[i][c[i] + 1] - damages[i][c[i]])
            / max(seconds[i][c[i]] - seconds[i][c[i] + 1], 1e-12)
            for i in open_
        }
        c[min(worth, key=worth.get)] += 1
    return c


def even(damages, seconds, weights, rest, target):
    n, last = len(seconds), len(seconds[0]) - 1
    return next(
        ([o] * n for o in range(last + 1) if rest + summed(seconds, [o] * n) <= target + 1e-9),
        [last] * n,
    )


# --- weights as conductances ---


def by_cells(weight, levels):
    """Cell by cell, in Python's numbers."""
    found = torch.zeros_like(weight)
    for i, row in enumerate(weight.tolist()):
        top = max(map(abs, row))
        for j, w in enumerate(row):
            if top:
                plus, minus = (
                    round(max(w, 0) / top * (levels - 1)),
                    round(max(-w, 0) / top * (levels - 1)),
                )
                found[i, j] = (plus - minus) * top / (levels - 1)
    return found


def by_sign(weight, levels):
    top = weight.abs().max(1, keepdim=True).values
    g = torch.nan_to_num(weight.abs() / top * (levels - 1)).round()
    return weight.sign() * g / (levels - 1) * top


def by_nearest(weight, levels):
    grid = torch.linspace(-1, 1, 2 * levels - 1, dtype=weight.dtype)
    top = weight.abs().amax(1, keepdim=True)
    return grid[((weight / top.clamp(min=1e-30))[..., None] - grid).abs().argmin(-1)] * top


def held(top, steps=lambda n: n - 1, near=torch.round, sign=torch.sign, back=True):
    def answer(weight, levels):
        high = top(weight).expand_as(weight)
        step = torch.where(high > 0, high, 1.0) / steps(levels)
        return (
            sign(weight) * near(weight.abs() / step).clamp(max=levels - 1) * (step if back else 1)
        )

    return answer


def of_rows(w):
    return w.abs().amax(1, keepdim=True)


RIGHT = {
    "hardware.intensity": [by_rows, by_integers, by_token],
    "hardware.enough_tokens": [by_counting, by_ridge, by_numpy],
    "hardware.times": [by_sorting, by_arrays, by_tensors],
    "hardware.forecast": [by_bisection, by_climbing, by_table],
    "hardware.to_target": [by_fronts, by_recursion, by_milp],
    "hardware.read_back": [by_cells, by_sign, by_nearest],
}

WRONG = {
    "hardware.intensity": [
        (
            ratio(
                lambda r, c, t: r * c * t,
                lambda r, c, t, b, g: codes(r, c, b) + scales(r, c, g) + 4 * t * (r + c),
            ),
            "one_operation",
        ),
        (
            ratio(
                lambda r, c, t: 2 * r * c,
                lambda r, c, t, b, g: codes(r, c, b) + scales(r, c, g) + 4 * t * (r + c),
            ),
            "one_token",
        ),
        (ratio(two, lambda r, c, t, b, g: codes(r, c, b) + scales(r, c, g)), "no_inputs"),
        (ratio(two, lambda r, c, t, b, g: codes(r, c, b) + 4 * t * (r + c)), "no_scales"),
        (
            ratio(
                two, lambda r, c, t, b, g: 8 * codes(r, c, b) + scales(r, c, g) + 4 * t * (r + c)
            ),
            "bits_as_bytes",
        ),
        (
            ratio(
                two, lambda r, c, t, b, g: codes(r, c, b) * t + scales(r, c, g) + 4 * t * (r + c)
            ),
            "weights_each_token",
        ),
        (
            ratio(two, lambda r, c, t, b, g: codes(r, c, b) + scales(r, c, g) + 4 * (r + c)),
            "one_input",
        ),
        (
            ratio(two, lambda r, c, t, b, g: codes(r, c, b) + 2 * r * (c // g) + 4 * t * (r + c)),
            "whole_groups",
        ),
        (ratio(two, lambda r, c, t, b, g: codes(r, c, b) + scales(r, c, g) + 4 * t * c), None),
        (
            lambda rows, columns, tokens, bits, group_size: (
                1 / by_rows(rows, columns, tokens, bits, group_size)
            ),
            None,
        ),
    ],
    "hardware.enough_tokens": [
        (tokens(lambda r, c, p, m: 2 * r * c / p, codes), "no_inputs"),
        (tokens(lambda r, c, p, m: r * c / p - 4 * (r + c) / m, codes), "one_operation"),
        (tokens(usual, lambda r, c, b: 4 * r * c), "always_32"),
        (tokens(usual, lambda r, c, b: r * c * b), "bits_as_bytes"),
        (tokens(usual, codes, int), "rounded_down"),
        (
            lambda rows, columns, bits, peak, bandwidth: math.ceil(
                codes(rows, columns, bits) / bandwidth / usual(rows, columns, peak, bandwidth)
            ),
            "not_never",
        ),
        (tokens(lambda r, c, p, m: 2 * r * c / p - 4 * c / m, codes), None),
        (
            lambda rows, columns, bits, peak, bandwidth: max(
                1, by_ridge(rows, columns, bits, peak, bandwidth)
            ),
            None,
        ),
    ],
    "hardware.times": [
        (timed(lambda t, n: statistics.fmean(t) / n, min), "mean"),
        (timed(lambda t, n: statistics.median(t) / n, min), "median"),
        (timed(lambda t, n: max(t) / n, min), "slowest"),
        (timed(lambda t, n: t[0] / n, min), "first"),
        (timed(lambda t, n: min(t) / len(t), min), "by_turns"),
        (timed(lambda t, n: min(t) / n, lambda e: 0), "nothing_taken_off"),
        (
            lambda turns, calls, empty: {
                n: (min(t) - min(empty)) / calls[n] for n, t in turns.items()
            },
            "taken_off_once",
        ),
        (timed(lambda t, n: min(t) / n, statistics.fmean), "mean_of_nothing"),
        (timed(lambda t, n: sum(t) / len(t) / len(t), lambda e: 0), "as_given"),
        (timed(lambda t, n: min(t[1:]) / n, max), None),
        (lambda turns, calls, empty: {n: min(t) - min(empty) for n, t in turns.items()}, None),
    ],
    "hardware.forecast": [
        (lines, "interpolated"),
        (looked_up(lambda w, m: m[sorted(m, key=lambda x: abs(x - w))[0]]), "nearest"),
        (looked_up(lambda w, m: m[max([x for x in m if x <= w] or [min(m)])]), "next_smaller"),
        (looked_up(lambda w, m: w / max(m) * m[max(m)]), "in_proportion"),
        (looked_up(lambda w, m: m[min([x for x in m if x > w] or [max(m)])]), "strictly_larger"),
        (looked_up(up, lambda widths: dict.fromkeys(widths)), "each_once"),
        (looked_up(up, extra=lambda rest: 0), "rest_forgotten"),
        (looked_up(up, extra=lambda rest: 2 * rest), None),
        (lambda widths, measured, rest: rest + max(up(w, measured) for w in widths), None),
    ],
    "hardware.to_target": [
        (
            lambda damages, seconds, weights, rest, target: every(
                damages, lambda c: summed(seconds, c) <= target
            ),
            "rest_forgotten",
        ),
        (cut_weights, "by_weights"),
        (stepwise, "greedy"),
        (even, "same_everywhere"),
        (
            lambda damages, seconds, weights, rest, target: [s.index(min(s)) for s in seconds],
            "fastest",
        ),
        (
            lambda damages, seconds, weights, rest, target: every(
                damages, lambda c: rest + summed(seconds, c) <= 0.9 * target
            ),
            None,
        ),
        (lambda damages, seconds, weights, rest, target: [0] * len(seconds), "without_target"),
        (
            lambda damages, seconds, weights, rest, target: by_fronts(
                damages, seconds, weights, rest, target
            )[::-1],
            None,
        ),
    ],
    "hardware.read_back": [
        (held(lambda w: w.abs().max()[None, None]), "one_range"),
        (held(lambda w: w.abs().amax(0, keepdim=True)), "range_of_inputs"),
        (held(lambda w: w.amax(1, keepdim=True).clamp(min=0)), "range_without_sign"),
        (held(of_rows, steps=lambda n: n), "levels_as_steps"),
        (held(of_rows, steps=lambda n: (n - 1) / 2), "both_signs_share"),
        (held(of_rows, near=torch.trunc), "rounded_down"),
        (held(of_rows, sign=lambda w: (w > 0).double()), "one_conductance"),
        (held(of_rows, back=False), "not_scaled_back"),
        (held(of_rows, steps=lambda n: 2 * (n - 1)), None),
        (lambda weight, levels: weight.clone(), None),
    ],
}
