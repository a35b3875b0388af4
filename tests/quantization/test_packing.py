"""Packing against numpy's packbits, by hand, and by hypothesis."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from course_utils.errors import CompressionError
from course_utils.kernels.packing import (
    pack_planes,
    pack_ternary,
    packed_width,
    unpack_planes,
    unpack_ternary,
)
from course_utils.quantization import extreme, pack, unpack


def reference(codes: np.ndarray, bits: int) -> np.ndarray:
    """Each code's lowest `bits` bits, least significant first, in one stream a row."""
    stream = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, bitorder="little")[
        ..., :bits
    ]
    return np.packbits(stream.reshape(len(codes), -1), axis=-1, bitorder="little")


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 2, 3, 5, 7, 8, 9, 16, 31, 64, 65])
def test_equals_numpy_and_comes_back(bits, columns):
    codes = torch.randint(
        0,
        2**bits,
        (3, columns),
        generator=torch.Generator().manual_seed(columns),
        dtype=torch.uint8,
    )
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, -(-columns * bits // 8)) == (3, packed_width(columns, bits))
    assert np.array_equal(packed.numpy(), reference(codes.numpy(), bits))
    assert torch.equal(unpack(packed, bits, columns), codes)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), bits=st.integers(2, 8), rows=st.integers(1, 5), columns=st.integers(1, 70))
def test_property_identity_and_width(data, bits, rows, columns):
    codes = data.draw(arrays(np.uint8, (rows, columns), elements=st.integers(0, 2**bits - 1)))
    packed = pack(torch.from_numpy(codes), bits)
    assert np.array_equal(packed.numpy(), reference(codes, bits))
    assert np.array_equal(unpack(packed, bits, columns).numpy(), codes)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), bits=st.sampled_from([2, 4, 8]), columns=st.integers(1, 20))
def test_property_every_byte_is_some_code_when_bits_divide_eight(data, bits, columns):
    width = packed_width(columns * 8 // bits, bits)
    stored = torch.from_numpy(data.draw(arrays(np.uint8, (2, width))))
    assert torch.equal(pack(unpack(stored, bits, columns * 8 // bits), bits), stored)


@pytest.mark.parametrize("bits", range(1, 9))
def test_nothing_is_packed_to_nothing(bits):
    for shape in ((0, 8), (3, 0), (0, 0)):
        codes = torch.zeros(shape, dtype=torch.uint8)
        assert torch.equal(unpack(pack(codes, bits), bits, shape[1]), codes)
        assert torch.equal(unpack_planes(pack_planes(codes, bits), bits, shape[1]), codes)


def test_low_nibble_first():
    assert pack(torch.tensor([[1, 2, 15]]), 4).tolist() == [[0x21, 0x0F]]
    assert pack(torch.tensor([[1, 7, 0]]), 3).tolist() == [[0b00111001, 0]]


def test_any_whole_number_type():
    codes = torch.tensor([[0, 1, 2, 3]])
    for dtype in (torch.int64, torch.int16, torch.float32, torch.float16):
        assert torch.equal(pack(codes.to(dtype), 2), pack(codes, 2))
    transposed = torch.arange(8).view(4, 2).T
    assert torch.equal(pack(transposed, 3), pack(transposed.contiguous(), 3))


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (torch.tensor([[4]]), 2, "2 bits hold 0 to 3"), (torch.tensor([[-1]]), 4, "from -1"),
        (torch.tensor([[256]]), 8, "256"), (torch.tensor([[0.5]]), 4, "whole numbers"),
        (torch.tensor([[float("nan")]]), 4, "whole numbers"), (torch.tensor([1, 2]), 4, "matrix"),
        (torch.tensor([[1]]), 9, "bits=9"),
    ],
)  # fmt: skip
def test_codes_that_do_not_fit_are_refused(codes, bits, message):
    with pytest.raises(CompressionError, match=message):
        pack(codes, bits)


def test_bytes_of_another_width_are_refused():
    with pytest.raises(CompressionError, match="3 bytes in a row, but 8 codes of 4 bits take 4"):
        unpack(torch.zeros(2, 3, dtype=torch.uint8), 4, 8)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), rows=st.integers(0, 4), columns=st.integers(0, 23))
def test_ternary_is_base_three(data, rows, columns):
    """Against Python's own reading of digits in base 3, the first column the lowest."""
    codes = data.draw(arrays(np.uint8, (rows, columns), elements=st.integers(0, 2)))
    packed = pack_ternary(torch.from_numpy(codes))
    starts = range(0, columns, 5)
    assert packed.tolist() == [
        [int("".join(map(str, row[s : s + 5][::-1])), 3) for s in starts] for row in codes
    ]
    assert packed.dtype == torch.uint8 and packed.shape == (rows, -(-columns // 5))
    assert np.array_equal(unpack_ternary(packed, columns).numpy(), codes)


def test_ternary_weights_come_back_in_1_6_bits():
    result = extreme.ternary_layer(
        torch.randn(6, 320, generator=torch.Generator().manual_seed(0)), group_size=64
    )
    digits = result.codes - result.codes.min()
    packed = pack_ternary(digits)
    assert packed.numel() * 8 == 1.6 * digits.numel()
    assert torch.equal(unpack_ternary(packed, 320), digits)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: pack_ternary(torch.tensor([[0, 3]])), "0, 1 or 2"),
        (lambda: pack_ternary(torch.tensor([[-1, 1]])), "-1 to 1"),
        (lambda: pack_ternary(torch.tensor([[0.5, 1]])), "whole numbers"),
        (lambda: unpack_ternary(torch.tensor([[243]], dtype=torch.uint8), 5), "at most 242"),
        (lambda: unpack_ternary(torch.zeros(1, 2, dtype=torch.uint8), 5), "rows of 1 bytes"),
    ],
)
def test_what_is_not_ternary_is_refused(call, words):
    with pytest.raises(CompressionError, match=words):
        call()
