"""Head pruning where heads · head size = hidden size (OPT, GPT-2): the residual stream gets
narrower by as much.

The configs of these models have no field for the head size, so a model with fewer heads of the same
size can only be written down with a smaller hidden size. Heads go as in `structured.prune_heads`;
of the residual stream the coordinates stay that are largest where the layer norms look, and each
norm's weight is multiplied by √(mean square of those), since the norm over fewer coordinates makes
that 1. This costs much more than the heads alone: train afterwards.
"""

import time

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed
from course_utils.quantization.hessians import shrunk

from . import anatomy, groups, structured
from .refit import ENOUGH, warn_of_few_tokens

FIELDS = {  # model type: (heads, hidden size and what equals it)
    "gpt2": ("n_head", ("n_embd",)),
    "opt": ("num_attention_heads", ("hidden_size", "word_embed_proj_dim")),
}


@torch.no_grad()
def prune_heads(
    model: PreTrainedModel,
    calibration: Tensor,
    *,
    keep: int | float = 0.5,
    score: str = "energy",
    compensate: bool = True,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """OPT or GPT-2 with fewer heads of the same size, and a stream narrower in proportion; an
    ordinary smaller model.

    Settings as in `structured.prune_heads`. The MLP keeps its channels. Works on a copy.
    Raises CompressionError for other model types, empty calibration data or a bad `keep`.
    """
    began = time.perf_counter()
    selection.none_here(anatomy.ONE_NUMBER, ignore, per_layer)
    anatomy.check_model(model)
    config, parts = model.config, anatomy.of(model)
    if config.model_type not in FIELDS:
        raise CompressionError(
            f"model: {config.model_type} is not OPT or GPT-2; its heads go by "
            "structured.prune_heads."
        )
    calibration = walk.check_calibration(calibration, model)
    heads_field, width_fields = FIELDS[config.model_type]
    heads, width = config.num_attention_heads, config.hidden_size
    if getattr(config, "word_embed_proj_dim", width) != width:
        raise CompressionError(
            "model: embeddings of another width than the stream are not handled; use prune_mlp."
        )
    if not getattr(config, "layer_norm_elementwise_affine", True):
        raise CompressionError(
            "model: this OPT's norms have no weights that could take up the smaller width; "
            "use prune_mlp."
        )
    size = width // heads
    count = groups.how_many(heads, keep, "heads")
    inner = walk.weight_of(walk.blocks(model)[0].get_submodule(parts.mlp_out)).shape[1]
    changes = {heads_field: count, parts.width: inner, **dict.fromkeys(width_fields, count * size)}
    smaller = anatomy.smaller_config(config, **changes)
    warn_of_few_tokens(calibration.numel(), width, parts.attention_out, compensate)
    work = sharing.structure(model, experts_apart=False).eval()
    chosen: list[Tensor] = []
    for block, states in walk.through_blocks(work, calibration, "attention heads"):
        out = block.get_submodule(parts.attention_out)
        weight, H = walk.weight_of(out).float(), structured.second_moment(block, states, out)
        chosen.append(groups.kept(groups.score(weight, H, size, score), count))
        columns, new = groups.members(chosen[-1], size), torch.zeros_like(weight)
        new[:, columns] = (
            groups.compensated(weight, shrunk(H, calibration.numel(), ENOUGH), columns)
            if compensate
            else weight[:, columns]
        )
        anatomy.set_weight(out, new)
    energy = stream_energy(work, calibration)
    stay = groups.kept(energy, count * size)
    gain = float(energy[stay].mean().sqrt())
    for block, heads_that_stay in zip(walk.blocks(work), chosen, strict=True):
        inside = groups.members(heads_that_stay, size)
        fused = len(parts.attention_in) == 1  # GPT-2 keeps q, k and v in one matrix
        rows = torch.cat([inside + i * width for i in range(3)]) if fused else inside
        for name in parts.attention_in:
            anatomy.take(block.get_submodule(name), rows=rows, columns=stay)
        anatomy.take(block.get_submodule(parts.attention_out), rows=stay, columns=inside)
        for name in parts.mlp_in:
            anatomy.take(block.get_submodule(name), columns=stay)
        anatomy.take(block.get_submodule(parts.mlp_out), rows=stay)
    for module in work.modules():
        _narrow(module, width, stay, gain)
    anatomy.take(work.get_output_embeddings(), columns=stay)
    settings = {
        "method": "prune_heads",
        "heads": count,
        "of": heads,
        "hidden_size": count * size,
        "score": score,
        "compensate": compensate,
    }
    details = {"kept": [c.tolist() for c in chosen], "coordinates": stay.tolist()}
    return Compressed(
        anatomy.rebuild(model, smaller, work.state_dict()),
        settings,
        time.perf_counter() - began,
        details,
    )


def stream_energy(model: PreTrainedModel, calibration: Tensor) -> Tensor:
    """The mean square of each coordinate of (x − mean) / deviation, over tokens and over the stream
    between blocks.
    """
    parts = []
    for x in structured.residual_stream(model, calibration):
        x = x - x.mean(-1, keepdim=True)
        parts.append(
            (x / x.square().mean(-1, keepdim=True).clamp(min=1e-12).sqrt()).square().mean(0)
        )
    return torch.stack(parts).mean(0)


def _narrow(module: nn.Module, width: int, stay: Tensor, gain: float) -> None:
    """Layer norms and embeddings of the stream keep its coordinates `stay`."""
    if isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,):
        module.weight = nn.Parameter(module.weight[stay] * gain)
        module.bias = nn.Parameter(module.bias[stay])
    elif isinstance(module, nn.Embedding) and module.embedding_dim == width:
        module.weight = nn.Parameter(module.weight[:, stay])
