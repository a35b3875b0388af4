"""Searches against brute force and against the definition; the layer's energy against what its
outputs really miss.
"""

import itertools

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.learn import frontiers_at_work as work
from course_utils.pruning import qubo, structured


def gram(n, seed=0, rank=12):
    A = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return A @ A.T


def test_the_energy_is_the_mean_square_of_what_is_missing():
    rng = torch.Generator().manual_seed(1)
    X, W = (
        torch.randn(50, 6, generator=rng, dtype=torch.float64),
        torch.randn(4, 6, generator=rng, dtype=torch.float64),
    )
    Q = qubo.matrix(W, 2 * X.T @ X / 50)
    removed = torch.tensor([True, False, True, True, False, False])
    missing = X[:, removed] @ W[:, removed].T
    assert qubo.energy(Q, removed) == pytest.approx(
        float(missing.square().sum(1).mean()), rel=1e-12
    )


def test_brute_force_is_the_least_of_all_subsets():
    Q = gram(7)
    least = min(float(Q[list(c)][:, list(c)].sum()) for c in itertools.combinations(range(7), 3))
    found = qubo.brute_force(Q, 3)
    assert int(found.sum()) == 3 and qubo.energy(Q, found) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_searches_keep_the_count_and_never_beat_brute_force(seed):
    Q = gram(10, seed)
    best = qubo.energy(Q, qubo.brute_force(Q, 4))
    for name, search in qubo.SEARCHES.items():
        found = search(Q, 4)
        assert found.dtype == torch.bool and int(found.sum()) == 4, name
        assert qubo.energy(Q, found) >= best * (1 - 1e-12), name
    assert qubo.energy(Q, qubo.anneal(Q, 4, steps=5000)) == pytest.approx(best, rel=1e-9)
    assert qubo.energy(Q, qubo.restarts(Q, 4)) == pytest.approx(best, rel=1e-9)


def test_without_interactions_all_agree():
    Q = torch.diag(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0], dtype=torch.float64))
    for name, search in qubo.SEARCHES.items():
        assert search(Q, 2).nonzero().flatten().tolist() == [1, 3], name


def test_parts_of_one_channel_deceive_greedy_and_not_annealing():
    """Two parts, 3 and −2 times a channel: removing both costs what the channel costs, one alone
    nine or four times as much.
    """
    for seed in range(3):
        assert work.over_optimum("anneal", 5.0, seed) == pytest.approx(1, abs=1e-9)
        assert work.over_optimum("greedy", 5.0, seed) > 2


def test_splitting_changes_no_output():
    rng = torch.Generator().manual_seed(2)
    X, W = torch.randn(20, 5, generator=rng), torch.randn(3, 5, generator=rng)
    channels = torch.tensor([1, 4])
    new, H = qubo.split(W, 2 * X.T @ X / 20, channels, 3.0)
    more = torch.cat([X, X[:, channels]], 1)
    torch.testing.assert_close(more @ new.T, X @ W.T)
    torch.testing.assert_close(H, 2 * more.T @ more / 20)


def test_the_penalty_counts():
    Q = gram(6)
    Q2, constant = qubo.penalized(Q, 2, 100.0)
    energies = {}
    for bits in itertools.product((0.0, 1.0), repeat=6):
        s = torch.tensor(bits, dtype=torch.float64)
        energies[bits] = float(s @ Q2 @ s) + constant
        assert energies[bits] == pytest.approx(
            float(s @ Q @ s) + 100 * (sum(bits) - 2) ** 2, abs=1e-9
        )
    assert sum(min(energies, key=energies.get)) == 2


def test_a_descent_ends_where_no_swap_helps():
    Q = gram(9, 3)
    end = qubo.descend(Q, torch.arange(9) < 4)
    for i, j in itertools.product(range(9), range(9)):
        if end[i] and not end[j]:
            other = end.clone()
            other[i], other[j] = False, True
            assert qubo.energy(Q, other) >= qubo.energy(Q, end) - 1e-9


def test_annealing_repeats_with_its_seed_and_takes_the_ends():
    Q = gram(12, 5)
    assert torch.equal(qubo.anneal(Q, 5, steps=50, seed=3), qubo.anneal(Q, 5, steps=50, seed=3))
    assert int(qubo.anneal(Q, 0).sum()) == 0 and int(qubo.anneal(Q, 12).sum()) == 12


def test_a_model_pruned_by_a_search(tiny, ids):
    """The chooser's channels are those of `energy` where it is the diagonal."""
    by_score = structured.prune_mlp(tiny, ids, keep=0.5, compensate=False)
    by_search = structured.prune_mlp(
        tiny, ids, keep=0.5, score=qubo.chooser("diagonal"), compensate=False
    )
    assert (
        by_score.details["kept"] == by_search.details["kept"]
        and by_search.settings["score"] == "qubo diagonal"
    )
    greedy = structured.prune_mlp(tiny, ids, keep=0.5, score=qubo.chooser("greedy"))
    assert all(len(k) == greedy.settings["channels"] for k in greedy.details["kept"])


def test_bad_input_is_named():
    with pytest.raises(CompressionError, match="not symmetric"):
        qubo.greedy(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1)
    with pytest.raises(CompressionError, match="remove=9"):
        qubo.diagonal(gram(4), 9)
    with pytest.raises(CompressionError, match="up to 20"):
        qubo.brute_force(gram(21), 2)
    with pytest.raises(CompressionError, match="finite square"):
        qubo.anneal(torch.full((3, 3), torch.nan), 1)
    with pytest.raises(CompressionError, match="choose one of"):
        qubo.chooser("quantum")
    with pytest.raises(CompressionError, match="6 inputs"):
        qubo.matrix(torch.zeros(2, 6), torch.zeros(5, 5))
