import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import QuantizedLinear, gptq, grids, qat, rtn


def away_from_ties(shape, scale, seed=0):
    """Random values whose quotient by the scale is not near a half,
    where two roundings may differ.
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 * scale
    quotient = x / scale
    return torch.where((quotient - quotient.floor() - 0.5).abs() < 0.02, x + 0.1 * scale, x)


@pytest.mark.parametrize("zero", [0, 5, 15])
def test_straight_through_against_torch(zero):
    """Values and gradients of torch.fake_quantize_per_tensor_affine, 4 bits."""
    scale = torch.tensor(0.21)
    upstream = torch.randn(300, generator=torch.Generator().manual_seed(1))
    ours, theirs = (away_from_ties(300, 0.21).requires_grad_() for _ in range(2))
    a = qat.fake_quantize(ours, scale, torch.tensor(float(zero)), 4)
    b = torch.fake_quantize_per_tensor_affine(theirs, 0.21, zero, 0, 15)
    torch.testing.assert_close(a, b)
    a.backward(upstream)
    b.backward(upstream)
    inside = (theirs / scale + zero > 0) & (theirs / scale + zero < 15)
    torch.testing.assert_close(ours.grad[inside], theirs.grad[inside])
    assert not ours.grad[~inside].any() and (~inside).any()


def test_learned_step_against_the_formula_of_the_paper():
    """LSQ, eq. 3: −v/s + round(v/s) inside, −Q_N and Q_P at the ends."""
    w, s, zero = away_from_ties(200, 0.3), 0.3, 2
    step = torch.tensor(s, requires_grad=True)
    upstream = torch.randn(200, generator=torch.Generator().manual_seed(2))
    qat.fake_quantize(w, step, torch.tensor(float(zero)), 2).backward(upstream)
    expected = 0.0
    for value, g in zip(w.double().tolist(), upstream.double().tolist(), strict=True):
        v = value / s
        slope = -zero if v <= -zero else (3 - zero if v >= 3 - zero else round(v) - v)
        expected += g * slope
    assert float(step.grad) == pytest.approx(expected, rel=1e-4)


def test_learned_step_against_torch():
    weight, zero = away_from_ties((6, 40), 0.25), torch.full((6,), 8.0)
    ours = torch.full((6, 1), 0.25, requires_grad=True)
    theirs = torch.full((6,), 0.25, requires_grad=True)
    a = qat.fake_quantize(weight, qat.scale_gradient(ours, 0.1), zero[:, None], 4)
    b = torch._fake_quantize_learnable_per_channel_affine(weight, theirs, zero, 0, 0, 15, 0.1)
    torch.testing.assert_close(a, b)
    upstream = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
    a.backward(upstream)
    b.backward(upstream)
    torch.testing.assert_close(ours.grad.flatten(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_untrained_layer_is_round_to_nearest():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for symmetric in (False, True):
        result = rtn.quantize_layer(weight, bits=3, group_size=32, symmetric=symmetric)
        layer = qat.QATLinear(weight, None, result.grid)
        torch.testing.assert_close(layer.quantized(), result.weight)
        assert torch.equal(layer.result().codes, result.codes)


def test_training_beats_gptq_on_one_layer():
    """Two bits, correlated inputs; the goal is the output of the full-precision layer."""
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        weight = torch.randn(16, 64, generator=g)
        x = torch.randn(512, 64, generator=g) @ (
            torch.randn(64, 64, generator=g) * torch.logspace(0, -1.5, 64)[:, None]
        )
        goal = x @ weight.T
        rounded = rtn.quantize_layer(weight, bits=2, group_size=64)
        error = {
            "rtn": rounded.weight,
            "gptq": gptq.quantize_layer(weight, gptq.hessian(x), bits=2, group_size=64).weight,
        }
        for learned, rate in ((False, 3e-3), (True, 3e-2)):
            layer = qat.QATLinear(weight, None, rounded.grid, learned)
            optimizer = torch.optim.Adam(
                [p for p in layer.parameters() if p.requires_grad], lr=rate
            )
            for step in range(200):
                optimizer.param_groups[0]["lr"] = rate * (1 - step / 200)
                optimizer.zero_grad()
                (layer(x) - goal).square().mean().backward()
                optimizer.step()
            error[learned] = layer.result().weight
        error = {k: float((x @ w.T - goal).square().mean()) for k, w in error.items()}
        assert (
            error[True] < 0.7 * error["gptq"] < error["gptq"] < 0.8 * error[False]
            and error[False] < 0.7 * error["rtn"]
        )


def test_model_level():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = torch.randint(60, (8, 12), generator=torch.Generator().manual_seed(0))
    result = qat.quantize(model, data, bits=2, group_size=32, steps=4, batch=2, distill=0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters()) and not any(
        p.requires_grad for p in result.model.parameters()
    )
    layers = [m for m in result.model.modules() if isinstance(m, QuantizedLinear)]
    assert len(layers) == 8 and all(m.bits == 2 for m in layers)
    assert torch.equal(result.model.transformer.wte.weight, model.transformer.wte.weight)
    again = qat.quantize(model, data, bits=2, group_size=32, steps=4, batch=2, distill=0.5)
    assert result.details["loss"] == again.details["loss"]
    assert torch.equal(result.model(input_ids=data).logits, again.model(input_ids=data).logits)
    fixed = qat.quantize(model, data, bits=2, group_size=32, steps=4, batch=2, learned_step=False)
    for name, module in walk.compressible(model).items():
        grid = grids.make_grid(walk.weight_of(module), bits=2, group_size=32)
        assert torch.equal(fixed.model.get_submodule(name).scale.float(), grid.scale)


def test_errors():
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    )
    data = torch.zeros(2, 8, dtype=torch.long)
    for settings in (
        {"steps": 0},
        {"batch": 0},
        {"learning_rate": 0},
        {"distill": 1.5},
        {"bits": 1},
        {"group_size": 5},
    ):
        with pytest.raises(CompressionError):
            qat.quantize(model, data, **settings)
    with pytest.raises(CompressionError, match="not finite at step"):
        qat.quantize(model, data, steps=3, learning_rate=math.inf, group_size=32, distill=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_trained_too(dtype):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    ).to(dtype)
    data = torch.randint(60, (4, 12))
    result = qat.quantize(model, data, bits=3, group_size=32, steps=2, batch=2)
    assert result.model(input_ids=data).logits.dtype == dtype and all(
        map(math.isfinite, result.details["loss"])
    )


def test_a_teacher_from_before_the_pruning():
    """With one, the loss is the divergence from it; without, from the model itself; the model stays
    as it is.
    """
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2)
    original, pruned = GPT2LMHeadModel(config).eval(), GPT2LMHeadModel(config).eval()
    ids = torch.randint(0, 50, (4, 12))
    before = {k: v.clone() for k, v in pruned.state_dict().items()}
    settings = {"bits": 8, "group_size": None, "steps": 1, "batch": 4, "learning_rate": 1e-4}
    own = qat.quantize(pruned, ids, **settings).details["loss"][0]
    told = qat.quantize(pruned, ids, **settings, teacher=original).details["loss"][0]
    with torch.no_grad():
        p, q = (m(input_ids=ids).logits.log_softmax(-1) for m in (original, pruned))
    rows = torch.randint(4, (4,), generator=torch.Generator().manual_seed(0))
    assert (
        told == pytest.approx(float((p.exp() * (p - q)).sum(-1)[rows, :-1].mean()), rel=0.02)
        and own < told / 10
    )
    assert all(torch.equal(v, before[k]) for k, v in pruned.state_dict().items())
    with pytest.raises(CompressionError, match="teacher: its vocabulary"):
        qat.quantize(
            pruned,
            ids,
            **settings,
            teacher=GPT2LMHeadModel(GPT2Config(vocab_size=51, n_embd=32, n_layer=1, n_head=2)),
        )
