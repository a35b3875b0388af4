"""The trellis against exhaustive search, its ring, its computed values, and the distortion of
normal numbers.
"""

import itertools

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import trellis


def draw(rows, steps, seed=0):
    return torch.randn(rows, steps, generator=torch.Generator().manual_seed(seed))


def register(start, codes, bits, state_bits):
    """The register's contents, one code after the other."""
    states = []
    for code in codes:
        start = ((start << bits) | code) % 2**state_bits
        states.append(start)
    return states


def every_path(x, values, bits, state_bits, starts, ends=None):
    """The least cost over all starts and all codes of one row, one path at a time."""
    least = float("inf")
    for start in starts:
        for codes in itertools.product(range(2**bits), repeat=len(x)):
            states = register(start, codes, bits, state_bits)
            if ends is None or states[-1] % 2 ** (state_bits - bits) in ends:
                least = min(
                    least, sum((a - values[s]) ** 2 for a, s in zip(x, states, strict=True))
                )
    return least


@pytest.mark.parametrize(("bits", "state_bits"), [(1, 3), (2, 4), (1, 4)])
def test_viterbi_is_exhaustive_search(bits, state_bits):
    x, values = draw(3, 6 if bits == 1 else 4), draw(1, 2**state_bits, seed=1)[0]
    prefixes = 2 ** (state_bits - bits)
    states = trellis.viterbi(x, values, bits)
    fixed = trellis.viterbi(
        x, values, bits, before=torch.tensor([0, 1, 2]), after=torch.tensor([1, 1, 3])
    )
    for row in range(3):
        numbers, table = x[row].tolist(), values.tolist()
        free = every_path(numbers, table, bits, state_bits, range(prefixes))
        assert float((values[states[row]] - x[row]).square().sum()) == pytest.approx(free, rel=1e-5)
        bound = every_path(numbers, table, bits, state_bits, [row], [(1, 1, 3)[row]])
        assert float((values[fixed[row]] - x[row]).square().sum()) == pytest.approx(bound, rel=1e-5)
        assert fixed[row].tolist() == register(
            row, (fixed[row] % 2**bits).tolist(), bits, state_bits
        )


def test_six_steps_of_two_bits_too():
    """All 4,096 codes of six steps from each of the four starts, at once."""
    x, values = draw(1, 6, seed=2)[0], draw(1, 16, seed=3)[0]
    codes = torch.tensor(list(itertools.product(range(4), repeat=6)))
    least = min(
        float(
            (values[torch.tensor([register(start, c, 2, 4) for c in codes.tolist()])] - x)
            .square()
            .sum(1)
            .min()
        )
        for start in range(4)
    )
    assert float(
        (values[trellis.viterbi(x[None], values, 2)[0]] - x).square().sum()
    ) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize(("bits", "state_bits"), [(2, 8), (2, 7), (3, 8), (1, 6)])
def test_a_row_is_a_ring(bits, state_bits):
    x = draw(5, 24, seed=4)
    values = trellis.values_of("normal", state_bits)
    states = trellis.tail_biting(x, values, bits)
    codes = states % 2**bits
    assert torch.equal(trellis.states_of(codes, bits, state_bits), states), (
        "the codes alone give back every state"
    )
    for row in range(5):  # bit by bit: the state is the last L bits of the ring
        ring = "".join(format(c, f"0{bits}b") for c in codes[row].tolist())
        for t in range(24):
            assert int((ring + ring[: (t + 1) * bits])[-state_bits:], 2) == int(states[row, t])


def test_computed_values_follow_the_published_steps():
    for state in (0, 1, 77, 4095, 65535):
        x = (state * 34038481 + 76625530) % 2**32
        total = sum(int(byte) for byte in x.to_bytes(4, "little"))
        assert float(trellis.one_mad(torch.tensor(state))) == pytest.approx((total - 510) / 147.8)
    values = trellis.values_of("1mad", 16)
    assert abs(float(values.mean())) < 0.01 and float(values.std()) == pytest.approx(1, rel=0.01)


def test_more_states_leave_less():
    """Of normal numbers at two bits: below the trials' .095 and .086, above R(D) = .0625; no four
    values leave less than .1175.
    """
    x = draw(32, 256, seed=5)
    left = {}
    for state_bits in (2, 8, 10):
        values = trellis.values_of("normal", state_bits)
        found = values[trellis.tail_biting(x, values, 2)]
        left[state_bits] = float(
            (found * (found * x).sum() / found.square().sum() - x).square().mean()
        )
    assert 0.0625 < left[10] < 0.083 < left[8] < 0.095 < 0.1175 < left[2]


def test_bad_input_is_named():
    weight = torch.ones(4, 16)
    for settings, message in (
        ({"bits": 5}, "bits=5"), ({"values": "hyb"}, "1mad"), ({"state_bits": 17}, "state_bits=17"),
        ({"segment": 0}, "segment"),
        ({"state_bits": 12, "bits": 1, "group_size": 5}, "group_size=5"),
    ):  # fmt: skip
        with pytest.raises(CompressionError, match=message):
            trellis.quantize_layer(weight, **settings)
    with pytest.raises(CompressionError, match="a row of 4 weights has 8 bits"):
        trellis.quantize_layer(torch.ones(2, 4))
    with pytest.raises(CompressionError, match="power of two"):
        trellis.viterbi(weight, torch.zeros(6), 2)
