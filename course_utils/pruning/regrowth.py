"""Sparse from the first step, with connections that move: weights are cut and others grow, as
synapses do.

The number of weights stays the same in each layer. Every so many steps the smallest of them go, and
as many that are zero begin to grow:

    static   nothing moves (the control)
    set      grown by chance (SET; Mocanu et al., 2018)
    rigl     grown where the gradient is largest (RigL; Evci et al., 2020)

The share that moves falls as f(t) = f₀/2 · (1 + cos(π t / T)), T being `until` times the steps.
What grows starts at 0, and so does its momentum. Those just cut may grow again, as in RigL's
algorithm 1. The likeness to brains is where the idea came from; it is no evidence that it works.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import apply, masks, scores

METHODS = ("static", "set", "rigl")


@dataclass(frozen=True)
class Grown:
    """The trained network, its `masks` (True = connected), and (step, share of the connections that
    moved) of every move.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    moved: list[tuple[int, float]] = field(default_factory=list)


def share(step: int, last: float, first: float = 0.3) -> float:
    """f₀/2 · (1 + cos(π t / T)) of the connections move at step t, none from step T on."""
    return first / 2 * (1 + math.cos(math.pi * step / last)) if step < last else 0.0


def regrow(
    weight: Tensor, gradient: Tensor, mask: Tensor, count: int, method: str = "rigl", seed: int = 0
) -> Tensor:
    """The next mask of a layer: `count` of the connected weights are cut, the smallest |w|, and as
    many grow elsewhere.

    'rigl': where |gradient| is largest among all that are then cut; 'set': there by chance. The
    number of connections stays.
    Raises CompressionError for an unknown method, shapes that differ, or more moves than there are
    connections or gaps.
    """
    if method not in METHODS:
        raise CompressionError(f"method={method!r}: choose one of {', '.join(METHODS)}.")
    if not weight.shape == gradient.shape == mask.shape:
        raise CompressionError(
            f"weight, gradient, mask: shapes {tuple(weight.shape)}, {tuple(gradient.shape)}, "
            f"{tuple(mask.shape)} differ."
        )
    active = int(mask.sum())
    if not 0 <= count <= active:
        raise CompressionError(
            f"count={count}: {active} weights are connected; move no more than these."
        )
    if method == "static" or count == 0:
        return mask.clone()
    alive, score = mask.flatten(), weight.abs().flatten()
    stay = masks.top(score.masked_fill(~alive, -1.0), active - count)
    worth = gradient.abs().flatten() if method == "rigl" else scores.random(weight, seed).flatten()
    return (stay | masks.top(worth.masked_fill(stay, -1.0), count)).view_as(mask)


def begin(
    model: nn.Module, sparsity: float, seed: int = 0, dense: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Random masks of this sparsity, the same in every layer but those named in `dense`; every
    layer has draws of its own.
    """
    found = {}
    for i, (name, module) in enumerate(walk.compressible(model).items()):
        weight = walk.weight_of(module)
        found[name] = (
            torch.ones_like(weight, dtype=torch.bool)
            if name in dense
            else masks.make(scores.random(weight, seed * 1000 + i), sparsity)
        )
    return found


def train(
    model: nn.Module, fit: Callable[[nn.Module], object], kept: Mapping[str, Tensor], *, steps: int,
    method: str = "rigl", every: int = 20, first: float = 0.3, until: float = 0.75, seed: int = 0,
) -> Grown:  # fmt: skip
    """Train a copy of `model` by fit(model) with connections that start as `kept` and move every
    `every` steps.

    fit trains in place with an optimizer of torch.optim for `steps` steps, and leaves its gradients
    in `.grad`. The gradient that decides is that of the step just taken, dense: at zeros, too.
    Works for every module with linear layers; a Hugging Face model's embeddings and head stay
    dense. Raises CompressionError for bad masks or settings, and if no step was taken.
    """
    if method not in METHODS:
        raise CompressionError(f"method={method!r}: choose one of {', '.join(METHODS)}.")
    if every < 1 or not 0 <= first <= 1 or not 0 < until <= 1 or steps < 1:
        raise CompressionError(
            f"every={every}, first={first}, until={until}, steps={steps}: "
            "moves need every ≥ 1 and shares from 0 to 1."
        )
    model = copy.deepcopy(model)
    now, moved, taken = {name: mask.clone() for name, mask in kept.items()}, [], 0
    apply.apply(model, now)
    layers = walk.compressible(model)
    parameters = {id(p) for p in model.parameters()}

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal taken
        if not any(
            id(p) in parameters for group in optimizer.param_groups for p in group["params"]
        ):
            return
        taken += 1
        if (
            method != "static"
            and taken % every == 0
            and (part := share(taken, until * steps, first)) > 0
        ):
            changes = sum(
                _move(layers[name], now, name, part, method, seed + 7919 * taken + i, optimizer)
                for i, name in enumerate(now)
            )
            moved.append((taken, changes / sum(int(mask.sum()) for mask in now.values())))
        apply.apply(model, now)

    handle = register_optimizer_step_post_hook(after)
    try:
        fit(model)
    finally:
        handle.remove()
    if not taken:
        raise CompressionError(
            "fit(model) took no step with an optimizer of torch.optim; "
            "train the model that it is given, in place."
        )
    return Grown(model, now, moved)


def _move(
    module: nn.Module,
    now: dict[str, Tensor],
    name: str,
    part: float,
    method: str,
    seed: int,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Move this share of a layer's connections in `now`; the first moments of what grew are set to
    0.

    How many are new.
    """
    weight, old = walk.weight_of(module), now[name]
    if module.weight.grad is None:
        raise CompressionError(
            f"{name}: no gradient is left after a step; fit must not clear gradients "
            "between the step and its end."
        )
    gradient = (
        module.weight.grad
        if module.weight.shape == weight.shape and module.weight.grad.shape == weight.shape
        else module.weight.grad.T
    )
    if type(module).__name__ == "Conv1D":
        gradient = module.weight.grad.T
    count = min(round(part * int(old.sum())), int((~old).sum()))
    now[name] = regrow(weight, gradient, old, count, method, seed)
    new = now[name] & ~old
    for key, state in optimizer.state.get(module.weight, {}).items():
        if key in ("exp_avg", "momentum_buffer") and isinstance(state, Tensor):
            state.masked_fill_(new.T if type(module).__name__ == "Conv1D" else new, 0)
    return int(new.sum())
