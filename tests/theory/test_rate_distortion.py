"""Closed forms against integration, brute force and the literature."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize

from course_utils.errors import CompressionError
from course_utils.theory import rate_distortion as rd


def test_constants_of_the_literature():
    assert (
        abs(rd.SPACE_FILLING_LOSS - 0.2546) < 1e-4
        and abs(20 * math.log10(2) * rd.SPACE_FILLING_LOSS - 1.533) < 1e-3
    )
    assert abs(rd.PANTER_DITE - 2.7207) < 1e-4
    assert rd.gaussian_rate(0.25) == 1 and rd.gaussian_rate(3.0, 2.0) == 0
    assert abs(rd.gaussian_distortion(rd.gaussian_rate(0.03, 1.7), 1.7) - 0.03) < 1e-15


@pytest.mark.parametrize(
    "levels, error, bits",
    [(2, 0.3634, 1.0), (4, 0.1175, 1.911), (8, 0.03454, 2.825), (16, 0.009497, 3.765)],
)
def test_lloyd_max_of_the_normal_density(levels, error, bits):
    """Max (1960), tables I and II."""
    points, found, entropy = rd.lloyd_max(levels)
    assert abs(found - error) < 6e-5 * (10 if levels == 2 else 1) and abs(entropy - bits) < 6e-4
    assert np.allclose(points, -points[::-1], atol=1e-9)


def test_lloyd_max_of_another_density_against_brute_force():
    def laplace(x):
        return math.exp(-math.sqrt(2) * abs(x)) / math.sqrt(2)

    def cost(inner):
        points = [-abs(inner[1]), -abs(inner[0]), abs(inner[0]), abs(inner[1])]
        return integrate.quad(
            lambda x: min((x - c) ** 2 for c in points) * laplace(x), -12, 12, limit=400
        )[0]

    best = optimize.minimize(
        cost, [0.4, 1.8], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10}
    )
    points, error, _ = rd.lloyd_max(4, laplace, low=-14, high=14)
    assert abs(error - best.fun) < 1e-5 and np.allclose(
        np.sort(np.abs(best.x)), points[2:], atol=1e-3
    )
    assert abs(error - 0.1762) < 2e-4  # Jayant and Noll (1984), table 4.3


def normal(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def test_uniform_rounding_against_integration_and_its_limit():
    for step in (0.1, 0.7, 2.0, 5.0):
        entropy, error = rd.uniform_gaussian(step)
        slow = sum(
            integrate.quad(
                lambda x, at=k * step: (x - at) ** 2 * normal(x), (k - 0.5) * step, (k + 0.5) * step
            )[0]
            for k in range(-math.ceil(9 / step), math.ceil(9 / step) + 1)
        )
        assert abs(slow - error) < 1e-7
        assert abs(rd.uniform_step(entropy) - step) < 1e-8
    entropy, error = rd.uniform_gaussian(0.05)
    assert abs(error - 0.05**2 / 12) < 1e-9
    # its second-order term: Δ² / 24 nats
    excess = entropy - rd.gaussian_rate(error) - rd.SPACE_FILLING_LOSS
    assert abs(excess - 0.05**2 / 24 / math.log(2)) < 1e-6
    entropy, error = rd.uniform_gaussian(rd.uniform_step(0.7), centroids=True)
    assert 0.19 < entropy - rd.gaussian_rate(error) < 0.2  # nearer to R(D) at low rates


def test_laplace():
    D, sigma2 = 0.003, 1.3
    b = math.sqrt(sigma2 / 2)
    h = -integrate.quad(
        lambda x: math.exp(-abs(x) / b) / (2 * b) * math.log2(math.exp(-abs(x) / b) / (2 * b)),
        -40,
        40,
        limit=400,
    )[0]
    assert (
        abs(rd.laplace_lower_bound(D, sigma2) - (h - 0.5 * math.log2(2 * math.pi * math.e * D)))
        < 1e-6
    )
    assert rd.laplace_absolute_rate(0.25, 1.0) == 2 and rd.laplace_absolute_rate(2.0) == 0


def test_blahut_arimoto_of_a_coin():
    for p, slope in ((0.5, 2.0), (0.3, 3.0), (0.11, 4.0)):
        rate, D = rd.blahut_arimoto(np.array([1 - p, p]), 1 - np.eye(2), slope)
        assert abs(rate - rd.binary_rate(D, p)) < 1e-6
    assert rd.binary_rate(0.2, 0.1) == 0


def test_blahut_arimoto_of_a_gaussian_on_a_grid():
    x = np.linspace(-5, 5, 201)
    p = np.exp(-x * x / 2)
    p /= p.sum()
    variance = p @ x**2
    rate, D = rd.blahut_arimoto(p, (x[:, None] - x[None]) ** 2, 1 / (2 * 0.1), tolerance=1e-5)
    assert abs(D - 0.1) < 1e-3 and abs(rate - rd.gaussian_rate(D, variance)) < 1e-3


def test_water_filling_meets_its_conditions():
    rng = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 50):
        v = torch.rand(n, generator=rng, dtype=torch.float64) ** 3 * 5
        for share in (0.01, 0.3, 0.9, 1.0):
            total = float(v.sum()) * share
            rate, D = rd.water_filling(v, total)
            assert abs(float(D.sum()) - total) < 1e-9 and (rate >= 0).all()
            active = rate > 1e-12
            theta = float(D[active].max()) if active.any() else math.inf
            # one level for all that get bits
            assert torch.allclose(D[active], torch.full_like(D[active], theta))
            assert torch.equal(D[~active], v[~active]) and (v[~active] <= theta + 1e-9).all()
    rate, D = rd.water_filling(torch.tensor([4.0, 1.0, 0.0]), 2.0)
    assert torch.allclose(D, torch.tensor([1.0, 1.0, 0.0]).double()) and torch.allclose(
        rate, torch.tensor([1.0, 0, 0]).double()
    )


def test_water_filling_is_not_beaten_by_any_other_division():
    v = torch.tensor([3.0, 1.0, 0.2]).double()
    rate, D = rd.water_filling(v, 0.9)
    grid = torch.linspace(0.01, 0.89, 89).double()
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    parts = torch.stack([a, b, 0.9 - a - b])
    legal = (parts > 0).all(0) & (parts <= v[:, None, None]).all(0)
    others = (0.5 * torch.log2(v[:, None, None] / parts)).sum(0)[legal]
    assert float(rate.sum()) <= float(others.min()) + 1e-12


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: rd.gaussian_rate(0.0), "positive"),
        (lambda: rd.gaussian_distortion(-1), "negative"),
        (lambda: rd.laplace_lower_bound(-1.0), "positive"),
        (lambda: rd.laplace_absolute_rate(1.0, 0.0), "positive"),
        (lambda: rd.binary_rate(1.2), "shares"),
        (lambda: rd.water_filling(torch.tensor([1.0, 2.0]), 4.0), "sum of the variances"),
        (lambda: rd.water_filling(torch.tensor([1.0, -2.0]), 0.5), "distortion"),
        (lambda: rd.lloyd_max(0), "levels"),
        (lambda: rd.uniform_gaussian(0.0), "positive"),
        (lambda: rd.uniform_step(0.0), "between"),
        (lambda: rd.blahut_arimoto(np.array([0.5, 0.6]), np.eye(2), 1.0), "sum to 1"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(CompressionError, match=told):
        call()
