"""The MX formats and NVFP4 against ml_dtypes, a search over all elements and scales, and torch's
own types.
"""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import formats, microscaling

THEIRS = {
    "MXFP4": ml_dtypes.float4_e2m1fn, "MXFP6 E2M3": ml_dtypes.float6_e2m3fn,
    "MXFP6 E3M2": ml_dtypes.float6_e3m2fn, "MXFP8 E4M3": ml_dtypes.float8_e4m3fn,
    "MXFP8 E5M2": ml_dtypes.float8_e5m2, "NVFP4": ml_dtypes.float4_e2m1fn,
}  # fmt: skip
MX = [name for name in microscaling.SCHEMES if name != "NVFP4"]
LARGEST = {name: float(ml_dtypes.finfo(kind).max) for name, kind in THEIRS.items()} | {
    "MXINT8": 127 / 64
}
# OCP MX 1.0, table 1
E_MAX = {
    "MXFP4": 2,
    "MXFP6 E2M3": 2,
    "MXFP6 E3M2": 4,
    "MXFP8 E4M3": 8,
    "MXFP8 E5M2": 15,
    "MXINT8": 0,
}


def sample(rows, columns, seed=0):
    """Ordinary numbers, loud and quiet rows, a block of zeros, halves and exact powers of two."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * torch.logspace(-4, 3, rows)[:, None]
    x[rows // 2] = 0
    x[1] = (torch.randint(-64, 64, (columns,), generator=generator)) / 8
    x[2] = torch.ldexp(torch.ones(columns), torch.arange(columns) % 9)
    return x


def elements(values, scheme):
    """Values that fit, rounded by ml_dtypes, or for INT8 by NumPy."""
    values = np.clip(values, -LARGEST[scheme], LARGEST[scheme])
    if scheme == "MXINT8":
        return np.rint(values * 64) / 64
    return values.astype(THEIRS[scheme]).astype(np.float64)


@pytest.mark.parametrize("columns", [64, 96, 37, 5])
@pytest.mark.parametrize("rule", microscaling.RULES)
@pytest.mark.parametrize("scheme", MX)
def test_mx_is_the_specification_with_elements_of_ml_dtypes(scheme, rule, columns):
    x = sample(11, columns)
    found = microscaling.fake_quantize(x, scheme, rule=rule).numpy()
    for row, line in enumerate(x.double().numpy()):
        for start in range(0, columns, 32):
            block = line[start : start + 32]
            peak = abs(block).max()
            if peak == 0:
                assert not found[row, start : start + 32].any()
                continue
            shared = math.floor(math.log2(peak)) - E_MAX[scheme]
            if rule == "ceil" and peak / 2.0**shared > LARGEST[scheme]:
                shared += 1
            wanted = elements(block / 2.0**shared, scheme) * 2.0**shared
            assert np.array_equal(found[row, start : start + 32], wanted.astype(np.float32)), (
                row,
                start,
            )


@pytest.mark.parametrize("scheme", microscaling.SCHEMES)
def test_every_pattern_of_an_element_is_that_of_ml_dtypes(scheme):
    element = microscaling.find(scheme).element
    ours = formats.decode(torch.arange(2**element.bits), element).numpy()
    if scheme == "MXINT8":
        theirs = np.arange(256).astype(np.uint8).view(np.int8)
    else:
        theirs = np.arange(2**element.bits).astype(np.uint8).view(THEIRS[scheme])
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def test_scales_of_powers_of_two_are_those_of_torch():
    patterns = torch.arange(255, dtype=torch.uint8)
    theirs = patterns.view(torch.float8_e8m0fnu).double()
    assert torch.equal(microscaling.scale_values(patterns, "MXFP4"), theirs)


def test_the_rule_of_the_specification_saturates_and_the_other_does_not():
    x = torch.tensor([[7.9, 1.0, -7.9]])
    assert microscaling.fake_quantize(x, "MXFP4").tolist() == [[6.0, 1.0, -6.0]]
    assert microscaling.fake_quantize(x, "MXFP4", rule="ceil").tolist() == [[8.0, 1.0, -8.0]]


def nvfp4(block, tensor_scale, peaks):
    """The best of the tried scales by a search, in NumPy with elements and scales of ml_dtypes."""
    best = None
    for place in peaks:
        scale = (
            np.float64(abs(block).max() / place / tensor_scale)
            .astype(ml_dtypes.float8_e4m3fn)
            .astype(np.float64)
        )
        scale = max(scale, 2.0**-9) * tensor_scale
        back = elements(block / scale, "NVFP4") * scale
        error = ((back - block) ** 2).sum()
        if best is None or error < best[0]:
            best = error, back
    return best[1]


@pytest.mark.parametrize("four_over_six", [False, True])
@pytest.mark.parametrize("columns", [48, 21])
def test_nvfp4_block_by_block(columns, four_over_six):
    x = sample(9, columns, seed=1)
    x[3] *= 1e-6 / x[3].abs().max()  # far below the tensor's largest: the scale underflows
    found = microscaling.fake_quantize(x, "NVFP4", four_over_six=four_over_six).numpy()
    # the file holds the reciprocal
    whole = float(1 / np.float32(6 * (256 if four_over_six else 448) / float(x.abs().max())))
    for row, line in enumerate(x.double().numpy()):
        for start in range(0, columns, 16):
            block = line[start : start + 16]
            wanted = (
                nvfp4(block, whole, (6, 4) if four_over_six else (6,)) if block.any() else block
            )
            np.testing.assert_allclose(found[row, start : start + 16], wanted, rtol=2e-7, atol=0)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 0.013, 1.0, 7e37])
def test_the_scale_of_a_tensor_is_the_reciprocal_of_its_reciprocal(size):
    scale = microscaling.encode(torch.tensor([[size, size / 3]]), "NVFP4").tensor_scale
    assert scale > 0 and 1 / (1 / scale) == scale
    if size > 1e-35:
        assert float(scale) == pytest.approx(size / (6 * 448), rel=3e-7)


def test_a_quiet_block_of_nvfp4_keeps_what_the_smallest_scale_can_hold():
    x = torch.zeros(1, 32)
    # t = 1, the second scale would be 2^−11 and round to 0
    x[0, 0], x[0, 16] = 448 * 6, 6 * 2.0**-11
    # the tie 1.5 · 2^−9 is an element
    assert microscaling.fake_quantize(x, "NVFP4")[0, 16] == 1.5 * 2.0**-9


def test_four_over_six_is_never_worse_with_the_same_tensor_scale():
    x = torch.randn(40, 160, generator=torch.Generator().manual_seed(3))
    blocks = microscaling._in_blocks(x.double(), 16)
    peak, whole = blocks.abs().amax(-1), x.abs().max() / 1536
    errors = [
        microscaling._squared_error(
            blocks, *microscaling._with_peak_at(place, blocks, peak, whole), whole
        )
        for place in (6.0, 4.0)
    ]
    both = microscaling.fake_quantize(x, "NVFP4", four_over_six=True)
    torch.testing.assert_close(
        (both.double() - x).square().sum(), torch.minimum(*errors).sum(), rtol=1e-5, atol=0
    )
    assert (errors[1] < errors[0]).float().mean() > 0.1


@pytest.mark.parametrize("scheme", microscaling.SCHEMES)
def test_every_layer_of_a_model_holds_its_weight_in_the_format(scheme):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=40, n_layer=1, n_head=4, n_positions=64)
    ).eval()
    result = microscaling.quantize(model, scheme=scheme, ignore="c_proj")
    for name, module in walk.compressible(model).items():
        found, weight = result.model.get_submodule(name), walk.weight_of(module)
        if "c_proj" in name:
            assert torch.equal(walk.weight_of(found), weight)
        else:
            assert torch.equal(found.weight, microscaling.fake_quantize(weight, scheme)), name
    assert 0 < result.coverage["share"] < 1


def test_bits_of_a_weight():
    wanted = {"MXFP4": 4.25, "MXFP6 E2M3": 6.25, "MXFP8 E4M3": 8.25, "MXINT8": 8.25, "NVFP4": 4.5}
    for scheme, bits in wanted.items():
        assert microscaling.find(scheme).bits_per_weight == bits
        blocks = microscaling.encode(torch.ones(8, 512), scheme)
        layer = microscaling.MicroscaledLinear.of(blocks, None)
        assert (layer.packed.nbytes + layer.scales.nbytes) * 8 / (8 * 512) == bits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheme": "MXFP5"}, "scheme='MXFP5': choose one of MXFP4"),
        ({"scheme": "MXFP4", "rule": "round"}, "rule='round': choose one of floor, ceil"),
        ({"scheme": "MXFP4", "four_over_six": True}, "`four_over_six` for NVFP4; leave it out"),
        ({"scheme": "NVFP4", "rule": "ceil"}, "`rule` is for scales of powers of two"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options, said):
    with pytest.raises(CompressionError, match=said.replace("(", r"\(")):
        microscaling.encode(torch.ones(2, 32), **options)
