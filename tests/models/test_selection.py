"""Settings of layers, coverage, and mixtures of experts.

(`ignore` and `per_layer` in every method: `test_single_layers`.)
"""

import copy

import pytest
import tiny_models
import torch
import transformers

from course_utils.errors import CompressionError
from course_utils.models import experts, walk
from course_utils.pruning import magnitude, sparsegpt, wanda
from course_utils.quantization import (
    QuantizedLinear,
    awq,
    codebooks,
    entropy_coded,
    extreme,
    floats,
    gptq,
    llm_int8,
    load,
    nf4,
    rtn,
    w8a8,
)

transformers.logging.set_verbosity_error()
IDS = torch.randint(3, 90, (16, 16), generator=torch.Generator().manual_seed(0))
QUANTIZERS = {
    "rtn": lambda m, **s: rtn.quantize(m, group_size=8, **s), "gptq": lambda m, **s:
        gptq.quantize(m, IDS, group_size=8, **s),
    "nf4": nf4.quantize, "w8a8": w8a8.quantize, "static": lambda m, **s:
        w8a8.quantize(m, IDS, observer="min_max", activations="per_tensor", **s),
    "llm_int8": llm_int8.quantize, "float": floats.quantize, "kmeans": lambda m, **s:
        codebooks.quantize(m, bits=3, **s),
    "entropy-coded": lambda m, **s: entropy_coded.quantize(m, bits=3.0, **s),
    "ternary": extreme.quantize, "awq": lambda m, **s: awq.quantize(m, IDS, group_size=8, **s),
}  # fmt: skip
PRUNERS = {
    "magnitude": magnitude.prune,
    "wanda": lambda m, **s: wanda.prune(m, IDS, **s),
    "sparsegpt": lambda m, **s: sparsegpt.prune(m, IDS, **s),
}
METHODS = {**QUANTIZERS, **PRUNERS}


def test_settings_of_single_layers():
    model = tiny_models.model_of("llama")
    for quantize in (QUANTIZERS["rtn"], QUANTIZERS["gptq"]):
        result = quantize(
            model, per_layer={r"mlp": {"bits": 3}, r"down_proj": {"bits": 8, "symmetric": True}}
        )
        for name, module in result.model.named_modules():
            if isinstance(module, QuantizedLinear):
                assert module.bits == (8 if "down_proj" in name else 3 if "mlp" in name else 4)
                assert module.symmetric == ("down_proj" in name)
        assert result.settings["per_layer"]["mlp"] == {"bits": 3}
        for bad in ({"nowhere": {"bits": 3}}, {"mlp": {"bit": 3}}):
            with pytest.raises(CompressionError, match="per_layer"):
                quantize(model, per_layer=bad)


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize("pattern", [None, "global"])
def test_sparsity_of_single_layers(method, pattern):
    model = tiny_models.model_of("llama")
    if pattern == "global" and method != "magnitude":
        pytest.skip("one ranking over all layers needs all scores at once")
    result = PRUNERS[method](
        model,
        pattern=pattern,
        per_layer={
            r"mlp": {"sparsity": 0.25, "pattern": "per_row"},
            r"down_proj": {"sparsity": 0.75},
        },
    )
    for name, share in result.details["sparsity"].items():
        if "mlp" in name:
            assert share == pytest.approx(0.75 if "down_proj" in name else 0.25, abs=0.03), name
    others = [share for name, share in result.details["sparsity"].items() if "mlp" not in name]
    assert sum(others) / len(others) == pytest.approx(0.5, abs=0.08)
    assert result.settings["per_layer"][r"down_proj"] == {"sparsity": 0.75}
    for bad in ({"nowhere": {"sparsity": 0.3}}, {"mlp": {"bit": 3}}):
        with pytest.raises(CompressionError, match="per_layer"):
            PRUNERS[method](model, per_layer=bad)


def test_coverage_counts_every_parameter_once():
    model = tiny_models.model_of("llama")
    whole = sum(p.numel() for p in model.parameters())
    matrices = sum(walk.weight_of(m).numel() for m in walk.compressible(model).values())
    for method in ("rtn", "magnitude"):
        found = METHODS[method](model).coverage
        assert (
            found["parameters"] == whole
            and found["reached"] == matrices
            and found["share"] == pytest.approx(matrices / whole)
        )
        assert 0.95 < found["share_of_blocks"] < 1
        assert (
            found["left"]["model.embed_tokens"][1] == "embedding"
            and found["left"]["lm_head"][1] == "output head"
        )
        assert sum(count for count, _ in found["left"].values()) == whole - matrices


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "awq"])
def test_mixtures_of_experts_are_reached(kind, method, tmp_path):
    model = tiny_models.model_of(kind)
    before = copy.deepcopy(model.state_dict())
    result = METHODS[method](model)
    assert result.coverage["share_of_blocks"] > 0.9, result.coverage["left"]
    assert experts.fused(model) and all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )
    result.save(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path / "model")(IDS).logits, result.model(IDS).logits, atol=1e-5, rtol=1e-5
        )
    if method in PRUNERS:
        assert not experts.names_of_listed(result.model), "an ordinary model comes back"
        zeros = sum(
            int((p == 0).sum())
            for n, p in result.model.named_parameters()
            if p.dim() > 1 and ".layers." in n
        )
        total = sum(
            p.numel() for n, p in result.model.named_parameters() if p.dim() > 1 and ".layers." in n
        )
        assert zeros / total == pytest.approx(0.5, abs=0.05)


def test_experts_that_saw_few_tokens_are_named():
    model = tiny_models.model_of("mixtral")
    found = gptq.quantize(model, IDS[:2], group_size=8)
    assert found.details["few_tokens"] and all(
        ".listed." in name and count < 48 for name, count in found.details["few_tokens"].items()
    )
    plain = rtn.quantize(model, group_size=8).model
    for name in found.details["few_tokens"]:
        if name.endswith("gate_up_proj"):
            assert torch.equal(
                found.model.get_submodule(name).codes, plain.get_submodule(name).codes
            )


def test_sparsity_is_what_came_out():
    model = tiny_models.model_of("llama")
    result = sparsegpt.prune(model, IDS, 0.9, pattern="2:4")
    assert result.settings["sparsity"] == pytest.approx(0.5)
    assert sparsegpt.prune(model, IDS, 0.3).settings["sparsity"] == pytest.approx(0.3, abs=0.01)
