"""Posits against a decoder in fractions that reads the pattern bit by bit, and an encoder that
writes it out.
"""

from fractions import Fraction

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import posit


def read(pattern, bits, es):
    """A Fraction, or None for NaR."""
    if pattern == 0:
        return Fraction(0)
    if pattern == 1 << (bits - 1):
        return None
    negative = pattern >> (bits - 1)
    word = format((1 << bits) - pattern if negative else pattern, f"0{bits}b")[1:]
    run = len(word) - len(word.lstrip(word[0]))
    regime = run - 1 if word[0] == "1" else -run
    rest = word[run + 1 :]
    exponent = int((rest[:es] + "0" * es)[:es] or "0", 2)
    fraction = rest[es:]
    value = Fraction(2) ** (regime * 2**es + exponent) * (
        1 + Fraction(int(fraction or "0", 2), 2 ** len(fraction))
    )
    return -value if negative else value


def written(x, bits, es):
    """The pattern of a positive Fraction: 64 places are written out, and rounded half to even."""
    power = 0
    while Fraction(2) ** (power + 1) <= x:
        power += 1
    while Fraction(2) ** power > x:
        power -= 1
    regime, exponent = divmod(power, 2**es)
    word = "1" * (regime + 1) + "0" if regime >= 0 else "0" * -regime + "1"
    word += format(exponent, f"0{es}b") if es else ""
    fraction = x / Fraction(2) ** power - 1
    for _ in range(64):
        fraction *= 2
        word += "1" if fraction >= 1 else "0"
        fraction -= fraction >= 1
    kept, rest = int(word[: bits - 1], 2), word[bits - 1 :]
    half = rest[0] == "1"
    beyond = "1" in rest[1:] or fraction > 0
    kept += half and (beyond or kept % 2 == 1)
    return min(max(kept, 1), 2 ** (bits - 1) - 1)


SIZES = [(8, 2), (8, 1), (8, 0), (6, 2), (5, 3), (3, 2), (11, 2)]


@pytest.mark.parametrize(("bits", "es"), SIZES)
def test_every_pattern_means_what_its_bits_say(bits, es):
    found = posit.decode(torch.arange(2**bits), bits, es).tolist()
    for pattern, value in enumerate(found):
        wanted = read(pattern, bits, es)
        assert value != value if wanted is None else Fraction(value) == wanted, pattern


def test_the_numbers_of_the_standard():
    assert posit.decode(torch.tensor([0x40, 0x41, 0x7F, 0x01, 0xC0])).tolist() == [
        1.0,
        1.125,
        2.0**24,
        2.0**-24,
        -1.0,
    ]
    assert [float(posit.decode(0x7F, 8, es)) for es in (0, 1)] == [64.0, 4096.0]
    assert posit.decode(torch.tensor([0x7FFFFFFF, 0x40000001]), 32).tolist() == [
        2.0**120,
        1 + 2.0**-27,
    ]
    assert torch.isnan(posit.decode(0x80))


@pytest.mark.parametrize(("bits", "es"), SIZES)
def test_rounding_is_that_of_the_endless_pattern(bits, es):
    values = posit.decode(torch.arange(1, 2 ** (bits - 1)), bits, es).tolist()
    middles = [(Fraction(a) + Fraction(b)) / 2 for a, b in zip(values, values[1:], strict=False)]
    turns = [read(2 * p + 1, bits + 1, es) for p in range(2 ** (bits - 1))]
    draws = (
        torch.randn(300, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
        .mul(8)
        .exp2()
        .tolist()
    )
    tried = [
        *map(Fraction, values),
        *middles,
        *turns,
        *(t * Fraction(1 + 2**-30) for t in turns),
        *map(Fraction, draws),
    ]
    tried = [x for x in tried if Fraction(float(x)) == x]
    found = posit.encode(
        torch.tensor([float(x) for x in tried], dtype=torch.float64), bits, es
    ).tolist()
    for x, pattern in zip(tried, found, strict=True):
        assert pattern == written(x, bits, es), float(x)


def test_signs_zero_and_what_is_no_number():
    x = torch.tensor(
        [0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, float("nan"), float("inf"), -float("inf")],
        dtype=torch.float64,
    )
    assert posit.encode(x).tolist() == [0, 0, 1, 255, 127, 129, 128, 128, 128]
    draws = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    assert torch.equal(posit.cast(-draws), -posit.cast(draws))
    assert torch.equal(posit.encode(posit.decode(torch.arange(256))), torch.arange(256))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: posit.decode(256),
        lambda: posit.decode(1.5),
        lambda: posit.decode(1, 2),
        lambda: posit.encode(1.0, 17),
        lambda: posit.decode(1, 8, 4),
    ],
)
def test_what_is_no_pattern_is_refused(wrong):
    with pytest.raises(CompressionError):
        wrong()


@pytest.mark.parametrize("bits", [3, 6, 8])
def test_the_fields_of_a_pattern_give_its_value(bits):
    for code in range(1, 2**bits):
        if code == 2 ** (bits - 1):
            continue
        sign, regime, exponent, fraction = posit.fields(code, bits)
        assert 1 + len(regime + exponent + fraction) == bits
        run = len(regime) - (len(set(regime)) == 2)
        power = 4 * (run - 1 if regime[0] == "1" else -run) + int((exponent + "00")[:2], 2)
        value = Fraction(2) ** power * (1 + Fraction(int(fraction or "0", 2), 2 ** len(fraction)))
        assert float(posit.decode(code, bits)) == (-1 if sign == "1" else 1) * value
    with pytest.raises(CompressionError, match="0 to 255"):
        posit.fields(256)
