import math

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import formats, nf4, rtn


def sample(n, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g) * torch.logspace(-3, 2, n)
    x[n // 3 : n // 3 + 5] = 0
    return x.to(dtype)


def ulps(a, b):
    """The largest distance of two tensors in units of the last place of their type."""
    up, down = (
        torch.nextafter(b, torch.full_like(b, math.inf)),
        torch.nextafter(b, torch.full_like(b, -math.inf)),
    )
    return bool(((a >= down) & (a <= up)).all())


DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [32, 64, 256, 1024])
@pytest.mark.parametrize("format", ["nf4", "fp4"])
def test_four_bit_codes_are_those_of_bitsandbytes(format, block_size, dtype):
    for n in (20_000, 64, 2 * 33, 2048 + 2):
        x = sample(n, dtype)
        packed, state = bnb.quantize_4bit(x, blocksize=block_size, quant_type=format)
        found = nf4.encode(x, format=format, block_size=block_size)
        assert torch.equal(nf4.pack_nibbles(found.codes), packed.flatten())
        assert torch.equal(found.absmax, state.absmax)
        assert torch.equal(nf4.table(format), state.code)
        assert ulps(nf4.decode(found, dtype), bnb.dequantize_4bit(packed, state).flatten())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [64, 256, 4096])
def test_eight_bit_codes_are_those_of_bitsandbytes(block_size, dtype):
    assert torch.equal(nf4.table("int8"), bnb.create_dynamic_map())
    for n in (200_000, 77):
        x = sample(n, dtype, seed=n)
        codes, state = bnb.quantize_blockwise(x, blocksize=block_size)
        found = nf4.encode(x, format="int8", block_size=block_size)
        assert torch.equal(found.codes, codes) and torch.equal(found.absmax, state.absmax)
        assert ulps(nf4.decode(found, dtype), bnb.dequantize_blockwise(codes, state).to(dtype))


@pytest.mark.parametrize("format", ["nf4", "fp4"])
def test_double_quantization_is_that_of_bitsandbytes(format):
    x = sample(300_000, torch.float32).view(300, 1000)
    _, state = bnb.quantize_4bit(x, blocksize=64, quant_type=format, compress_statistics=True)
    nested, offset = nf4.compress_absmax(nf4.encode(x, format=format, block_size=64).absmax)
    assert torch.equal(offset, state.offset)
    assert torch.equal(nested.codes, state.absmax) and torch.equal(
        nested.absmax, state.state2.absmax
    )
    theirs = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    torch.testing.assert_close(nf4.expand_absmax(nested, offset), theirs, rtol=2e-7, atol=0)


def test_the_table_is_what_the_formats_compute():
    assert (nf4.table("nf4").double() - formats.normal_float_values()).abs().max() < 4e-7


def test_zeros_and_constants():
    for format in ("nf4", "fp4", "int8"):
        for x in (torch.zeros(130), torch.full((130,), -2.5), torch.full((1,), 1e-40)):
            assert torch.isfinite(nf4.decode(nf4.encode(x, format=format))).all()
        assert torch.equal(nf4.decode(nf4.encode(torch.zeros(70), format=format)), torch.zeros(70))
        x = torch.full((70,), 2.5)
        assert torch.equal(nf4.decode(nf4.encode(x, format=format)), x)


@given(
    n=st.integers(1, 300), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    format=st.sampled_from(["nf4", "fp4"]), block_size=st.sampled_from([32, 64]),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_code_is_the_nearest(n, scale, format, block_size, seed):
    """Against a float64 search: no other entry of the table is nearer, up to the rounding of
    float32.
    """
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * scale
    found = nf4.encode(x, format=format, block_size=block_size)
    values = nf4.table(format).double()
    for block in range(math.ceil(n / block_size)):
        part = slice(block * block_size, (block + 1) * block_size)
        unit = x[part].double() / x[part].double().abs().max()
        distance = (unit[:, None] - values).abs()
        chosen = distance.gather(1, found.codes[part, None].long())[:, 0]
        assert (chosen <= distance.min(1).values + 1e-6).all()
    assert torch.equal(nf4.unpack_nibbles(nf4.pack_nibbles(found.codes), n), found.codes)


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_nf4_beats_int4_absmax_on_normal_weights(block_size):
    """Same block, same bits for the code.

    Over ten seeds, by at least 10 % of the squared error each time.
    """
    for seed in range(10):
        w = torch.randn(64, 512, generator=torch.Generator().manual_seed(seed))
        normal = nf4.decode(nf4.encode(w, format="nf4", block_size=block_size))
        uniform = rtn.quantize_layer(w, bits=4, group_size=block_size, symmetric=True).weight
        assert (w - normal).square().mean() < 0.9 * (w - uniform).square().mean()


def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("format", ["nf4", "fp4", "int8"])
def test_model_level(format, double):
    model, ids = tiny(), torch.randint(60, (2, 9), generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = nf4.quantize(model, format=format, block_size=32, double=double)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    reference = tiny()
    for name, module in walk.compressible(reference).items():
        layer = result.model.get_submodule(name)
        found = nf4.encode(module.weight, format=format, block_size=32)
        absmax = nf4.expand_absmax(*nf4.compress_absmax(found.absmax)) if double else found.absmax
        weight = nf4.table(format)[found.codes.long()] * absmax.repeat_interleave(32)
        module.weight.data = weight.view_as(module.weight)
        size = sum(b.numel() * b.element_size() for b in layer.buffers())
        exact = nf4.bits_per_weight(format, 32, double) * weight.numel() / 8
        assert exact - 1 <= size <= exact + 8  # the last nested block and the offset
    torch.testing.assert_close(result.model(input_ids=ids).logits, reference(input_ids=ids).logits)
    assert result.model.half().model.layers[0].mlp.up_proj.absmax.dtype != torch.float16


def test_errors():
    for settings_, message in (
        ({"format": "nf3"}, "nf4, fp4, int8"),
        ({"block_size": 48}, "block_size=48"),
    ):
        with pytest.raises(CompressionError, match=message):
            nf4.encode(torch.ones(64), **settings_)
    for bad in (
        torch.tensor([1.0, math.nan]),
        torch.tensor([]),
        torch.tensor([1, 2]),
        torch.tensor([3e38]),
    ):
        with pytest.raises(CompressionError, match="x:"):
            nf4.encode(bad)
    model = tiny()
    model.model.layers[1].self_attn.k_proj.weight.data[0, 0] = math.inf
    with pytest.raises(CompressionError, match="layers.1.self_attn.k_proj"):
        nf4.quantize(model)
