"""No method copies a whole model, and none changes the one that it is given: every function of the package that makes a `Compressed`.

The list is read from the package, so that a new method is tried too; what it must be given beside a model stands in GIVEN.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch
from peak_memory import peak_of
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from course_utils import pruning, quantization
from course_utils.models import sharing, walk

FEW, MANY = 2, 5  # blocks: what a method needs beside its result is the same for both, and a whole copy would be three blocks more
GROWTH = 1.5
IDS = torch.randint(3, 96, (4, 16), generator=torch.Generator().manual_seed(1))
TRAINED = ("qat.quantize", "recovery.train", "schedules.train", "schedules.one_shot", "schedules.iterative", "schedules.gradual")  # train a copy
HELPERS = ("convert.each_layer", "vectors.quantize_model", "streaming.compress", "trellis.quantize")  # called by methods; test_streaming; slow, and as e8


def llama(blocks=MANY):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=blocks, num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
    )).eval()  # fmt: skip


def opt(blocks=MANY):
    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(
        hidden_size=64, ffn_dim=128, num_hidden_layers=blocks, num_attention_heads=4, vocab_size=96, max_position_embeddings=64, word_embed_proj_dim=64,
    )).eval()  # fmt: skip


def sequential(blocks=MANY):
    return torch.nn.Sequential(*(layer for _ in range(blocks) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())))


GIVEN = {
    "calibration": lambda model: IDS,
    "scores": lambda model: {n: walk.weight_of(m).abs() for n, m in walk.compressible(model).items()},
    "bits": lambda model: {n: torch.full((len(walk.weight_of(m)),), 4) for n, m in walk.compressible(model).items()},
}
SETTINGS = {  # less to search
    "awq.quantize": {"alphas": (0.0, 0.5)}, "additive.quantize": {"entries": 16, "codebooks": 1, "rounds": 1, "beam": 1, "calibration": None,
                          "shared": False},  # shared codebooks are learned from vectors of all layers, held together
    "e8.quantize": {"calibration": None},
}  # fmt: skip
MODELS = {"width.prune_heads": opt, "sequential.prune": sequential}


def found():
    for package in (quantization, pruning):
        for module in pkgutil.iter_modules(package.__path__):
            home = importlib.import_module(f"{package.__name__}.{module.name}")
            for name, made in vars(home).items():
                own = inspect.isfunction(made) and made.__module__ == home.__name__ and not name.startswith("_")
                signature = inspect.signature(made) if own else None
                if signature and "Compressed" in str(signature.return_annotation) and next(iter(signature.parameters), "") == "model":
                    yield f"{module.name}.{name}", made, signature


METHODS = {name: (made, signature) for name, made, signature in found() if name not in TRAINED + HELPERS}


def test_methods_are_found():
    assert {"gptq.quantize", "awq.quantize", "smoothquant.quantize", "sparsegpt.prune", "structured.prune_heads"} <= METHODS.keys()
    assert set(TRAINED + HELPERS) <= {name for name, *_ in found()}


def bytes_of(*models):
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for m in models for t in (*m.parameters(), *m.buffers())}.values())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_what_is_new_is_the_result_and_the_same_for_every_depth(name, monkeypatch):
    monkeypatch.setattr(quantization.entropy_coded, "ATTEMPTS", 1)
    few, many = (blocks_beside_the_result(name, blocks) for blocks in (FEW, MANY))
    assert many - few <= GROWTH, f"{few:.1f} and {many:.1f} blocks beside the result"


def blocks_beside_the_result(name, blocks):
    made, signature = METHODS[name]
    model = MODELS.get(name, llama)(blocks)
    # a static range may be asked of calibration, so it is given wherever it can be
    wanted = [p for n, p in signature.parameters.items() if n != "model" and p.kind is not p.VAR_KEYWORD and (p.default is p.empty or n == "calibration")]
    assert {p.name for p in wanted} <= GIVEN.keys(), "a new method: say in GIVEN what it must be given"
    given = {p.name: GIVEN[p.name](model) for p in wanted} | SETTINGS.get(name, {})
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    objects = list(map(id, (*model.parameters(), *model.buffers())))
    result, most = peak_of(lambda: made(model, **given))
    now = model.state_dict()
    assert list(now) == list(before) and all(torch.equal(now[key], before[key]) for key in before)
    assert objects == list(map(id, (*model.parameters(), *model.buffers())))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not sharing.memory_of(model) & {p for p in sharing.memory_of(result.model) if p}
    block = bytes_of(model) / blocks if name == "sequential.prune" else bytes_of(walk.blocks(model)[0])
    return (most - bytes_of(result.model)) / block


@pytest.mark.parametrize("observer", [None, "min_max"])
def test_smoothquant_is_w8a8_of_the_smoothed_model(observer):
    """Scaled only when used, layer by layer, or all of them beforehand: the same bits; also where layers are left as they are."""
    model = llama()
    settings = {"observer": observer, "ignore": "3.*(q_proj|up_proj)"}
    result = quantization.smoothquant.quantize(model, IDS, **settings)
    smoothed = quantization.smoothquant.smooth(model, IDS)
    wanted = quantization.w8a8.quantize(smoothed, IDS if observer else None, activations="per_tensor", **settings)
    first, second = result.model.state_dict(), wanted.model.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert {type(m).__name__ for m in result.model.modules()} == {type(m).__name__ for m in wanted.model.modules()}
    with torch.no_grad():
        torch.testing.assert_close(smoothed(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
