"""Steps in their order on a small model: each equals the function it stands for, and packing is
lost by what follows.
"""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils import distillation, pipeline, pruning
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import QuantizedLinear, extreme, rtn, w8a8


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return pipeline.stored(model)


@pytest.fixture(scope="module")
def supplies(net):
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(64, (16, 24), generator=rng)
    return pipeline.Supplies(net, ids[:8], ids, batch=4)


def packed(model):
    return [m for m in model.modules() if isinstance(m, QuantizedLinear)]


SMALL = {"group_size": 16}


def test_one_step_is_the_function_it_stands_for(net, supplies):
    ids = supplies.calibration
    same = lambda a, b: torch.equal(a(ids).logits, b(ids).logits)  # noqa: E731
    run = lambda name, **settings: pipeline.run(net, [(name, settings)], supplies).model  # noqa: E731
    assert same(run("quantize", bits=3, **SMALL), rtn.quantize(net, bits=3, group_size=16).model)
    pruned = pipeline.stored(pruning.structured.prune_mlp(net, ids, keep=0.5).model)
    assert same(run("channels", keep=0.5), pruned) and pruned.config.intermediate_size == 32
    assert len(walk.blocks(run("layers", keep=3))) == 3 and same(run("half"), net)
    start = distillation.students.from_layers(net, [0, 3])
    taught = distillation.train(
        start, net, supplies.data, steps=3, batch=4, peak=2e-3, progress=False
    ).model
    assert same(run("student", keep=2, steps=3), pipeline.stored(taught))
    sparse = run("gradual", sparsity=0.5, steps=4)
    assert abs(pruning.apply.sparsity_of(sparse) - 0.5) < 0.01


def test_settings_of_single_layers_reach_the_step(net, supplies):
    first = "model.layers.0.mlp.down_proj"
    quantized = pipeline.run(
        net,
        [("quantize", {"bits": 4, **SMALL, "ignore": "q_proj", "per_layer": {first: {"bits": 8}}})],
        supplies,
    )
    modules = dict(quantized.model.named_modules())
    assert modules[first].bits == 8 and modules[first.replace("0", "1", 1)].bits == 4
    assert not any(
        isinstance(m, QuantizedLinear) for name, m in modules.items() if name.endswith("q_proj")
    )
    assert quantized.details["stages"][0]["per_layer"] == {first: {"bits": 8}}
    shares = {name: float((walk.weight_of(m) == 0).float().mean()) for name, m in walk.compressible(
        pipeline.run(net,
                     [("gradual",
                       {"steps": 4, "ignore": "q_proj", "per_layer": {first: {"sparsity": 0.75}}})],
                       supplies).model).items()}  # fmt: skip
    assert all(shares[n] == 0 for n in shares if n.endswith("q_proj")) and shares[
        first
    ] == pytest.approx(0.75, abs=0.01)
    kept = pipeline.run(net, [("layers", {"keep": 1, "ignore": "layers.3."})], supplies).model
    assert torch.equal(
        walk.blocks(kept)[0].mlp.up_proj.weight,
        pipeline.stored(net).model.layers[3].mlp.up_proj.weight,
    )
    with pytest.raises(CompressionError, match="nothing_like_it"):
        pipeline.run(net, [("quantize", {**SMALL, "ignore": "nothing_like_it"})], supplies)


@pytest.mark.parametrize(("name", "settings", "pruned", "packs", "updates", "after"), [
    ("channels", {"keep": 0.5}, True, False, 0, 0), ("channels", {"keep": 1.0}, False, False, 0, 0),
    ("layers", {"keep": 3}, True, False, 0, 0),
    ("gradual", {"sparsity": 0.5, "steps": 4}, True, False, 4, 0),
    ("student", {"keep": 2, "steps": 3}, True, False, 3, 3),
    ("distil", {"steps": 2}, False, False, 2, 2),
    ("quantize", {"bits": 2, **SMALL}, False, True, 0, 0), ("half", {}, False, False, 0, 0),
])  # fmt: skip
def test_what_a_step_did_is_measured(net, supplies, name, settings, pruned, packs, updates, after):
    (stage,) = pipeline.run(net, [(name, settings)], supplies).details["stages"]
    assert (stage["pruned"], stage["packed"]) == (pruned, packs)
    assert (stage["updates"], stage["updates_after_pruning"]) == (updates, after)


def test_a_step_is_judged_by_what_it_does_not_by_its_name(net, supplies, monkeypatch):
    monkeypatch.setitem(
        pipeline.STEPS, "half", lambda model, supplies: pipeline.distil(model, supplies, steps=5)
    )
    monkeypatch.setitem(
        pipeline.STEPS,
        "distil",
        lambda model, supplies: pipeline.channels(model, supplies, keep=0.5),
    )
    trained, cut = pipeline.run(net, [("half", {}), ("distil", {})], supplies).details["stages"]
    assert (
        trained["updates"] == 5 and not trained["pruned"] and cut["pruned"] and not cut["updates"]
    )


def test_every_order_runs_and_is_packed_only_when_it_ends_with_quantizing(net, supplies):
    import itertools

    before = {k: v.clone() for k, v in net.state_dict().items()}
    steps = [
        ("channels", {"keep": 0.5}),
        ("student", {"keep": 0.5, "steps": 2}),
        ("quantize", {"bits": 4, **SMALL}),
    ]
    sizes = {}
    for order in itertools.permutations(steps):
        result = pipeline.run(net, order, supplies)
        names = tuple(name for name, _ in order)
        sizes[names] = result.bytes_on_disk
        assert [s["step"] for s in result.details["stages"]] == list(names)
        assert bool(packed(result.model)) == (names[-1] == "quantize")
        assert (len(walk.blocks(result.model)), result.model.config.intermediate_size) == (2, 32)
        assert torch.isfinite(result.model(supplies.calibration).logits).all()
    assert len(sizes) == 6
    last = [size for names, size in sizes.items() if names[-1] == "quantize"]
    assert max(last) < min(size for names, size in sizes.items() if names[-1] != "quantize")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("make", [
    lambda m: rtn.quantize(m, bits=4, group_size=16), lambda m: extreme.quantize(m, kind="binary"),
    w8a8.quantize,
])  # fmt: skip
def test_unpacked_layers_have_the_same_weight(net, make):
    small = make(net).model
    dense = pipeline.unpacked(small)
    assert not any(type(m).__name__ in pipeline.KINDS for m in dense.modules())
    for name, layer in walk.compressible(dense).items():
        assert torch.equal(layer.weight, small.get_submodule(name).weight.float())
    assert pipeline.unpacked(net) is net


def test_a_model_in_half_precision_stays_in_it(net, supplies):
    low = copy.deepcopy(net).bfloat16()
    for after in (("channels", {"keep": 0.5}), ("distil", {"steps": 1}), ("quantize", SMALL)):
        result = pipeline.run(low, [("quantize", SMALL), after], supplies).model
        assert (
            result.dtype == torch.bfloat16 and result(supplies.calibration).logits.isfinite().all()
        ), after


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([], "none given"),
        ([("shrink", {})], "'shrink' unknown"),
        ([("channels", {"size": 3})], "channels: no setting size"),
        ([("quantize", {"method": "magic"})], "magic"),
        ([("half", {"bits": 4})], "it has none"),
        ([("quantize", {"bits": 4, "group_size": 7})], "7"),
        ([("layers", {"keep": 9})], "keep=9"),
    ],
)
def test_bad_pipelines_are_told(net, supplies, steps, told):
    with pytest.raises(CompressionError, match=told):
        pipeline.run(net, steps, supplies)
