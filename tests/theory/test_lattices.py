"""Nearest points against brute force, moments against the literature."""

import itertools
import math

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.theory import lattices


def brute(x, points):
    return points[torch.cdist(x, points).argmin(1)]


def vectors(n, spread=2.0):
    return (
        torch.rand(200, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) - 0.5
    ) * spread


def test_d4_and_e8_against_brute_force():
    whole = torch.tensor(list(itertools.product(range(-2, 3), repeat=4)), dtype=torch.float64)
    x = vectors(4)
    d4 = whole[whole.sum(1) % 2 == 0]
    assert torch.allclose(
        (x - lattices.nearest_d(x)).norm(dim=1), (x - brute(x, d4)).norm(dim=1), atol=1e-12
    )
    whole = torch.tensor(list(itertools.product(range(-1, 2), repeat=8)), dtype=torch.float64)
    half = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=8)), dtype=torch.float64)
    more = torch.cat(
        [half + torch.eye(8, dtype=torch.float64)[i] * s for i in range(8) for s in (-1, 1)]
    )
    half = torch.cat([half, more])
    e8 = torch.cat([whole[whole.sum(1) % 2 == 0], half[half.sum(1) % 2 == 0]])
    x = vectors(8, 1.2)
    assert torch.allclose(
        (x - lattices.nearest_e8(x)).norm(dim=1), (x - brute(x, e8)).norm(dim=1), atol=1e-12
    )
    found = lattices.nearest_e8(vectors(8, 9.0))
    # all whole or all halves, even sum
    assert (((found * 2) % 2).sum(1) % 8 == 0).all() and (found.sum(1) % 2 == 0).all()


def test_e8_has_240_shortest_vectors():
    half = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=8)), dtype=torch.float64)
    whole = torch.tensor(list(itertools.product(range(-1, 2), repeat=8)), dtype=torch.float64)
    points = torch.cat([half, whole])
    points = points[(points.pow(2).sum(1) - 2).abs() < 1e-9]
    assert sum(torch.equal(lattices.nearest_e8(p[None])[0], p) for p in points) == 240


def test_hexagons_against_brute_force():
    basis = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    points = (
        torch.tensor(list(itertools.product(range(-6, 7), repeat=2)), dtype=torch.float64) @ basis
    )
    x = vectors(2)
    assert torch.allclose(
        (x - lattices.nearest_a2(x)).norm(dim=1), (x - brute(x, points)).norm(dim=1), atol=1e-12
    )


@pytest.mark.parametrize("name", lattices.LATTICES)
def test_moments_are_those_of_conway_and_sloane(name):
    found, error = lattices.normalized_second_moment(name)
    assert abs(found - lattices.MOMENTS[name]) < 3 * error + 1e-6 and error < 2e-4


def test_gaps_go_down_to_zero():
    gaps = [lattices.gap_bits(g) for g in (*lattices.MOMENTS.values(), lattices.LIMIT)]
    assert (
        gaps == sorted(gaps, reverse=True)
        and abs(gaps[-1]) < 1e-12
        and abs(gaps[0] - 0.2546) < 1e-4
    )


def test_equal_steps_mean_equal_density():
    x = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = {
        name: float((lattices.quantize(x, name, 0.2) - x).pow(2).mean()) / 0.04
        for name in lattices.LATTICES
    }
    for name, found in errors.items():
        assert abs(found / lattices.MOMENTS[name] - 1) < 0.02
    with pytest.raises(CompressionError, match="multiple of 8"):
        lattices.quantize(x[:, :6], "E8")
    with pytest.raises(CompressionError, match="choose one"):
        lattices.quantize(x, "E9")
    with pytest.raises(CompressionError, match="vectors of 2"):
        lattices.nearest_a2(x)
