"""Copies of a model that do not double its memory: the modules are new, the numbers shared until they are needed apart."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .experts import list_in_place


def structure(model: nn.Module) -> Any:
    """A copy whose modules are its own and whose parameters and buffers are the model's, with experts taken apart.

    For methods that put other layers in the place of a model's and change no number: nothing of the model may be changed in place.
    """
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    list_in_place(made)
    return made


@torch.no_grad()
def own(made: nn.Module, model: nn.Module) -> Any:
    """Give `made` its own copy of each tensor that it still shares with `model`; tied tensors stay tied. Returns `made`."""
    theirs = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    copies: dict[int, Tensor] = {}
    for module in made.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or tensor.untyped_storage().data_ptr() not in theirs:
                    continue
                if id(tensor) not in copies:
                    copies[id(tensor)] = tensor.clone()
                    if isinstance(tensor, nn.Parameter):
                        copies[id(tensor)] = nn.Parameter(copies[id(tensor)], tensor.requires_grad)
                held[name] = copies[id(tensor)]  # type: ignore[assignment]
    return made
