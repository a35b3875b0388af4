"""Wanda against brute force, and on models against hooks and loops."""

import copy

import pytest
import torch
from hooked import inputs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.planting import plant_outliers
from course_utils.pruning import apply, masks, wanda


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 10), st.floats(0, 1), st.integers(0, 10_000), st.booleans()
)
def test_equals_a_ranking_of_every_row(rows, columns, sparsity, seed, ties):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=g)
    norm = torch.rand(columns, generator=g) * 5
    if ties:  # integers, dead inputs
        weight, norm = (2 * weight).round(), norm.round()
    mask = wanda.mask_layer(weight, norm, sparsity=sparsity)
    assert torch.equal(mask, wanda.mask_layer_spec(weight, norm, sparsity=sparsity))
    for i in range(rows):
        score = [float(weight[i, j].abs() * norm[j]) for j in range(columns)]
        order = sorted(range(columns), key=lambda j: (score[j], -j))[
            : masks.removed(columns, sparsity)
        ]
        assert sorted(order) == (~mask[i]).nonzero().flatten().tolist()


def test_inputs_change_the_choice():
    """The example of the lesson: the loud input's small weight stays."""
    weight, norm = torch.tensor([[4.0, 0.5, 1.0, 3.0]]), torch.tensor([1.0, 20.0, 1.0, 1.0])
    assert wanda.mask_layer(weight, norm).tolist() == [[True, True, False, False]]


def test_n_of_m_by_row_groups():
    weight, norm = torch.randn(5, 12), torch.rand(12)
    mask = wanda.mask_layer(weight, norm, pattern="1:3")
    for i in range(5):
        for g in range(0, 12, 3):
            score = (weight[i, g : g + 3].abs() * norm[g : g + 3]).tolist()
            assert mask[i, g : g + 3].tolist() == [s == max(score) for s in score]


def reference(model, ids, sparsity):
    """Sequential by block, with the model itself: run all of it, look at one block's inputs, prune
    that block.
    """
    model = copy.deepcopy(model)
    for block in walk.blocks(model):
        seen = inputs_of(model, block, ids)
        for module, x in seen.items():
            weight = walk.weight_of(module)
            norm = x.double().norm(dim=0).float()
            weight *= wanda.mask_layer(weight, norm, sparsity=sparsity)
    return model


def test_model_equals_reference(tiny, ids):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    result = wanda.prune(tiny, ids, 0.5)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    wanted = reference(tiny, ids, 0.5).state_dict()
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    assert result.settings["sparsity"] == pytest.approx(0.5)


def test_two_of_four_on_models(tiny, ids):
    result = wanda.prune(tiny, ids, pattern="2:4")
    for kept in apply.nonzero(result.model).values():
        assert (kept.view(len(kept), -1, 4).sum(-1) == 2).all()


def test_scaling_inputs_does_not_change_the_mask(tiny, ids):
    """Planted outliers: magnitude would strike those columns out, Wanda's masks are the same as
    before.
    """
    kept = apply.nonzero(wanda.prune(tiny, ids).model)
    planted = apply.nonzero(wanda.prune(plant_outliers(tiny, channels=4, factor=64.0), ids).model)
    assert all(torch.equal(kept[name], planted[name]) for name in kept)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_or_everything(tiny_llama, ids, sparsity):
    assert apply.sparsity_of(wanda.prune(tiny_llama, ids, sparsity).model) == sparsity


def test_already_sparse_weights_stay_and_dead_inputs_go_first(tiny_llama, ids):
    once = wanda.prune(tiny_llama, ids, 0.5).model
    again = wanda.prune(once, ids, 0.5).model
    assert all(
        torch.equal(a, b)
        for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True)
    )
    weight, norm = torch.randn(3, 8), torch.ones(8)
    norm[::2] = 0
    assert wanda.mask_layer(weight, norm).tolist() == [[False, True] * 4] * 3


def test_bad_input_is_named(tiny_llama, ids):
    with pytest.raises(CompressionError, match="calibration"):
        wanda.prune(tiny_llama, ids[:0])
    with pytest.raises(CompressionError, match="sparsity=1.1"):
        wanda.prune(tiny_llama, ids, 1.1)
    with pytest.raises(CompressionError, match="does not divide"):
        wanda.prune(tiny_llama, ids, pattern="2:5")
    with pytest.raises(CompressionError, match="input_norm"):
        wanda.mask_layer(torch.ones(2, 4), torch.ones(3))
    with pytest.raises(CompressionError, match="Hugging Face"):
        wanda.prune(torch.nn.Sequential(torch.nn.Linear(2, 2)), ids)
    with torch.no_grad():
        walk.blocks(tiny_llama)[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(CompressionError, match="NaN or infinity"):
        wanda.prune(tiny_llama, ids)
