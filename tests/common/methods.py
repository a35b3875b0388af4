"""Every function of the package that makes a `Compressed` of a model, and what it must be given: a
new method is tried too.
"""

import importlib
import inspect
import pkgutil

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from course_utils import pruning, quantization
from course_utils.models import walk

IDS = torch.randint(3, 96, (4, 16), generator=torch.Generator().manual_seed(1))
# train a copy or masks
TRAINED = (
    "qat.quantize",
    "learned_masks.prune",
    "gated.prune",
    "recovery.train",
    "schedules.train",
    "schedules.one_shot",
    "schedules.iterative",
    "schedules.gradual",
)
# what methods call, or that calls them
SHARED = (
    "convert.each_layer",
    "convert.layer_by_layer",
    "vectors.quantize_model",
    "paired.quantize",
    "streaming.compress",
)


def llama(blocks):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=96,
    )).eval()  # fmt: skip


def opt(blocks):
    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(
        hidden_size=64, ffn_dim=128, num_hidden_layers=blocks, num_attention_heads=4, vocab_size=96,
        max_position_embeddings=64, word_embed_proj_dim=64,
    )).eval()  # fmt: skip


def sequential(blocks):
    return torch.nn.Sequential(
        *(layer for _ in range(blocks) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU()))
    )


GIVEN = {
    "calibration": lambda model: IDS, "ids": lambda model: IDS, "data": lambda model: IDS,
    "target": lambda model: lambda step: 0.5,
    "scores": lambda model:
        {n: walk.weight_of(m).abs() for n, m in walk.compressible(model).items()},
    "bits": lambda model:
        {n: torch.full((len(walk.weight_of(m)),), 4) for n, m in walk.compressible(model).items()},
}  # fmt: skip
SETTINGS = {  # less to search
    "awq.quantize": {"alphas": (0.0, 0.5)}, "additive.quantize": {"entries": 16, "codebooks": 1,
        "rounds": 1, "beam": 1, "calibration": None,
                          # shared codebooks are learned from vectors of all layers, held together
                          "shared": False},
    "e8.quantize": {"calibration": None},
    "trellis.quantize": {"state_bits": 6, "calibration": None},
}  # fmt: skip
MODELS = {"width.prune_heads": opt, "sequential.prune": sequential}


def found():
    """(module.function, the function, its signature) for each."""
    for package in (quantization, pruning):
        for module in pkgutil.iter_modules(package.__path__):
            home = importlib.import_module(f"{package.__name__}.{module.name}")
            for name, made in vars(home).items():
                own = (
                    inspect.isfunction(made)
                    and made.__module__ == home.__name__
                    and not name.startswith("_")
                )
                signature = inspect.signature(made) if own else None
                if (
                    signature
                    and "Compressed" in str(signature.return_annotation)
                    and next(iter(signature.parameters), "") == "model"
                ):
                    yield f"{module.name}.{name}", made, signature


def model_for(name, blocks):
    return MODELS.get(name, llama)(blocks)


def given(name, signature, model):
    """The arguments beside the model; calibration wherever it can be given, since a static range
    may be asked of it.
    """
    wanted = [
        p
        for n, p in signature.parameters.items()
        if n != "model"
        and p.kind is not p.VAR_KEYWORD
        and (p.default is p.empty or n == "calibration")
    ]
    assert {p.name for p in wanted} <= GIVEN.keys(), (
        "a new method: say in GIVEN what it must be given"
    )
    return {
        p.name: GIVEN[p.name](model) for p in wanted if p.kind is not p.VAR_KEYWORD
    } | SETTINGS.get(name, {})
