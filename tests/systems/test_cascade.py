"""Cascades: the bound against scipy, the threshold's promise by simulation, and what a cascade
serves.
"""

import math

import pytest
import torch
from scipy.stats import binom, binomtest

from course_utils.errors import CompressionError
from course_utils.systems import cascade


@pytest.mark.parametrize(("harmed", "n"), [(0, 40), (3, 200), (17, 60), (60, 60)])
def test_the_bound_is_clopper_and_pearsons(harmed, n):
    found = cascade.upper_bound(harmed, n)
    assert found == pytest.approx(
        binomtest(harmed, n, alternative="less").proportion_ci(0.95, "exact").high, abs=1e-9
    )
    if harmed < n:
        assert binom.cdf(harmed, n, found) == pytest.approx(0.05, abs=1e-9)


def questions(n, seed):
    """Confidence c uniform; the small model is wrong with (1 − c)/2; so P(harm, confidence ≥ t) =
    (1 − t)²/4.
    """
    rng = torch.Generator().manual_seed(seed)
    c = torch.rand(n, generator=rng)
    return c, torch.rand(n, generator=rng) < (1 - c) / 2


def test_the_promise_holds():
    broken, chosen = 0, []
    for seed in range(300):
        t = cascade.choose_threshold(*questions(300, seed), risk=0.05)
        chosen.append(t)
        broken += (1 - min(t, 1)) ** 2 / 4 > 0.05
    assert broken / 300 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    assert 0.55 < sum(chosen) / 300 < 0.85  # the exact threshold is .553: not far above it


def test_nothing_is_allowed_or_all():
    c = torch.linspace(0, 1, 50)
    assert cascade.choose_threshold(c, torch.ones(50, dtype=torch.bool), risk=0.01) == math.inf
    assert cascade.choose_threshold(c, torch.zeros(50, dtype=torch.bool), risk=0.2) == 0.0
    # 50 questions cannot show 1 %
    assert cascade.choose_threshold(c, torch.zeros(50, dtype=torch.bool), risk=0.01) == math.inf


def test_served():
    c = torch.tensor([0.9, 0.9, 0.2, 0.1])
    small, large = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, True])
    got = cascade.serve(c, small, large, 0.5)
    assert (got.accuracy, got.passed_on, got.lost) == (0.5, 0.5, 0.25)
    assert got.cost(0.2) == pytest.approx(0.7)
    assert cascade.serve(c, small, large, math.inf).accuracy == 0.75


@pytest.mark.parametrize(
    "wrong",
    [
        {"risk": 0.0},
        {"grid": (0.1, 0.5)},
        {"harm": torch.zeros(3)},
        {"confidence": torch.tensor([0.1, math.nan])},
    ],
)
def test_refused(wrong):
    with pytest.raises(CompressionError):
        cascade.choose_threshold(
            **{"confidence": torch.tensor([0.1, 0.2]), "harm": torch.zeros(2), "risk": 0.1, **wrong}
        )
    with pytest.raises(CompressionError):
        cascade.upper_bound(3, 2)
