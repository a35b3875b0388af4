"""Models without numbers: made on the meta device, so that only names and shapes take memory."""

import copy
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def empty_like(kind: Any, config: Any, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of this class (or auto class) on the meta device: names and shapes, without memory
    for its weights.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        make = getattr(kind, "from_config", None) or kind._from_config
        return make(copy.deepcopy(config), dtype=dtype)


def compute_buffers(model: PreTrainedModel) -> None:
    """Give a model that was made on the meta device what no file holds,
    such as rotary frequencies.
    """
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True  # transformers then leaves it as it is
    owners: list[tuple[str, Any]] = [
        (name, m) for name, m in model.named_modules() if isinstance(m, PreTrainedModel)
    ]
    for path, module in model.named_modules():
        lacking = [name for name, buffer in module.named_buffers(recurse=False)
                   if buffer is not None and buffer.is_meta and name
                       in module._non_persistent_buffers_set]  # fmt: skip
        for name in lacking:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if lacking:  # by the innermost model around it, which knows how
            owner = max(
                (o for o in owners if path == o[0] or path.startswith(f"{o[0]}." if o[0] else "")),
                key=lambda o: len(o[0]),
            )
            owner[1]._init_weights(module)


def drop(module: nn.Module) -> None:
    """Let go of every number below `module` that a file holds: its parameters and saved buffers go
    to the meta device.
    """
    for part in module.modules():
        for name in (*part._parameters, *(part._buffers.keys() - part._non_persistent_buffers_set)):
            drop_one(part, name)


def drop_one(module: nn.Module, name: str) -> None:
    """Let go of one parameter or saved buffer of a module itself."""
    if (parameter := module._parameters.get(name)) is not None:
        module._parameters[name] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), parameter.requires_grad
        )
    elif (buffer := module._buffers.get(name)) is not None:
        module._buffers[name] = torch.empty_like(buffer, device="meta")


def move(source: nn.Module, target: nn.Module) -> None:
    """Put the parameters and saved buffers of `source` into `target`, a module of the same
    structure, without a copy.
    """
    for path, part in source.named_modules():
        other = target.get_submodule(path)
        other._parameters.update(part._parameters)
        other._buffers.update(
            {k: v for k, v in part._buffers.items() if k not in part._non_persistent_buffers_set}
        )


@contextmanager
def large_blocks_given_back(size: int = 2**20) -> Iterator[None]:
    """While this is open, glibc gives freed memory of `size` bytes or more back to the system at
    once, in all threads.

    It keeps freed blocks of up to 32 MiB otherwise, in a pool for each thread; between the steps of
    a block that is some hundred MiB to several GiB of nothing. Does nothing where the C library has
    no `mallopt`.
    """
    threshold, dynamic_ends_at = -3, 2**25  # M_MMAP_THRESHOLD; where glibc's own adjustment ends
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        yield
        return
    mallopt(threshold, size)
    try:
        yield
    finally:
        mallopt(threshold, dynamic_ends_at)
