"""What lesson 5.9 measures on the spot, against definitions: planted channels, messages, promises;
its figures draw.
"""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from tiny_models import model_of

from course_utils.learn import frontiers_at_work as work
from course_utils.learn.plots import frontiers as pictures
from course_utils.models import walk
from course_utils.pruning import qubo


def test_parts_together_cost_what_their_channel_cost():
    """At κ = ½ both halves are alike; for every κ, removing both parts of channels 0 … 3 costs the
    same.
    """
    both = torch.tensor([True] * 4 + [False] * 4 + [True] * 4)
    energies = [qubo.energy(work.planted(kappa, seed=1), both) for kappa in (0.5, 2.0, 5.0)]
    assert energies == pytest.approx([energies[0]] * 3, rel=1e-9)
    one = torch.tensor([True] + [False] * 11)
    assert qubo.energy(work.planted(5.0), one) == pytest.approx(
        25 * qubo.energy(work.planted(1.0), one), rel=1e-9
    )


def test_no_search_is_below_the_optimum():
    assert all(
        work.over_optimum(name, kappa, 0) >= 1 - 1e-9
        for name in qubo.SEARCHES
        for kappa in (0.5, 3.0)
    )


def test_a_block_of_any_model():
    for kind in ("llama", "gpt2"):
        model = model_of(kind, layers=2).eval()
        ids = torch.randint(3, 96, (4, 10), generator=torch.Generator().manual_seed(0))
        W, H = work.layer_of(model, ids, 1)
        assert W.shape[1] == len(H) > 32
        seen: list[torch.Tensor] = []
        out = next(
            m
            for m in walk.linears(walk.blocks(model)[1]).values()
            if walk.weight_of(m).shape[1] == len(H)
        )
        handle = out.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].flatten(0, -2))
        )
        with torch.no_grad():
            model(input_ids=ids)
        handle.remove()
        torch.testing.assert_close(H, 2 * seen[0].T @ seen[0] / len(seen[0]), rtol=1e-3, atol=1e-5)


def test_bits_of_a_message():
    masks = {"0": torch.arange(20).view(4, 5) < 6, "2": torch.arange(6).view(2, 3) < 2}
    places = math.ceil(math.log2(math.comb(20, 6)) + math.log2(math.comb(6, 2)))
    known = work.message_bits(masks, 3, 4, mask_known=True)
    assert known == 3 * (8 + 4) + 3 + 5, "12 numbers of 3 bits; Elias's code of 3; one of 32 steps"
    assert work.message_bits(masks, 3, 4, mask_known=False) == known + places


@pytest.fixture(scope="module")
def promises():
    return {m: work.promise(m, 0.9, 0, steps=100) for m in ("static", "rigl")}


def test_promises_are_above_the_errors_and_pay_for_what_was_found(promises):
    for found in promises.values():
        assert found["train error"] < found["bound"] <= 1 and found["test error"] < found["bound"]
    places = sum(math.log2(math.comb(n, k)) for n, k in ((64 * 16, 102), (160, 16)))
    assert promises["rigl"]["bits"] - promises["static"]["bits"] == pytest.approx(places, abs=8)


def test_figures_draw():
    maps = torch.rand(8, 6)
    mask = torch.rand(16, 64) < 0.1
    made = [
        pictures.predicted({"a": (1e-4, 1e-4), "b": (1e-3, 2e-2)}),
        pictures.connections(torch.rand(10, 64), {"static": mask, "RigL": mask}),
        pictures.searches({"greedy": 3.0, "annealing": 1.0}, 4.0),
        pictures.heads(maps, maps, ("a", "b"), range(1, 7)),
        pictures.depths(["the", "\n", " box"], [2, 5, 3], 5),
    ]
    for figure in made:
        figure.canvas.draw()
        assert all(
            place.get_xlabel()
            or place.get_title()
            or not place.get_xticks().size
            or place.get_ylabel()
            for place in figure.axes
        )
        plt.close(figure)
    assert [tick.get_text() for tick in made[-1].axes[0].get_xticklabels()] == ["the", "↵", "box"]
