"""Schedules: the curve, the masks that hold on every step, runs that resume, training after
pruning.
"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import optimizer

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import apply, magnitude, recovery, schedules, structured
from course_utils.quantization import rtn

FAST = {"batch": 2, "progress": False, "peak": 1e-2}


def weights(model):
    return {n: walk.weight_of(m).clone() for n, m in walk.compressible(model).items()}


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@given(st.integers(0, 50), st.integers(1, 100), st.floats(0, 0.5), st.floats(0.5, 1))
def test_cubic(start, length, initial, final):
    end = start + length
    curve = [
        schedules.cubic(t, start=start, end=end, initial=initial, final=final)
        for t in range(end + 5)
    ]
    assert curve[: start + 1] == pytest.approx([initial] * (start + 1)) and curve[
        end:
    ] == pytest.approx([final] * 5)
    assert all(b >= a - 1e-12 for a, b in zip(curve, curve[1:], strict=False))
    for t in range(start, end + 1):  # the polynomial multiplied out
        u = (t - start) / length
        assert curve[t] == pytest.approx(
            initial + (final - initial) * (3 * u - 3 * u**2 + u**3), abs=1e-9
        )


def test_staircase_keeps_the_same_fraction_each_round():
    found = [schedules.staircase(t, steps=12, rounds=3, final=0.875) for t in range(13)]
    assert found == pytest.approx([0.5] * 4 + [0.75] * 4 + [0.875] * 5)
    assert schedules.staircase(0, steps=5, rounds=1, final=0.3) == 0.3
    uneven = [schedules.staircase(t, steps=11, rounds=3, final=0.875) for t in range(12)]
    assert uneven == pytest.approx([0.5] * 3 + [0.75] * 3 + [0.875] * 6), (
        "what is left over lengthens the last round"
    )


@pytest.mark.parametrize("steps, rounds", [(8, 4), (11, 3), (10, 7), (5, 5)])
def test_every_round_of_iterative_pruning_trains(tiny_llama, ids, monkeypatch, steps, rounds):
    """Prune, then train steps // rounds steps, in each round:
    the sparsity at every training step.
    """
    seen, original = [], recovery.next_token

    def watched(model, *args):
        inner = original(model, *args)
        return lambda rows: (seen.append(apply.sparsity_of(model)), inner(rows))[1]

    monkeypatch.setattr(recovery, "next_token", watched)
    schedules.iterative(tiny_llama, ids, 0.8, steps=steps, rounds=rounds, **FAST)
    wanted = [
        1 - 0.2 ** (min(rounds, step // (steps // rounds) + 1) / rounds) for step in range(steps)
    ]
    assert seen == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("name", ["one_shot", "iterative", "gradual"])
@pytest.mark.parametrize("pattern", [None, "per_row", "global"])
def test_sparsity_is_reached_and_held(tiny, ids, name, pattern):
    before = copy.deepcopy(tiny)
    result = getattr(schedules, name)(tiny, ids, 0.6, steps=8, pattern=pattern, **FAST)
    assert same(tiny, before)
    assert apply.sparsity_of(result.model) == pytest.approx(0.6, abs=0.02)
    assert result.settings["method"] == name
    moved = [
        n
        for n, w in weights(result.model).items()
        if not torch.equal(w[w != 0], weights(tiny)[n][w != 0])
    ]
    assert len(moved) == len(weights(tiny)), "what stays was trained"


def test_every_step_obeys_the_schedule(tiny_llama, ids):
    """Watch the model itself: after each step it is as sparse as the schedule says, and nothing
    pruned comes back.
    """
    seen: list = []

    def watch(optimizer, *_):
        layers = [
            p for p in optimizer.param_groups[0]["params"] if p.dim() == 2 and p.shape[0] != 96
        ]
        seen.append(torch.cat([p.detach().flatten() == 0 for p in layers]))

    target = lambda step: schedules.cubic(step, end=8, final=0.7)  # noqa: E731
    from course_utils.distillation import fit as fit_module

    original = torch.optim.AdamW.zero_grad  # called once after each step, when the masks are on
    try:
        torch.optim.AdamW.zero_grad = lambda self, *a, **k: (watch(self), original(self, *a, **k))[
            1
        ]
        schedules.train(tiny_llama, ids, target, steps=12, update=2, **FAST)
    finally:
        torch.optim.AdamW.zero_grad = original
    assert fit_module.fit and len(seen) == 12
    for step, zeros in enumerate(seen, 1):
        assert float(zeros.float().mean()) == pytest.approx(target(step // 2 * 2), abs=2e-3), step
    assert all(not (old & ~new).any() for old, new in zip(seen, seen[1:], strict=False))


@pytest.mark.parametrize("name", ["one_shot", "iterative", "gradual"])
def test_nothing_everything_and_already_sparse(tiny_llama, ids, name):
    run = lambda model, s: getattr(schedules, name)(model, ids, s, steps=4, **FAST).model  # noqa: E731
    assert apply.sparsity_of(run(tiny_llama, 0.0)) == 0
    empty = run(tiny_llama, 1.0)
    assert apply.sparsity_of(empty) == 1 and empty(input_ids=ids).logits.isfinite().all()
    sparse = magnitude.prune(tiny_llama, 0.5).model
    for sparsity, gone in ((0.3, 0.5), (0.5, 0.5), (0.8, 0.8)):
        found = run(sparse, sparsity)
        assert apply.sparsity_of(found) == pytest.approx(gone, abs=1e-2)
        for layer, weight in weights(sparse).items():
            assert not weights(found)[layer][weight == 0].any(), "what was gone stays gone"


def test_one_shot_is_pruning_then_held_training(tiny_llama, ids):
    result = schedules.one_shot(tiny_llama, ids, 0.5, steps=6, **FAST)
    by_hand = recovery.train(magnitude.prune(tiny_llama, 0.5).model, ids, steps=6, **FAST)
    assert same(result.model, by_hand.model)


def test_movement_prunes_what_shrinks(tiny_llama, ids):
    result = schedules.gradual(
        tiny_llama, ids, 0.5, steps=10, update=5, score="movement", settle=0.0, **FAST
    )
    assert apply.sparsity_of(result.model) == pytest.approx(0.5, abs=1e-2)
    other = schedules.gradual(tiny_llama, ids, 0.5, steps=10, update=5, settle=0.0, **FAST)
    overlap = [
        float(((a != 0) == (b != 0)).float().mean())
        for a, b in zip(weights(result.model).values(), weights(other.model).values(), strict=True)
    ]
    assert max(overlap) < 0.9, "the masks are others than those of magnitude"


def test_hooks_are_gone_afterwards(tiny_llama, ids):
    schedules.gradual(tiny_llama, ids, steps=3, **FAST)
    assert not optimizer._global_optimizer_post_hooks and not optimizer._global_optimizer_pre_hooks


@pytest.mark.parametrize("stop", [1, 7])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tiny_llama, ids, tmp_path, monkeypatch, stop
):
    settings = {"steps": 10, "update": 2, "every": 3, **FAST}
    wanted = schedules.gradual(tiny_llama, ids, 0.7, **settings)
    before = copy.deepcopy(tiny_llama)
    original, calls = recovery.next_token, []

    def killed(model, data, teacher=None):
        inner = original(model, data, teacher)

        def losses(rows):
            calls.append(rows)
            if len(calls) == stop + 1:
                raise KeyboardInterrupt
            return inner(rows)

        return losses

    monkeypatch.setattr(recovery, "next_token", killed)
    with pytest.raises(KeyboardInterrupt):
        schedules.gradual(tiny_llama, ids, 0.7, folder=tmp_path / "run", **settings)
    assert same(tiny_llama, before), "the caller's model is untouched by a killed run"
    assert not optimizer._global_optimizer_post_hooks, "no hook of a killed run acts on the next"
    monkeypatch.setattr(recovery, "next_token", original)
    resumed = schedules.gradual(tiny_llama, ids, 0.7, folder=tmp_path / "run", **settings)
    assert same(resumed.model, wanted.model)
    with pytest.raises(CompressionError, match="other settings"):
        schedules.gradual(tiny_llama, ids, 0.8, folder=tmp_path / "run", **settings)


def test_any_network_is_pruned_while_it_trains():
    """The masks of a loop of its own: as sparse as the target after each update, nested, and held
    in between.
    """
    torch.manual_seed(0)
    start, x = nn.Sequential(nn.Linear(8, 1), nn.Tanh(), nn.Linear(1, 8)), torch.randn(16, 8)
    before, seen = copy.deepcopy(start), []

    def train(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(9):
            seen.append(torch.cat([w.flatten() == 0 for w in weights(model).values()]))
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()

    target = lambda step: schedules.cubic(step, end=6, final=0.75)  # noqa: E731
    result = schedules.while_training(start, train, target, update=2, pattern="global")
    assert same(start, before)
    seen.append(torch.cat([w.flatten() == 0 for w in weights(result).values()]))
    assert [int(zeros.sum()) for zeros in seen] == [
        round(16 * target(step // 2 * 2)) for step in range(10)
    ]
    assert all(not (old & ~new).any() for old, new in zip(seen, seen[1:], strict=False))


def test_gradual_beats_at_once_where_little_is_left_on_digits():
    """As many steps, the same batches, each with the better of two learning rates: little is lost
    at 90 %, much at 97 %.
    """
    rows = schedules.experiment(sparsities=(0.9, 0.97))
    gains = {
        s: [r["gradually"] - r["at once"] for r in rows if r["sparsity"] == s] for s in (0.9, 0.97)
    }
    assert min(gains[0.97]) > 0 and sum(gains[0.97]) / 3 > 0.05, gains
    assert sum(gains[0.97]) > sum(gains[0.9]), gains
    assert all(r["dense"] > 0.9 for r in rows)


def test_recovery_lowers_the_loss_and_holds_zeros(tiny, ids):
    ids = ids[:, :12]
    pruned = magnitude.prune(tiny, 0.5)
    result = recovery.train(pruned.model, ids, steps=30, validation=ids, every=10, **FAST)
    losses = [line["validation"] for line in result.details["history"]]
    assert losses[-1] < losses[0]
    for name, new in weights(result.model).items():
        assert torch.equal(new == 0, weights(pruned.model)[name] == 0)
    free = recovery.train(pruned.model, ids, steps=3, hold=False, **FAST)
    assert apply.sparsity_of(free.model) < 0.1


@pytest.mark.parametrize(
    "prune, keep",
    [(structured.prune_mlp, 0.5), (structured.prune_layers, 2), (structured.prune_heads, 2)],
)
def test_recovery_of_a_structured_model_with_its_teacher(tiny_llama, ids, prune, keep):
    small = prune(tiny_llama, ids, keep=keep).model

    def distance(model):
        with torch.no_grad():
            a, b = (m(input_ids=ids).logits.log_softmax(-1) for m in (tiny_llama, model))
        return float((a.exp() * (a - b)).sum(-1).mean())

    taught = recovery.train(
        small, ids, steps=30, teacher=tiny_llama, batch=6, progress=False, peak=3e-3
    )
    alone = recovery.train(small, ids, steps=30, batch=6, progress=False, peak=3e-3)
    assert distance(taught.model) < 0.7 * distance(alone.model), (
        "closer to the teacher than without it"
    )
    assert taught.model.num_parameters() == small.num_parameters() < tiny_llama.num_parameters()
    assert same(
        recovery.train(small, ids, steps=2, **FAST).model,
        recovery.train(small, ids, steps=2, **FAST).model,
    )


def test_a_folder_goes_on_only_with_what_it_began_with(tiny_llama, ids, tmp_path):
    """The checkpoint of another model, other text or another teacher is not taken
    for this run's.
    """
    half, most = (magnitude.prune(tiny_llama, s).model for s in (0.5, 0.8))
    options = {"steps": 2, "folder": tmp_path / "a", **FAST}
    first = recovery.train(half, ids, **options)
    assert same(recovery.train(half, ids, **options).model, first.model)
    for model, data, teacher, name in (
        (most, ids, None, "model"),
        (half, ids.flip(0), None, "data"),
        (half, ids, tiny_llama, "teacher"),
    ):
        with pytest.raises(CompressionError, match=f"other settings.*{name}"):
            recovery.train(model, data, teacher=teacher, **options)
    options["folder"] = tmp_path / "b"
    schedules.gradual(tiny_llama, ids, **options)
    with pytest.raises(CompressionError, match="other settings.*model"):
        schedules.gradual(half, ids, **options)


def test_bad_input_is_named(tiny_llama, ids):
    bad = [
        ({"steps": 0}, "steps=0"), ({"settle": 1.0}, "settle=1.0"), ({"update": 0}, "update=0"),
        ({"score": "fisher"}, "score='fisher'"), ({"sparsity": 1.5}, "sparsity=1.5"),
        ({"pattern": "2:7"}, "does not divide"), ({"peak": 0}, "peak=0"),
        ({"score": "movement", "folder": "x"}, "movement"),
    ]  # fmt: skip
    for settings, named in bad:
        with pytest.raises(CompressionError, match=named):
            schedules.gradual(tiny_llama, ids, **{"progress": False, "steps": 4, **settings})
    with pytest.raises(CompressionError, match="calibration|empty"):
        schedules.gradual(tiny_llama, ids[:0])
    with pytest.raises(CompressionError, match="falls from"):
        schedules.train(tiny_llama, ids, lambda step: 0.5 - 0.01 * step, steps=10)
    with pytest.raises(CompressionError, match="rounds=0"):
        schedules.iterative(tiny_llama, ids, rounds=0)
    with pytest.raises(CompressionError, match="end=3"):
        schedules.cubic(1, start=3, end=3)
    with pytest.raises(CompressionError, match="compressed already"):
        recovery.train(rtn.quantize(tiny_llama, group_size=-1).model, ids)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_while_training_prunes_with_sgd_too(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

    def fit(network):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum)
        for _ in range(10):
            optimizer.zero_grad()
            network(torch.randn(8, 12)).square().mean().backward()
            optimizer.step()

    found = schedules.while_training(model, fit, lambda step: min(0.5, step / 10), update=1)
    assert apply.sparsity_of(found) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(CompressionError, match="no torch optimizer took a step"):
        schedules.while_training(model, lambda network: None, lambda step: 0.5)
