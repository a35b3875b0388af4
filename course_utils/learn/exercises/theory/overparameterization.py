"""Lesson 4.2: a round of iterative magnitude pruning, a verdict within ε,
a promise about new data.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.theory import generalization, intervals

from ..draws import pick, turn, until

LESSON = "4.2-lottery-tickets-and-overparameterization"

# --- a round of iterative magnitude pruning ---


def draw_round(rng: torch.Generator) -> dict:
    """A layer after some rounds; the optimizer has moved the pruned weights too,
    some of them far.
    """
    shape, rate = turn(rng, (5, 7), (8, 6), (4, 9)), pick(rng, 0.2, 0.3, 0.45)
    initial, trained = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(shape, generator=rng) > pick(rng, 0.25, 0.5)
    return {"initial": initial, "trained": trained, "mask": mask, "rate": rate}


def round_inputs(rng: torch.Generator) -> dict:
    """The number that goes is no whole one: it is rounded up in two draws of three, and down in the
    third, where a cut at the quantile `rate` would take one more.
    """
    low, high = turn(rng, (0.55, 0.95), (0.55, 0.95), (0.05, 0.48))

    def good(given: dict) -> bool:
        part = given["rate"] * int(given["mask"].sum()) % 1
        return max(low, 0.0 if low > 0.5 else given["rate"]) < part < high

    return until(rng, draw_round, good)


def imp_round(initial: Tensor, trained: Tensor, mask: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """(mask, weights to start from): of the n weights left, the round(rate n) smallest of |trained|
    go; then back to `initial`.
    """
    places = [(i, j) for i in range(mask.shape[0]) for j in range(mask.shape[1]) if mask[i, j]]
    places.sort(key=lambda place: abs(float(trained[place])))
    new = mask.clone()
    for place in places[: round(rate * len(places))]:
        new[place] = False
    return new, torch.where(new, initial, 0.0)


def largest(score: Tensor, count: int) -> Tensor:
    new = torch.zeros(score.numel(), dtype=torch.bool)
    new[score.flatten().argsort(descending=True)[:count]] = True
    return new.view_as(score)


def round_with(keep, start=lambda initial, trained, new: initial * new):
    def answer(initial, trained, mask, rate):
        new = keep(trained.abs(), mask, rate)
        return new, start(initial, trained, new)

    return answer


def _score(size: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, size, -1.0)


def right_mask(size: Tensor, mask: Tensor, rate: float) -> Tensor:
    n = int(mask.sum())
    return largest(_score(size, mask), n - round(rate * n))


# --- within ε? ---


def verdict_inputs(rng: torch.Generator) -> dict:
    """Accuracies by seed whose paired interval lies above −ε, below it, or around it; seeds differ
    more than the pairs, or hardly.

    The mean is `place` half intervals above −ε: near ±1, and where other quantiles or deviations
    fall on different sides.
    """
    epsilon, spread = pick(rng, 0.01, 0.02), pick(rng, 0.003, 0.008)
    n, place = turn(
        rng,
        (3, 3.0),
        (5, 0.95),
        (3, -0.7),
        (4, 1.06),
        (3, -0.78),
        (3, -2.0),
        (4, 0.2),
        (5, -1.5),
        (4, 1.3),
        (3, -1.06),
    )
    wide = 3e-4 if n == 4 and place > 1 else 0.08
    dense = 0.9 + wide * torch.rand(n, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, generator=rng, dtype=torch.float64)
    noise = (noise - noise.mean()) * spread / noise.std()
    half = intervals.interval(noise.tolist())[1]
    return {
        "dense": dense.tolist(),
        "ticket": (dense + noise - epsilon + place * half).tolist(),
        "epsilon": epsilon,
    }


def within(dense: list[float], ticket: list[float], epsilon: float) -> str:
    """ "within" if the whole 95 % interval of the mean of ticket − dense is ≥ −ε, "not" if it is
    all below, else "open".
    """
    mean, half = intervals.interval([t - d for t, d in zip(ticket, dense, strict=True)])
    return "within" if mean - half >= -epsilon else "not" if mean + half < -epsilon else "open"


def verdict_with(interval):
    def answer(dense, ticket, epsilon):
        low, high = interval(torch.tensor(dense), torch.tensor(ticket), len(dense))
        return "within" if low >= -epsilon else "not" if high < -epsilon else "open"

    return answer


def around(mean: Tensor, half: float | Tensor) -> tuple[float, float]:
    return float(mean - half), float(mean + half)


def no_difference(dense, ticket, epsilon):
    mean, half = intervals.interval([t - d for t, d in zip(ticket, dense, strict=True)])
    return "within" if mean + half >= 0 else "not"


def _t(n: int) -> float:
    return intervals.quantile(0.95, n - 1)


# --- a promise about new data ---


def promise_inputs(rng: torch.Generator) -> dict:
    n_train, n_test = pick(rng, 1000, 1297, 2400), pick(rng, 300, 500)
    wrong = int(n_train * (0.03 + 0.15 * float(torch.rand((), generator=rng))))
    return {
        "wrong": wrong, "n": n_train,
        "wrong_test": int(n_test * turn(rng, 0.02, 0.1,
                                        0.6) * (1 + float(torch.rand((), generator=rng)) / 2)),
                                        "n_test": n_test, "dimensions": pick(rng, 40, 90, 150),
                                        "bits": pick(rng, 2, 3, 4),
        "tried": pick(rng, 60, 700, 5000), "delta": pick(rng, 0.01, 0.05),
    }  # fmt: skip


def promise(
    wrong: int,
    n: int,
    wrong_test: int,
    n_test: int,
    dimensions: int,
    bits: int,
    tried: int,
    delta: float,
) -> float:
    """The largest e with kl(wrong/n ‖ e) ≤ (ℓ ln 2 + ln 1/δ)/n, ℓ = dimensions · bits + log₂ tried;
    the test is not used.
    """
    length = dimensions * bits + math.log2(tried)
    budget = (length * math.log(2) + math.log(1 / delta)) / n
    return generalization.kl_inverse(wrong / n, budget)


def promise_with(length=None, budget=None, share=lambda w, n, wt, nt: w / n):
    def answer(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
        ell = (
            dimensions * bits + math.log2(tried)
            if length is None
            else length(dimensions, bits, tried)
        )
        nats = (
            (ell * math.log(2) + math.log(1 / delta)) / n
            if budget is None
            else budget(ell, n, n_test, delta)
        )
        return generalization.kl_inverse(share(wrong, n, wrong_test, n_test), nats)

    return answer


def hoeffding(wrong, n, wrong_test, n_test, dimensions, bits, tried, delta):
    length = dimensions * bits + math.log2(tried)
    return wrong / n + math.sqrt((length * math.log(2) + math.log(1 / delta)) / (2 * n))


EXERCISES = [
    Exercise(
        "overparameterization.imp_round", round_inputs, imp_round,
        {
            "revived": round_with(lambda size, mask, rate:
                largest(size, (n := int(mask.sum())) - round(rate * n))),
            "mask_reset": round_with(lambda size, mask, rate:
                largest(size, size.numel() - round(rate * size.numel()))),
            "rate_of_all": round_with(lambda size, mask, rate:
                largest(_score(size, mask), max(1, int(mask.sum()) - round(rate * mask.numel())))),
            "cut_off": round_with(lambda size, mask, rate:
                largest(_score(size, mask), (n := int(mask.sum())) - int(rate * n))),
            "largest_go": round_with(lambda size, mask, rate:
                largest(torch.where(mask, -size, -9.0), (n := int(mask.sum())) - round(rate * n))),
            "not_rewound": round_with(right_mask, lambda initial, trained, new: trained * new),
            "start_not_masked": round_with(right_mask, lambda initial, trained, new: initial),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=10, trials=6,
    ),
    Exercise(
        "overparameterization.within", verdict_inputs, within,
        {
            "mean_only": verdict_with(lambda a, b, n: around((b - a).mean(), 0.0)),
            "unpaired": verdict_with(lambda a, b, n:
                around((b - a).mean(), _t(n) * ((a.var() + b.var()) / n) ** 0.5)),
            "normal_quantile": verdict_with(lambda a, b, n:
                around((b - a).mean(), 1.96 * (b - a).std() / n**0.5)),
            "spread": verdict_with(lambda a, b, n: around((b - a).mean(), _t(n) * (b - a).std())),
            "degrees_of_freedom": verdict_with(lambda a, b, n:
                around((b - a).mean(), _t(n) * (b - a).std(unbiased=False) / n**0.5)),
            "no_difference_seen": no_difference,
        },
        lesson=LESSON, kind="decide", difficulty=3, minutes=12, trials=10,
    ),
    Exercise(
        "overparameterization.promise", promise_inputs, promise,
        {
            "bytes": promise_with(lambda d, b, tried: (d * b + math.log2(tried)) / 8),
            "choice_unpaid": promise_with(lambda d, b, tried: d * b),
            "choice_in_nats": promise_with(lambda d, b, tried: d * b + math.log(tried)),
            "every_trial_paid": promise_with(lambda d, b, tried: d * b + tried),
            "log_base": promise_with(None, lambda ell, n, nt, delta:
                (ell + math.log(1 / delta)) / n),
            "delta_forgotten": promise_with(None, lambda ell, n, nt, delta: ell * math.log(2) / n),
            "examples_of_the_test": promise_with(None, lambda ell, n, nt, delta:
                (ell * math.log(2) + math.log(1 / delta)) / nt),
            "test_error": promise_with(None, None, lambda w, n, wt, nt: wt / nt),
            "hoeffding": hoeffding,
        },
        lesson=LESSON, kind="formula", difficulty=3, minutes=12,
    ),
]  # fmt: skip
