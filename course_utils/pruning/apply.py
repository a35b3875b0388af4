"""Put masks on a model, keep them there while it trains, and read its sparsity."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import masks as mask_functions
from .anatomy import set_weight

Masks = Mapping[str, Tensor]
Settings = Mapping[str, Mapping[str, Any]]  # by layer


def make_masks(
    scores: Mapping[str, Tensor], sparsity: float = 0.5, pattern: str | None = None
) -> dict[str, Tensor]:
    """A mask for every score.

    Patterns as in `masks.make`, and 'global': one ranking over all layers together.
    """
    if pattern == "global":
        return mask_functions.across(dict(scores), sparsity)
    return {name: mask_functions.make(score, sparsity, pattern) for name, score in scores.items()}


def masks_of(scores: Mapping[str, Tensor], own: Settings) -> dict[str, Tensor]:
    """A mask for every score at its layer's own `sparsity` and `pattern`; 'global' ranks layers
    together that have the same of both.
    """
    together: dict[tuple, dict[str, Tensor]] = {}
    for name, score in scores.items():
        together.setdefault((own[name]["sparsity"], own[name]["pattern"]), {})[name] = score
    found = {
        name: mask
        for settings, group in together.items()
        for name, mask in make_masks(group, *settings).items()
    }
    return {name: found[name] for name in scores}


def stricter(
    scores: Mapping[str, Tensor],
    kept: Masks,
    sparsity: float,
    pattern: str | None = None,
    own: Settings | None = None,
) -> dict[str, Tensor]:
    """Masks at this sparsity (or at each layer's `own`, as in `masks_of`) in which nothing that is
    gone comes back: pruned weights get the lowest score of all.
    """
    lowest = min(float(score.min()) for score in scores.values())
    lowest -= max(1.0, abs(lowest))  # by 1 alone a float32 of 10⁸ stays what it is
    found = {name: score.masked_fill(~kept[name], lowest) for name, score in scores.items()}
    return {
        name: mask & kept[name]
        for name, mask in (
            make_masks(found, sparsity, pattern) if own is None else masks_of(found, own)
        ).items()
    }


def check_masks(model: nn.Module, masks: Masks) -> dict[str, nn.Module]:
    """The layers that the masks name.

    Raises CompressionError for an unknown name or a shape that differs.
    """
    layers = walk.compressible(model)
    for name, mask in masks.items():
        if name not in layers:
            raise CompressionError(
                f"masks: the model has no linear layer {name!r}; take names from walk.compressible."
            )
        shape = tuple(walk.weight_of(layers[name]).shape)
        if tuple(mask.shape) != shape:
            raise CompressionError(
                f"masks: {name} is {shape} (out, in), its mask {tuple(mask.shape)}."
            )
    return {name: layers[name] for name in masks}


@torch.no_grad()
def apply(model: nn.Module, masks: Masks) -> None:
    """Set the weights outside the masks to zero, in place.

    Masks are (out, in), also for GPT-2's Conv1D.

    Raises CompressionError for a mask that is not boolean or does not fit; no weight has changed
    then.
    """
    layers = check_masks(model, masks)
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise CompressionError(
                f"masks: {name} is {mask.dtype}; a mask is boolean, True = kept: use mask != 0."
            )
    for name, module in layers.items():
        walk.weight_of(module).masked_fill_(~masks[name].to(module.weight.device), 0)


def zero_outside(module: nn.Module, mask: Tensor) -> None:
    """Give a layer a new weight: zeros outside the mask (out, in), the old numbers elsewhere."""
    weight = walk.weight_of(module)
    set_weight(module, weight.masked_fill(~mask.to(weight.device), 0))


def hold(model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer) -> Any:
    """Apply the masks now and after every step of the optimizer, whose momentum would move pruned
    weights.

    Returns a handle; `handle.remove()` lets the weights go. `masks` may be a dict that grows
    stricter meanwhile.
    """
    apply(model, masks)
    return optimizer.register_step_post_hook(lambda *_: apply(model, masks))


@contextmanager
def each_step(
    model: nn.Module,
    *,
    before: Callable[[], None] | None = None,
    after: Callable[[int], None] | None = None,
) -> Iterator[None]:
    """While this context is open: call before() and after(step) around each step that any optimizer
    takes on `model`.

    For training loops that keep their optimizer to themselves. `step` counts from 1 and is the
    optimizer's own count, so that it goes on where a resumed run goes on; the steps of one that
    does not count (SGD) are counted here.
    """
    taken = 0

    parameters = {id(p) for p in model.parameters()}

    def mine(optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return [
            p for group in optimizer.param_groups for p in group["params"] if id(p) in parameters
        ]

    def first(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if before is not None and mine(optimizer):
            before()

    def last(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal taken
        counted = [p for p in mine(optimizer) if "step" in optimizer.state.get(p, {})]
        if after is not None and counted:
            after(int(optimizer.state[counted[0]]["step"]))
        elif (
            after is not None
            and mine(optimizer)
            and not any("step" in state for state in optimizer.state.values())
        ):
            taken += 1
            after(taken)

    handles = [register_optimizer_step_pre_hook(first), register_optimizer_step_post_hook(last)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def facts_of(layers: Mapping[str, nn.Module], pruned: Iterable[str]) -> walk.Facts:
    """What a method that goes block by block tells of layers: zeros, weights, and whether it worked
    on them.
    """
    return {
        name: told_of(walk.weight_of(module) == 0, name in pruned)
        for name, module in layers.items()
    }


def told_of(gone: Tensor, pruned: bool) -> dict[str, float]:
    """What `sparsity_from` wants to know of one layer: where its zeros are, and whether the method
    worked on it.
    """
    return {
        "zeros": int(gone.sum()),
        "size": gone.numel(),
        "share": float(gone.float().mean()),
        "pruned": pruned,
    }


def sparsity_from(facts: walk.Facts) -> tuple[float, dict[str, float]]:
    """(the fraction of zeros among all weights told of, that of each layer that was worked on)."""
    zeros, size = (sum(told[key] for told in facts.values()) for key in ("zeros", "size"))
    return zeros / size, {name: told["share"] for name, told in facts.items() if told["pruned"]}


def zeros(model: nn.Module) -> dict[str, float]:
    """The fraction of zero weights in each linear layer that compression works on."""
    return {
        n: float((walk.weight_of(m) == 0).float().mean())
        for n, m in walk.compressible(model).items()
    }


def sparsity_of(model: nn.Module) -> float:
    """The fraction of zeros among all those weights together."""
    weights = [walk.weight_of(m) for m in walk.compressible(model).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def nonzero(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model that was pruned before: True where a weight is not zero."""
    return {name: walk.weight_of(module) != 0 for name, module in walk.compressible(model).items()}


def prune(
    model: nn.Module, scores: Mapping[str, Tensor], sparsity: float = 0.5, *,
    pattern: str | None = None, method: str = "scores", ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """One-shot pruning by any scores with any mask. Works on a copy; `model` is unchanged.

    `scores` maps names of linear layers to tensors (out, in), higher = keep, as the functions of
    `pruning.scores` make them; layers without a score stay dense. `ignore` and `per_layer` (of
    sparsity and pattern) as in `selection.choose`; 'global' ranks together what has the same
    settings.
    Raises CompressionError for scores that do not fit the model, NaN, or a bad sparsity or pattern.
    """
    began = time.perf_counter()
    original, model = model, sharing.structure(model)
    check_masks(model, scores)
    chosen = selection.selected(model, ignore)
    common = {"sparsity": sparsity, "pattern": pattern}
    own = selection.own_settings(
        [name for name in scores if name in chosen],
        common,
        per_layer,
        {name: name for name in scores},
    )
    scores = {name: score for name, score in scores.items() if name in chosen}
    masks = masks_of(scores, own) if scores else make_masks(scores, **common)
    layers = check_masks(model, masks)
    for name, mask in masks.items():
        zero_outside(layers[name], mask)
    settings = {
        "method": method,
        "sparsity": sparsity_of(model),
        "pattern": pattern or "per_layer",
        **selection.kept(ignore, per_layer),
    }
    share = {name: value for name, value in zeros(model).items() if name in masks}
    return Compressed(
        sharing.own(experts.fuse(model), original),
        settings,
        time.perf_counter() - began,
        {"sparsity": share},
    )
