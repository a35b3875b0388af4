"""The rANS coder against a coder of one state in Python's whole numbers,
and against constriction.
"""

import struct

import numpy as np
import pytest

from course_utils.errors import CompressionError
from course_utils.theory import coding

M = 1 << coding.PRECISION


def skewed(n, k, seed, sharp=1.0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, sharp))
    return rng.choice(k, n, p=p)


def table_of(symbols, k):
    return coding.frequencies(np.bincount(symbols, minlength=k))


def slow_encode(symbols, f):
    """One lane, no renormalization at all: the state is one whole number of any size."""
    c = np.concatenate([[0], np.cumsum(f)]).tolist()
    x = 1 << 16
    for s in reversed(symbols.tolist()):
        x = x // int(f[s]) * M + x % int(f[s]) + c[s]
    return x


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("lanes", [1, 7, 64])
def test_round_trip(n, lanes):
    symbols = skewed(n, 19, seed=n)
    f = table_of(symbols, 19) if n else table_of(np.arange(19), 19)
    data = coding.encode(symbols, f, lanes=lanes)
    assert np.array_equal(coding.decode(data, f), symbols)


def test_a_table_for_each_symbol():
    rng = np.random.default_rng(3)
    which = rng.integers(0, 5, 3001)
    symbols = np.where(which == 0, 7, rng.integers(0, 7, 3001))
    table = np.stack([table_of(symbols[which == t], 9) for t in range(5)])
    data = coding.encode(symbols, table, which)
    assert np.array_equal(coding.decode(data, table, which), symbols)
    # the rows of table 0 cost nothing
    assert len(data) < 60 + 4 * 64 + (which > 0).sum() * np.log2(7) / 8 * 1.01


@pytest.mark.parametrize("sharp", [0.02, 0.3, 5.0])
def test_the_size_is_within_a_percent_of_the_entropy(sharp):
    symbols = skewed(200_000, 31, seed=1, sharp=sharp)
    counts = np.bincount(symbols, minlength=31)
    data = coding.encode(symbols, table_of(symbols, 31), lanes=32)
    assert (
        coding.ideal_bits(counts)
        <= 8 * len(data)
        <= 1.01 * coding.ideal_bits(counts) + 8 * (4 * 32 + 18)
    )


def test_as_long_as_a_state_without_limits():
    symbols = skewed(700, 6, seed=5)
    f = table_of(symbols, 6)
    exact = slow_encode(symbols, f).bit_length()
    words = struct.unpack_from(coding.HEADER, coding.encode(symbols, f, lanes=1))[1]
    assert abs(16 * words + 32 - exact) <= 40  # whole words, and the floor of a state of 32 bits


def test_constriction_spends_the_same():
    import constriction

    symbols = skewed(50_000, 12, seed=9, sharp=0.2)
    f = table_of(symbols, 12)
    used = np.flatnonzero(f)
    to = np.searchsorted(used, symbols).astype(np.int32)
    model = constriction.stream.model.Categorical((f[used] / M).astype(np.float64), perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(to, model)
    assert np.array_equal(coder.decode(model, len(to)), to)
    coder.encode_reverse(to, model)
    ours = len(coding.encode(symbols, f, lanes=1))
    assert abs(ours - 4 * len(coder.get_compressed())) <= 0.01 * ours + 32


def test_frequencies_are_the_best_whole_numbers():
    """Against every table of three symbols near the one found."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(1, 10**4, 3)
        f = coding.frequencies(counts)
        assert f.sum() == M and (f >= 1).all()
        cost = lambda g, counts=counts: -(counts * np.log2(g / M)).sum()  # noqa: E731
        near = (f + [a, b, -a - b] for a in (-1, 0, 1) for b in (-1, 0, 1))
        assert all(cost(f) <= cost(g) + 1e-6 for g in near if (g > 0).all())
    rare = coding.frequencies(np.array([10**9, 1, 0, 1]))
    assert rare.tolist() == [M - 2, 1, 0, 1]


def test_damage_is_noticed():
    symbols = skewed(5000, 8, seed=2)
    f = table_of(symbols, 8)
    data = coding.encode(symbols, f)
    for cut in (0, 10, 30, len(data) - 1):
        with pytest.raises(CompressionError, match="truncated"):
            coding.decode(data[:cut], f)
    rng = np.random.default_rng(0)
    for _ in range(30):
        bad = bytearray(data)
        bad[int(rng.integers(18, len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(CompressionError, match="damaged"):
            coding.decode(bytes(bad), f)
    with pytest.raises(CompressionError, match="damaged"):
        coding.decode(data, np.roll(f, 1))


def test_bad_input():
    with pytest.raises(CompressionError, match="no frequency"):
        coding.encode(np.array([0, 2]), coding.frequencies(np.array([3, 5, 0])))
    with pytest.raises(CompressionError, match="no frequency"):
        coding.encode(np.array([-1]), coding.frequencies(np.array([3, 5])))
    with pytest.raises(CompressionError, match="sum to"):
        coding.encode(np.array([0]), np.array([3, 5]))
    for counts in ([0, 0], [-1, 4], np.ones((2, 2))):
        with pytest.raises(CompressionError, match="counts"):
            coding.frequencies(np.asarray(counts))
