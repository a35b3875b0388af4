"""Right and wrong answers to the exercises of lab 5.2."""

import functools
import math
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds, LinearConstraint, milp

# --- bytes ---


def by_walking(rows, columns, bits, group_size):
    """Adds up one row, code by code and group by group."""
    codes, groups = 0, 0
    for c in range(columns):
        codes += bits
        groups += c % group_size == 0
    return rows * ((codes + 7) // 8 + groups * (2 + 2))


def by_numpy(rows, columns, bits, group_size):
    return int((np.ceil(columns * bits / 8) + 4 * np.ceil(columns / group_size)) * rows)


def by_division(rows, columns, bits, group_size):
    return rows * -(-columns * bits // 8) + rows * -(-columns // group_size) * 4


def bytes_by(row):
    return lambda rows, columns, bits, group_size: rows * row(columns * bits, columns / group_size)


# --- times ---


def by_statistics(seconds, warmup):
    return {
        n: {b: statistics.median(runs.tolist()[warmup:]) * 1e6 for b, runs in o.items()}
        for n, o in seconds.items()
    }


def by_quantile(seconds, warmup):
    found = {}
    for name, options in seconds.items():
        for bits, runs in options.items():
            found.setdefault(name, {})[bits] = torch.quantile(runs[warmup:] * 1e6, 0.5)
    return found


def by_numpy_median(seconds, warmup):
    return {
        n: {b: np.median(np.asarray(runs)[warmup:]) / 1e-6 for b, runs in o.items()}
        for n, o in seconds.items()
    }


def timed(of, unit=1e6, first=lambda warmup: warmup):
    return lambda seconds, warmup: {
        n: {b: unit * float(of(runs.tolist()[first(warmup) :])) for b, runs in o.items()}
        for n, o in seconds.items()
    }


# --- the exact allocation ---


def listed(damages, sizes, times):
    """(layer, bits) of every option, and the three numbers of each as arrays."""
    pairs = [(name, bits) for name, options in damages.items() for bits in options]
    return pairs, *(
        np.array([table[n][b] for n, b in pairs], dtype=float) for table in (damages, sizes, times)
    )


def by_milp(damages, sizes, times, most_bytes, most_time):
    pairs, d, s, t = listed(damages, sizes, times)
    one = np.array([[name == n for n, _ in pairs] for name in damages], dtype=float)
    limits = [
        LinearConstraint(one, 1, 1),
        LinearConstraint(s, ub=most_bytes),
        LinearConstraint(t, ub=most_time),
    ]
    found = milp(
        d / d.max(),
        integrality=np.ones(len(d)),
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise ValueError(f"the budget cannot be kept: {found.message}")
    return {name: bits for (name, bits), x in zip(pairs, found.x, strict=True) if x > 0.5}


def by_memory(damages, sizes, times, most_bytes, most_time):
    """From each layer on, the best for what is left of both budgets; remembered."""
    names = list(damages)

    @functools.lru_cache(None)
    def rest(i, left, time):
        if i == len(names):
            return 0.0, None
        name, best = names[i], (math.inf, None)
        for bits, d in damages[name].items():
            after, later = round(left - sizes[name][bits], 7), round(time - times[name][bits], 7)
            if after >= -1e-9 * most_bytes and later >= -1e-9 * most_time:
                harm = d + rest(i + 1, after, later)[0]
                if harm < best[0]:
                    best = harm, (bits, after, later)
        return best

    chosen, at = {}, (0, round(float(most_bytes), 7), round(float(most_time), 7))
    if rest(*at)[0] == math.inf:
        raise ValueError("Budget too small for these layers.")
    for i, name in enumerate(names):
        bits, *left = rest(*at)[1]
        chosen[name], at = bits, (i + 1, *left)
    return chosen


def by_halves(damages, sizes, times, most_bytes, most_time):
    """Tables of the two halves of the layers are joined."""

    def table(names):
        if len(names) == 1:
            (n,) = names
            return {
                (sizes[n][b], times[n][b]): (d, {n: b})
                for b, d in sorted(damages[n].items(), key=lambda item: -item[1])
            }
        left, right = table(names[: len(names) // 2]), table(names[len(names) // 2 :])
        joined = {}
        for (s, t), (d, c) in left.items():
            for (s2, t2), (d2, c2) in right.items():
                at = round(s + s2, 6), round(t + t2, 6)
                if (
                    at[0] <= most_bytes + 1e-6
                    and at[1] <= most_time + 1e-6
                    and (at not in joined or d + d2 < joined[at][0])
                ):
                    joined[at] = (d + d2, c, c2)
        return {at: (d, {**c[0], **c[1]}) for at, (d, *c) in joined.items()}

    found = [
        entry
        for (s, t), entry in table(list(damages)).items()
        if s <= most_bytes + 1e-6 and t <= most_time + 1e-6
    ]
    if not found:
        raise ValueError("no budget for that")
    return {n: np.int64(b) for n, b in min(found, key=lambda entry: entry[0])[1].items()}


def loosely(
    solve=by_milp,
    bytes_of=lambda sizes: sizes,
    times_of=lambda times: times,
    less=0.0,
    instead=None,
):
    """The optimum of other tables, or of smaller budgets."""

    def answer(damages, sizes, times, most_bytes, most_time):
        try:
            return solve(
                damages,
                bytes_of(sizes),
                times_of(times),
                most_bytes * (1 - less),
                most_time * (1 - less),
            )
        except ValueError:
            if instead is None:
                raise
            return instead(damages, sizes, times)

    return answer


def nothing(table):
    return {n: dict.fromkeys(options, 0) for n, options in table.items()}


def alike(sizes):
    whole = sum(max(s.values()) for s in sizes.values()) / max(
        1, sum(max(s) for s in sizes.values())
    )
    return {n: {b: whole * b for b in s} for n, s in sizes.items()}


def by_bits(sizes):
    return {n: {b: max(s.values()) / max(1, *s) * b for b in s} for n, s in sizes.items()}


def each_smallest(damages, sizes, times):
    return {n: sorted(s, key=lambda b, s=s: s[b])[0] for n, s in sizes.items()}


def step_by_step(damages, sizes, times, most_bytes, most_time):
    now = each_smallest(damages, sizes, times)

    def total(table, chosen):
        return sum(table[n][b] for n, b in chosen.items())

    def fits(chosen):
        return total(sizes, chosen) <= most_bytes * (1 + 1e-9) and total(
            times, chosen
        ) <= most_time * (1 + 1e-9)

    if not fits(now):
        raise ValueError("budget")
    while True:
        steps = []
        for n, b in now.items():
            for c in damages[n]:
                if (
                    sizes[n][c] > sizes[n][b]
                    and damages[n][c] < damages[n][b]
                    and fits({**now, n: c})
                ):
                    steps.append(
                        ((damages[n][b] - damages[n][c]) / (sizes[n][c] - sizes[n][b]), n, c)
                    )
        if not steps:
            return now
        best = max(steps, key=lambda step: step[0])
        now[best[1]] = best[2]


def silent(damages, sizes, times, most_bytes, most_time):
    try:
        return by_milp(damages, sizes, times, most_bytes, most_time)
    except ValueError:
        return None


def says_nothing(damages, sizes, times, most_bytes, most_time):
    try:
        return by_milp(damages, sizes, times, most_bytes, most_time)
    except ValueError:
        return min([])


def places(damages, sizes, times, most_bytes, most_time):
    """The place of each option in its layer."""
    chosen = by_milp(damages, sizes, times, most_bytes, most_time)
    return {n: list(damages[n]).index(b) for n, b in chosen.items()}


def refuses(damages, sizes, times, most_bytes, most_time):
    raise ValueError("the budget is too small")


# --- sensitivities ---


def by_kl_div(run, next_tokens, errors):
    goal, found = run({}, "calibration"), {}
    for name, options in errors.items():
        found[name] = {}
        for bits in options:
            one = run({name: bits}, "calibration")
            found[name][bits] = (
                F.kl_div(one, goal, log_target=True, reduction="none").sum(-1).mean().item()
            )
    return found


def by_windows(run, next_tokens, errors):
    """Window by window, token by token, in NumPy."""
    p = run({}).numpy()

    def mean(q):
        return np.mean(
            [
                [np.dot(np.exp(a), a - b) for a, b in zip(x, y, strict=True)]
                for x, y in zip(p, q.numpy(), strict=True)
            ]
        )

    return {
        name: {bits: mean(run({name: bits})) for bits in options}
        for name, options in errors.items()
    }


def by_distributions(run, next_tokens, errors):
    exact = torch.distributions.Categorical(logits=run(bits={}, text="calibration"))
    return {
        n: {
            b: float(
                torch.distributions.kl_divergence(
                    exact, torch.distributions.Categorical(logits=run(bits={n: b}))
                ).mean()
            )
            for b in o
        }
        for n, o in errors.items()
    }


def measured(how, text="calibration", beside=lambda errors, n, b: {}):
    def answer(run, next_tokens, errors):
        p = run({}, text)
        return {
            n: {b: how(p, run({**beside(errors, n, b), n: b}, text), next_tokens).item() for b in o}
            for n, o in errors.items()
        }

    return answer


def kl(p, q, labels):
    return (torch.exp(p) * (p - q)).sum(2).mean()


def loss(p, q, labels):
    return F.nll_loss(q.flatten(0, 1), labels.flatten()) - F.nll_loss(
        p.flatten(0, 1), labels.flatten()
    )


def all_at(errors, name, bits):
    return {n: sorted(o, key=lambda c: abs(c - bits))[0] for n, o in errors.items()}


def those_before(errors, name, bits):
    found = {}
    for n, o in errors.items():
        if n == name:
            break
        found[n] = sorted(o)[-1]
    return found


RIGHT = {
    "lab_budget.layer_bytes": [by_walking, by_numpy, by_division],
    "lab_budget.time_table": [by_statistics, by_quantile, by_numpy_median],
    "lab_budget.allocate": [by_milp, by_memory, by_halves],
    "lab_budget.measure": [by_kl_div, by_windows, by_distributions],
}
WRONG = {
    "lab_budget.layer_bytes": [
        (bytes_by(lambda codes, groups: -(-codes // 8)), "codes_only"),
        (bytes_by(lambda codes, groups: -(-codes // 8) + 2 * math.ceil(groups)), "scales_only"),
        (bytes_by(lambda codes, groups: -(-codes // 8) + 4 * math.floor(groups)), "whole_groups"),
        (bytes_by(lambda codes, groups: codes / 8 + 4 * math.ceil(groups)), "part_bytes"),
        (
            lambda rows, columns, bits, group_size: 8 * by_walking(rows, columns, bits, group_size),
            "in_bits",
        ),
        (bytes_by(lambda codes, groups: -(-codes // 8) + 4), "one_scale_a_row"),
        (bytes_by(lambda codes, groups: codes // 8 + 4 * math.ceil(groups)), None),
        (
            lambda rows, columns, bits, group_size: (
                rows * columns * bits / 8 + 4 * rows * columns / group_size
            ),
            None,
        ),
    ],
    "lab_budget.time_table": [
        (timed(statistics.mean), "mean"),
        (timed(statistics.median, first=lambda warmup: 0), "warmup_counted"),
        (timed(min), "least"),
        (timed(statistics.median_low), "lower_middle"),
        (timed(statistics.median, unit=1), "in_seconds"),
        (timed(statistics.median, unit=1000), "in_milliseconds"),
        (timed(statistics.median, first=lambda warmup: 1), "one_run_skipped"),
        (timed(statistics.median_high), None),
        (timed(max), None),
        (timed(lambda runs: runs[-1]), None),
    ],
    "lab_budget.allocate": [
        (step_by_step, "greedy"),
        (loosely(times_of=nothing), "without_time"),
        (loosely(bytes_of=nothing), "without_bytes"),
        (
            lambda damages, sizes, times, most_bytes, most_time: {
                n: sorted(d, key=lambda b, d=d: d[b])[0] for n, d in damages.items()
            },
            "without_limits",
        ),
        (loosely(by_memory, less=1e-6), "strictly_below"),
        (loosely(instead=each_smallest), "infeasible_returned"),
        (loosely(bytes_of=alike), "equal_layers"),
        (loosely(bytes_of=by_bits), "mean_bits"),
        (silent, None),
        (says_nothing, None),
        (places, None),
        (refuses, None),
        (
            lambda damages, sizes, times, most_bytes, most_time: (
                by_milp(damages, sizes, times, most_bytes, most_time),
                0.0,
            ),
            None,
        ),
        (
            lambda damages, sizes, times, most_bytes, most_time: by_milp(
                {n: {b: 1 / (1e-6 + x) for b, x in d.items()} for n, d in damages.items()},
                sizes,
                times,
                most_bytes,
                most_time,
            ),
            None,
        ),
    ],
    "lab_budget.measure": [
        (measured(loss), "loss"),
        (measured(kl, "test"), "test_text"),
        (lambda run, next_tokens, errors: errors, "weight_error"),
        (measured(lambda p, q, labels: kl(q, p, labels)), "reversed"),
        (measured(kl, beside=all_at), "together"),
        (measured(kl, beside=those_before), "stays_rounded"),
        (measured(lambda p, q, labels: kl(p[:1], q[:1], labels)), "one_window"),
        (measured(lambda p, q, labels: kl(p, q, labels) * labels.numel()), "summed"),
        (measured(lambda p, q, labels: (p.exp() * (p - q)).mean()), "over_vocabulary"),
        (measured(lambda p, q, labels: kl(p, q, labels) / math.log(2)), "in_bits"),
        (measured(lambda p, q, labels: (p - q).square().mean()), None),
        (
            lambda run, next_tokens, errors: {
                n: sum(by_kl_div(run, next_tokens, {n: o})[n].values()) for n, o in errors.items()
            },
            None,
        ),
    ],
}
