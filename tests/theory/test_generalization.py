"""Bounds against their definition and against chance; kernels against autograd and against wide
networks.
"""

import math

import pytest
import torch
from scipy.special import rel_entr

from course_utils.errors import CompressionError
from course_utils.theory import generalization as g


def test_kl_inverse_is_the_inverse_and_below_hoeffding():
    for error in (0.0, 0.03, 0.4):
        for budget in (0.0, 0.01, 0.3, 2.0):
            b = g.kl_inverse(error, budget)
            assert rel_entr(error, b) + rel_entr(1 - error, 1 - b) <= budget + 1e-9
            assert b >= 1 - 1e-9 or abs(g.bernoulli_kl(error, b) - budget) < 1e-6
            assert b <= error + math.sqrt(budget / 2) + 1e-6
    assert abs(g.kl_inverse(0.0, 0.5) - (1 - math.exp(-0.5))) < 1e-9  # closed form


def test_the_bound_holds_for_the_best_of_many_guessers():
    """2^8 coins guess n labels; the best of them is named in 8 bits.

    Its true error is ½: the bound is broken in at most δ.
    """
    rng = torch.Generator().manual_seed(0)
    n, broken = 60, 0
    for _ in range(400):
        wrong = torch.randint(0, 2, (256, n), generator=rng).float().mean(1).min()
        broken += g.occam_bound(float(wrong), n, 8, 0.05) < 0.5
    assert broken / 400 <= 0.05 + 0.03
    assert g.occam_bound(0.05, 1297, 4810 * 32) > 0.999  # vacuous
    assert g.occam_bound(0.054, 1297, 624) < 0.45


def test_names_of_numbers_are_prefix_free():
    assert [g.prefix_free_bits(n) for n in (1, 2, 3, 4, 255)] == [1, 3, 3, 5, 15]
    assert sum(2.0 ** -g.prefix_free_bits(n) for n in range(1, 5000)) <= 1


def test_the_tangent_kernel_is_the_product_of_gradients():
    net, x = g.WideRelu(4, 7, seed=3), torch.randn(5, 4)
    rows = []
    for row in x:
        net.zero_grad()
        net(row[None]).sum().backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))
    J = torch.stack(rows)
    assert torch.allclose(g.tangent_kernel(net, x), J @ J.T, rtol=1e-5, atol=1e-5)
    assert torch.allclose(g.tangent_kernel(net, x, x[:2]), J @ J[:2].T, rtol=1e-5, atol=1e-5)


def test_wide_networks_come_near_the_limit_at_the_rate_of_the_root():
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    limit = g.limit_kernel(x)
    error = {}
    for width in (64, 1024, 16384):
        found = [
            (g.tangent_kernel(g.WideRelu(5, width, seed=s), x) - limit).norm() / limit.norm()
            for s in range(8)
        ]
        error[width] = float(torch.stack(found).mean())
    assert error[16384] < 0.02
    assert 2.5 < error[64] / error[1024] < 6.5 and 2.5 < error[1024] / error[16384] < 6.5  # 4 = √16


def test_random_features_are_least_squares_and_then_of_least_norm():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 6, generator=rng), torch.randint(0, 3, (30,), generator=rng)
    y[:3] = torch.arange(3)
    for features in (10, 200):
        W = torch.randn(
            6, features, generator=torch.Generator().manual_seed(4), dtype=torch.float64
        ) / math.sqrt(6)
        A, goal = torch.relu(x.double() @ W), torch.nn.functional.one_hot(y).double()
        want = A @ torch.linalg.lstsq(A, goal, driver="gelsd").solution
        assert torch.allclose(g.random_features_fit(x, y, x, features, seed=4), want, atol=1e-6)
    assert torch.allclose(
        g.random_features_fit(x, y, x, 200), torch.nn.functional.one_hot(y).double(), atol=1e-6
    )


def test_bad_input():
    for call, told in (
        (lambda: g.kl_inverse(1.2, 0.1), "error"),
        (lambda: g.occam_bound(0.1, 0, 5), "n=0"),
        (lambda: g.occam_bound(0.1, 10, 5, 0.0), "delta"),
        (lambda: g.prefix_free_bits(0), "at least 1"),
    ):
        with pytest.raises(CompressionError, match=told):
            call()
