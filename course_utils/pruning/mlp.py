"""Which layers make and read the channels of a block's MLP: from a list of names, or found by
running a block (`models.readers`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, readers, walk
from course_utils.quantization.compressed import empty_like

from . import anatomy

FIELDS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")


@dataclass(frozen=True)
class Channels:
    """`out` reads the channels.

    Channel i is made by the outputs `made[name][i]` of each layer `name`. `width`: the config's
    name.
    """

    out: str
    made: dict[str, Tensor]
    width: str


def of(model: PreTrainedModel) -> Channels:
    """The MLP's channels in each block.

    Raises CompressionError, naming the model, where none are found or the config has no number of
    them.
    """
    if experts.fused(model) or experts.names_of_listed(model):
        raise CompressionError(
            f"model: {type(model).__name__} is a mixture of experts, whose channels are not pruned "
            "here; use wanda or sparsegpt."
        )
    block = walk.blocks(model)[0]
    names = set(walk.linears(block))
    for known in anatomy.KNOWN:
        there = names >= {*known.attention_in, known.attention_out, *known.mlp_in, known.mlp_out}
        if (
            there
            and hasattr(model.config.get_text_config(), known.width)
            and not _more_inside(block, known)
        ):
            size = walk.weight_of(block.get_submodule(known.mlp_out)).shape[1]
            return Channels(
                known.mlp_out,
                {name: torch.arange(size)[:, None] for name in known.mlp_in},
                known.width,
            )
    return _found(model)


def _more_inside(block: nn.Module, known: anatomy.Anatomy) -> bool:
    """Whether the MLP holds parameters beside those of its layers, such as a norm over its channels
    (BitNet).
    """
    inside, _, _ = known.mlp_out.rpartition(".")
    layers = tuple(f"{name}." for name in (*known.mlp_in, known.mlp_out))
    return bool(inside) and any(
        not f"{inside}.{name}".startswith(layers)
        for name, _ in block.get_submodule(inside).named_parameters()
    )


def _found(model: PreTrainedModel) -> Channels:
    near, far = readers.probe_ids(model)
    training = model.training
    model.eval()
    try:
        (_, one), (_, several) = (
            next(walk.through_blocks(model, ids, batch=readers.TOKENS)) for ids in (near, far)
        )
    finally:
        model.train(training)
    probe = readers.Probe(walk.blocks(model)[0], one, several)
    for out in reversed(probe.before):
        size = walk.weight_of(probe.layers[out]).shape[1]
        made: dict[str, Tensor] = {}
        for source in probe.before:
            behind = _made_by(probe, source, out, size) if source != out else None
            if behind is not None:
                made[source] = behind
        if made and not any(_mixes(probe, source, out) for source in made):
            return Channels(out, made, _width(model, out, made, size))
    raise CompressionError(
        f"model: in the blocks of {type(model).__name__} no layer was found that reads the "
        "channels of an MLP one by one; use prune_layers, or wanda. Prune before quantizing."
    )


def _noisy(out: Tensor, rows: Tensor, first_token: bool = False) -> Tensor:
    noise = torch.zeros_like(out)
    noise[..., rows] = 1 + out.detach().abs().mean()
    if first_token:
        noise[:, 1:] = 0
    return out + noise


def _made_by(probe: readers.Probe, source: str, out: str, size: int) -> Tensor | None:
    """(size, k): the outputs of `source` that make each input of `out`, if changing some of them
    changes exactly those inputs.
    """
    rows = walk.weight_of(probe.layers[source]).shape[0]
    place = torch.arange(size)[:, None]
    layouts = {
        size: [place],
        2 * size: [torch.cat([place, place + size], 1), torch.cat([2 * place, 2 * place + 1], 1)],
    }.get(rows, [])
    if not layouts:
        return None
    some = torch.rand(rows, generator=torch.Generator().manual_seed(3)) < 0.3
    with probe.changed(source, partial(_noisy, rows=some.nonzero().flatten())):
        after = probe.inputs()
    if out not in after:
        return None
    moved = ((after[out] - probe.before[out]).abs() > 1e-6).any(0).cpu()
    return next((layout for layout in layouts if torch.equal(moved, some[layout].any(1))), None)


def _mixes(probe: readers.Probe, source: str, out: str) -> bool:
    """Whether the first token's output reaches other tokens' inputs, as through attention."""
    before = probe.inputs(probe.far)[out]
    rows = torch.arange(walk.weight_of(probe.layers[source]).shape[0])
    with probe.changed(source, partial(_noisy, rows=rows, first_token=True)):
        after = probe.inputs(probe.far)[out]
    moved = ((after - before).abs() > 1e-6).any(1).view(-1, readers.CONTEXT)
    return bool(moved[:, 1:].any())


def _width(model: PreTrainedModel, out: str, made: dict[str, Tensor], size: int) -> str:
    """The config's field that sets the number of channels: with another number, these layers and no
    others change.
    """
    config: Any = model.config
    fields = [
        name
        for name, value in config.get_text_config().to_dict().items()
        if value == size or (name in FIELDS and value is None)
    ]
    for name in sorted(fields, key=lambda name: name not in FIELDS):
        try:
            skeleton = walk.blocks(
                empty_like(type(model), anatomy.smaller_config(config, **{name: size // 2}))
            )[0]
        except Exception:  # this field means something else
            continue
        shapes = {n: tuple(walk.weight_of(m).shape) for n, m in walk.linears(skeleton).items()}
        wanted = {
            n: tuple(walk.weight_of(m).shape)
            for n, m in walk.linears(walk.blocks(model)[0]).items()
        }
        wanted[out] = (wanted[out][0], size // 2)
        wanted |= {n: (rows.shape[1] * (size // 2), wanted[n][1]) for n, rows in made.items()}
        if shapes == wanted:
            return name
    raise CompressionError(
        f"model: the config of {config.model_type} has no number of MLP channels "
        "(it follows from the hidden size), so that a model with fewer cannot be written down; "
        "use prune_layers, or wanda."
    )
