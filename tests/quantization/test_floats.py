"""FP16, BF16 and FP8 weights, against torch's types, the formats' own definition and float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import floats, formats, load

HALVES, EIGHTS = ("FP16", "BF16"), ("FP8 E4M3", "FP8 E5M2")


def sample(seed=0, rows=12, columns=40):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=g) * torch.logspace(-3, 1, rows)[:, None]


@pytest.mark.parametrize("format", HALVES)
def test_sixteen_bits_are_torchs_cast(format):
    weight = sample()
    found = floats.quantize_layer(weight, format=format)
    assert (
        torch.equal(found.weight, weight.to(floats.DTYPES[format]).float())
        and not (found.scale != 1).any()
    )


@pytest.mark.parametrize("granularity", floats.GRANULARITIES)
@pytest.mark.parametrize("format", EIGHTS)
def test_eight_bits_are_the_nearest_of_the_scaled_values(format, granularity):
    """Brute force in float64 over every value of the format; the largest weight of a region becomes
    the largest value.
    """
    weight = sample()
    weight[3] = 0
    found = floats.quantize_layer(weight, format=format, granularity=granularity)
    values = formats.values(format).double()
    scale = found.scale.double().expand(len(weight), 1)
    assert found.scale.shape == ((len(weight), 1) if granularity == "per_channel" else (1, 1))
    nearest = (weight.double()[..., None] - scale[..., None] * values).abs().amin(-1)
    off = (found.weight.double() - weight.double()).abs()
    assert (off <= nearest + 1e-6 * weight.double().abs()).all()
    peak = (
        weight.double().abs().amax(1, keepdim=True)
        if granularity == "per_channel"
        else weight.double().abs().max().view(1, 1)
    )
    wanted = peak / formats.find(format).largest
    used = (peak > 0)[:, 0]
    torch.testing.assert_close(found.scale.double()[used], wanted[used], rtol=1e-3, atol=0)
    assert torch.equal(
        found.values.float(), formats.cast(weight / found.scale, format, saturate=True)
    )


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 20),
    seed=st.integers(0, 999),
    format=st.sampled_from(list(floats.DTYPES)),
    size=st.sampled_from([0.0, 1e-42, 1e-30, 1e-6, 1.0, 1e4, 1e37]),
    granularity=st.sampled_from(floats.GRANULARITIES),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_weight(rows, columns, seed, format, size, granularity):
    """Finite, zeros stay, the packed layer says the same, and normal numbers keep their relative
    precision.
    """
    weight = size * (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) + 0.5)
    if format == "FP16" and size > 6e4:
        with pytest.raises(CompressionError, match="65504.*BF16 or FP8"):
            floats.quantize_layer(weight, format=format)
        return
    found = floats.quantize_layer(weight, format=format, granularity=granularity)
    assert torch.isfinite(found.weight).all() and (found.scale > 0).all()
    assert torch.equal(floats.FloatLinear.of(found, None).weight, found.weight)
    if size == 0:
        assert not found.weight.any()
    if 1e-6 <= size <= 1e4 and not (format == "FP16" and size < 1e-3):
        step = 2.0 ** -(formats.find(format).mantissa + 1)
        assert ((found.weight - weight).abs() <= step * weight * 1.01).all()


def test_more_mantissa_is_closer_where_the_range_suffices():
    for seed in range(5):
        weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(seed))
        error = {
            f: float(
                (floats.quantize_layer(weight, format=f).weight - weight).norm() / weight.norm()
            )
            for f in floats.DTYPES
        }
        assert (
            4 * error["FP16"] < error["BF16"] < 0.2 * error["FP8 E4M3"]
            and error["FP8 E4M3"] < 0.6 * error["FP8 E5M2"] < 0.05
        )


@pytest.mark.parametrize("granularity", floats.GRANULARITIES)
@pytest.mark.parametrize("format", floats.DTYPES)
def test_model_level(tiny, ids, format, granularity, tmp_path):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    result = floats.quantize(tiny, format=format, granularity=granularity)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    for name, module in walk.compressible(tiny).items():
        layer = result.model.get_submodule(name)
        assert torch.equal(
            layer.weight,
            floats.quantize_layer(
                walk.weight_of(module), format=format, granularity=granularity
            ).weight,
        )
        assert (
            layer.packed.nbytes
            == layer.in_features * layer.out_features * formats.find(format).bits // 8
        )
    with torch.no_grad():
        exact, found = tiny(input_ids=ids).logits, result.model(input_ids=ids).logits
        assert 0 < (found - exact).norm() < 0.2 * exact.norm()
        result.save(tmp_path / "model")
        assert torch.equal(load(tmp_path / "model")(input_ids=ids).logits, found)
    layer = next(m for m in result.model.modules() if isinstance(m, floats.FloatLinear))
    weight = layer.weight.clone()
    assert (
        torch.equal(layer.half().weight, weight)
        and layer.half()(torch.randn(2, layer.in_features).half()).dtype == torch.float16
    )


def test_any_module_with_linear_layers():
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    x = torch.randn(3, 8)
    torch.testing.assert_close(
        floats.quantize(net, format="FP16").model(x), net(x), rtol=1e-2, atol=1e-2
    )


def test_errors():
    weight = torch.randn(4, 8)
    for arguments, message in (
        ({"format": "FP4 E2M1"}, "FP16, BF16, FP8 E4M3, FP8 E5M2"),
        ({"format": "fp8"}, "fp8.*choose one of"),
        ({"granularity": "per_group"}, "per_channel, per_tensor"),
    ):
        with pytest.raises(CompressionError, match=message):
            floats.quantize_layer(weight, **arguments)
    with pytest.raises(CompressionError, match="INT8.*choose one of"):
        floats.quantize(nn.Linear(2, 2), format="INT8")
    with pytest.raises(CompressionError, match="NaN"):
        floats.quantize_layer(weight * math.nan)
