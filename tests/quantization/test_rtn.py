"""Round-to-nearest of layers and of whole models."""

import copy

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import QuantizedLinear, rtn


def round_by_hand(weight, bits, size):
    """Plain Python on one weight at a time, in double precision."""
    out = weight.double().clone()
    for row in out:
        for start in range(0, len(row), size):
            group = row[start : start + size].tolist()
            low, high = min(0.0, *group), max(0.0, *group)
            scale = float(torch.tensor((high - low) / (2**bits - 1)).half())
            zero = round(-low / scale)
            for j, w in enumerate(group):
                row[start + j] = scale * (min(max(round(w / scale) + zero, 0), 2**bits - 1) - zero)
    return out


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("size", [8, 16, 48])
def test_layer_equals_rounding_by_hand(bits, size):
    weight = torch.randn(5, 48, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    result = rtn.quantize_layer(weight, bits=bits, group_size=size)
    assert (result.weight - round_by_hand(weight, bits, size)).abs().max() < 1e-9
    assert result.codes.shape == weight.shape and result.grid.scale.shape == (5, 48 // size)


def test_model_rounds_each_linear_layer_and_nothing_else(tiny):
    before = copy.deepcopy(tiny.state_dict())
    wanted = {
        name: round_by_hand(walk.weight_of(m), 4, 16) for name, m in walk.compressible(tiny).items()
    }
    compressed = rtn.quantize(tiny, bits=4, group_size=16)
    layers = {
        name: m for name, m in compressed.model.named_modules() if isinstance(m, QuantizedLinear)
    }
    assert set(layers) == set(wanted)
    for name, layer in layers.items():
        torch.testing.assert_close(layer.weight.double(), wanted[name], rtol=1e-6, atol=1e-6)
    assert all(torch.equal(before[k], v) for k, v in tiny.state_dict().items()) and set(
        before
    ) == set(tiny.state_dict())
    kept = compressed.model.state_dict()
    for name, value in before.items():
        if name.rpartition(".")[0] not in layers or name.endswith("bias"):
            assert torch.equal(kept[name], value), name
    assert compressed.settings == {"method": "rtn", "bits": 4, "group_size": 16, "symmetric": False}


def test_model_computes_with_the_rounded_weights(tiny, ids):
    """The packed model's logits are those of a dense copy whose weights were replaced by Ŵ."""
    compressed = rtn.quantize(tiny, bits=3, group_size=16)
    dense = copy.deepcopy(tiny)
    with torch.no_grad():
        for name, module in walk.compressible(dense).items():
            walk.weight_of(module).copy_(compressed.model.get_submodule(name).weight)
        torch.testing.assert_close(
            compressed.model(ids).logits, dense(ids).logits, rtol=1e-4, atol=1e-4
        )
        assert (compressed.model(ids).logits - tiny(ids).logits).abs().max() > 0.1


def test_more_bits_are_closer(tiny, ids):
    with torch.no_grad():
        exact = tiny(ids).logits
        errors = [
            float((rtn.quantize(tiny, bits=b, group_size=16).model(ids).logits - exact).norm())
            for b in (2, 4, 6, 8)
        ]
    assert all(a > 2 * b for a, b in zip(errors, errors[1:], strict=False)), errors


def test_any_module_with_linear_layers():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
    compressed = rtn.quantize(model, bits=8, group_size=8)
    x = torch.randn(5, 16)
    assert isinstance(compressed.model[0], QuantizedLinear) and compressed.model[2].bias is None
    shared = nn.Linear(16, 16)
    twice = rtn.quantize(
        nn.Sequential(shared, nn.ReLU(), nn.ModuleList([shared])), bits=8, group_size=8
    ).model
    assert isinstance(twice[0], QuantizedLinear) and twice[2][0] is twice[0]
    torch.testing.assert_close(compressed.model(x), model(x), rtol=0.05, atol=0.05)


def test_errors_name_the_layer_and_leave_the_model(tiny):
    names = list(walk.compressible(tiny))
    with torch.no_grad():
        walk.weight_of(tiny.get_submodule(names[3]))[0, 0] = float("nan")
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(CompressionError, match=rf"{names[3]}: .*NaN"):
        rtn.quantize(tiny, bits=4, group_size=16)
    assert all(torch.equal(before[k], v) or v.isnan().any() for k, v in tiny.state_dict().items())
    with torch.no_grad():
        walk.weight_of(tiny.get_submodule(names[3]))[0, 0] = 0
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(
        CompressionError, match=rf"{names[0]}: group_size=20 does not divide the 32 columns"
    ):
        rtn.quantize(tiny, bits=4, group_size=20)
    assert all(torch.equal(before[k], v) for k, v in tiny.state_dict().items())
    with pytest.raises(CompressionError, match="no nn.Linear"):
        rtn.quantize(nn.Sequential(nn.ReLU()), bits=4)


def test_quantizing_twice_is_refused(make):
    once = rtn.quantize(make("llama"), bits=4, group_size=16).model
    with pytest.raises(CompressionError, match="compressed already"):
        rtn.quantize(once, bits=4, group_size=16)
