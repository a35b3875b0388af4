"""The codec's probabilities against SciPy, its gain against the closed form of a linear transform,
and where nothing can be gained.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from course_utils.errors import CompressionError
from course_utils.quantization import neural_codec


def test_bits_are_those_of_the_mixture():
    torch.manual_seed(0)
    model = neural_codec.Entropies(3).double()
    for p in model.parameters():
        p.data += 0.7 * torch.randn_like(p)
    y = torch.randint(-9, 10, (40, 3)).double()
    share, mean, scale = (
        model.share.softmax(-1).detach().numpy(),
        model.mean.detach().numpy(),
        model.log_scale.exp().detach().numpy(),
    )
    for j in range(3):
        wanted = sum(
            share[j, k]
            * np.diff(
                stats.logistic(mean[j, k], scale[j, k]).cdf(
                    np.add.outer(y[:, j].numpy(), [-0.5, 0.5])
                )
            )[:, 0]
            for k in range(3)
        )
        found = model.bits(y)[:, j].detach().numpy()
        np.testing.assert_allclose(found, np.minimum(-np.log2(wanted), 24), rtol=1e-6)
    everywhere = (
        2
        ** -model.bits(
            torch.arange(-400.0, 401, dtype=torch.float64)[:, None].expand(-1, 3)
        ).detach()
    )
    assert (everywhere.sum(0) - 1).abs().max() < 1e-3, "probabilities sum to 1"


def test_the_gain_of_a_sequence_is_that_of_its_eigenvalues():
    """½ log₂ of the arithmetic over the geometric mean of the covariance's eigenvalues, which is
    also −½ log₂ det / d.
    """
    lags = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    values = np.linalg.eigvalsh(0.9**lags)
    assert neural_codec.markov_gain(8, 0.9) == pytest.approx(
        0.5 * math.log2(values.mean()) - 0.5 * np.log2(values).mean(), rel=1e-9
    )
    found = np.cov(neural_codec.markov(200_000, 8, 0.9).numpy().T)
    np.testing.assert_allclose(found, 0.9**lags, atol=0.015)


def test_a_linear_codec_finds_the_gain():
    x = neural_codec.markov(20_000, 4, 0.95)
    codec = neural_codec.train(x[4000:], 60.0, steps=400, batch=256, rate=0.02)
    bits, error = codec.measured(x[:4000])
    saved = neural_codec.rounded(x[:4000], error) - bits
    assert abs(saved - neural_codec.markov_gain(4, 0.95)) < 0.15
    assert codec.parameters_of_decoder == 4 + 4 * 4 + 4 + 3 * 4 * 3


def test_independent_numbers_give_nothing():
    x = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    bits, error = neural_codec.train(x[4000:], 60.0, steps=300, batch=256).measured(x[:4000])
    assert abs(neural_codec.rounded(x[:4000], error) - bits) < 0.06


def test_the_control_is_entropy_coded_rounding():
    from course_utils.theory import rate_distortion

    x = torch.randn(50_000, 4, generator=torch.Generator().manual_seed(1))
    bits, error = rate_distortion.uniform_gaussian(0.5)
    assert neural_codec.rounded(x, error) == pytest.approx(bits, abs=0.02)


def test_errors():
    x = torch.randn(100, 4)
    for wrong, trade in ((x[:0], 1.0), (x[0], 1.0), (x * torch.nan, 1.0), (x, 0.0)):
        with pytest.raises(CompressionError, match="positive trade"):
            neural_codec.train(wrong, trade)
    with pytest.raises(CompressionError, match="between 0 and the mean square"):
        neural_codec.rounded(x, 100.0)
