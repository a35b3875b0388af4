"""Logarithmic numbers against decimals of fifty digits: every value, the nearest by trying all,
products by adding.
"""

from decimal import Decimal, getcontext

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import logarithmic

SIZES = [(4, 1), (5, 0), (6, 2), (8, 3), (8, 4)]
getcontext().prec = 50


def exact(code, bits, fraction):
    """The number behind a pattern, read from its digits."""
    word = format(code, f"0{bits}b")
    E = int(word[1:], 2)
    size = Decimal(2) ** (Decimal(E - (2 ** (bits - 1) - 1)) / 2**fraction) if E else Decimal(0)
    return -size if word[0] == "1" else size


@pytest.mark.parametrize(("bits", "fraction"), SIZES)
def test_every_pattern(bits, fraction):
    found = logarithmic.decode(torch.arange(2**bits), bits, fraction).tolist()
    for code, value in enumerate(found):
        assert value == pytest.approx(float(exact(code, bits, fraction)), rel=1e-14, abs=0)


@pytest.mark.parametrize(("bits", "fraction"), SIZES)
def test_the_nearest_of_all_values(bits, fraction):
    values = [exact(code, bits, fraction) for code in range(2**bits)]
    g = torch.Generator().manual_seed(bits)
    x = torch.cat(
        [
            1.4 * torch.randn(60, generator=g),
            torch.exp2(-12 * torch.rand(60, generator=g)),
            torch.tensor([0.0, 1.0, -3.0]),
        ]
    ).double()
    for number, code in zip(
        x.tolist(), logarithmic.encode(x, bits, fraction).tolist(), strict=True
    ):
        best = min(abs(Decimal(number) - value) for value in values)
        assert abs(Decimal(number) - values[code]) <= best + Decimal(1e-15), number


@pytest.mark.parametrize(("bits", "fraction"), SIZES)
def test_patterns_come_back_and_the_logarithm_may_be_rounded_instead(bits, fraction):
    # the second zero comes back as the first
    codes = torch.tensor([c for c in range(2**bits) if c != 2 ** (bits - 1)])
    numbers = logarithmic.decode(codes, bits, fraction)
    for rounding in logarithmic.ROUNDINGS:
        assert torch.equal(logarithmic.encode(numbers, bits, fraction, rounding=rounding), codes), (
            rounding
        )
    low, high = numbers[2 ** (bits - 1) - 2 : 2 ** (bits - 1)].tolist()  # the two largest
    between = (low * high) ** 0.5
    ends = pytest.approx(high, rel=1e-14), pytest.approx(low, rel=1e-14)
    assert low < between < (low + high) / 2
    assert (
        float(logarithmic.cast(between * 1.0001, bits, fraction, rounding="logarithm")) == ends[0]
    )
    assert float(logarithmic.cast(between * 1.0001, bits, fraction)) == ends[1]
    assert float(logarithmic.cast((low + high) / 2 * 1.0001, bits, fraction)) == ends[0]


@pytest.mark.parametrize(("bits", "fraction"), [(5, 0), (6, 2)])
def test_products_are_sums(bits, fraction):
    every = torch.arange(2**bits)
    product = logarithmic.multiply(every[:, None], every, bits)
    least = exact(1, bits, fraction)
    for a in range(2**bits):
        for b in range(2**bits):
            wanted = exact(a, bits, fraction) * exact(b, bits, fraction)
            found = exact(int(product[a, b]), bits, fraction)
            assert abs(found - wanted) < Decimal(1e-40) or (
                found == 0 and abs(wanted) < least * Decimal("0.999")
            )


def test_the_relative_error_is_the_same_everywhere():
    x = torch.exp2(
        -14 * torch.rand(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    off = (logarithmic.cast(x) - x).abs() / x
    half = (2 ** (1 / 8) - 1) / (2 ** (1 / 8) + 1)  # at the mean of two neighbours
    for part in off[x.argsort()].chunk(5):
        assert 0.98 * half < part.max() <= half + 1e-12


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: logarithmic.decode(16, 4, 1), "whole numbers from 0 to 15"),
        (lambda: logarithmic.decode(torch.ones(2)), "mean encode"),
        (lambda: logarithmic.encode(float("nan")), "NaN"),
        (lambda: logarithmic.encode(1.0, 1), "2 to 16 bits"),
        (lambda: logarithmic.encode(1.0, rounding="up"), "value, logarithm"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(CompressionError, match=said):
        call()
