"""Marchenko–Pastur, spikes and truncation against sampling, integration and closed forms."""

import math

import pytest
import torch
from scipy import integrate

from course_utils.errors import CompressionError
from course_utils.theory import spectra


def noise(n, m, sigma=1.0, seed=0):
    return sigma * torch.randn(
        n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("q, variance", [(1.0, 1.0), (0.5, 2.0), (0.1, 0.3)])
def test_the_density_is_one_and_has_the_mean_of_the_variance(q, variance):
    low, high = spectra.edges(q, variance)
    f = lambda x: float(spectra.density(torch.tensor(x, dtype=torch.float64), q, variance))  # noqa: E731
    assert abs(integrate.quad(f, low, high, limit=300)[0] - 1) < 1e-5
    assert abs(integrate.quad(lambda x: x * f(x), low, high, limit=300)[0] - variance) < 1e-5
    assert f(high * 1.01) == 0


def test_eigenvalues_of_noise_follow_the_density():
    """Kolmogorov–Smirnov distance below .02, for a tall matrix too."""
    for shape in ((400, 800), (800, 400)):
        found = spectra.eigenvalues(noise(*shape, sigma=0.7)).flip(0)
        low, high = spectra.edges(0.5, 0.49)
        grid = torch.linspace(low + 1e-9, high, 4001, dtype=torch.float64)
        cumulative = torch.cumulative_trapezoid(spectra.density(grid, 0.5, 0.49), grid)
        at = torch.searchsorted(grid[1:].contiguous(), found).clamp(max=len(cumulative) - 1)
        empirical = torch.arange(1, len(found) + 1) / len(found)
        assert float((cumulative[at] - empirical).abs().max()) < 0.02
        assert spectra.spikes(noise(*shape)) <= 1


def test_a_spike_appears_where_theory_says():
    n, m = 300, 600
    u, v = noise(n, 1, seed=1), noise(m, 1, seed=2)
    signal = u / u.norm() @ (v / v.norm()).T
    threshold = spectra.visible_above(n, m)
    for s in (1.3 * threshold, 2 * threshold, 4 * threshold):
        found = [
            float(torch.linalg.svdvals(noise(n, m, seed=k) + s * signal)[0]) for k in range(10, 18)
        ]
        assert abs(sum(found) / len(found) / spectra.observed_spike(s, n, m) - 1) < 0.01
    assert spectra.observed_spike(0.5 * threshold, n, m) == math.sqrt(n) + math.sqrt(m)
    assert spectra.spikes(noise(n, m, seed=3) + 2 * threshold * signal, variance=1.0) == 1
    assert abs(spectra.gavish_donoho(100, 2.0) - 46.188) < 1e-3


def test_effective_rank_and_truncation():
    assert abs(spectra.effective_rank(torch.eye(16)) - 16) < 1e-9
    assert abs(spectra.effective_rank(torch.ones(5, 9)) - 1) < 1e-6
    W = noise(20, 30)
    for rank in (0, 3, 20):
        dropped = float((torch.linalg.svdvals(W)[rank:] ** 2).sum())
        assert abs(float((W - spectra.truncated(W, rank)).pow(2).sum()) - dropped) < 1e-9
    assert torch.equal(spectra.shuffled(W).flatten().sort().values, W.flatten().sort().values)
    assert not torch.equal(spectra.shuffled(W), W)


def test_bad_input():
    with pytest.raises(CompressionError, match="smaller side"):
        spectra.edges(1.5)
    with pytest.raises(CompressionError, match="0 to 3"):
        spectra.truncated(torch.ones(3, 5), 4)
    with pytest.raises(CompressionError, match="NaN"):
        spectra.spikes(torch.full((2, 2), math.nan))
