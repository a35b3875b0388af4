import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import observers, w8a8


def tiny(kind="llama"):
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        ).eval()
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    return LlamaForCausalLM(config).eval()


@given(
    tokens=st.integers(1, 9), columns=st.integers(1, 40), rows=st.integers(1, 20),
    symmetric=st.booleans(), activations=st.sampled_from(w8a8.ACTIVATIONS),
    per_channel=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_layer_is_the_product_of_the_rounded_factors(
    tokens, columns, rows, symmetric, activations, per_channel, seed
):
    """The integer sum with its correction equals x̂ ŵ + b computed in float64 from
    the definition.
    """
    g = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(tokens, columns, generator=g) + 0.5,
        torch.randn(rows, columns, generator=g),
    )
    layer = w8a8.Int8Linear(
        columns,
        rows,
        per_channel=per_channel,
        activations=activations,
        symmetric=symmetric,
        bias=True,
    )
    layer.set_weight(weight)
    layer.bias = nn.Parameter(torch.randn(rows, generator=g))
    xs = x.double()
    if activations == "per_tensor":
        low, high = xs.min().expand(tokens, 1), xs.max().expand(tokens, 1)
    else:
        low, high = xs.amin(1, True), xs.amax(1, True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    sx = torch.maximum(-low, high) / 127 if symmetric else (high - low) / 255
    sx = sx.float().half().double()
    zero = torch.zeros_like(sx) if symmetric else (-low / sx).round() - 128
    qx = ((xs / sx).float().round().double() + zero).clamp(-128, 127)
    magnitude = weight.double().abs()
    sw = (
        ((magnitude.amax(1, True) if per_channel else magnitude.max()) / 127)
        .float()
        .half()
        .double()
    )
    qw = (weight / sw.float()).round().double().clamp(-127, 127)
    wanted = (sx * (qx - zero)) @ (sw * qw).T + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5 * columns)


def test_products_are_integers():
    """A sum that float32 cannot hold comes out exactly."""
    x = torch.full((2, 2048), 127, dtype=torch.int8)
    w = torch.full((3, 2048), 127, dtype=torch.int8)
    w[0, 0] = 126
    total = w8a8.integer_product(x, w)
    assert total.dtype == torch.int32
    assert total.tolist() == [[127 * 127 * 2048 - 127, 127 * 127 * 2048, 127 * 127 * 2048]] * 2


def test_static_layer_against_torch_quantized_linear():
    """torch's own static INT8 linear layer, per-tensor activations, same scales."""
    torch.manual_seed(1)
    x, weight = torch.randn(16, 64), torch.randn(8, 64)
    layer = w8a8.Int8Linear(64, 8, static=True, activations="per_tensor", symmetric=False)
    layer.set_weight(weight)
    observer = observers.MinMax()
    observer.observe(x)
    grid = observers.grid(observer, 64, symmetric=False)
    layer.input_scale, layer.input_zero = grid.scale, (grid.zero_point - 128).int()
    codes = torch.quantize_per_tensor(x, float(grid.scale), int(grid.zero_point) - 128, torch.qint8)
    ours, _, _ = layer.quantize_input(x)
    assert torch.equal(ours, codes.int_repr())
    weights = torch.quantize_per_channel(
        weight,
        layer.weight_scale.flatten().double(),
        torch.zeros(8, dtype=torch.long),
        0,
        torch.qint8,
    )
    assert torch.equal(layer.weight_codes, weights.int_repr())
    torch.testing.assert_close(
        layer(x), codes.dequantize() @ weights.dequantize().T, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("observer", [None, *observers.OBSERVERS])
def test_model_level(kind, observer):
    model, ids = tiny(kind), torch.randint(60, (4, 16), generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = w8a8.quantize(model, ids, observer=observer, activations="per_tensor", symmetric=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    layers = [m for m in result.model.modules() if isinstance(m, w8a8.Int8Linear)]
    assert len(layers) == len(walk.compressible(model)) and all(
        m.static == (observer is not None) for m in layers
    )
    with torch.no_grad():
        exact, found = model(input_ids=ids).logits, result.model(input_ids=ids).logits
    assert (found - exact).norm() < 0.1 * exact.norm()
    assert result.model.generate(
        ids[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0
    ).shape == (4, 7)


def test_per_token_beats_per_tensor_when_tokens_differ():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 128, generator=g) * torch.logspace(-2, 1, 64)[:, None]
    weight = torch.randn(32, 128, generator=g)
    errors = {}
    for activations in w8a8.ACTIVATIONS:
        layer = w8a8.Int8Linear(128, 32, activations=activations)
        layer.set_weight(weight)
        errors[activations] = float(
            ((layer(x) - x @ weight.T).norm(dim=1) / (x @ weight.T).norm(dim=1)).mean()
        )
    assert errors["per_token"] < 0.1 * errors["per_tensor"]


def test_half_precision_keeps_the_scales():
    layer = w8a8.Int8Linear(64, 8, bias=True)
    layer.set_weight(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) / 3e5)
    scale = layer.weight_scale.clone()
    assert layer.half().weight_scale.dtype == torch.float32 and torch.equal(
        layer.weight_scale, scale
    )
    assert layer(torch.randn(3, 64).half()).dtype == torch.float16
    assert layer(torch.empty(0, 64).half()).shape == (0, 8)


def test_errors():
    with pytest.raises(CompressionError, match="in_features=65537"):
        w8a8.Int8Linear(65537, 1)
    for static in (False, True):
        with pytest.raises(CompressionError, match="x: contains NaN"):
            w8a8.Int8Linear(4, 4, static=static)(torch.tensor([[1.0, torch.nan, 0.0, 0.0]]))
    model, ids = tiny(), torch.zeros(1, 4, dtype=torch.long)
    for settings_, message in (
        ({"observer": "min_max", "activations": "per_tensor"}, "calibration"),
        ({"observer": "min_max", "calibration": ids}, "per tensor"),
        ({"observer": "none", "activations": "per_tensor", "calibration": ids}, "observer"),
        ({"weights": "per_group"}, "weights"),
        ({"activations": "per_channel"}, "activations"),
        ({"weight_bits": 9}, "bits"),
        ({"observer": "mse", "activations": "per_tensor", "calibration": ids[:0]}, "calibration"),
    ):
        with pytest.raises(CompressionError, match=message):
            w8a8.quantize(model, **settings_)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(CompressionError, match="layers.1.mlp.up_proj"):
        w8a8.quantize(model)
