"""Learned N:M masks: the Gumbel-max trick against its frequencies, soft masks against loops, whole
methods on tiny models.
"""

import itertools
import math

import pytest
import torch
from scipy import stats
from wide_models import small

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import budget, gated, gumbel, learned_masks, mask_training, wanda

MODELS = small(32, 2)
IDS = torch.randint(3, 60, (6, 12), generator=torch.Generator().manual_seed(1))
QUICK = {"steps": 3, "batch": 2}


@pytest.fixture(scope="module")
def models():
    made = {}
    for kind, make in MODELS.items():
        torch.manual_seed(0)
        made[kind] = make().eval()
    return made


def test_the_largest_of_noisy_logits_is_a_draw_from_the_softmax():
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0])
    g = gumbel.noise((40_000, 4), torch.Generator().manual_seed(0))
    counts = (logits + g).argmax(-1).bincount(minlength=4)
    assert (
        stats.chisquare(counts.numpy(), 40_000 * logits.double().softmax(-1).numpy()).pvalue > 0.001
    )
    assert float(g.mean()) == pytest.approx(0.5772, abs=0.02) and float(g.var()) == pytest.approx(
        math.pi**2 / 6, rel=0.03
    )
    assert torch.isfinite(g).all()


@pytest.mark.parametrize("temperature", [2.0, 0.5, 0.05])
def test_a_soft_choice_is_the_slow_one(temperature):
    generator = torch.Generator().manual_seed(2)
    logits, g = (
        torch.randn(5, 6, generator=generator, dtype=torch.float64),
        gumbel.noise((5, 6), generator, torch.float64),
    )
    found = gumbel.relaxed(logits, temperature, g)
    wanted = torch.stack(
        [gumbel.relaxed_spec(row, temperature, noise) for row, noise in zip(logits, g, strict=True)]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_soft_tends_to_hard_and_straight_through_has_the_soft_gradient():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 6, generator=generator, dtype=torch.float64).requires_grad_()
    g, weight = (
        gumbel.noise((7, 6), generator, torch.float64),
        torch.randn(7, 6, generator=generator, dtype=torch.float64),
    )
    cold = gumbel.relaxed(logits, 1e-3, g)
    hard = gumbel.straight_through(gumbel.relaxed(logits, 0.7, g))
    assert torch.equal(cold.argmax(-1), hard.argmax(-1))
    torch.testing.assert_close(cold.detach(), hard.detach(), rtol=0, atol=1e-6)
    (found,) = torch.autograd.grad((hard * weight).sum(), logits)
    relaxed = lambda x: (gumbel.relaxed(x, 0.7, g) * weight).sum()  # noqa: E731
    step = 1e-6
    for i, j in itertools.product(range(0, 7, 3), range(6)):
        moved = torch.zeros_like(logits)
        moved[i, j] = step
        with torch.no_grad():
            slope = (relaxed(logits + moved) - relaxed(logits - moved)) / (2 * step)
        assert float(found[i, j]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


def test_patterns_are_all_the_ways_to_keep_n_of_m():
    for n, m in ((2, 4), (1, 4), (3, 5)):
        found = gumbel.patterns(n, m)
        assert {tuple(row) for row in found.int().tolist()} == {
            p for p in itertools.product((0, 1), repeat=m) if sum(p) == n
        }
        assert len(found) == math.comb(m, n)
    for n, m in ((0, 4), (4, 4), (8, 16)):
        with pytest.raises(CompressionError, match="pattern"):
            gumbel.patterns(n, m)


def test_the_prior_alone_is_the_mask_of_its_score():
    kept = gumbel.patterns(2, 4)
    score = torch.rand(6, 16, generator=torch.Generator().manual_seed(4))
    logits = gumbel.prior(score, kept, 60.0)
    parts = score.view(6, 4, 4)
    assert torch.equal(
        gumbel.best(logits, kept), (parts >= parts.sort(-1).values[..., 2:3]).view(6, 16)
    )
    by_hand = 60 * (score[0, 0] ** 2 + score[0, 1] ** 2) / score[0, :4].square().sum()
    # pattern 0 keeps inputs 0 and 1
    assert float(logits[0, 0, 0]) == pytest.approx(float(by_hand), rel=1e-5)
    assert torch.isfinite(gumbel.prior(torch.zeros(1, 4), kept, 60.0)).all()


def test_the_divergence_by_plain_sums():
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(2, 3, 5, generator=generator, dtype=torch.float32) for _ in range(2))
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    assert float(mask_training.divergence(a, b)) == pytest.approx(
        float((p * (p / q).log()).sum(-1).mean()), rel=1e-5
    )


@pytest.mark.parametrize("kind", MODELS)
def test_masked_weights_are_what_the_model_runs_with(models, kind):
    model = models[kind]
    halved = {
        name: walk.weight_of(m).detach() * 0.5 for name, m in walk.compressible(model).items()
    }
    by_hand = MODELS[kind]().eval()
    by_hand.load_state_dict(model.state_dict())
    with torch.no_grad():
        for module in walk.compressible(by_hand).values():
            walk.weight_of(module).mul_(0.5)
        torch.testing.assert_close(
            mask_training.logits_with(model, halved, IDS), by_hand(input_ids=IDS).logits
        )


@pytest.mark.parametrize("kind", MODELS)
def test_learned_masks_keep_two_of_four_and_move_no_weight(models, kind):
    model = models[kind]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = learned_masks.prune(model, IDS, **QUICK, learning_rate=0.5)
    for name, module in walk.compressible(result.model).items():
        new, old = walk.weight_of(module), walk.weight_of(walk.compressible(model)[name])
        kept = new != 0
        assert (kept.view(len(new), -1, 4).sum(-1) == 2).all() and torch.equal(new[kept], old[kept])
    assert (
        result.settings["sparsity"]
        == 0.5
        == sum(result.details["sparsity"].values()) / len(result.details["sparsity"])
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and len(result.details["loss"]) == 3
    with torch.no_grad():
        assert torch.isfinite(result.model(input_ids=IDS).logits).all()


def test_starting_scores_are_those_of_wanda_in_the_first_block(models):
    model = models["llama"]
    name = next(iter(walk.compressible(model)))
    found = mask_training.starting_scores(model, IDS, [name], "wanda")[name]
    x = walk.inputs_of(model, IDS, [name])[name]
    weight = walk.weight_of(walk.compressible(model)[name]).detach()
    torch.testing.assert_close(found, weight.abs() * x.norm(dim=0), rtol=1e-5, atol=1e-7)
    started = learned_masks.prune(model, IDS, steps=1, batch=1, learning_rate=1e-9)
    assert started.details["changed"] == 0
    assert torch.equal(
        walk.weight_of(walk.compressible(started.model)[name]) != 0,
        wanda.mask_layer(weight, x.norm(dim=0), pattern="2:4"),
    )


def test_a_mask_that_learns_finds_what_the_answers_need():
    """One layer whose large weights read an input that is always 0: magnitude keeps those, training
    keeps the others.
    """
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    with torch.no_grad():
        for module in walk.compressible(model).values():
            walk.weight_of(module).mul_(8)
    start = learned_masks.prune(model, IDS, steps=1, batch=6, learning_rate=1e-9, start="magnitude")
    learned = learned_masks.prune(
        model, IDS, steps=40, batch=6, start="magnitude", learning_rate=0.3
    )

    def damage(result):
        with torch.no_grad():
            return float(
                mask_training.divergence(
                    model(input_ids=IDS).logits, result.model(input_ids=IDS).logits
                )
            )

    assert damage(learned) < 0.8 * damage(start)


@pytest.mark.parametrize("unit", gated.UNITS)
@pytest.mark.parametrize("kind", MODELS)
def test_gates_close_as_many_weights_as_they_say(models, kind, unit):
    model = models[kind]
    result = gated.prune(model, IDS, 0.6, unit=unit, **QUICK)
    weights = {name: walk.weight_of(m) for name, m in walk.compressible(result.model).items()}
    zeros, total = (
        sum(int((w == 0).sum()) for w in weights.values()),
        sum(w.numel() for w in weights.values()),
    )
    assert result.settings["sparsity"] == pytest.approx(zeros / total)
    most = max(w.shape[0] for w in weights.values()) / total if unit == "input" else 0.51 / total
    assert zeros / total >= 0.6 - most
    if unit == "input":
        assert all(((w == 0).all(0) | (w != 0).any(0)).all() for w in weights.values())
        assert (
            zeros / total
            <= 0.6
            + most
            + sum(int((w == 0).sum() - (w == 0).all(0).sum() * len(w)) for w in weights.values())
            / total
        )
    assert len(result.details["expected"]) == 3 and 0 <= result.details["soft"] <= 1


def test_the_lagrangian_moves_the_expected_size_and_its_price_follows_the_excess(models):
    settings = {"steps": 30, "batch": 1, "spread": 1.0, "learning_rate": 0.1}
    with_price, without = (
        gated.prune(models["llama"], IDS, 0.7, rho=rho, **settings).details for rho in (1.0, 1e-9)
    )
    assert (
        abs(without["expected"][-1] - without["expected"][0]) < 0.03
        and abs(without["expected"][-1] - 0.7) > 0.3
    )
    assert min(abs(x - 0.7) for x in with_price["expected"]) < 0.1
    prices = [0.0, *with_price["multiplier"]]
    for before, price, expected in zip(prices, prices[1:], with_price["expected"], strict=False):
        assert price - before == pytest.approx(0.7 - expected, abs=1e-5)


def test_the_multiplier_solves_a_problem_whose_answer_is_known():
    """Minimize (x − 3)² with x = 1: λ = 4, as 2 (x − 3) + λ = 0 says."""
    x, lagrangian = torch.tensor(0.0, requires_grad=True), budget.Lagrangian(rho=2.0)
    for _ in range(200):
        (slope,) = torch.autograd.grad((x - 3) ** 2 + lagrangian.penalty(x - 1), x)
        with torch.no_grad():
            x -= 0.1 * slope
        lagrangian.update(0.1 * float(x.detach() - 1))
    assert float(x.detach()) == pytest.approx(
        1, abs=1e-3
    ) and lagrangian.multiplier == pytest.approx(4, abs=1e-2)
    assert [budget.warmed(s, 10, 0.0, 0.5) for s in (0, 5, 10, 99)] == pytest.approx(
        [0, 0.25, 0.5, 0.5]
    )
    with pytest.raises(CompressionError, match="rho"):
        budget.Lagrangian(rho=0)


BAD = [
    (learned_masks.prune, {"pattern": "per_row"}, "N:M"),
    (learned_masks.prune, {"pattern": "4:4"}, "0 < N < M"),
    (learned_masks.prune, {"pattern": "2:5"}, "does not divide"),
    (learned_masks.prune, {"temperature": (1.0, 0.0)}, "temperature"),
    (learned_masks.prune, {"steps": 0}, "steps=0"),
    (learned_masks.prune, {"start": "best"}, "'wanda' or 'magnitude'"),
    (learned_masks.prune, {"learning_rate": -1}, "a rate above 0"),
    (gated.prune, {"unit": "block"}, "unit"),
    (gated.prune, {"gates": "open"}, "gates"),
    (gated.prune, {"sparsity": 1.0}, "between 0 and 1"),
    (gated.prune, {"sparsity": 2.0}, "sparsity"),
    (gated.prune, {"rho": 0.0}, "rho"),
    (gated.prune, {"data": IDS[:0]}, "calibration"),
    (learned_masks.prune, {"ignore": "nothing"}, "nothing"),
]


@pytest.mark.parametrize(("method", "given", "said"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(models, method, given, said):
    with pytest.raises(CompressionError, match=said):
        method(models["llama"], **{"data": IDS, "steps": 1, "batch": 1} | given)
