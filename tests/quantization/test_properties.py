"""Properties of the layer algorithms on weights of every kind that a model may hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization import (
    QuantizedLinear,
    awq,
    codebooks,
    dequantize,
    extreme,
    gptq,
    nf4,
    pack,
    rtn,
    unpack,
    w8a8,
)

FEW = settings(max_examples=25, deadline=None, derandomize=True)
ROWS = {
    "normal": lambda g, n: torch.randn(n, generator=g, dtype=torch.float64),
    "zeros": lambda g, n: torch.zeros(n, dtype=torch.float64),
    "constant": lambda g, n: torch.full((n,), 0.3, dtype=torch.float64),
    "negative": lambda g, n: -torch.rand(n, generator=g, dtype=torch.float64) - 0.5,
    "denormal": lambda g, n: 1e-40 * torch.randn(n, generator=g, dtype=torch.float64),
    "tiny": lambda g, n: 1e-30 * torch.randn(n, generator=g, dtype=torch.float64),
    "huge": lambda g, n: 1e37 * torch.rand(n, generator=g, dtype=torch.float64),
    "outlier": lambda g, n: (
        torch.randn(n, generator=g, dtype=torch.float64) * (1e4 ** (torch.arange(n) == n // 2))
    ),
}
DTYPES = {torch.float64: 1e37, torch.float32: 1e37, torch.bfloat16: 1e37, torch.float16: 6e4}


@st.composite
def layers(draw):
    """(weight, bits, group size): any shape, dtype, and mixture of rows."""
    bits, groups, size = (
        draw(st.integers(2, 8)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from((1, 2, 3, 8, 16))),
    )
    kinds = draw(st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=6))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(list(DTYPES)))
    weight = torch.stack([ROWS[kind](g, groups * size) for kind in kinds]).clamp(
        -DTYPES[dtype], DTYPES[dtype]
    )
    return weight.to(dtype), bits, draw(st.sampled_from((size, -1)))


def sound(result, weight, bits):
    """Codes in range, finite numbers, and three ways to the same weight: the result's, the grid's,
    the packed layer's.
    """
    assert (
        result.codes.dtype == torch.uint8
        and int(result.codes.max()) < 2**bits
        and result.codes.shape == weight.shape
    )
    assert (
        torch.isfinite(result.weight).all()
        and torch.isfinite(result.grid.scale).all()
        and (result.grid.scale > 0).all()
    )
    assert torch.equal(dequantize(result.codes, result.grid), result.weight)
    assert torch.equal(unpack(pack(result.codes, bits), bits, weight.shape[1]), result.codes)
    layer = QuantizedLinear.of(result, None)
    torch.testing.assert_close(layer.weight, result.weight.float(), rtol=1e-6, atol=0)
    zero = (weight == 0).all(1)
    assert not result.weight[zero].any()


@FEW
@given(layers(), st.booleans())
def test_rounding(layer, symmetric):
    """Half a step of error at most, or what float16 scales and float32 arithmetic add to it."""
    weight, bits, size = layer
    result = rtn.quantize_layer(weight, bits=bits, group_size=size, symmetric=symmetric)
    sound(result, weight, bits)
    step = result.grid.scale[:, result.grid.group_index].double()
    error, exact = (result.weight.double() - weight.double()).abs(), weight.double().abs()
    assert (error <= step * 0.5 + 2e-3 * step * 2**bits + 1e-6 * exact).all()


@FEW
@given(layers(), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_gptq(layer, symmetric, act_order, seed):
    """Sound for every weight, and never worse than rounding for the Hessian that it was given."""
    weight, bits, size = layer
    x = torch.randn(
        3 * weight.shape[1], weight.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    H = gptq.hessian(x)
    result = gptq.quantize_layer(
        weight, H, bits=bits, group_size=size, symmetric=symmetric, act_order=act_order
    )
    sound(result, weight, bits)
    ordinary = weight.double().abs().amax() < 1e15  # the squares of larger ones leave float32
    if ordinary:
        plain = rtn.quantize_layer(weight, bits=bits, group_size=size, symmetric=symmetric).weight
        found, limit = (
            gptq.layer_error(weight.double(), w.double(), H.double())
            for w in (result.weight, plain)
        )
        assert found <= limit * (1 + 1e-4) + 1e-70


@FEW
@given(layers(), st.booleans(), st.booleans())
def test_awq(layer, symmetric, clip):
    weight, bits, size = layer
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, weight.shape[1], generator=g) * torch.rand(weight.shape[1], generator=g)
    weight = weight.clamp(-1e4, 1e4)
    settings = {"bits": bits, "group_size": size, "symmetric": symmetric}
    found = awq.quantize_layer(
        weight, gptq.hessian(x), x.abs().mean(0), alphas=(0.0, 0.5), clip=clip, **settings
    )
    assert torch.isfinite(found.scale).all() and (found.scale > 0).all() and len(found.errors) == 2
    sound(found.result, weight * found.scale, bits)


@FEW
@given(layers(), st.sampled_from(("nf4", "fp4", "int8")), st.sampled_from((32, 64)))
def test_blockwise(layer, format, block_size):
    """No value leaves its block's range, and every error is at most half the widest gap of the
    table.
    """
    weight, _, _ = layer
    blockwise = nf4.encode(weight, format=format, block_size=block_size)
    found = nf4.decode(blockwise)
    assert found.shape == weight.shape and torch.isfinite(found).all()
    largest = blockwise.absmax.repeat_interleave(block_size)[: weight.numel()].view(weight.shape)
    gap = float(nf4.table(format).sort().values.diff().max())
    assert (found.abs() <= largest).all()
    usable = largest > 1e-37  # below, 1 / absmax is not a float32
    assert ((found - weight.float()).abs() <= largest * (gap / 2 + 1e-4))[usable].all()
    codes = blockwise.codes
    if format != "int8":
        assert torch.equal(nf4.unpack_nibbles(nf4.pack_nibbles(codes), len(codes)), codes)


@FEW
@given(layers(), st.integers(1, 4), st.sampled_from(("per_channel", "per_tensor")))
def test_codebooks(layer, bits, granularity):
    """Each weight takes the nearest entry of its codebook."""
    weight, _, _ = layer
    result = codebooks.quantize_layer(weight, bits=bits, granularity=granularity)
    assert torch.isfinite(result.weight).all() and int(result.codes.max()) < 2**bits
    book = result.codebook.expand(len(weight), -1).double()
    distances = (weight.double()[:, :, None] - book[:, None]).abs()
    chosen = distances.gather(2, result.codes.long()[..., None])[..., 0]
    assert (chosen <= distances.amin(2) * (1 + 1e-9)).all()
    assert torch.equal(codebooks.CodebookLinear.of(result, None).weight, result.weight)


@FEW
@given(layers(), st.sampled_from(extreme.RULES))
def test_binary_and_ternary(layer, rule):
    weight, _, size = layer
    binary = extreme.binary_layer(weight)
    assert torch.isfinite(binary.weight).all() and int(binary.codes.max()) <= 1
    ternary = extreme.ternary_layer(weight, rule=rule, group_size=size)
    sound(ternary, weight, 2)
    levels = (ternary.weight / ternary.grid.scale[:, ternary.grid.group_index]).round()
    assert set(levels.unique().tolist()) <= {-1, 0, 1}


@FEW
@given(layers(), st.booleans(), st.sampled_from(("per_tensor", "per_token")))
def test_integer_activations(layer, symmetric, granularity):
    x, bits, _ = layer
    codes, scale, zero = w8a8.to_int8(x, bits=bits, symmetric=symmetric, granularity=granularity)
    assert codes.dtype == torch.int8 and torch.isfinite(scale).all()
    half = 2 ** (bits - 1)
    assert int(codes.min()) >= -half and int(codes.max()) < half
    found = scale.double() * (codes.double() - zero.double())
    assert (
        (found - x.double()).abs()
        <= scale.double() * (0.5 + 2e-3 * 2**bits) + 1e-6 * x.double().abs()
    ).all()


@FEW
@given(st.data(), st.integers(1, 8), st.integers(1, 5), st.integers(1, 40))
def test_packing_is_the_identity(data, bits, rows, columns):
    seed = data.draw(st.integers(0, 2**31))
    codes = torch.randint(
        2**bits, (rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(unpack(pack(codes, bits), bits, columns), codes)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e38])
@pytest.mark.parametrize(
    "method",
    [
        rtn.quantize_layer,
        codebooks.quantize_layer,
        extreme.binary_layer,
        extreme.ternary_layer,
        nf4.encode,
    ],
)
def test_what_no_grid_holds_is_refused(method, bad):
    weight = torch.ones(3, 64)
    weight[1, 5] = bad
    with pytest.raises(ValueError, match="NaN or infinity|magnitude above"):
        method(weight)
