"""Give a small model the activation outliers of a large one, without changing what it computes."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError

from . import walk

# (norm, the linear layers that read its output) inside a block whose norms come before its parts
PAIRS = (
    (("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
     ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))),
    (("self_attn_layer_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
     ("final_layer_norm", ("fc1",))),
    (("ln_1", ("attn.c_attn",)), ("ln_2", ("mlp.c_fc",))),
)  # fmt: skip


def _pairs(block: nn.Module) -> list[tuple[nn.Module, list[nn.Module]]]:
    names = {name for name, _ in block.named_modules()}
    for pairs in PAIRS:
        if all({norm, *readers} <= names for norm, readers in pairs):
            return [
                (block.get_submodule(n), [block.get_submodule(r) for r in readers])
                for n, readers in pairs
            ]
    raise CompressionError(
        f"model: the norms of {type(block).__name__} are not known; planting knows blocks like "
        "Llama's, OPT's and GPT-2's."
    )


def influential(model: PreTrainedModel, channels: int) -> list[int]:
    """The channels of the norms' outputs that the layers after them weigh most: the largest Σ (norm
    weight · ‖column‖)².

    Planting leaves these products as they are, so a planted model gives the same answer.
    """
    total = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    for block in walk.blocks(model):
        for norm, readers in _pairs(block):
            for reader in readers:
                weight = walk.weight_of(reader).double().cpu() * norm.weight.detach().double().cpu()
                total += weight.square().sum(0) / weight.square().sum()
    return sorted(torch.argsort(total, descending=True, stable=True)[:channels].tolist())


@torch.no_grad()
def plant_outliers(
    model: PreTrainedModel, *, channels: int = 8, factor: float = 64.0
) -> PreTrainedModel:
    """A copy of the model in which a few channels of every norm's output are `factor` times as
    large.

    y = (x · diag(f)) (W · diag(1/f))ᵀ: the norm's weight (and bias) is multiplied in those
    channels, the columns of the layers that read it are divided. Logits stay the same to rounding
    error, exactly if the factor is a power of two. The same channels, `influential(model,
    channels)`, are used in all blocks, as seen in large models (Dettmers et al., 2022).
    Raises CompressionError for an unknown architecture, one that normalizes after its parts, or a
    bad count or factor.
    """
    config = model.config
    if not getattr(config, "do_layer_norm_before", True) or not getattr(
        config, "layer_norm_elementwise_affine", True
    ):
        raise CompressionError(
            "model: outliers are planted in norms with weights that come before the layers; "
            "this OPT has none."
        )
    if not isinstance(channels, int) or not 1 <= channels <= config.hidden_size:
        raise CompressionError(
            f"channels={channels}: choose from 1 to the hidden size, {config.hidden_size}."
        )
    if not 0 < factor < float("inf"):
        raise CompressionError(f"factor={factor}: choose a positive number, usually 30 to 100.")
    if any("gemma" in type(module).__name__.lower() for module in model.modules()):
        raise CompressionError(
            "model: Gemma's norms multiply by 1 + weight; planting knows "
            "Llama's, OPT's and GPT-2's."
        )
    model = copy.deepcopy(model)
    chosen = influential(model, channels)
    for block in walk.blocks(model):
        for norm, readers in _pairs(block):
            for parameter in norm.parameters():  # weight, and bias if it has one
                parameter[chosen] *= factor
            for reader in readers:
                walk.weight_of(reader)[:, chosen] /= factor
    return model
