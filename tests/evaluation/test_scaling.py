"""The fit against scipy, its interval against its promise,
and times of known work in their order.
"""

import math
import random

import pytest

from course_utils.errors import CompressionError
from course_utils.evaluation import scaling


def noisy(rng, exponent, n, noise):
    sizes = [2.0 ** (i + 3) for i in range(n)]
    return sizes, [0.7 * s**exponent * math.exp(rng.gauss(0, noise)) for s in sizes]


@pytest.mark.parametrize("n", [3, 5, 9])
def test_equals_scipy(n):
    from scipy.stats import linregress

    rng = random.Random(n)
    for _ in range(20):
        sizes, costs = noisy(rng, rng.uniform(-1, 3), n, 0.3)
        ours, theirs = (
            scaling.fit(sizes, costs),
            linregress([math.log(s) for s in sizes], [math.log(c) for c in costs]),
        )
        assert math.isclose(ours.exponent, theirs.slope, rel_tol=1e-9)
        assert math.isclose(ours.error, theirs.stderr, rel_tol=1e-7)
        assert math.isclose(math.log(ours.factor), theirs.intercept, rel_tol=1e-8, abs_tol=1e-9)


def test_an_exact_power_law_is_found_and_continued():
    law = scaling.fit([1, 10, 100, 1000], [3 * s**1.5 for s in (1, 10, 100, 1000)])
    assert (
        math.isclose(law.exponent, 1.5)
        and law.error < 1e-12
        and math.isclose(law(10**6), 3e9, rel_tol=1e-9)
    )
    assert str(law) == "exponent 1.50 ± 0.00"


def test_the_interval_holds_as_often_as_it_says():
    rng, inside = random.Random(0), 0
    for _ in range(600):
        low, high = scaling.fit(*noisy(rng, 1.5, 6, 0.2)).interval(0.9)
        inside += low <= 1.5 <= high
    assert 0.87 < inside / 600 < 0.93  # 0.9 within 2.5 standard errors


@pytest.mark.parametrize(
    ("sizes", "costs"),
    [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [1, 0, 3]),
     ([1, 2, math.nan], [1, 2, 3]),
     ([1, 2, 3], [1, math.inf, 3]), ([-1, 2, 3], [1, 2, 3])],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(sizes, costs):
    with pytest.raises(CompressionError):
        scaling.fit(sizes, costs)


def test_every_job_runs_in_turns_and_threads_are_put_back():
    import torch

    before, log = torch.get_num_threads(), []
    found = scaling.seconds([lambda: log.append("a"), lambda: log.append("b")], repeats=2)
    assert log == ["a", "a", "b", "a", "b"] and len(found) == 2 and all(t >= 0 for t in found)
    assert torch.get_num_threads() == before
    for jobs, repeats in (([], 1), ([print], 0)):
        with pytest.raises(CompressionError):
            scaling.seconds(jobs, repeats=repeats)
