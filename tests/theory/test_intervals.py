"""Intervals against scipy, closed forms, and simulation: they cover the true value as often as they
say.
"""

import math

import pytest
import torch
from scipy import stats

from course_utils.errors import CompressionError
from course_utils.theory.intervals import crossed_interval, interval, wilson


def test_student_against_scipy():
    values = [0.3, -1.2, 2.5, 0.7, 0.1]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    assert mean - half == pytest.approx(low, rel=1e-12) and mean + half == pytest.approx(
        high, rel=1e-12
    )
    with pytest.raises(CompressionError, match="at least two"):
        interval([1.0])


def test_one_source_of_chance_is_students_interval():
    rng = torch.Generator().manual_seed(0)
    row = torch.randn(64, generator=rng, dtype=torch.float64)
    for got in (
        crossed_interval(row.expand(3, 64)),
        crossed_interval(row[None]),
        crossed_interval(row[:, None]),
    ):
        assert got == pytest.approx(interval(row.tolist()), rel=1e-10)
    mean, half = crossed_interval(torch.full((3, 1), 2.0))
    assert mean == 2.0 and math.isnan(half), "one number says nothing about how far it may be off"
    assert crossed_interval(torch.full((3, 8), 2.0)) == (2.0, 0.0)


def test_both_sources_against_the_textbook_table():
    """Mean squares from scipy-free sums over a 3 × 4 table, by their definitions in loops."""
    v = torch.tensor([[3.0, 5, 4, 8], [4, 7, 7, 9], [9, 8, 9, 12]], dtype=torch.float64)
    S, W = v.shape
    g = float(v.mean())
    rows, columns = (
        [float(v[s].mean()) for s in range(S)],
        [float(v[:, w].mean()) for w in range(W)],
    )
    ms_s = W * sum((r - g) ** 2 for r in rows) / (S - 1)
    ms_w = S * sum((c - g) ** 2 for c in columns) / (W - 1)
    ms_r = sum(
        (float(v[s, w]) - rows[s] - columns[w] + g) ** 2 for s in range(S) for w in range(W)
    ) / ((S - 1) * (W - 1))
    total = ms_s + ms_w - ms_r
    degrees = total**2 / (ms_s**2 / 2 + ms_w**2 / 3 + ms_r**2 / 6)
    assert crossed_interval(v) == pytest.approx(
        (g, stats.t.ppf(0.975, degrees) * math.sqrt(total / 12)), rel=1e-10
    )
    assert crossed_interval(v.T) == pytest.approx(crossed_interval(v), rel=1e-10)


@pytest.mark.parametrize(
    "seeds, windows, by_seed, by_window, rest",
    [
        (3, 64, 0, 1, 0), (3, 64, 0, 1, 0.3), (3, 64, 0.1, 1, 0.3), (3, 64, 1, 0.1, 0.1),
        (3, 64, 0.1, 1, 1), (5, 64, 0.3, 1, 0.3), (5, 64, 1, 1, 1), (5, 16, 0, 1, 1),
        (3, 1, 1, 0, 0),
    ],
)  # fmt: skip
def test_coverage(seeds, windows, by_seed, by_window, rest):
    """The true mean, 0, is inside in 93 to 97 of 100 repetitions."""
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    n, inside = 4000, 0
    for _ in range(n):
        v = by_seed * draw(seeds, 1) + by_window * draw(1, windows) + rest * draw(seeds, windows)
        mean, half = crossed_interval(v)
        inside += abs(mean) <= half
    assert 0.93 <= inside / n <= 0.97, inside / n


@pytest.mark.parametrize("right, n", [(0, 10), (10, 10), (1, 3), (37, 50), (199, 200)])
def test_wilson_against_scipy(right, n):
    want = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((want.low, want.high), abs=1e-12)


def test_wilson_names_bad_counts():
    for right, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(CompressionError, match="right="):
            wilson(right, n)
