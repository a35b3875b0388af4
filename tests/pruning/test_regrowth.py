"""Connections that move: counts, what is cut and grown, the schedule, moments, and that static
masks do not move.
"""

import math

import pytest
import torch
from torch import nn

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import regrowth


def test_the_smallest_example():
    weight = torch.tensor([[0.9, -0.1, 0.0], [0.0, -2.0, 0.3]])
    gradient = torch.tensor([[0.0, 0.2, -5.0], [1.0, 0.0, 0.0]])
    mask = weight != 0
    assert regrowth.regrow(weight, gradient, mask, 1).tolist() == [
        [True, False, True],
        [False, True, True],
    ]
    assert (
        regrowth.regrow(weight, gradient * 0 + torch.tensor([[0.0, 9.0, 0.0]]), mask, 1).tolist()
        == mask.tolist()
    ), "what was cut may grow again"


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_counts_stay_and_the_largest_stay(method):
    rng = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(20, 30, generator=rng), torch.randn(20, 30, generator=rng)
    mask = torch.rand(20, 30, generator=rng) < 0.2
    new = regrowth.regrow(weight, gradient, mask, 40, method)
    assert new.sum() == mask.sum()
    sizes = weight.abs()[mask].sort(descending=True).values
    assert new[mask & (weight.abs() >= sizes[len(sizes) - 41])].all()


def test_set_grows_by_chance_and_rigl_by_gradients():
    weight, mask = torch.zeros(1, 1000), torch.zeros(1, 1000, dtype=torch.bool)
    weight[0, :10], mask[0, :10] = torch.arange(1.0, 11.0), True
    gradient = torch.linspace(0, 1, 1000)[None]
    assert regrowth.regrow(weight, gradient, mask, 5)[0, -5:].all()
    grown = [
        set(regrowth.regrow(weight, gradient, mask, 5, "set", seed).nonzero()[:, 1].tolist())
        for seed in range(3)
    ]
    assert grown[0] != grown[1] != grown[2]
    assert torch.equal(regrowth.regrow(weight, gradient, mask, 5, "static"), mask)


def test_the_schedule_is_a_cosine():
    assert regrowth.share(0, 100) == pytest.approx(0.3)
    assert regrowth.share(50, 100, 0.4) == pytest.approx(0.2)
    assert regrowth.share(75, 100) == pytest.approx(0.15 * (1 + math.cos(0.75 * math.pi)))
    assert regrowth.share(100, 100) == 0.0


@pytest.fixture(scope="module")
def grown():
    data = digits.load(0)
    net = digits.network(64, 16, 10, seed=0)

    def fit(model):
        digits.train(model, data.train_x[:200], data.train_y[:200], steps=40, seed=0)

    first = regrowth.begin(net, 0.8)
    return (
        net,
        first,
        {m: regrowth.train(net, fit, first, steps=40, method=m, every=5) for m in regrowth.METHODS},
    )


def test_training_keeps_counts_and_zeros(grown):
    net, first, found = grown
    for method, result in found.items():
        for name, module in walk.compressible(result.model).items():
            assert result.masks[name].sum() == first[name].sum()
            assert (walk.weight_of(module)[~result.masks[name]] == 0).all()
        moved = [not torch.equal(result.masks[n], first[n]) for n in first]
        assert any(moved) == (method != "static")
        assert [step for step, _ in result.moved] == (
            [] if method == "static" else [5, 10, 15, 20, 25]
        )
    assert all(
        not torch.equal(a, b)
        for a, b in zip(
            *(m.values() for m in (found["set"].masks, found["rigl"].masks)), strict=True
        )
    )


def test_the_start_is_left_alone_and_layers_have_draws_of_their_own(grown):
    net, first, _ = grown
    assert all((walk.weight_of(m) != 0).all() for m in walk.compressible(net).values())
    square = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    masks = list(regrowth.begin(square, 0.5).values())
    assert not torch.equal(*masks) and all(int(m.sum()) == 32 for m in masks)
    assert regrowth.begin(square, 0.5, dense=("1",))["1"].all()


def test_what_grows_has_no_momentum():
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    seen = []

    def fit(m):
        optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            m(
                torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
            ).square().sum().backward()
            optimizer.step()
            seen.append(optimizer.state[m[0].weight]["exp_avg"].clone())

    first = regrowth.begin(model, 0.5)
    result = regrowth.train(model, fit, first, steps=8, every=2, first=0.9, until=1.0)
    assert result.moved and (seen[1][(seen[1] == 0)]).numel() > 0, (
        "moments of what grew at step 2 are zero then"
    )


def test_bad_input_is_named(grown):
    net, first, _ = grown
    with pytest.raises(CompressionError, match="choose one of"):
        regrowth.train(net, lambda m: None, first, steps=5, method="brain")
    with pytest.raises(CompressionError, match="took no step"):
        regrowth.train(net, lambda m: None, first, steps=5)
    with pytest.raises(CompressionError, match="every=0"):
        regrowth.train(net, lambda m: None, first, steps=5, every=0)
    with pytest.raises(CompressionError, match="differ"):
        regrowth.regrow(torch.zeros(2, 2), torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool), 1)
    with pytest.raises(CompressionError, match="connected"):
        regrowth.regrow(
            torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool), 1
        )
