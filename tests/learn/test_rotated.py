"""What lesson 5.3 measures of rotations: rounded inputs, principal axes, the wrong way without
folding.
"""

import pytest
import torch
from wide_models import tiny

from course_utils.evaluation.by_window import kl_by_window
from course_utils.learn import rotated
from course_utils.learn.plots import rotations as pictures
from course_utils.models import planting, walk
from course_utils.quantization import hadamard, rotations, rtn
from course_utils.quantization.grids import fake_quantize

IDS = torch.arange(24).view(2, 12) % 32


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def model():
    made = tiny("llama")
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return made.eval()


def test_the_peak_of_a_row():
    assert rotated.peak(
        torch.tensor([[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, -1.0]])
    ).tolist() == pytest.approx([1.6, 1.0])


def test_inputs_are_rounded_token_by_token_also_those_of_quantized_layers_and_only_inside(model):
    names = list(walk.compressible(model))
    plain = logits(model)
    seen = {}
    layer = model.get_submodule(names[0])
    with rotated.rounded_inputs(model, 3):
        # after the rounding
        handle = layer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
        changed = logits(model)
        handle.remove()
    assert all(len(row.unique()) <= 8 for row in seen["x"].flatten(0, 1)) and not torch.allclose(
        changed, plain
    )
    assert torch.equal(logits(model), plain)
    x = walk.inputs_of(model, IDS, names[:1])[names[0]]
    torch.testing.assert_close(seen["x"].flatten(0, 1), fake_quantize(x, bits=3, group_size=-1))
    for made in (
        rtn.quantize(model, bits=8, group_size=-1).model,
        rotations.rotate(model, online="down_proj", heads=False),
    ):
        before = logits(made)
        with rotated.rounded_inputs(made, 2):
            assert not torch.allclose(logits(made), before, atol=1e-3)
        assert torch.equal(logits(made), before)
    made = rtn.quantize(model, bits=8, group_size=-1).model
    unrounded = kl_by_window(model, made, IDS).abs()
    # evaluation puts dense layers in the place of packed ones, but not of these
    with rotated.rounded_inputs(made, 2):
        assert (kl_by_window(model, made, IDS) > 10 * unrounded).all()


def test_principal_axes_are_a_basis_without_correlations(model):
    states = rotated.stream(model, IDS)
    torch.testing.assert_close(
        states.square().mean(1), torch.ones(len(states), dtype=torch.float64)
    )
    Q = rotated.principal_axes(states)
    torch.testing.assert_close(Q @ Q.T, torch.eye(len(Q), dtype=torch.float64), rtol=0, atol=1e-9)
    moments = (states @ Q.T).T @ (states @ Q.T)
    assert (moments - moments.diagonal().diag()).abs().max() < 1e-9 * moments.max() and (
        moments.diagonal().diff() <= 1e-9 * moments.max()
    ).all()


def test_without_folding_another_function_comes_out_unless_gains_are_one(model):
    wrong = rotated.without_folding(model)
    assert (logits(wrong) - logits(model)).norm() > 0.05 * logits(model).norm()
    folded = rotations.rotate(model, basis=torch.eye(model.config.hidden_size), heads=False)
    torch.testing.assert_close(
        logits(rotated.without_folding(folded)), logits(model), rtol=1e-4, atol=1e-4
    )


def test_folding_takes_planted_outliers_away(model):
    planted = planting.plant_outliers(model, channels=2)
    eye = torch.eye(model.config.hidden_size)
    one, other = (rotations.rotate(m, basis=eye, heads=False) for m in (planted, model))
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=name)


def test_rows_of_learned_rotations_are_errors_of_their_rounded_products():
    g = torch.Generator().manual_seed(0)
    x, unseen, W = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((40, 16), (3, 20, 16), (8, 16))
    )
    rows, fitted = rotated.learned_rows(x, unseen, W, bits=4, steps=3, seeds=(0, 1))
    R = hadamard.randomized(16, 1)

    def rounded(y):
        low, high = y.amin(1, keepdim=True).clamp(max=0), y.amax(1, keepdim=True).clamp(min=0)
        s = (high - low) / 15
        z = (-low / s).round()
        return s * ((y / s).round().add(z).clamp(0, 15) - z)

    exact = unseen[2] @ W.T
    wanted = (
        rounded(unseen[2] @ R.T) @ rounded(W @ R.T).T - exact
    ).square().sum() / exact.square().sum()
    # (x/s + z) may round otherwise than x/s
    assert float(rows["random Hadamard"](1)[2]) == pytest.approx(float(wanted), rel=0.02)
    assert list(fitted) == [0, 1] and all(best <= start for start, best in fitted.values())
    assert rows["as it is"].shape == rows["learned from it"](0).shape == (3,)


def test_figures_show_what_they_say():
    figure = pictures.loud_channel(16, 4)
    left, right = (axes.get_title() or axes.get_title(loc="left") for axes in figure.axes)
    assert "as it is" in left and float(left.split()[-2]) > float(right.split()[-2])
    pictures.channel_sizes({"a": torch.randn(20, 8), "b": torch.randn(20, 8)})
