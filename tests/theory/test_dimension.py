"""Subspaces against their definition, thresholds against the literature and linear programs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.theory import dimension


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_subspace_begins_at_the_network_and_moves_along_p():
    network, x = net(), torch.randn(4, 5)
    wanted = network(x).detach()
    space = dimension.Subspace(network, 6, seed=1)
    assert torch.equal(space(x), wanted) and [n for n, _ in space.named_parameters()] == ["z"]
    assert torch.allclose(space.projection.norm(dim=0), torch.ones(6))
    with torch.no_grad():
        space.z.copy_(torch.randn(6))
    moved = nn.utils.parameters_to_vector(net().parameters()) + space.projection @ space.z
    other = net()
    nn.utils.vector_to_parameters(moved.detach(), other.parameters())
    assert torch.allclose(space(x), other(x), atol=1e-6)


def test_only_z_learns_and_its_gradient_is_the_projected_one():
    network, x = net(), torch.randn(4, 5)
    space = dimension.Subspace(network, 6)
    space(x).pow(2).sum().backward()
    plain = net()
    plain(x).pow(2).sum().backward()
    whole = torch.cat([p.grad.reshape(-1) for p in plain.parameters()])
    assert torch.allclose(space.z.grad, space.projection.T @ whole, atol=1e-4)
    assert all(p.grad is None for p in network.parameters())


def test_where_a_share_is_reached():
    assert dimension.dimension_at([10, 100], [0.0, 0.9], 1.0) == pytest.approx(100)
    assert dimension.dimension_at([10, 1000], [0.8, 1.0], 1.0) == pytest.approx(100)
    assert dimension.dimension_at([10], [0.95], 1.0) == 10
    assert dimension.dimension_at([10, 20], [0.1, 0.2], 1.0) == math.inf


@pytest.mark.parametrize("delta, rho", [(0.25, 0.2674), (0.5, 0.3857), (0.75, 0.5337)])
def test_the_threshold_of_donoho_and_tanner(delta, rho):
    assert abs(dimension.recovery_threshold(delta) - rho) < 1e-4


def test_recovery_turns_where_the_threshold_says():
    n, m = 100, 50
    k = dimension.recovery_threshold(m / n) * m
    rates = {
        share: dimension.recovery_rate(n, m, round(share * k), trials=12, seed=3)
        for share in (0.6, 1.0, 1.5)
    }
    assert rates[0.6] == 1.0 and rates[1.5] == 0.0 and 0 < rates[1.0] < 1


def test_least_l1_by_hand():
    A = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.allclose(dimension.least_l1(A, np.array([2.0, -3.0])), [0, 1, -3])


def test_bad_input():
    for call, told in (
        (lambda: dimension.Subspace(net(), 0), "dimension"),
        (lambda: dimension.dimension_at([2, 1], [0, 1], 1.0), "ascend"),
        (lambda: dimension.recovery_threshold(1.0), "delta"),
        (lambda: dimension.least_l1(np.zeros((1, 2)), np.ones(1)), "linear program"),
    ):
        with pytest.raises(CompressionError, match=told):
            call()


@pytest.mark.parametrize("d", [1, 2, 5])
def test_neighbours_tell_the_dimension_of_a_surface(d):
    rng = torch.Generator().manual_seed(d)
    flat = torch.rand(2000, d, generator=rng, dtype=torch.float64)
    turned = flat @ torch.linalg.qr(torch.randn(30, d, generator=rng, dtype=torch.float64))[0].T
    # chance, and the edges of the cube
    assert abs(dimension.two_nn(turned) - d) < 3 * d / 2000**0.5 + 0.06 * d
    assert dimension.principal(turned, 1.0) == d


def test_a_circle_has_two_directions_and_one_dimension():
    angle = (
        2
        * torch.pi
        * torch.rand(1500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    assert dimension.principal(circle) == 2
    assert abs(dimension.two_nn(circle) - 1) < 3 / 1500**0.5
    # equal points do not count
    assert abs(dimension.two_nn(torch.cat([circle, circle[:5]])) - 1) < 0.1


def test_principal_directions_are_those_of_sklearn():
    from sklearn.decomposition import PCA

    x = (
        torch.randn(80, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 2, 12)
        + 5
    )
    for share in (0.5, 0.9, 0.99):
        held = PCA().fit(x.double().numpy()).explained_variance_ratio_.cumsum()
        assert dimension.principal(x, share) == int((held < share).sum()) + 1


def test_points_that_cannot_tell_a_dimension_are_refused():
    for points in (torch.zeros(2, 3), torch.zeros(5), torch.zeros(9, 2)):
        with pytest.raises(CompressionError, match="points"):
            dimension.two_nn(points)
    with pytest.raises(CompressionError, match="share"):
        dimension.principal(torch.randn(4, 3), 0.0)
