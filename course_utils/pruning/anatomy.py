"""Where the parts of a transformer block are, and how to cut them out of it."""

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import sharing, walk
from course_utils.models.empty import compute_buffers, empty_like

ONE_NUMBER = (
    "the config has one number of channels and one of heads for all blocks, so that every block "
    "loses as many; for some layers only use wanda, sparsegpt or magnitude."
)
# config fields with an entry for each block
LAYER_BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")
# Jamba: block i has attention, or experts, where i mod the first is the second
RHYTHMS = (
    ("attn_layer_period", "attn_layer_offset"),
    ("expert_layer_period", "expert_layer_offset"),
)
ALL_STAY = "use wanda or sparsegpt, which keep all blocks."
WHOLE_BLOCKS = (
    "a block goes whole or stays whole, so that there is nothing to set for single layers; "
    "name the blocks that stay with ignore."
)


@dataclass(frozen=True)
class Anatomy:
    """Names inside a block.

    `attention_in` and `mlp_in` read the residual stream, the outs write to it.
    """

    attention_in: tuple[str, ...]
    attention_out: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    width: str  # the config's name for the number of MLP channels


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
KNOWN = (
    Anatomy(
        QKV,
        "self_attn.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
        "intermediate_size",
    ),
    Anatomy(QKV, "self_attn.out_proj", ("fc1",), "fc2", "ffn_dim"),
    Anatomy(("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", "n_inner"),
)


def of(model: PreTrainedModel) -> Anatomy:
    """The anatomy of a model's blocks.

    Raises CompressionError for one that is not known or not dense.
    """
    names = set(walk.linears(walk.blocks(model)[0]))
    for anatomy in KNOWN:
        if names >= {
            *anatomy.attention_in,
            anatomy.attention_out,
            *anatomy.mlp_in,
            anatomy.mlp_out,
        }:
            return anatomy
    raise CompressionError(
        f"model: the parts of {type(model).__name__}'s blocks are not known; pruning of heads "
        "and of the stream knows dense models built like Llama, Qwen2 and Mistral, OPT, and GPT-2. "
        "Use prune_mlp, prune_layers or wanda. Prune before quantizing."
    )


def check_heads(model: PreTrainedModel, parts: Anatomy, size: int) -> None:
    """Raises CompressionError if attention holds more than its projections and norms of one head,
    all `size` wide.
    """
    known = (*parts.attention_in, parts.attention_out)
    inside = parts.attention_out.partition(".")[0]
    for name, parameter in walk.blocks(model)[0].get_submodule(inside).named_parameters():
        if f"{inside}.{name}".rpartition(".")[0] not in known and (
            parameter.shape != (size,) or name.count(".") > 1
        ):
            raise CompressionError(
                f"model: {model.config.model_type}'s {inside}.{name} belongs to all heads together "
                "or to one each, which head pruning does not know; use prune_mlp or prune_layers."
            )


def check_model(model: nn.Module, *, by_block: bool = False) -> None:
    """Raises CompressionError unless this is a Hugging Face model with finite values and without
    adapters; see `walk.check_model`.
    """
    walk.check_model(model, by_block=by_block)
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            "model: structured pruning of language models needs a Hugging Face model; "
            "for nn.Sequential use pruning.magnitude."
        )


def take(module: nn.Module, *, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Keep only these outputs (rows, with their biases) or inputs (columns) of a linear layer, in
    place.
    """
    weight = walk.weight_of(module)
    if rows is not None:
        weight = weight[rows]
        if module.bias is not None:
            module.bias = nn.Parameter(
                module.bias.detach()[rows].clone(), module.bias.requires_grad
            )
    if columns is not None:
        weight = weight[:, columns]
    set_weight(module, weight)


def set_weight(module: nn.Module, weight: Tensor) -> None:
    """Give a linear layer the weight (out, in) and the matching sizes, in place."""
    old = module.weight
    stored = weight.T if isinstance(module, Conv1D) else weight
    module.weight = nn.Parameter(stored.to(old.dtype).contiguous(), old.requires_grad)
    names = ("nf", "nx") if isinstance(module, Conv1D) else ("out_features", "in_features")
    for name, size in zip(names, weight.shape, strict=True):
        setattr(module, name, size)


def smaller_config(config: Any, **changes: Any) -> Any:
    """A copy of a config with these fields changed, of a model with towers those of its language
    model.

    Raises CompressionError if the model type does not allow them.
    """
    new = copy.deepcopy(config)
    try:
        for key, value in changes.items():
            setattr(new.get_text_config(), key, value)
        type(config).from_dict(new.to_dict())
    except Exception as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise CompressionError(
            f"model: {config.model_type} cannot be {changes} ({reason}); keep another number."
        ) from error
    return new


def said_of_blocks(config: PretrainedConfig, chosen: Sequence[int]) -> dict[str, Any]:
    """The fields of a config that say something of single blocks, for the blocks `chosen` in this
    order.

    Lists with an entry for each block, pairs of kinds and counts (GPT-Neo), lists of numbers of
    blocks (Bamba); which blocks have experts, as DeepSeek (the first k have none), Qwen (a list of
    those without, beside a rhythm), ERNIE (a first and a last one) and Jamba (`RHYTHMS`) say it.
    Raises CompressionError where such a config cannot say it of the blocks that stay.
    """
    told = config.to_dict()
    fields: dict[str, Any] = {
        k: [v[i] for i in chosen] for k, v in told.items() if k in LAYER_BY_LAYER and v
    }
    if "attention_types" in told and "attention_layers" in told:
        kinds = [told["attention_layers"][i] for i in chosen]
        fields |= {"attention_types": [[[kind], 1] for kind in kinds], "attention_layers": kinds}
    if numbers := told.get("attn_layer_indices"):
        fields["attn_layer_indices"] = [new for new, i in enumerate(chosen) if i in numbers]
    if block_types := told.get("block_types"):  # RecurrentGemma's are repeated to its end
        fields["block_types"] = [block_types[i % len(block_types)] for i in chosen]
    for period, offset in RHYTHMS:
        if period in told:
            which = [i % told[period] == told[offset] for i in chosen]
            fields |= _rhythm(which, period, offset, f"layers={list(chosen)}: {config.model_type}")
    if "first_k_dense_replace" in told:
        dense = [i < told["first_k_dense_replace"] for i in chosen]
        fields["first_k_dense_replace"] = sum(dense)
        possible = dense == sorted(dense, reverse=True)
    elif "mlp_only_layers" in told:
        without, step = told["mlp_only_layers"] or [], told.get("decoder_sparse_step", 1)
        fields |= {
            "mlp_only_layers": [
                new for new, i in enumerate(chosen) if i in without or (i + 1) % step
            ],
            "decoder_sparse_step": 1,
        }
        possible = True
    elif "moe_layer_start_index" in told:
        every, last = told.get("moe_layer_interval", 1), told["moe_layer_end_index"]
        last = told["num_hidden_layers"] - 1 if last < 0 else last
        sparse = [
            new
            for new, i in enumerate(chosen)
            if (i + 1) % every == 0 and told["moe_layer_start_index"] <= i <= last
        ]
        first, end = (sparse[0], sparse[-1]) if sparse else (len(chosen), len(chosen))
        fields |= {
            "moe_layer_start_index": first,
            "moe_layer_end_index": end,
            "moe_layer_interval": 1,
        }
        possible = len(sparse) in (0, end - first + 1)
    else:
        return fields
    if not possible:
        raise CompressionError(
            f"layers={list(chosen)}: {config.model_type}'s config can only say "
            "that blocks with experts follow each other, behind those without; "
            "keep other blocks, or these in their order."
        )
    return fields


def _rhythm(which: list[bool], period: str, offset: str, about: str) -> dict[str, int]:
    """The fields that say n mod period = offset of exactly these blocks n.

    Raises CompressionError if none do.
    """
    for p in range(1, len(which) + 2):
        for o in range(p):
            if which == [n % p == o for n in range(len(which))]:
                return {period: p, offset: o}
    raise CompressionError(
        (
            f"{about}'s config says by a rhythm ({period}) which blocks are of which kind, "
            "and the blocks that stay have none; keep others, or "
        )
        + ALL_STAY
    )


def config_of_blocks(config: PretrainedConfig, chosen: Sequence[int]) -> PretrainedConfig:
    """A copy of a config for a model with the blocks `chosen` alone.

    Raises CompressionError, and as `said_of_blocks`, where it cannot be one.
    """
    fields = said_of_blocks(config.get_text_config(), chosen)
    try:
        return smaller_config(config, num_hidden_layers=len(chosen), **fields)
    except CompressionError as error:
        raise CompressionError(
            f"model: {config.model_type}'s config says something of single blocks in a way that "
            f"is not known here, so that it cannot be written for fewer; {ALL_STAY}"
        ) from error


def check_fewer_blocks(model: PreTrainedModel, *, free: bool) -> None:
    """Raises CompressionError, before any work, for a model of which blocks cannot go.

    `free`: any of them may, not neighbours only.

    Its blocks use each other's keys and values (Gemma 3n, Gemma 4); tensors outside of the blocks
    hold something for each of them; its config cannot be written for fewer, or says by a rhythm
    which blocks are of which kind (Jamba).
    """
    config, total = model.config.get_text_config(), len(walk.blocks(model))
    kind, told = config.model_type, config.to_dict()
    if told.get("num_kv_shared_layers"):
        raise CompressionError(
            f"model: the last {told['num_kv_shared_layers']} blocks of {kind} use keys and values "
            f"of blocks before them, so that none can go; {ALL_STAY}"
        )
    periods = [told[p] for p, offset in RHYTHMS if told.get(p, 0) > 1 and told[offset] < total]
    if free and periods:
        raise CompressionError(
            f"model: {kind}'s config says by a rhythm of {math.lcm(*periods)} "
            "blocks of which kind each is, so that they cannot go one by one; "
            f"use prune_blocks and remove a multiple of {math.lcm(*periods)}, or {ALL_STAY}"
        )
    inside = walk.place_of_blocks(model)
    smaller = empty_like(type(model), config_of_blocks(model.config, range(total - 1)))
    there = {name: tensor.shape for name, tensor in smaller.state_dict().items()}
    for name, tensor in model.state_dict().items():
        if not name.startswith(inside) and there.get(name) != tensor.shape:
            raise CompressionError(
                f"model: {kind}'s {name} holds something for each block, outside of the blocks, "
                f"so that none can go; {ALL_STAY}"
            )


def runs_that_may_go(model: PreTrainedModel, n: int, stay: Collection[int]) -> list[int]:
    """The first block of each run of n neighbours that may go: no block of `stay` is in it, and
    the model's config can say which blocks are left.

    Raises CompressionError if there is none.
    """
    config, total = model.config.get_text_config(), len(walk.blocks(model))
    free = [i for i in range(total - n + 1) if not any(i <= block < i + n for block in stay)]
    if not free:
        raise CompressionError(
            f"ignore: every run of {n} blocks has one that it names; keep more, or name fewer."
        )
    found, refused = [], None
    for first in free:
        try:
            said_of_blocks(config, [i for i in range(total) if not first <= i < first + n])
            found.append(first)
        except CompressionError as error:
            refused = error
    if refused and not found:
        raise refused
    return found


def rebuild(model: PreTrainedModel, config: Any, tensors: dict[str, Tensor]) -> PreTrainedModel:
    """An ordinary model of this config with these tensors, where `model` was (device, precision,
    mode).
    """
    attention = getattr(model.config, "_attn_implementation", None)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        new = type(model)._from_config(
            copy.deepcopy(config), dtype=model.dtype, attn_implementation=attention
        )
    tied = set(getattr(new, "all_tied_weights_keys", None) or {})
    dtypes = {name: tensor.dtype for name, tensor in new.state_dict().items()}
    tensors = {k: v.to(dtypes.get(k, v.dtype)) for k, v in tensors.items() if k not in tied}
    try:
        found = new.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:  # its first line is a heading
        reason = str(error).strip().split("\n")[-1].strip()
        raise CompressionError(
            f"model: {model.config.model_type}'s layers do not follow the "
            f"smaller config ({reason})."
        ) from error
    wrong = (set(found.missing_keys) - tied) | set(found.unexpected_keys)
    if wrong:
        raise CompressionError(
            f"model: weights and the smaller config disagree about {', '.join(sorted(wrong)[:3])}."
        )
    new.tie_weights()
    compute_buffers(new)
    sharing.own(new, model)
    if hasattr(model, "generation_config"):  # encoders have none
        new.generation_config = copy.deepcopy(model.generation_config)
    return new.to(model.device).train(model.training)
