"""Passes of a model in which only later blocks are changed: what the blocks before gave is given
again, not computed anew.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.models import walk

from . import by_window


@contextmanager
def before(model: PreTrainedModel, block: int, ids: Tensor) -> Iterator[bool]:
    """Within it, blocks before number `block` are not run in passes over `ids` as `by_window` makes
    them: one pass over all windows after the other.

    True if that gives what the model gives; else (blocks that share states in other ways) they are
    run as ever: False.

    What is kept is the output of one block, (windows, context, width).
    """
    blocks = list(walk.blocks(model))[:block]
    if not blocks:
        yield False
        return
    kept: list[Any] = []
    seen = blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        want = by_window.predictions(model, ids)
    finally:
        seen.remove()
    count = 0

    def again(*_: Any, **__: Any) -> Any:
        return kept[count % len(kept)]

    def last(*_: Any, **__: Any) -> Any:
        nonlocal count
        count += 1
        return kept[(count - 1) % len(kept)]

    with ExitStack() as stack:
        for module in blocks:
            stack.enter_context(_forward(module, last if module is blocks[-1] else again))
        good = _same(model, ids, want)
        if good:
            yield True
    if not good:
        yield False


def _same(model: PreTrainedModel, ids: Tensor, want: Tensor) -> bool:
    try:
        return torch.equal(by_window.predictions(model, ids), want)
    except Exception:  # later blocks want something of those that were not run
        return False


@contextmanager
def _forward(module: nn.Module, function: Any) -> Iterator[None]:
    """The module's `forward` is `function`; afterwards what it was."""
    own = module.__dict__.get("forward")
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def block_of(model: PreTrainedModel) -> dict[str, int]:
    """The number of the block of each compressible layer, by name."""
    places = {id(m): i for i, block in enumerate(walk.blocks(model)) for m in block.modules()}
    return {
        name: places[id(module)]
        for name, module in walk.compressible(model).items()
        if id(module) in places
    }
