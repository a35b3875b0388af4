"""HQQ against its published steps in float64, and what the zero points are for."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils import evaluation, models
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import hqq, rtn


def published(weight, bits, group_size, rounds=20, p=0.7, beta=10.0, kappa=1.01):
    """The steps of the published code (scales inverted there), group by group in float64; the best
    zero points are kept.
    """
    groups = weight.double().reshape(-1, group_size)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    inverse = 1 / ((high - low) / (2**bits - 1)).half().double()
    zero, best = -low * inverse, (torch.inf, None)
    for _ in range(rounds + 1):
        codes = torch.round(groups * inverse + zero).clamp(0, 2**bits - 1)
        back = (codes - zero) / inverse
        e = groups - back
        found = float(e.abs().mean())
        if found >= best[0]:
            break
        best = found, zero
        size = torch.where(e == 0, 1.0, e.abs())
        shrunk = torch.where(e == 0, 0.0, e.sign() * (size - size ** (p - 1) / beta).clamp(min=0))
        zero = (codes - (groups - shrunk) * inverse).mean(1, keepdim=True)
        beta *= kappa
    return best[1].view(len(weight), -1)


@pytest.mark.parametrize("spread", [0.03, 3.0])  # in the second the threshold lets errors through
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_zero_points_are_those_of_the_published_steps(bits, spread):
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(bits)) ** 3 * spread
    found = hqq.quantize_layer(weight, bits=bits, group_size=32)
    wanted = published(weight, bits, 32)
    assert ((found.zero_point - wanted).abs() <= 1e-3 * wanted.abs().clamp(min=1)).all(), (
        "but for the rounding to float16"
    )
    codes = (
        (weight.view(24, 3, 32) / found.scale[..., None] + found.zero_point[..., None])
        .round()
        .clamp(0, 2**bits - 1)
    )
    assert torch.equal(found.codes.view(24, 3, 32).float(), codes)
    by_hand = (codes - found.zero_point[..., None]) * found.scale[..., None]
    assert torch.equal(found.weight.view(24, 3, 32), by_hand)


def test_the_threshold_is_the_formula():
    x = torch.tensor([0.0, 0.1, -2.0, 5.0], dtype=torch.float64)
    wanted = [0.0, 0.0, -(2 - 2**-0.3 / 10), 5 - 5**-0.3 / 10]
    torch.testing.assert_close(hqq.shrink(x, 10.0), torch.tensor(wanted, dtype=torch.float64))


def test_fitted_zero_points_err_less_in_the_mean():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 0.05
    for bits in (2, 3):
        plain, fitted = (hqq.quantize_layer(weight, bits=bits, rounds=n).weight for n in (0, 20))
        assert (fitted - weight).abs().mean() < 0.97 * (plain - weight).abs().mean()


def test_constants_zeros_and_what_lies_on_a_grid_are_kept():
    for value in (0.0, -0.75, 3.0):
        assert torch.equal(
            hqq.quantize_layer(torch.full((2, 64), value)).weight, torch.full((2, 64), value)
        )
    points = (torch.arange(64) % 4 - 1.25) * 0.5
    assert torch.equal(hqq.quantize_layer(points[None], bits=2).weight, points[None])


def test_two_bits_of_the_bundled_model_cost_less_than_by_rounding():
    net, tokenizer = models.load()
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=8, context=128, seed=0
    ).ids
    original = evaluation.predictions(net, ids)
    cost = [
        float(evaluation.kl_by_window(original, how.quantize(net, bits=2), ids).mean())
        for how in (hqq, rtn)
    ]
    assert cost[0] < 0.6 * cost[1]


def test_layers_of_their_own():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    ).eval()
    result = hqq.quantize(
        model,
        bits=2,
        group_size=32,
        ignore="c_proj",
        per_layer={"c_attn": {"bits": 5, "group_size": 16}},
    )
    layer = result.model.transformer.h[0].attn.c_attn
    assert (layer.bits, layer.groups) == (5, 2) and result.model.transformer.h[0].mlp.c_fc.bits == 2
    assert torch.equal(
        layer.weight,
        hqq.quantize_layer(
            walk.weight_of(model.transformer.h[0].attn.c_attn), bits=5, group_size=16
        ).weight,
    )
    assert result.settings["per_layer"] == {
        "c_attn": {"bits": 5, "group_size": 16}
    } and result.settings["ignore"] == ["c_proj"]
    with pytest.raises(CompressionError, match=r"per_layer: 'c_attn' sets symmetric"):
        hqq.quantize(model, per_layer={"c_attn": {"symmetric": True}})
    with pytest.raises(CompressionError, match=r"attn.c_attn: group_size=24 does not divide"):
        hqq.quantize(model, group_size=24)


@pytest.mark.parametrize("bits", [2, 3])
def test_fitted_scales_are_the_least_squares_of_their_codes(bits):
    """Given its codes no other scale and zero point does better, and no group ends above the
    min-max grid it starts from.
    """
    w = torch.randn(6, 32, generator=torch.Generator().manual_seed(bits))
    w[0, 3] = 6.0
    found = hqq.quantize_layer(w, bits=bits, group_size=16, fit_scale=True)
    start = hqq.quantize_layer(w, bits=bits, group_size=16, rounds=0)  # the min-max grid
    for result, groups in ((found, found.codes.view(6, 2, 16).double()),):
        for i in range(6):
            for j in range(2):
                q, x = groups[i, j], w.view(6, 2, 16)[i, j].double()
                slope, shift = np.polyfit(q.numpy(), x.numpy(), 1)
                best = float(((slope * q + shift - x) ** 2).sum())
                mine = float(((result.weight.view(6, 2, 16)[i, j].double() - x) ** 2).sum())
                assert mine < best * 1.001 + 1e-6, "but for zero points and scales in float16"
    error = [((r.weight - w) ** 2).view(6, 2, 16).sum(-1) for r in (found, start)]
    assert (error[0] <= error[1] * 1.0001).all() and error[0].sum() < 0.9 * error[1].sum()
    flat = hqq.quantize_layer(torch.full((1, 16), -0.5), bits=2, group_size=16, fit_scale=True)
    assert (
        torch.equal(flat.weight, torch.full((1, 16), -0.5))
        and not hqq.quantize_layer(
            torch.zeros(1, 16), bits=2, group_size=16, fit_scale=True
        ).weight.any()
    )


@pytest.mark.parametrize("bits", [2, 3])
def test_unbiased_errors_have_nothing_of_the_weights_in_them(bits):
    """Same codes, and Σ (ŵ − w̄)(w − w̄) = Σ (w − w̄)² in each group; the error grows from t² to t²
    / (1 − t²).
    """
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(bits)) + 0.3
    w[0, 3] = 6.0
    w[1] = -0.5  # two groups of equal weights
    plain, found = (
        hqq.quantize_layer(w, bits=bits, group_size=32, fit_scale=True, unbiased=u)
        for u in (False, True)
    )
    assert torch.equal(found.codes, plain.codes) and torch.equal(found.weight[1], w[1])
    centred = [
        (t - t.mean(-1, keepdim=True)).double()
        for t in (w.view(6, 2, 32), plain.weight.view(6, 2, 32), found.weight.view(6, 2, 32))
    ]
    x, before, after = (torch.cat([t[:1], t[2:]]) for t in centred)
    energy = (x * x).sum(-1)
    torch.testing.assert_close((after * x).sum(-1), energy, rtol=3e-3, atol=0)  # scales in float16
    assert ((before * x).sum(-1) < 0.999 * energy).all(), "least squares shrinks"
    t2 = (before - x).square().sum(-1) / energy
    torch.testing.assert_close(
        (after - x).square().sum(-1) / energy, t2 / (1 - t2), rtol=0.02, atol=1e-4
    )
    with pytest.raises(CompressionError, match="goes with fit_scale"):
        hqq.quantize_layer(w, unbiased=True)


def test_unbiased_scales_halve_the_damage_of_two_bits():
    net, tokenizer = models.load()
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=8, context=128, seed=0
    ).ids
    original = evaluation.predictions(net, ids)
    made = [hqq.quantize(net, bits=2, fit_scale=True, unbiased=u).model for u in (True, False)]
    cost = [float(evaluation.kl_by_window(original, one, ids).mean()) for one in made]
    assert cost[0] < 0.7 * cost[1]
