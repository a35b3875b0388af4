"""Approximate products against integrals, exact cases and their own variance."""

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import approximate


def test_mitchell_is_never_above_and_at_most_a_ninth_below():
    x = 1 + torch.arange(1, 2048, dtype=torch.float64) / 2048
    error = approximate.mitchell(x[:, None], x) / (x[:, None] * x) - 1
    # at 1.5 · 1.5: 2 for 2.25
    assert error.max() <= 1e-15 and abs(float(error.min()) + 1 / 9) < 1e-6
    assert abs(float(error.mean()) + 0.0385) < 1e-4


def test_mitchell_over_signs_zeros_and_powers_of_two():
    x = torch.tensor([0.0, -3.0, 0.011, 1e-20, -7e18], dtype=torch.float64)
    for power in (1.0, -0.25, 2.0**40):
        assert torch.equal(approximate.mitchell(x, torch.tensor(power)), x * power)
    assert approximate.mitchell(torch.tensor(-1.5), torch.tensor(1.5)) == -2
    y = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logs = [
        y.abs().log2().floor() + y.abs() / y.abs().log2().floor().exp2() - 1,
        torch.tensor(3.7).double().log2().floor() + 3.7 / 2 - 1,
    ]
    total = logs[0] + logs[1]
    wanted = total.floor().exp2() * (1 + total - total.floor()) * y.sign()
    torch.testing.assert_close(
        approximate.mitchell(y, torch.tensor(3.7, dtype=torch.float64)), wanted, rtol=1e-12, atol=0
    )


def test_streams_are_unbiased_with_the_variance_of_a_share():
    p, q, bits, times = 0.7, 0.3, 256, 20_000
    generator = torch.Generator().manual_seed(0)
    found = approximate.stochastic_product(
        torch.full((times,), p), torch.tensor(q), bits, generator=generator
    )
    deviation = (p * q * (1 - p * q) / bits) ** 0.5
    assert abs(float(found.mean()) - p * q) < 4 * deviation / times**0.5
    assert abs(float(found.std()) / deviation - 1) < 4 / (2 * times) ** 0.5
    ends = approximate.stochastic_product(
        torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]), 7
    )
    assert ends.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("p", "bits"), [(1.5, 8), (-0.1, 8), (0.5, 0), (float("nan"), 8)])
def test_what_is_no_probability_is_refused(p, bits):
    with pytest.raises(CompressionError, match="probabilities lie between 0 and 1"):
        approximate.stochastic_product(torch.tensor(p), torch.tensor(0.5), bits)


@pytest.mark.parametrize(("bits", "columns"), [(4, 0), (4, 2), (4, 4), (6, 5)])
def test_a_multiplier_without_its_lowest_columns(bits, columns):
    """Against the schoolbook sum, for all pairs; the bound of the error is reached where every bit
    is set.
    """
    every = torch.arange(2**bits)
    found = approximate.truncated_product(every[:, None], every, columns=columns, bits=bits)
    for a in range(2**bits):
        for b in range(2**bits):
            partial = [
                (a >> i & 1) * (b >> j & 1) << (i + j)
                for i in range(bits)
                for j in range(bits)
                if i + j >= columns
            ]
            assert int(found[a, b]) == sum(partial)
    assert int((every[:, None] * every - found).max()) == (columns - 1) * 2**columns + 1
    signs = torch.tensor([[1, -1], [-1, 1]])
    assert torch.equal(
        approximate.truncated_product(signs * 7, torch.tensor(-3), columns=columns, bits=bits),
        -signs * found[7, 3],
    )
    for wrong in ({"columns": bits + 1}, {"columns": -1}):
        with pytest.raises(CompressionError, match="columns"):
            approximate.truncated_product(every, every, bits=bits, **wrong)
    with pytest.raises(CompressionError, match="whole numbers"):
        approximate.truncated_product(torch.ones(2), every[:2], columns=1)
    with pytest.raises(CompressionError, match="the largest of 2 bits"):
        approximate.truncated_product(every, every, columns=1, bits=2)


@pytest.mark.parametrize(("p", "q"), [(0.7, -0.3), (-0.1, 0.05), (-1.0, 1.0)])
def test_bipolar_streams(p, q):
    """Unbiased, with the variance of a share of ones: by counting every pair of streams of 3 bits,
    and by drawing.
    """
    import itertools

    mean = square = 0.0
    for a in itertools.product((0, 1), repeat=3):
        for b in itertools.product((0, 1), repeat=3):
            chance = 1.0
            for bit, x in [*((bit, p) for bit in a), *((bit, q) for bit in b)]:
                chance *= (1 + x) / 2 if bit else (1 - x) / 2
            value = 2 * sum(i == j for i, j in zip(a, b, strict=True)) / 3 - 1
            mean, square = mean + chance * value, square + chance * value**2
    assert mean == pytest.approx(p * q, abs=1e-12)
    assert float(approximate.stream_variance(p, q, 3, bipolar=True)) == pytest.approx(
        square - mean**2, abs=1e-12
    )
    times, bits = 4000, 64
    found = approximate.stochastic_product(
        torch.full((times,), p),
        torch.tensor(q),
        bits,
        bipolar=True,
        generator=torch.Generator().manual_seed(0),
    )
    deviation = float(approximate.stream_variance(p, q, bits, bipolar=True)) ** 0.5
    assert abs(float(found.mean()) - p * q) <= 4 * deviation / times**0.5 + 1e-7
    assert abs(float(found.std()) - deviation) <= 4 * deviation / (2 * times) ** 0.5 + 1e-12


def test_unipolar_variance_by_counting_and_the_range_of_bipolar_numbers():
    assert float(approximate.stream_variance(0.7, 0.3, 256)) == pytest.approx(0.21 * 0.79 / 256)
    with pytest.raises(CompressionError, match="bipolar numbers lie between −1 and 1"):
        approximate.stochastic_product(torch.tensor(-1.2), torch.tensor(0.5), 8, bipolar=True)
