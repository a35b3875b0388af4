"""Masks on models: magnitude pruning, holding masks during training."""

import copy

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import apply, magnitude


def weights(model):
    return {
        name: walk.weight_of(module).clone() for name, module in walk.compressible(model).items()
    }


@pytest.mark.parametrize("pattern", [None, "per_layer", "per_row", "2:4", "rows", "columns", "4x4"])
def test_magnitude_removes_the_smallest(tiny, pattern):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    result = magnitude.prune(tiny, 0.5, pattern=pattern)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items()), (
        "the model is untouched"
    )
    inside = weights(tiny)
    for name, new in weights(result.model).items():
        old, kept = inside[name], weights(result.model)[name] != 0
        assert int((new == 0).sum()) == old.numel() // 2
        assert torch.equal(new[kept], old[kept]), "what stays is unchanged"
        if pattern in (None, "per_layer"):
            assert old[~kept].abs().max() <= old[kept].abs().min()
        if pattern == "per_row":
            assert ((~kept).sum(1) == old.shape[1] // 2).all()
        if pattern == "2:4":
            assert (kept.view(len(kept), -1, 4).sum(-1) == 2).all()
    linear = {f"{n}.weight" for n in inside}
    for name, value in result.model.state_dict().items():
        assert name in linear or torch.equal(value, before[name]), (
            f"{name} (embedding, head, norm or bias) is unchanged"
        )
    assert result.settings == {
        "method": "magnitude",
        "sparsity": 0.5,
        "pattern": pattern or "per_layer",
    }


def test_tied_embeddings_stay_tied(tiny_llama):
    model = magnitude.prune(tiny_llama, 0.9).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.lm_head.weight != 0).all()


def test_global_is_one_threshold(tiny):
    result = magnitude.prune(tiny, 0.7, pattern="global")
    old, new = (torch.cat([w.flatten() for w in weights(m).values()]) for m in (tiny, result.model))
    assert abs(int((new == 0).sum()) - 0.7 * len(old)) <= 0.5
    assert old[new == 0].abs().max() <= old[new != 0].abs().min()
    assert len(set(result.details["sparsity"].values())) > 1, "layers lose different fractions"


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_or_everything(tiny, sparsity):
    for pattern in (None, "per_row", "global"):
        model = magnitude.prune(tiny, sparsity, pattern=pattern).model
        assert apply.sparsity_of(model) == sparsity


def test_twice_is_once_and_more_is_nested(tiny):
    once = magnitude.prune(tiny, 0.5)
    twice = magnitude.prune(once.model, 0.5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(once.model).values(), weights(twice.model).values(), strict=True)
    )
    more = weights(magnitude.prune(once.model, 0.75).model)
    for name, straight in weights(magnitude.prune(tiny, 0.75).model).items():
        assert torch.equal(more[name], straight), "pruning in two steps without training equals one"


def test_any_module_with_linear_layers():
    model = nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 4))
    result = magnitude.prune(model, 0.5, pattern="per_row")
    assert (result.model[0].weight == 0).sum() == 4
    assert (result.model[2].weight == 0).all(), "half of one weight rounds up"


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)])  # fmt: skip
def test_held_masks_survive_momentum(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    free = copy.deepcopy(model)
    x, y = torch.randn(32, 8), torch.randn(32, 2)

    def steps(m, opt, n=3):
        for _ in range(n):
            opt.zero_grad()
            (m(x) - y).square().mean().backward()
            opt.step()

    opts = [optimizer(m.parameters()) for m in (model, free)]
    for m, opt in zip((model, free), opts, strict=True):
        steps(m, opt)  # momentum is there before pruning
    masks = apply.make_masks({n: w.abs() for n, w in weights(model).items()}, 0.5)
    handle = apply.hold(model, masks, opts[0])
    apply.apply(free, masks)
    for m, opt in zip((model, free), opts, strict=True):
        steps(m, opt)
    assert apply.sparsity_of(model) == 0.5
    assert apply.sparsity_of(free) < 0.1, "without holding, the pruned weights come back"
    handle.remove()
    steps(model, opts[0])
    assert apply.sparsity_of(model) < 0.1


def test_masks_read_back(tiny):
    model = magnitude.prune(tiny, 0.3).model
    again = copy.deepcopy(tiny)
    apply.apply(again, apply.nonzero(model))
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(model).values(), weights(again).values(), strict=True)
    )
    assert apply.zeros(model) == pytest.approx(dict.fromkeys(weights(model), 0.3), abs=1e-2)


@pytest.mark.parametrize("size", [1.0, 1e9])
def test_what_is_gone_is_lowest_however_large_the_scores(size):
    score, kept = (
        size * torch.tensor([[3.0, 4.0, 5.0, 6.0]]),
        torch.tensor([[True, True, False, True]]),
    )
    assert apply.stricter({"a": score}, {"a": kept}, 0.25)["a"].tolist() == kept.tolist()
    assert apply.stricter({"a": score}, {"a": kept}, 0.5)["a"].tolist() == [
        [False, True, False, True]
    ]


def test_a_mask_of_numbers_is_refused(tiny_llama):
    before, kept = copy.deepcopy(tiny_llama.state_dict()), apply.nonzero(tiny_llama)
    *_, last = kept
    with pytest.raises(CompressionError, match="torch.float32.*mask != 0"):
        apply.apply(
            tiny_llama, {name: ~mask for name, mask in kept.items()} | {last: kept[last].float()}
        )
    assert all(torch.equal(v, before[k]) for k, v in tiny_llama.state_dict().items()), (
        "checked before anything changes"
    )


def test_bad_input_is_named_and_the_model_untouched(tiny_llama):
    name = next(iter(weights(tiny_llama)))
    with pytest.raises(CompressionError, match="no linear layer 'lm_head'"):
        apply.prune(tiny_llama, {"lm_head": torch.ones(2, 2)})
    with pytest.raises(CompressionError, match="its mask"):
        apply.apply(tiny_llama, {name: torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(CompressionError, match="sparsity=2"):
        magnitude.prune(tiny_llama, 2)
    with torch.no_grad():
        walk.compressible(tiny_llama)[name].weight[0, 0] = float("nan")
    for pattern in (None, "global"):
        with pytest.raises(CompressionError, match="NaN"):
            magnitude.prune(tiny_llama, pattern=pattern)
    with pytest.raises(CompressionError, match="nothing|no nn.Linear"):
        magnitude.prune(nn.Sequential(nn.ReLU()))
