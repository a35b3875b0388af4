"""Walk a transformer block by block: find its linear layers, feed it, replace its parts.

Finding is in `blocks`, the checks before any work in `checks`, the forward pass that halts at each
block in `gates`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_utils.errors import CompressionError

from . import gates, parallel
from .blocks import BLOCK_PATHS, blocks, compressible, linears, place_of_blocks, replace, weight_of
from .checks import (
    check_calibration,
    check_context,
    check_finite,
    check_loaded,
    check_model,
    longest_context,
)
from .gates import States
from .shelf import Shelf
from .source import Facts, Source, source_of

__all__ = [
    "BLOCK_PATHS", "Facts", "Source", "States", "as_precise_as", "batch_for", "blocks",
    "check_calibration", "check_context", "check_finite", "check_loaded", "check_model",
    "compressible", "each_block", "exact", "first_block_inputs", "inputs_of", "linears",
    "longest_context", "place_of_blocks", "replace", "run_block", "source_of", "through_blocks",
    "watch", "watch_inputs", "weight_of",
]  # fmt: skip


def exact(x: Tensor) -> Tensor:
    """At least float32: half precision holds neither squares nor long sums."""
    return x if x.dtype == torch.float64 else x.float()


def as_precise_as(original: PreTrainedModel, model: nn.Module) -> None:
    """Give each parameter the dtype that it has in the original; those that are not there, the
    original's own.
    """
    dtypes = {name: parameter.dtype for name, parameter in original.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, original.dtype))


def _batches(ids: Tensor, batch: int) -> list[dict[str, Any]]:
    return [{"input_ids": part, "use_cache": False} for part in ids.split(batch)]


@torch.no_grad()
def first_block_inputs(
    model: PreTrainedModel, ids: Tensor, batch: int = 8
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """For each batch of token ids: what enters the first block,
    (hidden states, keyword arguments).
    """
    for inputs in _batches(ids, batch):
        steps = gates.stations(model, blocks(model), [inputs])
        try:
            _, ((hidden, kwargs),) = next(steps)
        finally:
            steps.close()  # before the caller runs the block
        yield hidden, kwargs


@torch.no_grad()
def run_block(block: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """One block's output hidden states."""
    out = block(hidden, **kwargs)
    return out[0] if isinstance(out, tuple | list) else out


def batch_for(context: int, widest: int = 0) -> int:
    """How many sequences go through a block at once: 8, or fewer where they are long, or a layer
    has very many (`widest`) inputs.
    """
    return max(1, min(8, 4096 // context, 2**24 // (context * max(1, widest))))


@torch.no_grad()
def through_blocks(
    model: PreTrainedModel,
    ids: Tensor,
    title: str = "blocks",
    batch: int | None = None,
    shelf: Shelf | None = None,
) -> Iterator[tuple[nn.Module, States]]:
    """Each block in order, with the states that enter it: (block, [(hidden states, keyword
    arguments), …]).

    The arguments are those that the model itself gives this block. What the caller does to a block
    before asking for the next one is felt by the next: its states have gone through the changed
    block. `shelf`: where states wait, see `gates.States`.
    """
    found = blocks(model)
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    widest = (
        max(max(weight_of(m).shape) for m in linears(found[0]).values()) if linears(found[0]) else 0
    )
    steps = gates.stations(
        model, found, _batches(ids.to(device), batch or batch_for(ids.shape[1], widest)), shelf
    )
    try:
        yield from tqdm(steps, desc=title, unit="block", leave=False, total=len(found))
    finally:
        steps.close()


def each_block(
    model: nn.Module, work: Callable[[nn.Module, Any], Facts], title: str, calibration: Any = None
) -> Facts:
    """work(block, states) for each block in order, and what it tells of its layers, all together.

    This is the one loop of the methods that go block by block: for models in memory, and for models
    that are read from disk and written to it one block at a time (`source_of`). Without calibration
    `states` is None; what is no Hugging Face model is one block.
    """
    source = source_of(model)
    if source is not None and (known := source.all_done()) is not None:
        return known
    found = list(dict.fromkeys(blocks(model))) if isinstance(model, PreTrainedModel) else [model]
    facts: Facts = {}
    try:
        if source is not None:
            source.begin(model, calibration is not None)
        arrivals: Any = (
            (block, None)
            for block in tqdm(
                found, desc=title, unit="block", leave=False, disable=source is None or None
            )
        )
        if calibration is not None:
            arrivals = through_blocks(
                model,
                parallel.part_of(calibration),
                title,
                shelf=None if source is None else source.shelf,
            )  # type: ignore[arg-type]
        for block, states in arrivals:
            if source is None:
                facts |= work(block, states)
            else:
                facts |= source.visit(model, found.index(block), partial(work, block, states))
    finally:
        if source is not None:
            source.end(model)
    return facts


class _Enough(BaseException):  # not an Exception: a block's own error handling must not swallow it
    pass


@torch.no_grad()
def watch(
    block: nn.Module, states: States | Sequence[tuple[Tensor, dict[str, Any]]],
    layers: Sequence[nn.Module], see: Callable[[nn.Module, Tensor], None],
    after: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Run the states through a block and call see(layer, x) with what enters each of `layers`, and
    after() behind each batch.

    Where the first batch called each of them once, later batches that call them in the same order
    end at the last: what a block still computes from there is of no use here.
    """
    order: list[nn.Module] = []
    met: list[nn.Module] = []

    def hook(module: nn.Module, args: tuple) -> None:
        see(module, args[0])
        met.append(module)
        if met == order:
            raise _Enough

    handles = [module.register_forward_pre_hook(hook) for module in layers]
    try:
        for number, (hidden, kwargs) in enumerate(states):
            met.clear()
            with contextlib.suppress(_Enough):
                run_block(block, hidden, kwargs)
            after()
            if number == 0 and len(met) == len(layers) and set(met) == set(layers):
                order = list(met)
    finally:
        for handle in handles:
            handle.remove()


def watch_inputs(
    block: nn.Module, states: States, see: Callable[[nn.Module, Tensor], None], layers: Any = None
) -> None:
    """`watch` with x as (tokens, in), float32.

    `layers`: only these modules; by default every linear layer of the block.
    """
    watched = list(linears(block).values()) if layers is None else list(layers)
    watch(block, states, watched, lambda module, x: see(module, x.reshape(-1, x.shape[-1]).float()))


@torch.no_grad()
def inputs_of(model: nn.Module, ids: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What enters the linear layers of these names when the model reads token ids (sequences,
    context): (tokens, in), float32 at least.

    Raises CompressionError for a name that `linears` does not have.
    """
    layers = linears(model)
    if unknown := [name for name in names if name not in layers]:
        raise CompressionError(
            f"names: the model has no linear layer {unknown[0]!r}; "
            "take names from walk.compressible."
        )
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        layers[name].register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(exact(args[0].flatten(0, -2)))
        )
        for name in names
    ]
    try:
        for part in ids.to(next(model.parameters()).device).split(8):
            model(part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}
