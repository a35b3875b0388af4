"""Skipped blocks against a model without them, exits against their definition, on several
architectures.
"""

import pytest
import torch
from tiny_models import model_of

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import structured
from course_utils.systems import depth

IDS = torch.randint(3, 96, (4, 12), generator=torch.Generator().manual_seed(0))
ALL = torch.tensor(True)


@pytest.fixture(scope="module")
def model():
    return model_of("llama", layers=3).eval()


def test_a_block_that_everybody_skips_is_not_there(model):
    without = structured.keep_layers(model, [0, 2])
    torch.testing.assert_close(
        depth.predictions(model, IDS, {1: ALL}),
        depth.predictions(without, IDS),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "mixtral"])
def test_many_models(kind):
    net = model_of(kind, layers=2).eval()
    blocks = len(walk.blocks(net))
    plain = depth.predictions(net, IDS)
    torch.testing.assert_close(
        depth.predictions(net, IDS, depth.skips_of(torch.full(IDS.shape, blocks), blocks)), plain
    )
    assert not torch.allclose(depth.predictions(net, IDS, {blocks - 1: ALL}), plain)


def test_a_token_that_skips_leaves_earlier_ones_alone(model):
    skip = torch.zeros(IDS.shape, dtype=torch.bool)
    skip[:, 7] = True
    plain, changed = depth.predictions(model, IDS), depth.predictions(model, IDS, {1: skip})
    torch.testing.assert_close(changed[:, :7], plain[:, :7])
    assert not torch.allclose(changed[:, 7], plain[:, 7])


def test_exits_are_the_first_sure_depth(model):
    """At threshold 0 all leave at once, at 1 nobody; between, depths follow from the predictions at
    each depth.
    """
    assert (depth.exits(model, IDS, 0.0) == 1).all() and (depth.exits(model, IDS, 1.0) == 3).all()
    first = depth.predictions(model, IDS, {1: ALL, 2: ALL}).amax(-1).exp()
    threshold = float(first.median())
    depths = depth.exits(model, IDS, threshold)
    assert torch.equal(depths == 1, first > threshold)
    skips = depth.skips_of(depths, 3)
    assert torch.equal(skips[0], torch.zeros_like(skips[0])) and torch.equal(skips[1], depths == 1)
    second = depth.predictions(model, IDS, {1: depths == 1, 2: ALL}).amax(-1).exp()
    assert torch.equal(depths == 2, (depths != 1) & (second > threshold))


def test_a_router_lets_its_share_through_and_knows_more_than_chance(model):
    ids = torch.randint(3, 96, (16, 12), generator=torch.Generator().manual_seed(1))
    router = depth.Router(model, ids, (1, 2), 0.75)
    skips = router.skips(model, ids)
    assert set(skips) == {1, 2} and 0.2 < float(skips[1].float().mean()) < 0.3
    _, sizes = depth.changes(model, ids)
    assert sizes[1][skips[1]].mean() < sizes[1][~skips[1]].mean()


def test_choices_of_equal_cost(model):
    exit_four = depth.exit_at_mean(model, IDS, 2.0, rounds=20)
    skips = exit_four(model, IDS)
    used = 3 - sum(float(s.float().mean()) for s in skips.values())
    assert abs(used - 2.0) < 0.15
    mixed = depth.shuffled(exit_four, 0)(model, IDS)
    assert all(int(mixed[b].sum()) == int(skips[b].sum()) for b in skips)
    original = depth.predictions(model, IDS)
    costs = [
        float(depth.kl(original, depth.predictions(model, IDS, {b: ALL})).mean()) for b in range(3)
    ]
    assert list(depth.best_block(model, IDS)(model, IDS)) == [costs.index(min(costs))]
    chance = depth.by_chance(model, (1,), 0.5)(model, torch.zeros(100, 100))
    assert abs(float(chance[1].float().mean()) - 0.5) < 0.03


def test_bad_input_is_named(model):
    with pytest.raises(CompressionError, match="no block 7"), depth.bypassed(model, {7: ALL}):
        pass
    with pytest.raises(CompressionError, match="threshold=2"):
        depth.exits(model, IDS, 2)
    with pytest.raises(CompressionError, match="capacity=1"):
        depth.Router(model, IDS, (1,), 1)
    assert not any(b._forward_hooks for b in walk.blocks(model))
