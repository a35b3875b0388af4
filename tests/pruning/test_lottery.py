"""Lottery tickets: the mechanics against plain loops, and the comparison on real digits."""

import pytest
import torch
from torch import nn

from course_utils.distillation import compare
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import lottery

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def trainer(steps, moving=None):
    """Adam with momentum on the whole data; the learning rate is zero after `moving` steps."""

    def train(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.02 if moving is None or step < moving else 0.0
            optimizer.zero_grad()
            (model(X) - Y).square().mean().backward()
            optimizer.step()

    return train


def weights(model):
    return {
        name: walk.weight_of(module).clone() for name, module in walk.compressible(model).items()
    }


def test_rounds_remove_the_smallest_trained_weights_layer_by_layer():
    tickets = lottery.find(network(), trainer(20), rounds=3, rate=0.5)
    assert [t.sparsity for t in tickets] == [0, 0.5, 0.75, 0.875]
    for before, after in zip(tickets, tickets[1:], strict=False):
        for name, trained in weights(before.model).items():
            alive = [
                (abs(float(w)), i)
                for i, w in enumerate(trained.flatten())
                if before.masks[name].flatten()[i]
            ]
            keep = trained.numel() - int(after.sparsity * trained.numel() + 0.5)
            wanted = {i for _, i in sorted(alive, key=lambda pair: -pair[0])[:keep]}
            assert set(after.masks[name].flatten().nonzero().flatten().tolist()) == wanted
            assert not weights(after.model)[name][~after.masks[name]].any(), (
                "pruned weights stay zero while training"
            )


def test_weights_go_back_to_initialization():
    start = network()
    still = lottery.find(start, trainer(5, moving=0), rounds=2, rate=0.5)[-1]
    for name, first in weights(start).items():
        assert torch.equal(weights(still.model)[name], first * still.masks[name])


def test_rewinding_goes_back_to_an_early_step():
    start, early = network(), network()
    trainer(4)(early)
    ticket = lottery.find(start, trainer(12, moving=4), rounds=2, rate=0.5, rewind=4)[-1]
    for name, at_step_4 in weights(early).items():
        assert torch.equal(weights(ticket.model)[name], at_step_4 * ticket.masks[name])
    assert not torch.equal(weights(early)["0"], weights(start)["0"])


@pytest.mark.parametrize("rewind", [0, 3])
def test_masked_training_equals_a_plain_loop(rewind):
    masks = {
        n: torch.rand(w.shape, generator=torch.Generator().manual_seed(5)) < 0.5
        for n, w in weights(network()).items()
    }
    found = lottery.train_masked(network(), trainer(10), masks, rewind=rewind)
    plain = network()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.02)
    for step in range(11):
        if step >= rewind:
            with torch.no_grad():
                for name, mask in masks.items():
                    plain.get_submodule(name).weight.mul_(mask)
        if step < 10:
            optimizer.zero_grad()
            (plain(X) - Y).square().mean().backward()
            optimizer.step()
    for name, wanted in weights(plain).items():
        assert torch.equal(weights(found)[name], wanted)


def test_random_masks_have_the_same_counts_elsewhere():
    masks = lottery.find(network(), trainer(5), rounds=1, rate=0.7, pattern="global")[-1].masks
    first, again, other = (
        lottery.random_masks(masks),
        lottery.random_masks(masks),
        lottery.random_masks(masks, 1),
    )
    for name, mask in masks.items():
        assert first[name].sum() == mask.sum() and torch.equal(first[name], again[name])
        assert not torch.equal(first[name], mask) and not torch.equal(first[name], other[name])


def test_a_ticket_beats_a_random_ticket_on_digits():
    """Five of a hundred weights are left.

    Every seed counts, and the mean difference is far from zero.
    """
    rows = [
        row for row in lottery.experiment(seeds=range(3), steps=110, every=6) if row["sparsity"] > 0
    ]
    assert len(rows) == 3 and rows[0]["sparsity"] == pytest.approx(1 - 0.6**6)
    for winner in ("ticket", "rewound"):
        for control, margin in (("random mask", 0.1), ("reinitialized", 0.03)):
            gains = [row[winner] - row[control] for row in rows]
            assert min(gains) > 0 and sum(gains) / 3 > margin, (winner, control, gains)
    mean, half = compare.interval([row["ticket"] - row["random mask"] for row in rows])
    assert mean - half > 0
    assert all(row["ticket"] > 0.8 for row in rows)


def test_bad_input_is_named():
    start = network()
    before = weights(start)
    for settings, named in (
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 1}, "rate=1"),
        ({"rounds": -1}, "rounds=-1"),
        ({"rewind": 6}, "rewind=6"),
    ):
        with pytest.raises(CompressionError, match=named):
            lottery.find(start, trainer(5), **{"rounds": 1, **settings})

    def sgd(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(X).sum().backward()
        optimizer.step()

    assert len(lottery.find(start, sgd, rounds=1)) == 2
    for train, rewind in ((lambda model: None, 0), (sgd, 2)):
        with pytest.raises(
            CompressionError, match=f"rewind={rewind}: train.model. took [01] steps"
        ):
            lottery.find(start, train, rounds=1, rewind=rewind)
    assert all(torch.equal(w, before[n]) for n, w in weights(start).items())
