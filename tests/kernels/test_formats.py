import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import kernels
from course_utils.errors import CompressionError
from course_utils.kernels.formats import unpack_weight
from course_utils.quantization import QuantizedLinear, rtn


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(kernels.BITS),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 9),
)
def test_packing_and_unpacking_is_the_identity(data, bits, rows, groups, size):
    number = st.integers(0, 2**bits - 1)

    def matrix(width):
        return torch.tensor(
            data.draw(
                st.lists(
                    st.lists(number, min_size=width, max_size=width), min_size=rows, max_size=rows
                )
            )
        )

    codes, zero = matrix(groups * size), matrix(groups)
    scale = torch.rand(rows, groups) + 0.1
    weight = kernels.from_codes(codes, scale, zero, bits=bits)
    found = unpack_weight(weight)
    assert (
        torch.equal(found[0].long(), codes)
        and torch.equal(found[1], scale)
        and torch.equal(found[2].long(), zero)
    )
    assert (weight.rows, weight.columns, weight.groups) == (rows, groups * size, groups)
    assert weight.codes.shape == (
        rows,
        sum(-(-groups * size * width // 8) for width in (1, 2, 4, 8) if bits & width),
    )


def test_even_columns_are_the_low_nibbles():
    weight = kernels.from_codes(torch.tensor([[1, 2, 3]]), torch.ones(1, 1), bits=4)
    assert weight.codes.tolist() == [[0x21, 0x03]]


def test_no_code_of_3_bits_crosses_a_byte():
    """5 = 101₂, 2 = 010₂, 7 = 111₂: the low two bits of each in the first byte, the high bits in
    the second.
    """
    weight = kernels.from_codes(torch.tensor([[5, 2, 7]]), torch.ones(1, 1), bits=3)
    assert weight.codes.tolist() == [[0b11_10_01, 0b101]]


def test_scales_are_half_precision_only_where_that_is_exact():
    codes = torch.zeros(1, 4)
    assert kernels.from_codes(codes, torch.tensor([[0.5]])).scale.dtype == torch.float16
    assert kernels.from_codes(codes, torch.tensor([[0.1]])).scale.dtype == torch.float32


def test_bytes():
    weight = kernels.from_codes(torch.zeros(8, 128), torch.ones(8, 2), torch.zeros(8, 2))
    assert weight.nbytes == 8 * (64 + 2 * 2 + 1)


def test_a_packed_layer_is_such_a_weight():
    result = rtn.quantize_layer(torch.randn(6, 64), bits=4, group_size=32)
    weight = QuantizedLinear.of(result, None).packed_weight()
    assert torch.equal(kernels.reference.dequantize(weight), result.weight)


GOOD = {
    "codes": torch.zeros(3, 8),
    "scale": torch.ones(3, 2),
    "zero_point": torch.zeros(3, 2),
    "bits": 4,
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bits": 9}, "1 to 8"),
        ({"codes": torch.full((3, 8), 16)}, "4 bits hold 0 to 15"),
        ({"codes": torch.full((3, 8), -1)}, "4 bits hold 0 to 15"),
        ({"codes": torch.full((3, 8), float("nan"))}, "NaN"),
        ({"scale": torch.full((3, 2), float("nan"))}, "NaN"),
        ({"scale": torch.full((3, 2), float("inf"))}, "infinity"),
        ({"scale": torch.zeros(3, 2)}, "not positive"),
        ({"scale": torch.ones(2, 2)}, r"expected \(3, groups\)"),
        ({"scale": torch.ones(3, 3)}, "dividing the 8 columns"),
        ({"zero_point": torch.zeros(3, 3)}, "zero_point"),
        ({"zero_point": torch.full((3, 2), 16)}, "16"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    kernels.from_codes(**GOOD)
    with pytest.raises(CompressionError, match=words):
        kernels.from_codes(**{**GOOD, **change})


@pytest.mark.parametrize(
    "scale", [torch.ones(3, 2, dtype=torch.bfloat16), torch.ones(3, 2, dtype=torch.float64)]
)
def test_other_scales_are_refused_with_the_supported_ones(scale):
    with pytest.raises(CompressionError, match="torch.float16 and torch.float32"):
        kernels.PackedWeight(torch.zeros(3, 4, dtype=torch.uint8), scale, None, 4, 8)


def test_nan_in_a_weight_is_refused_before_it_is_packed():
    weight = torch.randn(4, 64)
    weight[1, 2] = torch.nan
    with pytest.raises(CompressionError, match="NaN"):
        rtn.quantize_layer(weight)
