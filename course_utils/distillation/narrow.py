"""A narrower copy of a model: the directions of its residual stream that carry most, then fewer
heads and channels.

A root-mean-square norm does not notice a rotation of its input once its own weights are folded into
the layers behind it. So the stream can be turned by an orthogonal Q and then cut to its first
columns (SliceGPT; Ashkboos et al., 2024):

    embedding E → E Q,   reading layer W → W diag(g) Q,   writing layer W → Qᵀ W,
    norm weights → √(d / h) ρ

with the same Q everywhere, so that an ordinary smaller model of the same type comes out; ρ² is the
share of the stream's energy that stays. A tied output head must stay E Q; its norm weights are then
fitted by least squares.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import anatomy, structured

METHODS = ("pca", "importance")


def narrow(
    model: PreTrainedModel, calibration: Tensor | None, *, hidden: int | None = None,
    mlp: int | None = None, heads: int | None = None, method: str = "pca",
) -> PreTrainedModel:  # fmt: skip
    """A copy with `hidden` features in the stream, `mlp` channels and `heads` query heads in each
    block.

    Heads (with the key-value heads they share) and channels are chosen and compensated by
    `pruning.structured`;
    method "pca" keeps the leading principal directions of the normed stream, "importance" its
    largest coordinates.
    `calibration`: token ids (n, context). Raises CompressionError for a width that does not fit,
    and, for `hidden`, for models without RMS norms (Llama, Qwen2, Mistral and their kin have them).
    """
    if calibration is None:
        raise CompressionError(
            "calibration: needed to see which directions, heads and channels matter; "
            "give token ids."
        )
    calibration = walk.check_calibration(calibration, model)
    if method not in METHODS:
        raise CompressionError(f"method={method!r}: choose one of {', '.join(METHODS)}.")
    if heads is not None:
        model = structured.prune_heads(model, calibration, keep=int(heads)).model  # type: ignore[assignment]
    if mlp is not None:
        model = structured.prune_mlp(model, calibration, keep=int(mlp)).model  # type: ignore[assignment]
    return (
        copy.deepcopy(model)
        if hidden is None
        else narrow_stream(model, calibration, hidden, method)
    )


@torch.no_grad()
def directions(
    model: PreTrainedModel, calibration: Tensor, method: str = "pca"
) -> tuple[Tensor, Tensor]:
    """(Q, energy): an orthogonal basis (d, d) in float64 by falling energy, and the energy of each
    direction.

    The energy of q is the mean over the stream before and after all blocks, and over tokens, of
    (qᵀx)² / mean(x²), which is what the layers behind a norm see; it sums to d.
    """
    moments = []
    for x in structured.residual_stream(model, calibration):
        normed = x * x.square().mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
        moments.append(normed.T @ normed / len(x))
    moment = torch.stack(moments).mean(0)
    if method == "importance":
        energy, order = moment.diagonal().sort(descending=True)
        return torch.eye(len(moment), dtype=torch.float64, device=moment.device)[:, order], energy
    energy, basis = torch.linalg.eigh(moment)
    return basis.flip(-1), energy.flip(-1)


@torch.no_grad()
def narrow_stream(
    model: PreTrainedModel, calibration: Tensor, hidden: int, method: str = "pca"
) -> PreTrainedModel:
    """Only the residual stream made narrower; see `narrow`."""
    parts, config = anatomy.of(model), model.config
    norms = ("input_layernorm", "post_attention_layernorm")
    final = getattr(model.base_model, "norm", None)
    named = dict(walk.blocks(model)[0].named_children())
    if not all(is_rms_norm(norm) for norm in (final, *map(named.get, norms))):
        raise CompressionError(
            f"hidden={hidden}: {config.model_type} has no plain RMS norms, so its stream cannot be "
            "turned; leave hidden out."
        )
    width = config.hidden_size
    if not 1 <= hidden <= width:
        raise CompressionError(f"hidden={hidden}: choose 1 … {width}.")
    size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    smaller = anatomy.smaller_config(config, hidden_size=hidden, head_dim=size)
    basis, energy = directions(model, calibration, method)
    turn = basis[:, :hidden].float()
    gain = float((width / hidden * energy[:hidden].sum() / energy.sum()).sqrt())
    work = copy.deepcopy(model).float()
    inner: Any = work.base_model
    for block in walk.blocks(work):
        readers = {norms[0]: parts.attention_in, norms[1]: parts.mlp_in}
        for norm_name, names in readers.items():
            norm: Any = block.get_submodule(norm_name)
            for name in names:
                reader = block.get_submodule(name)
                anatomy.set_weight(reader, walk.weight_of(reader) * norm.weight @ turn)
            norm.weight = nn.Parameter(torch.full((hidden,), gain))
        for name in (parts.attention_out, parts.mlp_out):
            writer: Any = block.get_submodule(name)
            anatomy.set_weight(writer, turn.T @ walk.weight_of(writer))
            if writer.bias is not None:
                writer.bias = nn.Parameter(turn.T @ writer.bias)
    embedding: Any = work.get_input_embeddings().weight
    head: Any = work.get_output_embeddings().weight
    outward = head * inner.norm.weight @ turn
    tied = head is embedding or head.data_ptr() == embedding.data_ptr()
    turned = embedding @ turn
    fit = (
        (turned * outward).sum(0) / turned.square().sum(0).clamp(min=1e-12)
        if tied
        else torch.ones(hidden)
    )
    tensors = work.state_dict()
    tensors |= {_name(work, embedding): turned, _name(work, inner.norm.weight): gain * fit}
    if not tied:
        tensors[_name(work, head)] = outward
    return anatomy.rebuild(
        model, smaller, {k: v.to(model.dtype).contiguous() for k, v in tensors.items()}
    )


def is_rms_norm(norm: Any) -> bool:
    """Whether a module computes weight · x / √(mean(x²) + ε)
    (Gemma's, for one, uses 1 + weight).
    """
    weight = getattr(norm, "weight", None)
    if weight is None or getattr(norm, "bias", None) is not None:
        return False
    x = torch.linspace(-2, 3, weight.numel(), device=weight.device, dtype=torch.float32)[None]
    return torch.allclose(
        norm(x).float(), x * weight.float() / x.square().mean().sqrt(), rtol=1e-2, atol=1e-2
    )


def _name(model: nn.Module, wanted: Tensor) -> str:
    return next(name for name, parameter in model.named_parameters() if parameter is wanted)
