"""Entropy-coded layers: the walk against a slow specification and gptq, files bit for bit, every
byte counted.
"""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import compressed, entropy_coded, gptq
from course_utils.theory import coding


def layer_case(seed=0, rows=12, columns=40, tokens=300):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=rng, dtype=torch.float64) @ torch.randn(
        columns, columns, generator=rng, dtype=torch.float64
    )
    return torch.randn(rows, columns, generator=rng, dtype=torch.float64), gptq.hessian(x)


def slow_walk(weight, H, steps):
    """Optimal brain surgeon's update, the inverse of what is left computed afresh
    at each column.
    """
    W, H = weight.clone(), gptq.damped(H, 0.01)
    codes = torch.zeros_like(W)
    for i in range(W.shape[1]):
        inverse = torch.linalg.inv(H[i:, i:])
        codes[:, i] = torch.round(W[:, i] / steps[i])
        error = (W[:, i] - codes[:, i] * steps[i]) / inverse[0, 0]
        W[:, i:] -= error[:, None] * inverse[0]
    return codes


@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_the_walk_is_the_surgeons(block_size):
    weight, H = layer_case()
    steps = torch.linspace(0.1, 0.9, 40, dtype=torch.float64)
    codes = entropy_coded.walk_columns(weight, H, steps, block_size=block_size)
    assert torch.equal(codes, slow_walk(weight, H, steps).int())


def test_the_walk_with_equal_steps_is_gptqs_where_nothing_clips():
    weight, H = layer_case(1)
    # rows that make the grid wide
    wide = torch.cat([weight, torch.full((1, 40), 60.0), torch.full((1, 40), -60.0)]).double()
    grid_rows = gptq.quantize_layer(
        wide, H, bits=8, group_size=None, symmetric=False, never_worse=False
    )
    for row in range(len(weight)):
        scale = grid_rows.grid.scale[row, 0]
        codes = entropy_coded.walk_columns(weight[row : row + 1], H, scale.reshape(1).double())
        wanted = grid_rows.weight[row].double()
        if (grid_rows.codes[row] > 0).all() and (grid_rows.codes[row] < 255).all():
            assert (codes[0] * scale - wanted).abs().max() <= 1e-10 * wanted.abs().max()


def test_columns_of_like_spread_share_a_class():
    codes = torch.stack([torch.full((50,), k) for k in (5, 0, 3, 1, 4, 2)], 1)
    assert entropy_coded.column_classes(codes, 3).tolist() == [2, 0, 1, 0, 2, 1]
    assert entropy_coded.column_classes(codes, 99).tolist() == [5, 0, 3, 1, 4, 2]
    assert entropy_coded.column_classes(codes, 1).tolist() == [0] * 6


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("spread", [0.2, 3.0, 400.0])
def test_a_layer_gives_back_its_codes(classes, spread):
    rng = torch.Generator().manual_seed(3)
    codes = (torch.randn(33, 70, generator=rng) * spread * torch.linspace(0.1, 2, 70)).round().int()
    steps = torch.rand(70, generator=rng).half().float() + 0.01
    bias = torch.randn(33, generator=rng)
    layer = entropy_coded.EntropyCodedLinear.of(codes, steps, bias, classes=classes)
    assert torch.equal(layer.codes.int(), codes) and torch.equal(
        layer.weight, codes * layer.step.float()
    )
    x = torch.randn(4, 70, generator=rng)
    assert torch.equal(layer(x), nn.functional.linear(x, codes * layer.step.float(), bias))
    ideal = entropy_coded.code_bits(codes, classes)
    assert ideal <= 8 * len(layer.stream) <= 1.02 * ideal + 8 * (18 + 4 * 128)


def test_bits_follow_the_entropy_of_each_class():
    codes = torch.cat(
        [torch.zeros(64, 10), torch.arange(64)[:, None].expand(64, 10) % 4 - 1], 1
    ).int()
    assert abs(entropy_coded.code_bits(codes, 2) - 64 * 10 * 2) < 1e-9
    assert entropy_coded.code_bits(codes, 1) > entropy_coded.code_bits(codes, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": "sigma"},
        {"calibration": True},
        {"steps": "watersic", "calibration": True, "classes": 4},
    ],
)
def test_a_model_is_written_and_read_bit_for_bit(tiny, ids, tmp_path, settings):
    settings = dict(settings)
    calibration = ids if settings.pop("calibration", False) else None
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    result = entropy_coded.quantize(tiny, calibration, bits=2.5, **settings)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    result.save(tmp_path / "m")
    back = compressed.load(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(back(input_ids=ids).logits, result.model(input_ids=ids).logits)
    layers = [m for m in back.modules() if isinstance(m, entropy_coded.EntropyCodedLinear)]
    assert len(layers) == len(walk.compressible(tiny))
    with safe_open(tmp_path / "m" / compressed.WEIGHTS, "pt") as file:
        coded = ("stream", "table", "lowest", "which", "step")
        names = file.keys()
        kept = [name for name in names if name.rpartition(".")[2] in coded]
        stored = sum(file.get_tensor(k).nbytes for k in kept)
    weights = sum(m.in_features * m.out_features for m in layers)
    assert stored == sum(m.coded_bytes() for m in layers)
    assert abs(8 * stored / weights - result.details["bits_per_weight"]) < 1e-12


def test_small_matrices_spend_fewer_bits_with_one_step():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False))
    with torch.no_grad():
        net[0].weight.normal_(0, 1.0)
        net[1].weight.normal_(0, 0.125)
    bits = [
        entropy_coded.code_bits(m.codes.int()) / 256**2
        for m in entropy_coded.quantize(net, bits=3.0).model
    ]
    assert abs(bits[0] - bits[1] - 3) < 0.15  # log₂ 8: as reverse water-filling says
    equal = [
        entropy_coded.code_bits(m.codes.int()) / 256**2
        for m in entropy_coded.quantize(net, bits=3.0, steps="sigma").model
    ]
    assert abs(equal[0] - equal[1]) < 0.02


def test_the_rate_asked_for_is_the_rate_taken(tiny_wide):
    for settings in ({}, {"classes": 4}):
        result = entropy_coded.quantize(tiny_wide, bits=2.0, **settings)
        assert abs(result.details["bits_per_weight"] - 2.0) < 0.05


@pytest.fixture(scope="module")
def tiny_wide():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(384, 300), nn.ReLU(), nn.Linear(300, 200))


def test_damage_is_noticed(tiny_wide):
    layer = entropy_coded.quantize(tiny_wide, bits=2.0).model[0]
    layer._decoded = None
    layer.stream[100] ^= 1
    with pytest.raises(CompressionError, match="damaged"):
        _ = layer.weight


@pytest.mark.parametrize("steps", ["one", "sigma"])
def test_weights_without_spread_and_codes_far_from_zero(steps):
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.fill_(0.3)
        net[2].weight.fill_(-2.0)
        done = entropy_coded.quantize(net, bits=3.0, steps=steps).model
        assert (done[0].weight - 0.3).abs().max() <= done[0].step / 2 and (
            done[2].weight + 2.0
        ).abs() <= done[2].step / 2
        far = torch.full((4, 6), 10**6) + torch.arange(6)
        assert torch.equal(
            entropy_coded.EntropyCodedLinear.of(far.int(), torch.ones(1), None).codes.long(), far
        )
        for layer in net:
            layer.weight.zero_()
        with pytest.raises(CompressionError, match="every weight"):
            entropy_coded.quantize(net, steps=steps)


def test_bad_input(tiny, ids):
    with pytest.raises(CompressionError, match="bits=0.01"):
        entropy_coded.quantize(tiny, bits=0.01)
    with pytest.raises(CompressionError, match="steps='two'"):
        entropy_coded.quantize(tiny, steps="two")
    with pytest.raises(CompressionError, match="give calibration"):
        entropy_coded.quantize(tiny, steps="watersic")
    with pytest.raises(CompressionError, match="classes"):
        entropy_coded.EntropyCodedLinear.of(torch.zeros(2, 2).int(), torch.ones(1), None, classes=0)
    with pytest.raises(CompressionError, match="larger step"):
        entropy_coded.EntropyCodedLinear.of(torch.tensor([[0, 1 << 20]]).int(), torch.ones(1), None)
    with pytest.raises(CompressionError, match="no layer"):
        entropy_coded.bits_per_weight(tiny)
    # tables fit the buffer's type
    assert coding.PRECISION == 14 and np.iinfo(np.int16).max >= (1 << 14)
