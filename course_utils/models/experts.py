"""Mixtures of experts: from one tensor for all experts, as transformers keeps them, to a list of
linear layers, and back.

Every method here works on linear layers. `listed` gives each expert its own two, `gate_up_proj` (or
`up_proj`) and `down_proj`, which compute the same; `fuse` undoes it for results that are ordinary
models, so that files have the library's names.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError

from .blocks import linears

_CLASSES: dict[type, type] = {}  # fused class → its listed subclass


def fused(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold the weights of several experts in tensors of three dimensions, by name."""
    return {
        name: m
        for name, m in model.named_modules()
        if not isinstance(m, _Listed)
        and sum(p.dim() == 3 and p.numel() > p.shape[-1] for p in m.parameters(recurse=False)) >= 2
        and "proj" in "".join(n for n, p in m.named_parameters(recurse=False) if p.dim() == 3)
    }


class _Listed:
    """The forward pass over a list of experts; a mixin in front of the fused class, whose gate and
    activation it uses.
    """

    def forward(
        self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
    ) -> Tensor:
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.listed):
            token, place = torch.where(top_k_index == number)
            if not len(token):
                continue
            inner = expert[self.into](flat[token])
            inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
            y = expert["down_proj"](inner) * top_k_weights[token, place, None]
            out.index_add_(0, token, y.to(out.dtype))
        return out.view_as(hidden_states)


def is_listed(module: nn.Module) -> bool:
    """Whether a module's experts were made a list of linear layers here; its `into` names the first
    one of each.
    """
    return isinstance(module, _Listed)


def _refuse(name: str, module: nn.Module, why: str) -> CompressionError:
    return CompressionError(
        f"{name}: the experts of a {type(module).__name__} lie in tensors that cannot be taken "
        f"apart here ({why}), so that most of the model would stay as it is. Compress a model "
        "of another type, or only its other layers with a tool that knows this one."
    )


def list_in_place(model: nn.Module) -> list[str]:
    """Give every fused module of `model` a list of experts, in place; the names of those modules.

    Raises CompressionError, naming the module, for a kind that cannot be taken apart.
    """
    names = []
    for name, module in fused(model).items():
        _list(name, module)
        names.append(name)
    return names


def _list(name: str, module: Any) -> None:
    if not hasattr(module, "has_gate") or getattr(module, "has_post_expert_norm", False):
        raise _refuse(name, module, "it does not follow transformers' interface for experts")
    into = "gate_up_proj" if module.has_gate else "up_proj"
    held = {n for n, p in module.named_parameters(recurse=False) if p.dim() == 3}
    if held != {into, "down_proj"}:
        raise _refuse(name, module, f"it holds {', '.join(sorted(held))}")
    experts = nn.ModuleList()
    for i in range(len(getattr(module, into))):
        experts.append(
            nn.ModuleDict({part: _linear(module, part, i) for part in (into, "down_proj")})
        )
    for part in (into, "down_proj"):
        delattr(module, part)
        if module.has_bias:
            delattr(module, f"{part}_bias")
    kind = type(module)
    module.into, module.listed = into, experts
    module.__class__ = _CLASSES.setdefault(
        kind, type(f"Listed{kind.__name__}", (_Listed, kind), {})
    )


def _linear(module: Any, part: str, i: int) -> nn.Linear:
    """One expert's projection as a linear layer that shares the tensor's memory."""
    whole = getattr(module, part)
    weight = whole.detach()[i].T if module.is_transposed else whole.detach()[i]
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=module.has_bias, device="meta")
    layer.weight = nn.Parameter(weight, whole.requires_grad)
    if module.has_bias:
        layer.bias = nn.Parameter(getattr(module, f"{part}_bias").detach()[i], whole.requires_grad)
    return layer.train(module.training)


def listed(model: nn.Module) -> Any:
    """The model itself if no experts are fused; otherwise a copy in which each expert has linear
    layers of its own.
    """
    return copy_listed(model) if fused(model) else model


def copy_listed(model: nn.Module) -> Any:
    """A copy of a model in which no experts are fused."""
    made = copy.deepcopy(model)
    list_in_place(made)
    return made


def fuse(model: nn.Module) -> Any:
    """Undo `list_in_place`, in place, where all experts still are plain linear layers.

    Returns the model.
    """
    every: list[Any] = [module for module in model.modules() if isinstance(module, _Listed)]
    for module in every:
        if all(set(linears(expert)) == set(expert) for expert in module.listed):
            _fuse(module)
    return model


def _fuse(module: Any) -> None:
    for part in (module.into, "down_proj"):
        layers = [expert[part] for expert in module.listed]
        weight = torch.stack(
            [
                layer.weight.detach().T if module.is_transposed else layer.weight.detach()
                for layer in layers
            ]
        )
        setattr(module, part, nn.Parameter(weight, layers[0].weight.requires_grad))
        if module.has_bias:
            setattr(
                module,
                f"{part}_bias",
                nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])),
            )
    del module.listed, module.into
    module.__class__ = type(module).__mro__[2]


def names_of_listed(model: nn.Module) -> list[str]:
    """The modules of a model whose experts are listed, for the files of a result."""
    return [name for name, module in model.named_modules() if isinstance(module, _Listed)]
