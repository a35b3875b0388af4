"""The best allocation against all of them, and against SciPy's integer programming."""

import itertools
import re

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, milp
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.errors import CompressionError
from course_utils.evaluation import allocation, by_window, replay
from course_utils.models import walk
from course_utils.quantization import fake_quantize, rtn


def tables(layers, options, rng, whole=True):
    names = [f"layer {i}" for i in range(layers)]
    size = {
        n: {o: float(rng.integers(1, 40) if whole else rng.uniform(1, 40)) for o in options}
        for n in names
    }
    damage = {
        n: {
            o: float(rng.normal(scale=3) if o == options[0] else rng.exponential()) for o in options
        }
        for n in names
    }
    return damage, size


def total(table, chosen):
    return sum(table[layer][option] for layer, option in chosen.items())


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_is_better(seed, whole):
    rng = np.random.default_rng(seed)
    options = ["two", 3, (4, "g32")][: 2 + seed % 2]
    damage, size = tables(5, options, rng, whole)
    every = [
        dict(zip(damage, chosen, strict=True)) for chosen in itertools.product(options, repeat=5)
    ]
    sizes = sorted(total(size, chosen) for chosen in every)
    for budget in (sizes[0], sizes[len(sizes) // 3], sizes[len(sizes) // 2] + 0.5, sizes[-1]):
        found = allocation.allocate(damage, size, budget)
        best = min(total(damage, chosen) for chosen in every if total(size, chosen) <= budget)
        assert total(size, found) <= budget and abs(total(damage, found) - best) < 1e-12


def test_a_large_one_is_that_of_integer_programming():
    rng = np.random.default_rng(1)
    options = [2, 3, 4, 5]
    damage, size = tables(24, options, rng)
    budget = 24 * 15.0
    harms = np.array([[damage[n][o] for o in options] for n in damage])
    bytes_ = np.array([[size[n][o] for o in options] for n in damage])
    one_each = np.kron(np.eye(24), np.ones(4))
    limits = [LinearConstraint(one_each, 1, 1), LinearConstraint(bytes_.reshape(1, -1), 0, budget)]
    theirs = milp(
        harms.ravel(),
        constraints=limits,
        integrality=np.ones(96),
        bounds=(0, 1),
        options={"mip_rel_gap": 0},
    )
    found = allocation.allocate(damage, size, budget)
    assert theirs.success and abs(total(damage, found) - theirs.fun) < 1e-9


def test_of_equal_harm_the_smaller_is_taken():
    damage = {"a": {2: 1.0, 3: 1.0, 4: 1.0}, "b": {2: 0.5, 3: 0.0, 4: 0.0}}
    size = {name: {2: 2.0, 3: 3.0, 4: 4.0} for name in damage}
    assert allocation.allocate(damage, size, 8) == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("damage", "size", "budget", "said"),
    [
        ({"a": {2: 1.0}}, {"a": {2: 10.0}}, 9, "budget=9: the smallest options take 10.0 already"),
        ({"a": {2: 1.0}}, {"b": {2: 10.0}}, 99, "name the same layers"),
        ({"a": {2: 1.0, 3: 0.0}}, {"a": {2: 10.0}}, 99, "name the same layers"),
        ({}, {}, 99, "at least one of each"),
        ({"a": {2: float("nan")}}, {"a": {2: 10.0}}, 99, "numbers that are finite"),
        ({"a": {2: 1.0}}, {"a": {2: 0.0}}, 99, "sizes above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_allocated_is_said(damage, size, budget, said):
    with pytest.raises(CompressionError, match=re.escape(said)):
        allocation.allocate(damage, size, budget)


def test_damages_are_those_of_a_model_with_one_changed_layer():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).eval()
    ids = torch.randint(64, (4, 20), generator=torch.Generator().manual_seed(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    options = {b: lambda w, b=b: fake_quantize(w, bits=b, group_size=16) for b in (2, 4)}
    found = allocation.measured_damages(model, ids, options, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(found) == list(walk.compressible(model))
    for name, b in (("transformer.h.0.mlp.c_fc", 2), ("transformer.h.1.attn.c_attn", 4)):
        alone = rtn.quantize(model, bits=b, group_size=16, ignore=[f"^(?!{re.escape(name)}$)"])
        assert abs(found[name][b] - float(by_window.kl_by_window(model, alone, ids).mean())) < 1e-8
    assert all(damages[2] > damages[4] > 0 for damages in found.values())


@pytest.mark.parametrize("shares", [False, True])
def test_blocks_before_are_not_run_again_where_that_changes_nothing(shares):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    ).eval()
    ids = torch.randint(64, (40, 20), generator=torch.Generator().manual_seed(1))
    runs, blocks = [], list(model.transformer.h)
    blocks[0].mlp.register_forward_hook(lambda *_: runs.append(model.note))
    if shares:  # the last block looks at what the first one does at each pass
        first, last = blocks[0].mlp, blocks[2].mlp
        first.register_forward_hook(lambda _m, _i, out: setattr(model, "held", out))
        last.register_forward_hook(lambda _m, _i, out: out + model.held)
    model.note = "before"
    goal = by_window.predictions(model, ids)
    with replay.before(model, 2, ids) as skipped:
        model.note = "within"
        assert skipped is (not shares)
        again = by_window.predictions(model, ids)
        assert torch.equal(again, goal) and torch.equal(by_window.predictions(model, ids), goal)
        weight = blocks[2].mlp.c_fc.weight
        with torch.no_grad():
            weight.mul_(1.5)
        changed = by_window.predictions(model, ids)
        assert ("within" in runs) is shares
    assert (
        torch.equal(by_window.predictions(model, ids), changed)
        and "forward" not in blocks[0].__dict__
    )
    with replay.before(model, 0, ids) as skipped:
        assert not skipped


def test_the_choice_is_what_a_quantizer_takes():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).eval()
    names = list(walk.compressible(model))
    chosen = {name: 2 + i % 3 for i, name in enumerate(names)}
    result = rtn.quantize(model, group_size=16, per_layer=allocation.as_per_layer(chosen))
    assert {name: result.model.get_submodule(name).bits for name in names} == chosen
