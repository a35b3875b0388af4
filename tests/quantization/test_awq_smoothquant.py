import math

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import QuantizedLinear, awq, gptq, rtn, smoothquant, w8a8

WIDE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KV = {**WIDE, "intermediate_size": 64, "num_key_value_heads": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**KV)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**KV)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**WIDE, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
}
IDS = torch.randint(60, (6, 16), generator=torch.Generator().manual_seed(0))


def tiny(kind="llama"):
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def salient(seed, rows=24, columns=64, tokens=300):
    """A weight and inputs of which four channels are thirty times as large."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=g)
    x[:, [3, 17, 40, 62]] *= 30
    return torch.randn(rows, columns, generator=g), x


def output_error(x, weight, quantized):
    return float((x.double() @ (weight - quantized).double().T).square().sum())


def test_search_against_the_outputs_themselves():
    """Every α in float64 with real inputs: the errors are proportional, and the chosen α has the
    smallest.
    """
    weight, x = salient(0)
    magnitude = x.abs().mean(0)
    scale, alpha, errors = awq.search_scale(
        [weight], gptq.hessian(x), magnitude, bits=3, group_size=32
    )
    wanted = []
    for a in awq.ALPHAS:
        s = magnitude.double() ** a
        s = (s / (s.max() * s.min()).sqrt()).float()
        quantized = rtn.quantize_layer(weight * s, bits=3, group_size=32).weight / s
        wanted.append(output_error(x, weight, quantized) * 2 / len(x))
        if a == alpha:
            torch.testing.assert_close(scale, s)
    assert errors == pytest.approx(wanted, rel=2e-3)
    assert alpha == awq.ALPHAS[wanted.index(min(wanted))] > 0
    assert errors[0] == pytest.approx(
        output_error(x, weight, rtn.quantize_layer(weight, bits=3, group_size=32).weight) / 150,
        rel=2e-3,
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_clip_against_a_loop(symmetric):
    weight, x = salient(1, rows=3)
    x = x @ torch.randn(64, 64, generator=torch.Generator().manual_seed(5))
    H = gptq.hessian(x)
    grid = awq.search_clip(weight, H, bits=3, group_size=16, symmetric=symmetric)
    for row in range(3):
        for group in range(4):
            part = slice(16 * group, 16 * group + 16)
            w = weight[row : row + 1, part].double()
            best = math.inf
            for c in awq.SHRINK:
                low, high = c * min(0, float(w.min())), c * max(0, float(w.max()))
                s = max(-low, high) / 3.5 if symmetric else (high - low) / 7
                s = float(torch.tensor(s).half())
                z = 4 if symmetric else round(-low / s)
                rounded = (((w / s).round() + z).clamp(0, 7) - z) * s
                error = float(((w - rounded) @ H[part, part].double() @ (w - rounded).T).item())
                if error < best * (1 - 1e-6):
                    best, scale, zero = error, s, z
            assert (
                float(grid.scale[row, group]) == pytest.approx(scale)
                and int(grid.zero_point[row, group]) == zero
            )


def test_awq_beats_rounding_where_inputs_are_salient():
    """Ten seeds: at most 60 % of the squared output error of round-to-nearest at 3 bits; clipping
    never hurts the sum.
    """
    for seed in range(10):
        weight, x = salient(seed)
        H, magnitude = gptq.hessian(x), x.abs().mean(0)
        plain = output_error(x, weight, rtn.quantize_layer(weight, bits=3, group_size=32).weight)
        found = awq.quantize_layer(weight, H, magnitude, bits=3, group_size=32)
        unclipped = awq.quantize_layer(weight, H, magnitude, bits=3, group_size=32, clip=False)
        assert output_error(x, weight, unclipped.result.weight / unclipped.scale) < 0.6 * plain
        assert output_error(x, weight, found.result.weight / found.scale) < 0.6 * plain


@pytest.mark.parametrize("kind", MODELS)
def test_model_level(kind):
    model = tiny(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for settings in ({}, {"scale": False}, {"clip": False}, {"symmetric": True}):
        result = awq.quantize(model, IDS, bits=4, group_size=16, **settings)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        layers = [m for m in result.model.modules() if isinstance(m, QuantizedLinear)]
        assert len(layers) == len(walk.compressible(model)) and all(
            m.group_index is None for m in layers
        )
        exact, found = model(input_ids=IDS).logits, result.model(input_ids=IDS).logits
        assert (found - exact).norm() < 0.15 * exact.norm()
    assert result.model.generate(
        IDS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0
    ).shape == (6, 7)


def test_without_scaling_and_clipping_it_is_rounding():
    model = tiny()
    plain, found = (
        rtn.quantize(model, bits=3, group_size=16),
        awq.quantize(model, IDS, bits=3, group_size=16, scale=False, clip=False),
    )
    assert torch.equal(plain.model(input_ids=IDS).logits, found.model(input_ids=IDS).logits)


def test_scaling_alone_keeps_the_function(monkeypatch):
    """With rounding switched off, what AWQ folds into the model leaves its outputs as they were."""
    model = tiny("qwen2")
    kept = {}
    monkeypatch.setattr(
        awq.walk, "replace", lambda model, name, layer: kept.update({"model": model})
    )
    awq.quantize(model, IDS, bits=3, group_size=16)
    gap = (kept["model"](input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max()
    assert gap < 1e-5
    assert not torch.equal(
        kept["model"].model.layers[0].input_layernorm.weight,
        model.model.layers[0].input_layernorm.weight,
    )


def test_smoothing_scale_is_the_formula():
    a, w = torch.tensor([4.0, 100.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 1.0, 0.0])
    assert smoothquant.smoothing_scale(a, w, 0.5).tolist() == pytest.approx([2.0, 5.0, 1.0, 1.0])
    assert smoothquant.smoothing_scale(a, w, 1.0).tolist() == pytest.approx([4.0, 100.0, 1.0, 1.0])
    assert smoothquant.smoothing_scale(a, w, 0.0).tolist() == pytest.approx([1.0, 0.25, 1.0, 1.0])


@pytest.mark.parametrize("kind", MODELS)
def test_smoothing_keeps_the_function_and_evens_the_channels(kind):
    model = tiny(kind)
    norms = {
        "llama": "input_layernorm",
        "qwen2": "input_layernorm",
        "opt": "self_attn_layer_norm",
        "gpt2": "ln_1",
    }
    norm = walk.blocks(model)[0].get_submodule(norms[kind])
    norm.weight.data[5] *= 50
    smoothed = smoothquant.smooth(model, IDS, alpha=0.5)
    torch.testing.assert_close(
        smoothed(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5
    )

    def spread(m):
        seen = {}
        block = walk.blocks(m)[0]
        walk.watch_inputs(
            block, list(walk.first_block_inputs(m, IDS)), lambda layer, x: seen.setdefault(layer, x)
        )
        largest = next(iter(seen.values())).abs().amax(0)
        return float(largest.max() / largest.median())

    assert spread(smoothed) < 0.35 * spread(model)
    result = smoothquant.quantize(model, IDS, observer="min_max")
    assert all(m.static for m in result.model.modules() if isinstance(m, w8a8.Int8Linear))
    assert result.settings["alpha"] == 0.5


def test_errors():
    weight, x = salient(0)
    with pytest.raises(CompressionError, match="magnitude"):
        awq.quantize_layer(weight, gptq.hessian(x), torch.ones(5))
    with pytest.raises(CompressionError, match="H: contains NaN"):
        awq.quantize_layer(weight, gptq.hessian(x) * torch.nan, x.abs().mean(0))
    with pytest.raises(CompressionError, match="bits=1"):
        awq.quantize(tiny(), IDS, bits=1)
    with pytest.raises(CompressionError, match="group_size=5"):
        awq.quantize(tiny(), IDS, group_size=5)
    with pytest.raises(CompressionError, match="compressed already"):
        smoothquant.smooth(rtn.quantize(tiny(), group_size=16).model, IDS)
    with pytest.raises(CompressionError, match="alpha=2"):
        smoothquant.smooth(tiny(), IDS, alpha=2)
    for method in (awq.quantize, smoothquant.quantize):
        with pytest.raises(CompressionError, match="calibration"):
            method(tiny(), IDS[:0])
    model = tiny()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    for method in (awq.quantize, smoothquant.quantize):
        with pytest.raises(CompressionError):
            method(model, IDS)
