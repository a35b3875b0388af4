"""The table's sums, the models that pruning to a latency builds, and its choice against brute force
and `milp`.

Nothing is timed.
"""

import itertools

import pytest
import torch

from course_utils import evaluation, models
from course_utils.errors import CompressionError
from course_utils.evaluation import allocation, by_window
from course_utils.learn import budgets
from course_utils.models import walk
from course_utils.systems import latency, shrinking
from course_utils.systems.latency import LatencyTable

TIMES = {
    ("ends", 256, 1024): 5.0,
    **{("attention", 256, h): 1.0 + h for h in (2, 4, 8)},
    **{("mlp", 256, c): 2.0 + c / 100 for c in (128, 256, 512)},
}
TABLE = LatencyTable(TIMES, 1, 8)


@pytest.fixture(scope="module")
def bundled():
    return models.load("bundled")


@pytest.fixture(scope="module")
def options(bundled):
    model, tokenizer = bundled
    ids = evaluation.calibration(tokenizer, "bundled", n=4, context=32, seed=1)
    return shrinking.candidates(model, ids, heads=(8, 4, 2), channels=(512, 256, 128))


def test_parts_of_a_model_and_their_sum(bundled):
    model = bundled[0]
    assert latency.parts(model) == [
        ("ends", 256, 1024),
        *[("attention", 256, 8), ("mlp", 256, 512)] * 5,
    ]
    assert TABLE.total(model) == pytest.approx(5 + 5 * (9 + 7.12))
    assert latency.parts(latency.llama(6, 96, 2)) == [
        ("ends", 256, 1024),
        *[("attention", 256, 6), ("mlp", 256, 96)] * 2,
    ]


def test_a_width_that_was_not_measured_takes_the_next_larger(bundled):
    assert TABLE.of(("mlp", 256, 129)) == TABLE.of(("mlp", 256, 256)) > TABLE.of(("mlp", 256, 128))
    with pytest.raises(CompressionError, match="measure it"):
        TABLE.of(("mlp", 256, 513))
    with pytest.raises(CompressionError, match="hidden size 128"):
        TABLE.of(("attention", 128, 2))


def test_operations_are_counted_by_pytorch_alike():
    from torch.utils.flop_counter import FlopCounterMode

    model, ids = (
        latency.llama(4, 96, 2, hidden=64, vocabulary=32),
        torch.zeros(2, 8, dtype=torch.long),
    )
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    counted = counter.get_flop_counts()["Global"]
    assert latency.flops(model, 16) == counted[torch.ops.aten.mm]


def test_parts_and_models_are_measured():
    model = latency.llama(2, 32, 1, hidden=64, vocabulary=32)
    table, whole = latency.measure(
        latency.parts(model), batch=1, context=4, models={"it": model}, turns=1
    )
    assert (
        set(table.seconds) == set(latency.parts(model))
        and table.total(model) > 0
        and whole["it"] > 0
    )


@torch.no_grad()
def test_parts_together_are_the_model(bundled):
    """The jobs that are timed compute what a model computes: attention and MLP of a block, after
    one another.
    """
    model = bundled[0]
    ids = torch.randint(64, (1, 8), generator=torch.Generator().manual_seed(0))
    x = model.model.embed_tokens(ids)
    angles = model.model.rotary_emb(x, torch.arange(8)[None])
    for block in walk.blocks(model):
        x = (
            x
            + block.self_attn(
                block.input_layernorm(x), position_embeddings=angles, attention_mask=None
            )[0]
        )
        x = x + block.mlp(block.post_attention_layernorm(x))
    assert torch.allclose(
        model.lm_head(model.model.norm(x)), model(input_ids=ids).logits, atol=1e-3
    )


@torch.no_grad()
def test_the_smaller_model_is_the_one_whose_damage_was_measured(bundled, options):
    """Removing columns gives what zeros in their place give, for parts one by one and together."""
    model = bundled[0]
    ids = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    chosen = {name: sorted(widths)[i % 3] for i, (name, widths) in enumerate(options.items())}
    small = shrinking.build(model, options, chosen)
    import copy

    zeroed = copy.deepcopy(model)
    for name, width in chosen.items():
        zeroed.get_submodule(name).weight.copy_(options[name][width][1])
    assert torch.allclose(small(input_ids=ids).logits, zeroed(input_ids=ids).logits, atol=1e-3)
    assert latency.parts(small)[1:] == [
        ("attention" if "attn" in n else "mlp", 256, w) for n, w in chosen.items()
    ]
    assert latency.parts(model)[1] == ("attention", 256, 8), (
        "the model it was made of stays as it is"
    )


def test_damages_are_those_of_the_parts_alone(bundled, options):
    model, tokenizer = bundled
    ids = evaluation.calibration(tokenizer, "bundled", n=2, context=32, seed=2)
    few = {name: options[name] for name in list(options)[:2]}
    found = shrinking.damages(model, ids, few)
    original = by_window.predictions(model, ids)
    for name in few:
        assert found[name][max(few[name])] == 0
        for width in (w for w in few[name] if w != max(few[name])):
            alone = shrinking.build(model, few, {name: width})
            assert found[name][width] == pytest.approx(
                float(by_window.kl_by_window(original, alone, ids).mean()), abs=1e-5
            )


def tables(seed):
    g = torch.Generator().manual_seed(seed)
    damage = {
        f"l{i}": {w: float(torch.rand((), generator=g)) * (4 - w) for w in range(4)}
        for i in range(5)
    }
    # a narrower one may be slower
    times = {
        name: {w: 0.1 + float(torch.rand((), generator=g)) for w in range(4)} for name in damage
    }
    return damage, times


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_that_of_brute_force_and_milp(seed):
    damage, times = tables(seed)
    target = sum(min(t.values()) for t in times.values()) * 1.3
    chosen = allocation.allocate(damage, times, target)
    every = itertools.product(range(4), repeat=5)
    fits = [c for c in every if sum(times[f"l{i}"][w] for i, w in enumerate(c)) <= target]
    least = min(sum(damage[f"l{i}"][w] for i, w in enumerate(c)) for c in fits)
    assert budgets.total(damage, chosen) == pytest.approx(least, abs=1e-12)
    assert budgets.milp_damage(damage, times, times, target, target) == pytest.approx(
        least, abs=1e-9
    )
    assert budgets.total(times, chosen) <= target


def test_uniform_keeps_the_budget_and_is_never_better(bundled, options):
    model = bundled[0]
    times = shrinking.times(model, options, TABLE)
    whole = sum(w[max(w)] for w in times.values())
    same = shrinking.uniform(options, times, 0.7 * whole)
    assert (
        budgets.total(times, same) <= 0.7 * whole
        and len({(n.rsplit(".", 1)[1], w) for n, w in same.items()}) == 2
    )
    weights = shrinking.weights(model, options)
    assert weights["model.layers.0.mlp.down_proj"] == {
        512: 3 * 256 * 512,
        256: 3 * 256 * 256,
        128: 3 * 256 * 128,
    }
    with pytest.raises(CompressionError, match="narrower"):
        shrinking.uniform(options, times, 0.1)


def test_widths_that_a_block_does_not_have_are_refused(bundled):
    ids = torch.randint(64, (2, 16))
    with pytest.raises(CompressionError, match="o_proj: 3 of 8"):
        shrinking.candidates(bundled[0], ids, heads=(3,), channels=(512,))
    with pytest.raises(CompressionError, match="down_proj: 513 of 512"):
        shrinking.candidates(bundled[0], ids, heads=(8,), channels=(513,))
