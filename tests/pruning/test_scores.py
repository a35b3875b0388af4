"""Scores against their formulas, and what they are made of against autograd's full matrices."""

import copy

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.planting import plant_outliers
from course_utils.pruning import apply, masks, scores, statistics, wanda
from course_utils.quantization import gptq


def flat_loss(model, batch, loss):
    """The loss as a function of the two weight matrices, for torch.autograd.functional."""

    def run(a, b):
        state = {"0.weight": a, "2.weight": b, "0.bias": model[0].bias, "2.bias": model[2].bias}
        return loss(lambda x: torch.func.functional_call(model, state, (x,)), batch)

    return run, (model[0].weight.detach(), model[2].weight.detach())


def test_each_formula_in_the_series(small):
    """With the true g and H each score is its own term of the loss change, weight by weight."""
    model, batch, loss = small
    run, weights = flat_loss(model, batch, loss)
    g = torch.autograd.functional.jacobian(run, weights)
    H = torch.autograd.functional.hessian(run, weights)
    for k, w in enumerate(weights):
        diagonal = torch.stack(
            [H[k][k][i, j, i, j] for i in range(w.shape[0]) for j in range(w.shape[1])]
        ).view_as(w)
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                assert scores.gradient(w, g[k])[i, j] == pytest.approx(
                    abs(float(g[k][i, j] * w[i, j]))
                )
                assert scores.obd(w, diagonal)[i, j] == pytest.approx(
                    0.5 * float(diagonal[i, j] * w[i, j] ** 2)
                )
        # the series itself: pruning a weight that is made small changes the loss by g δ + ½ H δ²
        small_w = w * 1e-2
        change = -g[k] * small_w + scores.obd(small_w, diagonal)
        for i, j in ((0, 0), (1, 2)):
            moved = [v.clone() for v in weights]
            moved[k][i, j] -= small_w[i, j]
            with torch.no_grad():
                difference = float(run(*moved) - run(*weights))
            assert difference == pytest.approx(float(change[i, j]), rel=1e-3, abs=1e-9)


def test_gradients_and_fisher(small):
    model, (x, y), loss = small
    run, weights = flat_loss(model, (x, y), loss)
    wanted = torch.autograd.functional.jacobian(run, weights)
    found = statistics.gradients(model, [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])], loss)
    for name, g in zip(("0", "2"), wanted, strict=True):
        assert torch.allclose(found[name], g, atol=1e-12)
    fisher = statistics.fisher_diagonal(
        model, [(x[i : i + 1], y[i : i + 1]) for i in range(12)], loss
    )
    for k, name in enumerate(("0", "2")):
        each = [
            torch.autograd.functional.jacobian(
                flat_loss(model, (x[i : i + 1], y[i : i + 1]), loss)[0], weights
            )[k]
            for i in range(12)
        ]
        assert torch.allclose(fisher[name], torch.stack(each).square().mean(0), atol=1e-12)
        assert not torch.allclose(fisher[name], torch.stack(each).mean(0).square()), (
            "the square comes before the mean"
        )


def test_hessian_diagonal_exact_and_estimated(small):
    model, batch, loss = small
    run, weights = flat_loss(model, batch, loss)
    H = torch.autograd.functional.hessian(run, weights)
    sizes = [w.numel() for w in weights]
    full = torch.cat(
        [torch.cat([H[a][b].reshape(sizes[a], sizes[b]) for b in range(2)], 1) for a in range(2)]
    )
    exact = statistics.hessian_diagonal(model, batch, loss)
    found = torch.cat([v.flatten() for v in exact.values()])
    assert torch.allclose(found, full.diagonal(), atol=1e-12)
    probes = 4000
    estimate = torch.cat(
        [
            v.flatten()
            for v in statistics.hessian_diagonal(model, batch, loss, probes=probes).values()
        ]
    )
    off = full.square().sum(1) - full.diagonal().square()
    z = (estimate - full.diagonal()) / (off / probes).sqrt()
    assert z.abs().max() < 5 and 0.5 < float(z.square().mean()) < 2, (
        "unbiased, with the variance of the theory"
    )
    again = statistics.hessian_diagonal(model, batch, loss, probes=3, seed=1)
    assert all(
        torch.equal(again[n], v)
        for n, v in statistics.hessian_diagonal(model, batch, loss, probes=3, seed=1).items()
    )


def test_hutchinson_is_exact_for_a_diagonal_hessian():
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    scale = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    found = statistics.hessian_diagonal(
        model, scale, lambda m, s: (s * m[0].weight ** 4).sum(), probes=1
    )
    assert torch.allclose(found["0"], 12 * scale * model[0].weight.detach() ** 2)


def test_variance_statement():
    """Var of z_i (Hz)_i is Σ_{j≠i} H_ij²: the docstring's factor checked on all sign vectors."""
    import itertools

    H = torch.randn(6, 6, dtype=torch.float64)
    H = H + H.T
    values = torch.stack(
        [
            (s := torch.tensor(z, dtype=torch.float64)) * (H @ s)
            for z in itertools.product((-1.0, 1.0), repeat=6)
        ]
    )
    assert torch.allclose(values.mean(0), H.diagonal())
    assert torch.allclose(values.var(0, unbiased=False), H.square().sum(1) - H.diagonal() ** 2)


def test_surgeon_and_wanda_belong_together():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(40, 6, generator=g, dtype=torch.float64)
    W = torch.randn(3, 6, generator=g, dtype=torch.float64)
    H = gptq.hessian(X)
    assert torch.allclose(scores.wanda(W, X.norm(dim=0)) ** 2, scores.obd(W, H.diagonal()) * 40), (
        "Wanda² = N · OBD of the layer"
    )
    found = scores.surgeon(W, torch.linalg.inv(H).diagonal())
    for i in range(3):
        for j in range(6):
            rest = [k for k in range(6) if k != j]
            fit = torch.linalg.lstsq(X[:, rest], (X @ W[i])[:, None]).solution
            error = float((X[:, rest] @ fit - (X @ W[i])[:, None]).square().sum()) * 2 / 40
            assert found[i, j] == pytest.approx(error / 2, rel=1e-9), (
                "half of the layer error that is left"
            )
    diagonal = torch.diag(H.diagonal())
    assert torch.allclose(
        scores.surgeon(W, torch.linalg.inv(diagonal).diagonal()), scores.obd(W, H.diagonal())
    )


def test_movement_is_signed_and_counts_each_step():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wanted = torch.zeros(1, 2)
    with statistics.Movement(model) as movement:
        for _ in range(3):
            optimizer.zero_grad()
            w = model[0].weight
            # one weight grows to 3, the other shrinks to 0
            (0.5 * (w[0, 0] - 3) ** 2 + 0.5 * w[0, 1] ** 2).backward()
            wanted += torch.stack([(w[0, 0] - 3) * w[0, 0], w[0, 1] ** 2])[None].detach()
            optimizer.step()
    assert torch.allclose(movement.total["0"], wanted)
    score = scores.movement(model[0].weight.detach(), movement.total["0"])
    assert score[0, 0] > 0 > score[0, 1]
    optimizer.step()
    assert torch.allclose(movement.total["0"], wanted), "nothing is added after the context"


def test_random_is_uniform_and_repeatable():
    w = torch.zeros(200, 50)
    a = scores.random(w, 1)
    assert torch.equal(a, scores.random(w, 1)) and not torch.equal(a, scores.random(w, 2))
    assert abs(float(a.mean()) - 0.5) < 0.02 and float(a.min()) >= 0 and float(a.max()) < 1


PATTERNS = {
    "per_layer": 0.5,
    "per_row": 0.5,
    "global": 0.5,
    "rows": 0.5,
    "columns": 0.5,
    "4x4": 0.5,
    "2:4": 0.5,
    "4:8": 0.5,
    "1:4": 0.75,
}


def moved(model, ids):
    """Movement scores of three steps of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with statistics.Movement(model) as movement:
        for _ in range(3):
            optimizer.zero_grad()
            statistics.next_token_loss(model, ids).backward()
            optimizer.step()
    return {
        n: scores.movement(walk.weight_of(m).detach(), movement.total[n])
        for n, m in walk.compressible(model).items()
    }


@pytest.mark.parametrize("kind", [*statistics.KINDS, "movement"])
def test_any_score_with_any_mask(tiny_gpt2, ids, kind):
    found = (
        moved(tiny_gpt2, ids)
        if kind == "movement"
        else statistics.scores_of(tiny_gpt2, kind, ids, probes=2)
    )
    shapes = {n: walk.weight_of(m).shape for n, m in walk.compressible(tiny_gpt2).items()}
    assert {n: s.shape for n, s in found.items()} == shapes
    for pattern, gone in PATTERNS.items():
        result = apply.prune(tiny_gpt2, found, 0.5, pattern=pattern, method=kind)
        assert apply.sparsity_of(result.model) == pytest.approx(gone, abs=1e-3), pattern


def test_language_model_statistics(tiny, ids):
    """The names and the orientation: GPT-2's transposed weights included."""
    grads = statistics.gradients(tiny, ids)
    tiny.zero_grad()
    statistics.next_token_loss(tiny, ids).backward()
    for name, module in walk.compressible(tiny).items():
        wanted = (
            module.weight.grad
            if grads[name].shape == module.weight.shape and isinstance(module, nn.Linear)
            else module.weight.grad.T
        )
        assert torch.allclose(grads[name], wanted, rtol=1e-4, atol=1e-6)
    hessians = statistics.layer_hessians(tiny, ids)
    block, states = next(iter(walk.through_blocks(tiny, ids)))
    for name, module in walk.linears(block).items():
        full = next(n for n, m in walk.compressible(tiny).items() if m is module)
        norms = wanda.input_norms(block, states)[module]
        assert torch.allclose(hessians[full].diagonal(), 2 / ids.numel() * norms**2, rtol=1e-3), (
            name
        )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision_is_summed_in_single(make, ids, dtype, tolerance):
    """Outliers whose squares are beyond the range of float16,
    sums beyond the digits of bfloat16.
    """
    model = plant_outliers(make("llama"), channels=2, factor=256.0)
    low = copy.deepcopy(model).to(dtype)
    wanted, found = statistics.layer_hessians(model, ids), statistics.layer_hessians(low, ids)
    for name, value in found.items():
        assert value.dtype == torch.float32 and value.isfinite().all(), name
        assert (value - wanted[name]).norm() <= tolerance * wanted[name].norm(), name
    for kind in ("wanda", "surgeon", "fisher"):
        assert all(s.isfinite().all() for s in statistics.scores_of(low, kind, ids).values()), kind


def test_small_gradients_of_a_half_precision_model_count():
    """g = 10⁻⁴: its square is below what float16 can hold."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).half()
    fisher = statistics.fisher_diagonal(
        model, [torch.full((1, 4), 1e-4).half()], lambda m, x: m(x).sum()
    )["0"]
    assert torch.allclose(fisher, torch.full((3, 4), 1e-8), rtol=1e-2)


def test_ranking_equal_scores_needs_no_luck():
    assert masks.per_layer(scores.fisher(torch.ones(2, 4), torch.ones(2, 4)), 0.5).tolist() == [
        [True] * 4,
        [False] * 4,
    ]


def test_bad_input_is_named(tiny_llama, ids):
    w = torch.ones(2, 3)
    for function in (scores.gradient, scores.movement, scores.fisher, scores.obd):
        with pytest.raises(CompressionError, match="shape"):
            function(w, torch.ones(3, 2))
    for function in (scores.wanda, scores.surgeon):
        with pytest.raises(CompressionError, match="inputs"):
            function(w, torch.ones(2))
    with pytest.raises(CompressionError, match="kind='taylor'"):
        statistics.scores_of(tiny_llama, "taylor", ids)
    with pytest.raises(CompressionError, match="need examples"):
        statistics.scores_of(tiny_llama, "fisher")
    with pytest.raises(CompressionError, match="probes"):
        statistics.hessian_diagonal(tiny_llama, ids)
    with pytest.raises(CompressionError, match="probes=0"):
        statistics.hessian_diagonal(tiny_llama, ids, probes=0)
    with pytest.raises(CompressionError, match="batches: empty"):
        statistics.gradients(tiny_llama, [])
    with pytest.raises(CompressionError, match="require a gradient"):
        statistics.gradients(tiny_llama.requires_grad_(False), ids)


def test_wanda_scores_need_no_hessian(tiny, ids, monkeypatch):
    """|W| ‖X‖ √(2/N) from sums of squares alone; the whole H is never made."""
    found = statistics.input_sizes(tiny, ids)
    for name, H in statistics.layer_hessians(tiny, ids).items():
        torch.testing.assert_close(found[name], H.diagonal().sqrt(), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(
        statistics, "layer_hessians", lambda *_: pytest.fail("made all of H for its diagonal")
    )
    assert set(statistics.scores_of(tiny, "wanda", ids)) == set(found)


def test_surgeon_scores_in_turns_are_those_of_one_pass(monkeypatch):
    from course_utils import models, pruning

    model, tokenizer = models.load("bundled")
    ids = torch.randint(2, 1000, (3, 32), generator=torch.Generator().manual_seed(0))
    whole = pruning.statistics.scores_of(model, "surgeon", ids)
    turns = pruning.statistics.in_turns({n: w for n, w in whole.items()}, most=400_000)
    assert sum(turns, []) == list(whole) and 1 < len(turns) < len(whole)
    assert all(
        len(turn) == 1 or sum(whole[n].shape[1] ** 2 for n in turn) <= 400_000 for turn in turns
    )
    monkeypatch.setattr(pruning.statistics, "in_turns", lambda weights: turns)
    for name, score in pruning.statistics.scores_of(model, "surgeon", ids).items():
        assert score.equal(whole[name]), name
