"""Noise: the exact series against sampling, ½ δᵀFδ against the exact divergence, the
straight-through walk by hand.
"""

import math

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.theory import noise


def normal(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0, 3.0, 6.0])
def test_the_series_against_sampling(step):
    x = normal(400_000)
    energy = (torch.round(x / step) * step - x).pow(2)
    assert abs(float(energy.mean()) - noise.gaussian_error_variance(step)) < 3 * float(
        energy.std()
    ) / math.sqrt(len(x))


def test_the_series_at_the_values_of_the_literature():
    assert abs(noise.gaussian_error_variance(2.0) - 0.3304) < 1e-4  # Δ²/12 = .3333
    assert abs(noise.gaussian_error_variance(3.0) - 0.6483) < 1e-4  # Δ²/12 = .75
    assert abs(noise.gaussian_error_variance(0.3, 2.0) - 0.0075) < 1e-12
    # all in one cell: the variance itself
    assert abs(noise.gaussian_error_variance(60.0) - 1) < 1e-2


def test_stochastic_rounding_is_unbiased_and_costs_twice():
    x = normal(200_000)
    r = noise.stochastic_round(x, 0.25, torch.Generator().manual_seed(1))
    error = r - x
    assert abs(float(error.mean())) < 3 * float(error.std()) / math.sqrt(len(x))
    assert abs(float(error.pow(2).mean()) / (0.25**2 / 6) - 1) < 0.01
    assert (error.abs() <= 0.25).all() and torch.allclose(r / 0.25, (r / 0.25).round())


def test_subtractive_dither_makes_the_error_independent():
    x, n = 0.2 * normal(100_000), 100_000
    d = torch.rand(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 0.5
    error = (torch.round(x + d) - d) - x
    plain = torch.round(x) - x
    correlation = lambda e: abs(float(torch.corrcoef(torch.stack([e, x]))[0, 1]))  # noqa: E731
    assert correlation(error) < 3 / math.sqrt(n) and correlation(plain) > 0.8
    assert abs(float(error.pow(2).mean()) - 1 / 12) < 1e-3


def test_four_noise_models_have_the_variance_that_they_say():
    w = normal(300 * 400, 2).view(300, 400)
    rng = torch.Generator().manual_seed(3)
    rms = w.pow(2).mean()
    wanted = {
        "additive": 0.01 * rms,
        "multiplicative": 0.01 * rms,
        "signal": 0.01 * w.abs().mean() * rms.sqrt(),
        "largest": 0.01 * w.abs().max() ** 2,
    }
    for kind, value in wanted.items():
        found = (noise.noisy(w, 0.1, kind, rng) - w).pow(2).mean()
        assert abs(float(found / value) - 1) < 0.02
    changed = noise.noisy(w, 0.1, "multiplicative", rng)
    assert torch.equal(changed == 0, w == 0)
    assert abs(noise.relative_error(w, 1.1 * w) - 0.01) < 1e-12
    with pytest.raises(CompressionError, match="kind"):
        noise.noisy(w, 0.1, "pink")


def test_half_the_variance_of_the_change_is_the_divergence():
    z, d = normal(5 * 40).view(5, 40), normal(5 * 40, 1).view(5, 40)
    for size in (1e-2, 1e-3):
        p, q = z.log_softmax(-1), (z + size * d).log_softmax(-1)
        exact = (p.exp() * (p - q)).sum(-1)
        assert ((noise.quadratic_kl(z, size * d) / exact - 1).abs() < 1.5 * size + 1e-9).all()
    # a change of all logits alike costs nothing
    assert (noise.quadratic_kl(z, torch.full_like(z, 3.0)) < 1e-20).all()


def test_damages_add():
    assert noise.predicted({"a": 2.0, "b": 0.5}, {"a": 0.01, "b": 0.1}) == pytest.approx(0.07)
    with pytest.raises(CompressionError, match="other layers: b"):
        noise.predicted({"a": 1.0}, {"a": 1.0, "b": 1.0})


def test_straight_through_never_comes_to_rest_and_a_smaller_rate_cures_nothing():
    shares = []
    for rate in (0.1, 0.01, 0.001):
        latent, codes = noise.straight_through(0.3, 0.0, rate, 40_000)
        shares.append(float(codes[10_000:].double().mean()))
        # it stays at the edge of the cell
        assert float((latent[10_000:] - 0.5).abs().max()) <= 0.7 * rate + 1e-6
    assert all(abs(s - 0.3) < 0.01 for s in shares)  # the code is right on average: dithering
    _, codes = noise.straight_through(0.0, 0.2, 0.1, 50)
    assert (codes == 0).all()  # a target on the grid: it rests
    latent, _ = noise.straight_through(0.3, 0.0, 0.1, 3)
    assert torch.allclose(latent, torch.tensor([0.0, 0.03, 0.06]))
