"""`ignore` and `per_layer` in every quantizer and pruner: found in the package, so that a new
method is tried too.

The model has one block, so that in methods that go block by block every layer sees the original's
inputs: a layer with settings of its own must then come out as in a run that gives these settings to
all layers, and the others as in a run without.
"""

import inspect
import json

import methods
import pytest
import torch
from torch import nn

from course_utils import quantization
from course_utils.errors import CompressionError
from course_utils.models import selection, walk
from course_utils.quantization.layer import KINDS

LAYER = "model.layers.0.mlp.down_proj"
BOTH = r"(q|k)_proj$"
CHANGES = {  # what one layer has of its own
    "rtn.quantize": {"bits": 3}, "gptq.quantize": {"bits": 3, "act_order": True},
    "awq.quantize": {"bits": 3, "clip": False}, "qronos.quantize": {"bits": 3},
    "gptaq.quantize": {"bits": 3}, "hqq.quantize": {"bits": 3},
    "nf4.quantize": {"format": "fp4", "block_size": 32}, "codebooks.quantize": {"bits": 3},
    "floats.quantize": {"format": "BF16"}, "extreme.quantize": {"kind": "binary"},
    "microscaling.quantize": {"scheme": "MXFP8 E4M3"}, "llm_int8.quantize": {"threshold": 3.0},
    "w8a8.quantize": {"weight_bits": 4, "activations": "per_tensor", "observer": "min_max"},
    "smoothquant.quantize": {"weights": "per_tensor"}, "mixed_rows.quantize": {"group_size": 32},
    "low_rank.compress": {"ratio": 0.25}, "e8.quantize": {"group_size": 32},
    "additive.quantize": {"group_size": 32}, "trellis.quantize": {"bits": 3},
    "qat.quantize": {"bits": 4, "group_size": 32},
    "entropy_coded.quantize": {"bits": 3.5, "classes": 2},
    "magnitude.prune": {"sparsity": 0.75, "pattern": "per_row"}, "apply.prune": {"sparsity": 0.75},
    "wanda.prune": {"sparsity": 0.75}, "sparsegpt.prune": {"pattern": "2:4"},
    "storage.compress": {"format": "csr16"}, "sequential.prune": {"keep": 0.75},
    "schedules.train": {"sparsity": 0.75}, "schedules.one_shot": {"sparsity": 0.75},
    "schedules.iterative": {"sparsity": 0.75},
    "schedules.gradual": {"sparsity": 0.75, "pattern": "per_row"},
    "learned_masks.prune": {"pattern": "1:4"}, "gated.prune": {"sparsity": 0.75},
}  # fmt: skip
WHOLE = {  # these treat all layers alike by their nature: refused with a sentence that says why
    "structured.prune_mlp": "one number of channels",
    "structured.prune_heads": "one number of channels",
    "width.prune_heads": "one number of channels",
    "structured.prune_layers": "goes whole or stays whole",
    "structured.prune_blocks": "goes whole or stays whole",
}
BLOCKS = ("structured.prune_layers", "structured.prune_blocks")  # `ignore` names blocks that stay
NEITHER = ("recovery.train",)  # trains what was pruned; masks are the zeros that it finds
# layers act on each other: trained, scaled, or rounded at one step
TOGETHER = ("qat.quantize", "awq.quantize", "entropy_coded.quantize")
# a layer that is left alone takes part in its neighbours' scales
SCALED = ("awq.quantize", "smoothquant.quantize")
TRAINING = {"steps": 2, "batch": 2}
FOUND = {
    name: (made, signature)
    for name, made, signature in methods.found()
    if name not in methods.SHARED + NEITHER
}
pytestmark = pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")


@pytest.fixture(autouse=True)
def few_attempts(monkeypatch):
    monkeypatch.setattr(quantization.entropy_coded, "ATTEMPTS", 1)


def run(name, **more):
    made, signature = FOUND[name]
    model = methods.model_for(name, 3 if name == "sequential.prune" or name in BLOCKS else 1)
    given = methods.given(name, signature, model)
    if name in methods.TRAINED:
        given |= TRAINING | (
            {"progress": False}
            if "progress" in signature.parameters or "training" in signature.parameters
            else {}
        )
    if name == "schedules.iterative":
        given["rounds"] = 1
    return model, made(model, **{**given, **more})


def parts(model):
    """Everything of each linear layer, dense or not: its kind, its shape, its numbers."""
    return {
        name: (type(m).__name__, str(m.shape()) if type(m).__name__ in KINDS
               else tuple(m.weight.shape), {k: t.clone() for k, t in m.state_dict().items()})
        for name, m in model.named_modules() if type(m).__name__ in KINDS or isinstance(m,
            nn.Linear) and "lm_head" not in name
    }  # fmt: skip


def equal(one, other):
    return one[:2] == other[:2] and all(
        torch.equal(value, other[2][key]) for key, value in one[2].items()
    )


def test_every_method_is_here():
    assert CHANGES.keys() | WHOLE.keys() == FOUND.keys()
    for name, (made, signature) in FOUND.items():
        takes = {"ignore", "per_layer"} <= signature.parameters.keys() or any(
            p.kind is p.VAR_KEYWORD for p in signature.parameters.values()
        )
        assert takes, f"{name} has no ignore or no per_layer"
        assert inspect.getdoc(made), name


@pytest.mark.parametrize("name", CHANGES)
def test_settings_of_one_layer_are_its_own_and_are_kept(name, tmp_path):
    layer, several = ("2", "[02]") if name == "sequential.prune" else (LAYER, BOTH)
    changes = CHANGES[name]
    _, plain = run(name)
    _, made = run(name, per_layer={several: {}, layer: changes})
    assert made.settings["per_layer"] == {several: {}, layer: changes}
    now, before = parts(made.model), parts(plain.model)
    if name in methods.TRAINED and name != "qat.quantize":
        share = made.details["sparsity"]
        assert share[layer] == pytest.approx(0.75, abs=0.02) and all(
            v == pytest.approx(0.5, abs=0.02) for n, v in share.items() if n != layer
        )
    elif name == "sequential.prune":
        assert [made.model[i].out_features for i in (0, 2, 4)] == [32, 48, 64]
    elif name in TOGETHER:
        assert {n for n in now if now[n][:2] != before[n][:2]} == {layer}, "kind and shape"
    else:
        assert {n for n in now if not equal(now[n], before[n])} == {layer}
        _, everywhere = run(name, **changes)
        assert equal(now[layer], parts(everywhere.model)[layer]), (
            "as if all layers had these settings"
        )
    if name == "sequential.prune":
        return
    made.save(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "compression.json").read_text())["settings"]
    assert told["per_layer"] == {several: {}, layer: changes}
    loaded = quantization.load(tmp_path / "model")
    again = parts(loaded)
    assert {n: kept[:2] for n, kept in again.items()} == {n: kept[:2] for n, kept in now.items()}
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(methods.IDS).logits, made.model(methods.IDS).logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "sequential.prune"])
def test_layers_left_alone_by_name_and_by_expression(name):
    model, made = run(name, ignore=[LAYER, BOTH])
    assert made.settings["ignore"] == [LAYER, BOTH]
    left = [n for n in walk.compressible(model) if n == LAYER or n.endswith(("q_proj", "k_proj"))]
    changed = []
    for n, module in walk.compressible(model).items():
        now = made.model.get_submodule(n)
        if n not in left:
            changed += [n] * (
                type(now) is not type(module) or not torch.equal(now.weight, module.weight)
            )
            continue
        assert type(now) is nn.Linear and (now.weight != 0).all()
        assert n in made.coverage["left"]
        # two steps of training at a rate of 0.001 move what is left alone too, but in QAT
        if name not in SCALED:
            torch.testing.assert_close(
                now.weight, module.weight, atol=1e-2 if name.startswith("schedules") else 0, rtol=0
            )
    assert len(left) == 3 and len(changed) == (0 if name == "storage.compress" else 4), (
        "a model without zeros is stored as it is"
    )


def test_channels_left_alone_in_a_sequential():
    _, made = run("sequential.prune", ignore="2")
    assert [made.model[i].out_features for i in (0, 2, 4)] == [32, 64, 64] and made.settings[
        "ignore"
    ] == ["2"]


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_meant_is_refused(name):
    layer = "2" if name == "sequential.prune" else LAYER
    for bad, message in (
        ({"per_layer": {layer: {"nonsense": 3}}}, "sets nonsense; settings of a layer here are"),
        ({"per_layer": {"nowhere": CHANGES[name]}}, "'nowhere' is found in no layer"),
        ({"per_layer": {"(": {}}}, "no regular expression"),
        ({"per_layer": {layer: 8}}, "per_layer"),
        ({"ignore": "nowhere"}, "'nowhere' is found in no layer"),
        ({"ignore": 7}, "ignore: 7 is no text"),
        ({"ignore": "."}, "leaves no layer"),
        ({"ignore": layer, "per_layer": {layer: CHANGES[name]}}, "leaves alone"),
    ):
        with pytest.raises(CompressionError, match=message):
            run(name, **bad)


@pytest.mark.parametrize("name", WHOLE)
def test_methods_that_treat_layers_alike_say_why(name):
    with pytest.raises(CompressionError, match=f"per_layer: .*{WHOLE[name]}"):
        run(name, per_layer={"fc1|down_proj": {"keep": 0.75}})
    if name not in BLOCKS:
        with pytest.raises(CompressionError, match=f"ignore: .*{WHOLE[name]}"):
            run(name, ignore="fc1|down_proj")


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_stay(name):
    for block in range(3):
        _, made = run(
            name, keep=1 if name.endswith("layers") else 2, ignore=f"model.layers.{block}"
        )
        assert block in made.details["kept"] and made.settings["ignore"] == [
            f"model.layers.{block}"
        ]
    with pytest.raises(CompressionError, match="ignore: "):
        run(
            name,
            keep=1,
            ignore=[r"layers\.1\."]
            if name.endswith("blocks")
            else ["model.layers.0", "model.layers.1"],
        )


def test_a_layer_of_a_block_that_is_used_twice_has_two_names():
    model = methods.llama(3)
    model.model.layers[2] = model.model.layers[0]
    for name in ("model.layers.2.mlp.down_proj", r"layers\.2\.mlp\.d", LAYER):
        made = quantization.rtn.quantize(
            model, ignore=name, per_layer={"model.layers.2.mlp.up_proj": {"bits": 8}}
        ).model.model.layers
        assert (
            made[2] is made[0]
            and type(made[2].mlp.down_proj) is nn.Linear
            and made[0].mlp.up_proj.bits == 8
        )
        assert (
            made[1].mlp.down_proj.bits,
            made[1].mlp.up_proj.bits,
            made[0].mlp.gate_proj.bits,
        ) == (4, 4, 4)


def test_a_name_is_exactly_its_layer_or_what_is_inside():
    names = [f"model.layers.{i}.mlp.{part}" for i in range(12) for part in ("fc1", "fc10")]
    assert selection.matching("model.layers.1.mlp.fc1", names, "ignore") == {
        "model.layers.1.mlp.fc1"
    }
    assert selection.matching("model.layers.1", names, "ignore") == {
        "model.layers.1.mlp.fc1",
        "model.layers.1.mlp.fc10",
    }
    assert (
        len(selection.matching("fc1", names, "ignore")) == 24
        and len(selection.matching("fc1$", names, "ignore")) == 12
    )
    assert selection.left_by("0", [str(i) for i in range(0, 22, 2)]) == [
        str(i) for i in range(2, 22, 2)
    ]
    own = selection.own_settings(
        names, {"bits": 4}, {"fc10": {"bits": 3}, "model.layers.1": {"bits": 8}}
    )
    assert [own[f"model.layers.{i}.mlp.fc10"]["bits"] for i in (0, 1, 10, 11)] == [3, 8, 3, 3]
