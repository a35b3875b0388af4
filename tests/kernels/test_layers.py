"""The layers of compressed models run through the kernels, and only where that changes nothing but
speed.
"""

import contextlib
import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils import kernels
from course_utils.errors import CompressionError
from course_utils.evaluation.subject import scoring
from course_utils.quantization import (
    Grid,
    QuantizedLinear,
    convert,
    gptq,
    load,
    microscaling,
    rtn,
    w8a8,
)
from course_utils.quantization.layer import LayerResult

X = torch.randn(4, 96, generator=torch.Generator().manual_seed(2))


def layer(bits=4, group_size=32, symmetric=False, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(10, 96, generator=g)
    result = rtn.quantize_layer(weight, bits=bits, group_size=group_size, symmetric=symmetric)
    return QuantizedLinear.of(result, torch.randn(10, generator=g) if bias else None)


@pytest.fixture
def calls(monkeypatch):
    """How many times the compiled products ran."""
    seen, real = [], kernels.cpu.product
    monkeypatch.setattr(kernels.cpu, "product", lambda *a, **k: (seen.append(k), real(*a, **k))[1])
    return seen


def agree(found, layer, x):
    wanted = x.double() @ layer.weight.double().T + (
        0 if layer.bias is None else layer.bias.double()
    )
    size = x.double().abs() @ layer.weight.double().abs().T + 1
    assert ((found.double() - wanted).abs() / size).max() < 1e-6


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [32, 24, 6, -1])
def test_rtn_layers(bits, symmetric, group_size, calls):
    packed = layer(bits, group_size, symmetric) if bits > 1 else binary(group_size, symmetric)
    agree(packed(X), packed, X)
    assert len(calls) == 1


def binary(group_size, symmetric):
    g = torch.Generator().manual_seed(0)
    groups = 96 // (group_size if group_size > 0 else 96)
    grid = Grid(
        torch.rand(10, groups, generator=g) + 0.1,
        torch.ones(10, groups),
        torch.arange(96) // (96 // groups),
        1,
        symmetric,
    )
    codes = torch.randint(2, (10, 96), generator=g, dtype=torch.uint8)
    return QuantizedLinear.of(LayerResult(codes, grid, codes.float()), None)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 48, -1])
def test_gptq_layers(act_order, bits, group_size, calls, tmp_path):
    """With scattered groups the columns are stored group by group, and the input is permuted."""
    inputs = torch.randn(200, 96, generator=torch.Generator().manual_seed(5)) * torch.linspace(
        0.1, 3, 96
    )
    weight = torch.randn(10, 96, generator=torch.Generator().manual_seed(6))
    result = gptq.quantize_layer(
        weight,
        gptq.hessian(inputs),
        bits=bits,
        group_size=group_size,
        act_order=act_order,
        never_worse=False,
    )
    packed = QuantizedLinear.of(result, None)
    assert (packed.group_index is not None) == (act_order and group_size > 0)
    assert torch.equal(packed.codes, result.codes) and torch.allclose(
        packed.weight, result.weight, atol=1e-6
    )
    wanted = X.double() @ result.weight.double().T
    for run in (packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), loaded(packed)):
        calls.clear()
        torch.testing.assert_close(run(X).double(), wanted, atol=1e-4, rtol=1e-5)
        assert len(calls) == 1
        many = run(X.repeat(10, 1)).double()  # unpacked
        torch.testing.assert_close(many[:4], wanted, atol=1e-4, rtol=1e-5)
        assert len(calls) == 1


def loaded(packed):
    fresh = QuantizedLinear(**packed.shape())
    fresh.load_state_dict(packed.state_dict())
    return fresh


@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
def test_scattered_groups_of_other_sizes_are_unpacked(activations, calls):
    """A foreign g_idx may be anything."""
    index = torch.tensor([2, 0, 1, 1, 0, 2, 2, 2])
    codes = torch.arange(24, dtype=torch.uint8).view(3, 8) % 16
    grid = Grid(torch.rand(3, 3) + 0.1, torch.full((3, 3), 7.0), index, 4, False)
    packed = QuantizedLinear.of(LayerResult(codes, grid, codes.float()), None)
    packed.activations = activations
    weight = grid.scale[:, index] * (codes.float() - 7)
    assert torch.equal(packed.codes, codes)
    torch.testing.assert_close(packed.weight, weight)
    x = X[:, :8]
    torch.testing.assert_close(
        packed(x), (x if activations == "float" else kernels.reference.rounded(x)) @ weight.T
    )
    assert not calls
    with pytest.raises(CompressionError, match="one size"):
        packed.packed_weight()


def test_the_number_of_tokens_decides(calls):
    packed = layer()
    for tokens, compiled in ((1, 1), (32, 1), (33, 0)):
        calls.clear()
        x = torch.randn(tokens, 96)
        agree(packed(x), packed, x)
        assert len(calls) == compiled


def test_gradients_take_the_dense_way(calls):
    packed, x = layer(), X.clone().requires_grad_()
    packed(x).sum().backward()
    torch.testing.assert_close(x.grad, packed.weight.sum(0).expand_as(x))
    assert not calls
    with torch.no_grad():
        packed(x)
    assert len(calls) == 1


def test_compiling_and_tracing_take_the_dense_way(calls):
    packed = layer()
    traced = torch.jit.trace(packed, X, check_trace=False)  # its check would call the layer itself
    assert not calls
    torch.testing.assert_close(traced(X), packed(X))


@pytest.mark.parametrize("change", [
    lambda m: copy.deepcopy(m), lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.half().float(),
    lambda m: m.share_memory(),
])  # fmt: skip
def test_buffers_that_moved_are_found_again(change):
    packed = layer(bias=False)
    before = packed(X)
    moved = change(packed)
    moved.packed.zero_()  # whoever still reads the old bytes gives the old result
    agree(moved(X), moved, X)
    assert not torch.equal(moved(X), before)


def test_other_codes_in_the_same_place_count_at_once():
    packed, other = layer(seed=0), layer(seed=1)
    packed(X)
    packed.load_state_dict(other.state_dict())
    assert torch.equal(packed(X), other(X))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_int8_activations_are_a_choice(bits, calls):
    packed = layer(bits)
    plain = packed(X)
    packed.activations = "int8"
    agree(packed(X), packed, kernels.reference.rounded(X))
    assert not torch.equal(packed(X), plain)
    many = X.repeat(10, 1)
    torch.testing.assert_close(packed(many)[:4], packed(X), atol=1e-4, rtol=1e-4)


def test_unknown_activations_are_refused():
    with pytest.raises(CompressionError, match="float, int8"):
        QuantizedLinear(8, 8, 4, 1, symmetric=True, bias=False, activations="int4")


def test_round_activations_works_on_a_copy_and_says_so():
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 8))
    compressed = rtn.quantize(model, bits=4, group_size=32)
    faster = convert.round_activations(compressed)
    assert faster.settings == {**compressed.settings, "activations": "int8"}
    assert [m.activations for m in faster.model if isinstance(m, QuantizedLinear)] == [
        "int8",
        "int8",
    ]
    assert [m.activations for m in compressed.model if isinstance(m, QuantizedLinear)] == [
        "float",
        "float",
    ]
    assert not torch.equal(faster.model(X), compressed.model(X))
    torch.testing.assert_close(faster.model(X), compressed.model(X), atol=0.1, rtol=0.1)
    with pytest.raises(CompressionError, match="no packed layer"):
        convert.round_activations(w8a8.quantize(model))


@pytest.mark.parametrize("vnni", [True, False], ids=["VNNI", "without"])
def test_w8a8_layers_give_the_same_integers_either_way(monkeypatch, vnni):
    monkeypatch.setattr(w8a8, "multiplies_int8", lambda: vnni)
    q, w = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((4, 96), (10, 96)))
    runs, real = [], kernels.cpu.integer_product
    monkeypatch.setattr(kernels.cpu, "integer_product", lambda *a: (runs.append(a), real(*a))[1])
    few, many = w8a8.integer_product(q, w), w8a8.integer_product(q.repeat(9, 1), w)
    assert len(runs) == 1 and few.dtype == many.dtype == torch.int32
    assert torch.equal(few.long(), q.long() @ w.long().T) and torch.equal(many, few.repeat(9, 1))


@pytest.mark.parametrize("inputs", [1, 1024, 1025, 2**16])
def test_products_without_instructions_for_int8_are_exact(monkeypatch, inputs):
    monkeypatch.setattr(w8a8, "multiplies_int8", lambda: False)
    q, w = (torch.randint(-128, 128, (n, inputs), dtype=torch.int8) for n in (33, 3))
    q[0], w[0], w[1] = -128, -128, 127  # the longest sums of both signs, one of them odd
    q[1] = 127
    assert torch.equal(w8a8.integer_product(q, w).double(), q.double() @ w.double().T)


def test_rounded_activations_survive_saving_and_evaluation(tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64, bos_token_id=0,
        eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    compressed = rtn.quantize(LlamaForCausalLM(config).eval(), group_size=32)
    faster = convert.round_activations(compressed)
    faster.save(tmp_path / "model")
    loaded, ids = load(tmp_path / "model"), torch.arange(2, 32)[None]
    with torch.no_grad():
        wanted = faster.model(ids).logits
        assert torch.equal(loaded(ids).logits, wanted)
        assert not torch.equal(compressed.model(ids).logits, wanted)
        with scoring(faster) as model:
            assert torch.equal(model(ids).logits, wanted)
        plain = compressed.model(ids).logits
        with scoring(compressed) as model:  # dense for the time being
            assert not any(isinstance(m, QuantizedLinear) for m in model.modules())
            torch.testing.assert_close(model(ids).logits, plain)


@pytest.mark.parametrize("act_order", [False, True])
def test_inputs_of_another_width_are_an_error(act_order):
    weight, x = torch.randn(10, 96), torch.randn(64, 96) * torch.rand(96)
    result = gptq.quantize_layer(
        weight, gptq.hessian(x), group_size=32, act_order=act_order, never_worse=False
    )
    packed = QuantizedLinear.of(result, None)
    assert (packed.order is not None) == act_order
    for wrong in (torch.randn(2, 192), torch.randn(4, 48), torch.randn(192)):
        with pytest.raises(RuntimeError):
            packed(wrong)


def test_weights_on_another_device_are_not_read(calls):
    """The compiled products are told addresses; what lies on a GPU, or nowhere, is not at a
    processor's address.
    """
    with contextlib.suppress(RuntimeError):  # what torch does with it is its affair
        layer().to("meta")(X)
    assert not calls


def test_buffers_with_gaps(calls):
    packed = layer()
    expected = packed(X)
    for name in ("packed", "scale", "zero_point"):
        buffer = getattr(packed, name)
        setattr(packed, name, torch.cat([buffer, buffer], 1)[:, : buffer.shape[1]])
        # what would be found where a copy was freed
        others = [torch.full_like(buffer, 1) for _ in range(20)]
        assert torch.equal(packed(X), expected) and len(others) == 20
    assert len(calls) == 4


def blocks(scheme, columns=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(10, columns, generator=g), torch.randn(10, generator=g)
    return microscaling.MicroscaledLinear.of(microscaling.encode(weight, scheme), bias)


@pytest.mark.parametrize("scheme", microscaling.PRODUCTS)
@pytest.mark.parametrize("columns", [96, 37])
def test_blocks_stay_packed(scheme, columns, calls):
    """One to 32 tokens by the product, more and gradients with the weight decoded; to a part in 10⁶
    of what is summed.
    """
    packed = blocks(scheme, columns)
    for tokens, compiled in ((1, 1), (4, 1), (32, 1), (33, 0)):
        calls.clear()
        x = torch.randn(tokens, columns)
        agree(packed(x), packed, x)
        agree(packed(x[None])[0], packed, x)
        assert len(calls) == 2 * compiled
    calls.clear()
    x = torch.randn(2, columns, requires_grad=True)
    packed(x).sum().backward()
    torch.testing.assert_close(x.grad, packed.weight.sum(0).expand_as(x))
    assert not calls and packed(x.detach().bfloat16()).dtype == torch.bfloat16 and len(calls) == 1
    with pytest.raises(RuntimeError):
        packed(torch.randn(2, columns + 1))


@pytest.mark.parametrize("scheme", microscaling.PRODUCTS)
def test_blocks_with_int8_activations(scheme, calls):
    packed = blocks(scheme)
    packed.activations = "int8"
    agree(packed(X), packed, kernels.reference.rounded(X))
    many = X.repeat(10, 1)
    agree(packed(many), packed, kernels.reference.rounded(many))
    assert len(calls) == 1
    again = microscaling.MicroscaledLinear(**packed.shape())
    again.load_state_dict(packed.state_dict())
    assert again.activations == "int8" and torch.equal(again(X), packed(X))
    with pytest.raises(CompressionError, match="float, int8"):
        microscaling.MicroscaledLinear(8, 8, scheme=scheme, activations="int4")


def test_other_block_formats_are_decoded(calls):
    packed = blocks("MXFP6 E2M3")
    agree(packed(X), packed, X)
    assert not calls
    with pytest.raises(CompressionError, match="MXFP6 E2M3; the kernels read MXFP4 and NVFP4"):
        packed.packed_weight()


@pytest.mark.parametrize(
    "change", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.half().float()]
)
def test_blocks_that_changed_are_read_anew(change):
    packed, other = blocks("NVFP4"), blocks("NVFP4", seed=1)
    before = packed(X)
    moved = change(packed)
    moved.tensor_scale.mul_(2)  # in its place
    agree(moved(X), moved, X)
    moved.packed.copy_(other.packed)
    agree(moved(X), moved, X)
    packed.load_state_dict(other.state_dict())
    assert torch.equal(packed(X), other(X)) and not torch.equal(packed(X), before)


def test_blocks_with_rounded_activations_are_evaluated_as_they_run():
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
    )
    torch.manual_seed(0)
    compressed = microscaling.quantize(LlamaForCausalLM(config).eval(), scheme="NVFP4")
    faster, ids = convert.round_activations(compressed), torch.arange(2, 32)[None]
    with torch.no_grad():
        rounded, plain = faster.model(ids).logits, compressed.model(ids).logits
        with scoring(faster) as model:
            assert torch.equal(model(ids).logits, rounded) and not torch.equal(rounded, plain)
        with scoring(compressed) as model:  # dense for the time being
            assert not any(isinstance(m, microscaling.MicroscaledLinear) for m in model.modules())
            torch.testing.assert_close(model(ids).logits, plain)
