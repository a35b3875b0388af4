"""Approximate products against integrals, exact cases and their own variance."""

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import approximate


def test_mitchell_is_never_above_and_at_most_a_ninth_below():
    x = 1 + torch.arange(1, 2048, dtype=torch.float64) / 2048
    error = approximate.mitchell(x[:, None], x) / (x[:, None] * x) - 1
    assert error.max() <= 1e-15 and abs(float(error.min()) + 1 / 9) < 1e-6  # at 1.5 · 1.5: 2 for 2.25
    assert abs(float(error.mean()) + 0.0385) < 1e-4


def test_mitchell_over_signs_zeros_and_powers_of_two():
    x = torch.tensor([0.0, -3.0, 0.011, 1e-20, -7e18], dtype=torch.float64)
    for power in (1.0, -0.25, 2.0**40):
        assert torch.equal(approximate.mitchell(x, torch.tensor(power)), x * power)
    assert approximate.mitchell(torch.tensor(-1.5), torch.tensor(1.5)) == -2
    y = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logs = [y.abs().log2().floor() + y.abs() / y.abs().log2().floor().exp2() - 1, torch.tensor(3.7).double().log2().floor() + 3.7 / 2 - 1]
    total = logs[0] + logs[1]
    wanted = total.floor().exp2() * (1 + total - total.floor()) * y.sign()
    torch.testing.assert_close(approximate.mitchell(y, torch.tensor(3.7, dtype=torch.float64)), wanted, rtol=1e-12, atol=0)


def test_streams_are_unbiased_with_the_variance_of_a_share():
    p, q, bits, times = 0.7, 0.3, 256, 20_000
    generator = torch.Generator().manual_seed(0)
    found = approximate.stochastic_product(torch.full((times,), p), torch.tensor(q), bits, generator=generator)
    deviation = (p * q * (1 - p * q) / bits) ** 0.5
    assert abs(float(found.mean()) - p * q) < 4 * deviation / times**0.5
    assert abs(float(found.std()) / deviation - 1) < 4 / (2 * times) ** 0.5
    ends = approximate.stochastic_product(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]), 7)
    assert ends.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("p", "bits"), [(1.5, 8), (-0.1, 8), (0.5, 0), (float("nan"), 8)])
def test_what_is_no_probability_is_refused(p, bits):
    with pytest.raises(CompressionError, match="probabilities lie between 0 and 1"):
        approximate.stochastic_product(torch.tensor(p), torch.tensor(0.5), bits)
