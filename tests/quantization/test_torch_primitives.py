"""Weight-only products of torch's own, fed with our codes and scales, give what our layers give."""

import pytest
import torch

from course_utils.quantization import QuantizedLinear, rtn
from course_utils.quantization.w8a8 import to_int8


def case(seed, rows=64, columns=128, tokens=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=g) + 0.1, torch.randn(tokens, columns, generator=g)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tokens", [1, 5])
def test_int8_weight_only(seed, tokens):
    """torch._weight_int8pack_mm: codes (out, in) int8, a scale for each output."""
    weight, x = case(seed, tokens=tokens)
    codes, scale, zero = to_int8(
        weight, bits=8, symmetric=True, granularity="per_channel", narrow=False
    )
    assert not zero.any()
    theirs = torch._weight_int8pack_mm(x, codes, scale.flatten().float())
    ours = QuantizedLinear.of(
        rtn.quantize_layer(weight, bits=8, group_size=-1, symmetric=True), None
    )(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    assert (theirs - x @ weight.T).norm() < 0.02 * (x @ weight.T).norm()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("tokens", [1, 5])
def test_int4_weight_only(size, symmetric, tokens):
    """torch._weight_int4pack_mm_for_cpu: ŵ = s (q − 8) + b in groups, so that b = s (8 − z) makes
    it s (q − z).
    """
    weight, x = case(size, tokens=tokens)
    result = rtn.quantize_layer(weight, bits=4, group_size=size, symmetric=symmetric)
    scale, zero = result.grid.scale, result.grid.zero_point
    packed = torch._convert_weight_to_int4pack_for_cpu(result.codes.int(), 1)
    pairs = torch.stack([scale, scale * (8 - zero)], -1).transpose(0, 1).contiguous()
    theirs = torch._weight_int4pack_mm_for_cpu(x, packed, size, pairs)
    torch.testing.assert_close(QuantizedLinear.of(result, None)(x), theirs, rtol=1e-5, atol=1e-4)
    assert (theirs - x @ weight.T).norm() < 0.2 * (x @ weight.T).norm()
