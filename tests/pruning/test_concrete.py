"""Gates against closed forms, sampling, and SciPy's logistic distribution."""

import math

import pytest
import torch
from scipy import integrate, stats

from course_utils.errors import CompressionError
from course_utils.pruning import concrete

ALPHAS = [-2.0, -0.3, 0.8, 3.0]
DRAWS = 100_000


@pytest.fixture(scope="module")
def noise():
    return concrete.logistic_noise((DRAWS,), torch.Generator().manual_seed(0), torch.float64)


def test_the_noise_is_logistic(noise):
    assert stats.kstest(noise.numpy(), "logistic").pvalue > 0.001 and torch.isfinite(noise).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_gate_is_open_as_often_as_its_formula_says(noise, alpha):
    a = torch.tensor(alpha, dtype=torch.float64)
    z = concrete.hard(a, noise)
    assert float((z != 0).double().mean()) == pytest.approx(
        float(concrete.open_probability(a)), abs=0.01
    )
    # exactly 1 where s (ζ − γ) + γ ≥ 1: by the logistic distribution itself
    edge = (1 - concrete.GAMMA) / (concrete.ZETA - concrete.GAMMA)
    at_one = stats.logistic.sf(concrete.BETA * math.log(edge / (1 - edge)) - alpha)
    assert float((z == 1).double().mean()) == pytest.approx(at_one, abs=0.01)
    assert float(z.mean()) == pytest.approx(float(concrete.expected(a)), abs=0.01)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_expected_gate_is_an_integral_over_the_noise(alpha):
    """E[z] = ∫ z(u) du, by quadrature over the uniform number instead of over the gate."""
    wanted = integrate.quad(lambda u: concrete.hard_spec(alpha, u), 0, 1, limit=200)[0]
    assert float(concrete.expected(torch.tensor(alpha))) == pytest.approx(wanted, abs=1e-4)


def test_gates_are_the_slow_ones():
    u = torch.tensor([0.02, 0.3, 0.5, 0.77, 0.999], dtype=torch.float64)
    for alpha in ALPHAS:
        wanted = torch.tensor([concrete.hard_spec(alpha, float(x)) for x in u], dtype=torch.float64)
        torch.testing.assert_close(
            concrete.hard(torch.tensor(alpha, dtype=torch.float64), torch.logit(u)),
            wanted,
            rtol=1e-12,
            atol=1e-12,
        )


def test_the_distribution_of_a_soft_gate(noise):
    s = concrete.binary(torch.tensor(0.4, dtype=torch.float64), noise)
    for x in (0.05, 0.5, 0.9):
        assert float((s <= x).double().mean()) == pytest.approx(
            float(concrete.cumulative(torch.tensor(x), torch.tensor(0.4))), abs=0.01
        )
    assert ((s > 0) & (s < 1)).all()  # a soft gate is never closed


def test_without_noise_a_gate_is_shut_open_or_between():
    assert concrete.settled(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0.0, 0.5, 1.0]


def test_entropy_and_the_penalty_of_concrete_dropout():
    p = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        concrete.entropy(p),
        torch.tensor([stats.bernoulli(x).entropy() for x in p.tolist()], dtype=torch.float64),
    )
    weight = torch.tensor([[3.0, 0.0, 1.0, 2.0], [4.0, 1.0, 0.0, 2.0]], dtype=torch.float64)
    squares = [25.0, 1.0, 1.0, 8.0]
    by_hand = (
        sum(
            4 * (1 - x) * s / 2 - float(stats.bernoulli(x).entropy())
            for x, s in zip(p.tolist(), squares, strict=True)
        )
        / 10
    )
    assert float(concrete.dropout_penalty(p, weight, length=2.0, examples=10)) == pytest.approx(
        by_hand
    )


def test_the_penalty_pulls_the_rate_to_its_balance():
    """d/dp = 0 where ln(p / (1 − p)) = ℓ² ‖w‖² / 2: larger weights are dropped more often, as far
    as the penalty alone goes.
    """
    weight = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    p = torch.sigmoid(weight[0].square() / 2).requires_grad_()
    (slope,) = torch.autograd.grad(concrete.dropout_penalty(p, weight), p)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_a_dropping_gate_drops_with_its_probability(noise):
    z = concrete.drop_gate(torch.tensor(1.1, dtype=torch.float64), noise)
    assert float((z < 0.5).double().mean()) == pytest.approx(1 / (1 + math.exp(-1.1)), abs=0.01)
    assert float(z.mean()) == pytest.approx(1 - 1 / (1 + math.exp(-1.1)), abs=0.01)


@pytest.mark.parametrize("run", [
    lambda a: concrete.hard(a, a, gamma=0.1), lambda a: concrete.hard(a, a, zeta=1.0),
    lambda a: concrete.open_probability(a, gamma=0.0), lambda a: concrete.settled(a, zeta=0.9),
    lambda a: concrete.expected(a, gamma=0.0), lambda a: concrete.binary(a, a, beta=0.0),
])  # fmt: skip
def test_a_gate_that_cannot_be_is_refused(run):
    with pytest.raises(CompressionError, match="choose gamma|above 0"):
        run(torch.zeros(2))
