"""Bytes: what a model holds in memory, and what a configuration will need,
without allocating it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from course_utils.errors import CompressionError
from course_utils.models import walk

from .configs import CONFIGS

Described = str | dict[str, Any] | PretrainedConfig | PreTrainedModel


def bytes_in_memory(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; a storage that several share (tied weights, views)
    counts once, in full.
    """
    sizes = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr() or id(tensor)] = storage.nbytes()
    return sum(sizes.values())


def configuration(described: Described) -> PretrainedConfig:
    """The configuration of a name in `evaluation.configs.CONFIGS`, of a dict with its model_type,
    or of a model.
    """
    if isinstance(described, PreTrainedModel):
        return described.config
    if isinstance(described, PretrainedConfig):
        return described
    if isinstance(described, str):
        if described not in CONFIGS:
            raise CompressionError(
                f"config={described!r}: known names are {', '.join(CONFIGS)}; "
                "or pass a configuration."
            )
        described = CONFIGS[described]
    if "model_type" not in described:
        raise CompressionError("config: a dict needs its 'model_type', such as 'llama'.")
    return AutoConfig.for_model(**{k: v for k, v in described.items() if k != "source"})


def skeleton(described: Described) -> PreTrainedModel:
    """The model of a configuration on the meta device: every shape, no bytes.

    An encoder comes without a head.
    """
    if isinstance(described, PreTrainedModel):
        return described
    config = copy.deepcopy(configuration(described))
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(
        config, "is_decoder", False
    )
    auto = (
        AutoModelForCausalLM
        if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not encoder
        else AutoModel
    )
    with torch.device("meta"):
        return auto.from_config(config)


def parameter_counts(described: Described) -> dict[str, int]:
    """Parameters in embeddings, attention, mlp, norms, head and in total; a tied head counts with
    the embeddings.
    """
    model, counts, seen = (
        skeleton(described),
        dict.fromkeys(("embeddings", "attention", "mlp", "norms", "head"), 0),
        set(),
    )
    inside = {id(p) for p in walk.blocks(model).parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[part_of(name, parameter, id(parameter) in inside)] += parameter.numel()
    return counts | {"total": sum(counts.values())}


def part_of(name: str, parameter: Tensor, in_block: bool) -> str:
    """The part of a model that a parameter belongs to: norms, attention, mlp, head or embedding."""
    if "norm" in name or ".ln_" in name:
        return "norms"
    if in_block:
        return "attention" if "attn" in name or "attention" in name else "mlp"
    return "head" if "lm_head" in name or "project_out" in name else "embeddings"


def kv_cache(config: PretrainedConfig, *, context: int, batch: int, bits: float = 16) -> int:
    """2 (keys and values) × layers × key-value heads × head width × context × batch × bytes."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return round(2 * config.num_hidden_layers * kv_heads * width * context * batch * bits / 8)


# entries per MLP unit that an activation function leaves for the backward pass, the next layer's
# input among them
KEPT_BY = {"relu": 1, "gelu_new": 5}


def block_entries(model: nn.Module, config: PretrainedConfig) -> int:
    """Intermediate results of one token in one block, in entries (h hidden, q and k widths of query
    and key, f of the MLP).

    4 h: the inputs and outputs of both norms (2 h more for an RMSNorm, which keeps its normalized
    input);
    2 q + 2 k: queries, keys, values and the attention's output; 4 f for a gated MLP (gate, its
    activation, up, their product), else 2 f (1 f for ReLU, 5 f for GPT-2's tanh GELU, written in
    single steps), for each expert that a token visits. Attention is taken to be fused: no context ×
    context matrix is stored.
    """
    heads, h = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or h // heads
    q, k = heads * width, (getattr(config, "num_key_value_heads", None) or heads) * width
    f = next(
        (
            v
            for v in (getattr(config, a, None) for a in ("intermediate_size", "ffn_dim", "n_inner"))
            if v
        ),
        4 * h,
    )
    names = [name for name, _ in walk.blocks(model)[0].named_parameters()]
    norms = 4 if any(n.endswith("bias") and ("norm" in n or "ln_" in n) for n in names) else 6
    function = str(
        getattr(config, "hidden_act", None) or getattr(config, "activation_function", "")
    )
    mlp = 4 if any("gate" in n for n in names) else KEPT_BY.get(function, 2)
    mlp *= getattr(config, "num_experts_per_tok", None) or 1
    return norms * h + 2 * q + 2 * k + mlp * f


def activations(
    model: nn.Module,
    config: PretrainedConfig,
    *,
    context: int,
    batch: int,
    bits: float,
    training: bool,
) -> int:
    """Bytes of intermediate results; `block_entries` says what is counted in a block.

    Training keeps every block's until the backward pass (nothing is recomputed), and the logits'
    log-softmax in 32 bits. Inference needs one block's at a time while the prompt is read, and one
    row of logits for each sequence.
    """
    tokens, block = batch * context, block_entries(model, config)
    if not training:
        return round((tokens * block + batch * config.vocab_size) * bits / 8)
    return round(tokens * (config.num_hidden_layers * block * bits / 8 + 4 * config.vocab_size))


def budget(
    config: Described, *, dtype_bits: float = 16, context: int = 4096, batch: int = 1,
    training: bool = False,
    kv_bits: float = 16,
) -> dict[str, int]:  # fmt: skip
    """Bytes a model needs, without allocating it: weights, kv_cache, activations, gradients,
    optimizer, total.

    Inference: N `dtype_bits` / 8 for N parameters (4.25 bits stand for 4-bit codes with a 16-bit
    scale for each 64 weights), the key-value cache of `batch` sequences of `context` tokens, and
    the activations of one block (see `activations`).
    Training with AdamW, `dtype_bits=32`: weights 4 N, gradients 4 N, two moments 8 N.
    `dtype_bits=16`, mixed precision: weights 2 N, gradients 2 N, and the optimizer's 32-bit weights
    and moments 12 N (ZeRO, Rajbhandari et al., 2020, section 3.1). Both are 16 N, and every block's
    activations besides.

    `config`: a name in `evaluation.configs.CONFIGS`, a dict with its model_type, a configuration,
    or a model.
    Raises CompressionError for sizes below one and for training in other than 16 or 32 bits.
    """
    if dtype_bits <= 0 or kv_bits <= 0 or context < 1 or batch < 1:
        raise CompressionError("dtype_bits, kv_bits, context and batch must all be positive.")
    if training and dtype_bits not in (16, 32):
        raise CompressionError(
            f"dtype_bits={dtype_bits}: training is counted for 32 bits and "
            "for 16 (mixed precision)."
        )
    model, found = skeleton(config), configuration(config)
    n = sum(p.numel() for p in model.parameters())
    out = {
        "weights": round(n * dtype_bits / 8),
        "kv_cache": 0
        if training or not model.can_generate()
        else kv_cache(found, context=context, batch=batch, bits=kv_bits),
        "activations": activations(
            model, found, context=context, batch=batch, bits=max(16, dtype_bits), training=training
        ),
        "gradients": round(n * dtype_bits / 8) if training else 0,
        "optimizer": n * (8 if dtype_bits == 32 else 12) if training else 0,
    }
    return out | {"total": sum(out.values())}
