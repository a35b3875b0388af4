"""Entropy and lossless codes against closed forms, brute force and a decoder that reads one bit at
a time.
"""

import itertools
import lzma
import math
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from course_utils.errors import CompressionError
from course_utils.theory import entropy


def random_symbols(n: int, spread: float, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (128 + spread * torch.randn(n, generator=g)).round().clamp(0, 255).to(torch.uint8)


def test_entropy_closed_forms():
    assert entropy.entropy(torch.full((50,), 7)) == 0
    assert abs(entropy.entropy(torch.arange(64).repeat(3)) - 6) < 1e-12
    dyadic = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [-3] * 2).reshape(4, 4)
    assert abs(entropy.entropy(dyadic) - 1.75) < 1e-12
    symbols = random_symbols(5000, 9.0)
    assert (
        abs(entropy.entropy(symbols) - scipy_entropy(np.bincount(symbols.numpy()), base=2)) < 1e-10
    )


def complete_lengths(n: int) -> list[tuple[int, ...]]:
    """All lengths of n words that a prefix code can have and that waste nothing."""
    return [
        lens
        for lens in itertools.product(range(1, n), repeat=n)
        if sum(Fraction(1, 2**w) for w in lens) == 1
    ]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_no_prefix_code_is_shorter(n):
    codes = complete_lengths(n)
    rng = np.random.default_rng(n)
    for _ in range(40):
        counts = rng.integers(1, 60, n) ** 2
        best = min(int(np.dot(counts, lens)) for lens in codes)
        assert int(np.dot(counts, entropy.code_lengths(counts))) == best


def test_long_words_are_limited_and_still_a_code():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = entropy.code_lengths(fibonacci)
    assert lengths.max() <= 15 and sum(Fraction(1, 2 ** int(w)) for w in lengths) == 1
    mean = np.dot(fibonacci, lengths) / sum(fibonacci)
    assert mean < scipy_entropy(fibonacci, base=2) + 1


def test_words_are_a_prefix_code():
    counts = np.random.default_rng(1).integers(0, 1000, 256)
    lengths = entropy.code_lengths(counts)
    words = [f"{w:0{n}b}" for w, n in zip(entropy.code_words(lengths), lengths, strict=True) if n]
    assert len(words) == (counts > 0).sum()
    assert not any(a != b and b.startswith(a) for a in words for b in words)


def slow_decode(data: bytes) -> list[int]:
    """One bit at a time, looking words up in a dictionary: the file format as its docstring states
    it.
    """
    count, size = struct.unpack_from("<QI", data)
    table = data[12 : 12 + 128]
    lengths = [half for byte in table for half in (byte >> 4, byte & 15)]
    words, word, previous = {}, 0, 0
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths) if n):
        word, previous = word << (length - previous), length
        words[f"{word:0{length}b}"] = symbol
        word += 1
    bits = "".join(f"{byte:08b}" for byte in data[len(data) - size :])
    out, start = [], 0
    while len(out) < count:
        end = start + 1
        while bits[start:end] not in words:
            end += 1
        out.append(words[bits[start:end]])
        start = end
    return out


@pytest.mark.parametrize("n", [1, 2, 4095, 4096, 4097, 20_000])
@pytest.mark.parametrize("spread", [0.0, 0.6, 8.0, 60.0])
def test_huffman_round_trip(n, spread):
    symbols = random_symbols(n, spread, seed=n)
    data = entropy.huffman_encode(symbols)
    assert torch.equal(entropy.huffman_decode(data), symbols)
    assert slow_decode(data) == symbols.tolist()


def test_huffman_spends_less_than_one_bit_above_the_entropy():
    for spread in (0.6, 3.0, 20.0):
        symbols = random_symbols(200_000, spread)
        bits = 8 * len(entropy.huffman_encode(symbols)) / len(symbols)
        assert entropy.entropy(symbols) <= bits < entropy.entropy(symbols) + 1


def test_rare_symbols_get_long_words_and_come_back():
    symbols = torch.cat([torch.full((2**17 >> i,), i, dtype=torch.uint8) for i in range(18)])
    symbols = symbols[torch.randperm(len(symbols), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(entropy.huffman_decode(entropy.huffman_encode(symbols)), symbols)


def test_every_bfloat16_pattern_comes_back():
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    weight = bits.view(torch.bfloat16).reshape(256, 256)
    exponent, rest = entropy.split_bfloat16(weight)
    numbers = bits.to(torch.int64) & 0xFFFF
    assert torch.equal(exponent.reshape(-1).long(), numbers // 128 % 256)
    assert torch.equal(rest.reshape(-1).long(), numbers // 32768 * 128 + numbers % 128)
    for back in (
        entropy.join_bfloat16(exponent, rest),
        entropy.decode_bfloat16(entropy.encode_bfloat16(weight), (256, 256)),
    ):
        assert torch.equal(back.view(torch.int16), weight.view(torch.int16))


def test_normal_weights_lose_nothing_and_a_third_of_their_bytes():
    """Exponents of N(0, σ²) numbers: their probabilities in closed form give the entropy, Huffman
    comes near it.
    """
    weight = (torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)) * 2**-6).bfloat16()
    p = [
        math.erf(2.0**-e / math.sqrt(2)) - math.erf(2.0 ** (-e - 1) / math.sqrt(2))
        for e in range(-4, 40)
    ]
    expected = -sum(q * math.log2(q) for q in p if q > 0)
    exponent, _ = entropy.split_bfloat16(weight)
    assert abs(entropy.entropy(exponent) - expected) < 0.02
    data = entropy.encode_bfloat16(weight)
    assert torch.equal(
        entropy.decode_bfloat16(data, (300, 1000)).view(torch.int16), weight.view(torch.int16)
    )
    assert expected + 8 < 8 * len(data) / weight.numel() < expected + 8.3


def test_general_purpose_coders():
    data = bytes(range(256)) * 40
    assert zlib.decompress(entropy.general_purpose(data, "zlib")) == data
    assert lzma.decompress(entropy.general_purpose(data, "lzma")) == data


def test_bad_input():
    with pytest.raises(CompressionError, match="integer"):
        entropy.entropy(torch.randn(3))
    with pytest.raises(CompressionError, match="at least one"):
        entropy.entropy(torch.tensor([], dtype=torch.int64))
    with pytest.raises(CompressionError, match="0 to 255"):
        entropy.huffman_encode(torch.tensor([256]))
    with pytest.raises(CompressionError, match="counts"):
        entropy.code_lengths([0, 0])
    with pytest.raises(CompressionError, match="bfloat16"):
        entropy.split_bfloat16(torch.randn(3))
    with pytest.raises(CompressionError, match="zlib"):
        entropy.general_purpose(b"", "rar")
    data = entropy.huffman_encode(random_symbols(9000, 5.0))
    for cut in (0, 5, 100, 140, len(data) - 1):
        with pytest.raises(CompressionError, match="truncated"):
            entropy.huffman_decode(data[:cut])
    with pytest.raises(CompressionError, match="impossible"):
        entropy.huffman_decode(data[:12] + b"\x11" * 128 + data[140:])
    weights = entropy.encode_bfloat16(torch.ones(10).bfloat16())
    for wrong in (weights[:-1], weights + b"x"):
        with pytest.raises(CompressionError, match="not the shape"):
            entropy.decode_bfloat16(wrong, (10,))
    with pytest.raises(CompressionError, match="truncated"):
        entropy.decode_bfloat16(weights[:20], (10,))
