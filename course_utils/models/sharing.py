"""Copies of a model that do not double its memory: the modules are new, the numbers shared until
they are needed apart.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .experts import list_in_place


def structure(model: nn.Module, *, experts_apart: bool = True) -> Any:
    """A copy whose modules are its own and whose parameters and buffers are the model's, with
    experts taken apart.

    For methods that put other layers or weights in the place of a model's: nothing of the model may
    be changed in place, unless it was set `apart` before.
    """
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    if experts_apart:
        list_in_place(made)
    return made


def memory_of(model: nn.Module) -> set[int]:
    """Where the numbers of a model lie."""
    return {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }


def apart(module: nn.Module, theirs: set[int]) -> None:
    """Give a module, but not those inside it, its own copy of each parameter that lies in the
    memory `theirs`.
    """
    for name, tensor in module._parameters.items():
        if tensor is not None and tensor.untyped_storage().data_ptr() in theirs:
            module._parameters[name] = nn.Parameter(tensor.detach().clone(), tensor.requires_grad)


@torch.no_grad()
def own(made: nn.Module, model: nn.Module) -> Any:
    """Give `made` its own copy of each tensor that it still shares with `model`; tied tensors stay
    tied.

    Returns `made`.
    """
    theirs = memory_of(model)
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
