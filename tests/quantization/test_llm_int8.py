import bitsandbytes as bnb
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.quantization import llm_int8, w8a8


def inputs(tokens=24, features=96, outliers=(3, 40, 95), seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, features, generator=g).clamp(-4, 4)
    x[:, list(outliers)] = 30 + 20 * torch.rand(tokens, len(outliers), generator=g)
    return x, torch.randn(48, features, generator=g)


def layer_of(weight, **settings):
    layer = llm_int8.LLMInt8Linear(weight.shape[1], weight.shape[0], **settings)
    layer.set_weight(weight)
    return layer


def test_decomposition_against_its_definition():
    x, weight = inputs()
    layer = layer_of(weight)
    outliers = torch.tensor([3, 40, 95])
    assert torch.equal(llm_int8.outlier_channels(x), outliers)
    rounded = layer.weight.double()
    regular = torch.ones(96, dtype=torch.bool)
    regular[outliers] = False
    xr = x[:, regular].double()
    scale = (xr.abs().amax(1, True) / 127).float().half().double()
    xr = (xr / scale).round().clamp(-128, 127) * scale
    wanted = x[:, outliers].double() @ rounded[:, outliers].T + xr @ rounded[:, regular].T
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-4)


def test_against_bitsandbytes():
    """Their layer keeps the decomposition in half precision, and rounds scales elsewhere."""
    x, weight = inputs()
    theirs = bnb.nn.Linear8bitLt(96, 48, bias=False, has_fp16_weights=False, threshold=6.0)
    theirs.load_state_dict({"weight": weight.half()})
    theirs = theirs.to("cpu")
    with torch.no_grad():
        found = theirs(x.half()).float()
    ours = layer_of(weight)(x)
    exact = x @ weight.T
    assert (ours - found).norm() < 4e-3 * exact.norm()
    assert (ours - exact).norm() < 1.25 * (found - exact).norm()


def test_it_is_what_outliers_need():
    for seed in range(4):
        x, weight = inputs(seed=seed)
        exact = x @ weight.T
        plain = w8a8.Int8Linear(96, 48)
        plain.set_weight(weight)
        parts = layer_of(weight)
        regular = x.clone()
        regular[:, [3, 40, 95]] = 0
        # what the activations' rounding costs, on the channels without outliers
        cost = {
            name: (f(x) - x @ f.weight.T).norm() for name, f in (("plain", plain), ("parts", parts))
        }
        assert cost["parts"] < 0.15 * cost["plain"]
        assert (parts(x) - exact).norm() < (plain(x) - exact).norm()


def test_no_outliers_and_only_outliers():
    x, weight = inputs(outliers=(0,))
    x[:, 0] = 1
    plain = w8a8.Int8Linear(96, 48)
    plain.set_weight(weight)
    assert torch.equal(layer_of(weight)(x), plain(x))
    layer = layer_of(weight, threshold=1e-9)
    torch.testing.assert_close(layer(x), x @ layer.weight.T, rtol=1e-5, atol=1e-4)
    assert layer(x[:0]).shape == (0, 48)


def test_model_level_and_errors():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, mlp_bias=True,
    )  # fmt: skip
    model, ids = LlamaForCausalLM(config).eval(), torch.randint(60, (2, 9))
    result = llm_int8.quantize(model)
    exact, found = model(input_ids=ids).logits, result.model(input_ids=ids).logits
    assert 0 < (found - exact).norm() < 0.05 * exact.norm()
    with pytest.raises(CompressionError, match="threshold=0"):
        llm_int8.quantize(model, threshold=0)
