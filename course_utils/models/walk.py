"""Walk a transformer block by block: find its linear layers, feed it, replace its parts."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError

# where each architecture keeps its list of blocks
BLOCK_PATHS = ("model.layers", "model.decoder.layers", "transformer.h", "gpt_neox.layers", "decoder.layers", "layers", "h")


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks in order. Raises CompressionError for an architecture that is not known."""
    for path in BLOCK_PATHS:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList) and len(found):
            return found
    raise CompressionError(
        f"model: no transformer blocks found in {type(model).__name__}; known places are {', '.join(BLOCK_PATHS)} "
        "(Llama, Qwen, Mistral, OPT, GPT-2, GPT-NeoX and their kin)."
    )


def linears(module: nn.Module) -> dict[str, nn.Module]:
    """Every nn.Linear and GPT-2 Conv1D below `module`, by name, in the order of definition."""
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def compressible(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that compression works on: those of the blocks, or of the whole module if it has none.

    A transformer's embeddings and output head are left out. Raises CompressionError if nothing is left.
    """
    if isinstance(model, PreTrainedModel):
        inside = {id(m) for m in linears(blocks(model)).values()}
        found = {name: m for name, m in linears(model).items() if id(m) in inside}
    else:
        found = linears(model)
    if not found:
        raise CompressionError("model: holds no nn.Linear or Conv1D to compress; was it compressed already?")
    return found


def weight_of(module: nn.Module) -> Tensor:
    """The weight as (out_features, in_features); Conv1D stores it transposed."""
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where the submodule `name` is."""
    if not name:
        raise CompressionError("model: is itself one linear layer; wrap it in nn.Sequential.")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new.train(model.training))


class _Captured(Exception):
    pass


def check_calibration(calibration: Tensor) -> Tensor:
    """Token ids (sequences, context). Raises CompressionError when there are none."""
    if not isinstance(calibration, Tensor) or calibration.dim() != 2 or calibration.numel() == 0:
        raise CompressionError("calibration: expected token ids of shape (sequences, context), at least one of each.")
    return calibration.long()


@torch.no_grad()
def first_block_inputs(model: PreTrainedModel, ids: Tensor, batch: int = 8) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """For each batch of token ids: what enters the first block, (hidden states, keyword arguments)."""
    first = blocks(model)[0]
    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def catch(module, args, kwargs):
        hidden = args[0] if args else kwargs.pop("hidden_states")
        caught.append((hidden, kwargs))
        raise _Captured

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for part in ids.split(batch):
            try:
                model(input_ids=part, use_cache=False)
            except _Captured:
                yield caught.pop()
    finally:
        handle.remove()


@torch.no_grad()
def run_block(block: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """One block's output hidden states."""
    out = block(hidden, **kwargs)
    return out[0] if isinstance(out, tuple) else out
