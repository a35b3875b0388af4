"""Right and wrong answers to the exercises of overparameterization."""

import math
import statistics

import numpy as np
import torch
from scipy import optimize, stats

from course_utils.theory import generalization

# --- a round of iterative magnitude pruning ---


def by_ranking(initial, trained, mask, rate):
    n = int(mask.sum())
    score = torch.where(mask, trained.abs(), -torch.ones_like(trained))
    keep = score.flatten().argsort(descending=True)[: n - round(rate * n)]
    new = torch.zeros(mask.numel(), dtype=torch.bool)
    new[keep] = True
    new = new.view(mask.shape)
    return new, initial * new


def by_threshold(initial, trained, mask, rate):
    left = trained[mask].abs().sort().values
    gone = round(rate * len(left))
    new = mask & (trained.abs() >= left[gone])
    return new, torch.where(new, initial, torch.zeros_like(initial))


def by_numpy(initial, trained, mask, rate):
    size, new = np.abs(trained.numpy()), mask.numpy().copy()
    places = np.argwhere(new)
    for i, j in places[np.argsort(size[new])][: round(rate * len(places))]:
        new[i, j] = False
    return new, initial.numpy() * new


def plan(competing, gone, start=lambda initial, trained, new: initial * new, sign=1):
    def answer(initial, trained, mask, rate):
        among = competing(mask)
        order = [
            i for i in (sign * trained.abs()).flatten().argsort().tolist() if among.flatten()[i]
        ]
        new = among.flatten().clone()
        new[order[: gone(mask, rate, len(order))]] = False
        new = new.view(mask.shape)
        return new, start(initial, trained, new)

    return answer


def by_quantile(initial, trained, mask, rate):
    new = mask & (trained.abs() > trained[mask].abs().quantile(rate))
    return new, initial * new


def usual(mask, rate, n):
    return round(rate * n)


def same(mask):
    return mask


# --- within ε? ---


def by_hand(dense, ticket, epsilon):
    d = [b - a for a, b in zip(dense, ticket, strict=True)]
    half = stats.t.ppf(0.975, len(d) - 1) * statistics.stdev(d) / math.sqrt(len(d))
    mean = statistics.mean(d)
    return "within" if mean - half >= -epsilon else "not" if mean + half < -epsilon else "open"


def by_confidence(dense, ticket, epsilon):
    d = np.array(ticket) - np.array(dense)
    low, high = stats.t.interval(0.95, len(d) - 1, loc=d.mean(), scale=stats.sem(d))
    if high < -epsilon:
        return "not"
    return "open" if low < -epsilon else "within"


def by_two_tests(dense, ticket, epsilon):
    shifted = np.array(ticket) - np.array(dense) + epsilon
    p = stats.ttest_1samp(shifted, 0).pvalue
    if p > 0.05:
        return "open"
    return "within" if shifted.mean() > 0 else "not"


def judged(mean_half):
    def answer(dense, ticket, epsilon):
        a, b = np.array(dense), np.array(ticket)
        mean, half = (b - a).mean(), mean_half(a, b, len(a), stats.t.ppf(0.975, len(a) - 1))
        return "within" if mean - half >= -epsilon else "not" if mean + half < -epsilon else "open"

    return answer


def not_significant(dense, ticket, epsilon):
    d = np.array(ticket) - np.array(dense)
    return "not" if d.mean() + stats.t.ppf(0.975, len(d) - 1) * stats.sem(d) < 0 else "within"


# --- a promise about new data ---


def by_inverse(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
    nats = (dimensions * bits + math.log2(tried)) * math.log(2) + math.log(1 / delta)
    return generalization.kl_inverse(wrong / n, nats / n)


def by_roots(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
    a = wrong / n
    nats = (dimensions * bits * math.log(2) + math.log(tried / delta)) / n
    gap = lambda e: stats.entropy([a, 1 - a], [e, 1 - e]) - nats  # noqa: E731
    return optimize.brentq(gap, a, 1 - 1e-12, xtol=1e-13)


def by_halving(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
    a, low, high = wrong / n, wrong / n, 1.0
    nats = math.log(2.0 ** (dimensions * bits) * tried / delta) / n
    for _ in range(80):
        e = (low + high) / 2
        small = a * math.log(a / e) + (1 - a) * math.log((1 - a) / (1 - e)) <= nats
        low, high = (e, high) if small else (low, e)
    return torch.tensor(low)


def promised(
    length,
    nats=lambda bits, n, n_test, delta: (bits * math.log(2) - math.log(delta)) / n,
    share=lambda w, n, wt, nt: w / n,
):
    def answer(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
        return generalization.kl_inverse(
            share(wrong, n, wrong_test, n_test),
            nats(length(dimensions, bits, tried), n, n_test, delta),
        )

    return answer


def paid(d, b, tried):
    return d * b + math.log2(tried)


def by_hoeffding(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
    return wrong / n + math.sqrt(
        (paid(dimensions, bits, tried) * math.log(2) + math.log(1 / delta)) / n / 2
    )


RIGHT = {
    "overparameterization.imp_round": [by_ranking, by_threshold, by_numpy],
    "overparameterization.within": [by_hand, by_confidence, by_two_tests],
    "overparameterization.promise": [by_inverse, by_roots, by_halving],
}

WRONG = {
    "overparameterization.imp_round": [
        (
            plan(
                torch.ones_like,
                lambda mask, rate, n: n - int(mask.sum()) + round(rate * int(mask.sum())),
            ),
            "revived",
        ),
        (plan(torch.ones_like, usual), "mask_reset"),
        (plan(same, lambda mask, rate, n: min(n - 1, round(rate * mask.numel()))), "rate_of_all"),
        (plan(same, lambda mask, rate, n: math.floor(rate * n)), "cut_off"),
        (plan(same, usual, sign=-1), "largest_go"),
        (plan(same, usual, lambda initial, trained, new: trained * new), "not_rewound"),
        (plan(same, usual, lambda initial, trained, new: initial.clone()), "start_not_masked"),
        (plan(same, lambda mask, rate, n: n - round(rate * n)), None),
        (plan(same, lambda mask, rate, n: math.ceil(rate * n)), None),
        (by_quantile, None),
    ],
    "overparameterization.within": [
        (judged(lambda a, b, n, t: 0.0), "mean_only"),
        (judged(lambda a, b, n, t: t * math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)), "unpaired"),
        (judged(lambda a, b, n, t: 1.96 * (b - a).std(ddof=1) / math.sqrt(n)), "normal_quantile"),
        (judged(lambda a, b, n, t: t * (b - a).std(ddof=1)), "spread"),
        (judged(lambda a, b, n, t: t * (b - a).std() / math.sqrt(n)), "degrees_of_freedom"),
        (not_significant, "no_difference_seen"),
        (
            judged(lambda a, b, n, t: stats.t.ppf(0.975, n) * (b - a).std(ddof=1) / math.sqrt(n)),
            None,
        ),
        (
            judged(
                lambda a, b, n, t: stats.t.ppf(0.995, n - 1) * (b - a).std(ddof=1) / math.sqrt(n)
            ),
            None,
        ),
        (
            lambda dense, ticket, epsilon: by_hand(dense, ticket, epsilon * statistics.mean(dense)),
            None,
        ),
        (lambda dense, ticket, epsilon: "open", None),
        (lambda dense, ticket, epsilon: by_hand(dense, ticket, 0.0), None),
    ],
    "overparameterization.promise": [
        (promised(lambda d, b, tried: paid(d, b, tried) / 8), "bytes"),
        (promised(lambda d, b, tried: d * b), "choice_unpaid"),
        (promised(lambda d, b, tried: d * b + math.log(tried)), "choice_in_nats"),
        (promised(lambda d, b, tried: d * b + tried), "every_trial_paid"),
        (promised(paid, lambda bits, n, nt, delta: (bits - math.log(delta)) / n), "log_base"),
        (promised(paid, lambda bits, n, nt, delta: bits * math.log(2) / n), "delta_forgotten"),
        (
            promised(paid, lambda bits, n, nt, delta: (bits * math.log(2) - math.log(delta)) / nt),
            "examples_of_the_test",
        ),
        (promised(paid, share=lambda w, n, wt, nt: wt / nt), "test_error"),
        (by_hoeffding, "hoeffding"),
        (lambda **given: max(by_inverse(**given), given["wrong_test"] / given["n_test"]), None),
        (
            lambda wrong, n, wrong_test, n_test, dimensions, bits, tried, delta: (
                wrong_test / n_test
            ),
            None,
        ),
    ],
}
