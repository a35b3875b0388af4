"""Who reads whose output inside a block, found by running it: from which tensors, and by changing
an output and looking.

Nothing here knows names of architectures. A copy of one block in float32 is run on states of single
tokens, where attention passes values on as they are (a softmax over one key is 1), and on states of
sequences, where what was found is checked.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import walk
from .experts import is_listed

TOKENS, SEQUENCES, CONTEXT = 24, 2, 12
Seen = dict[str, Tensor]


def probe_ids(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Token ids (24, 1) and (2, 12), spread over the vocabulary."""
    embeddings: Any = model.get_input_embeddings()
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(len(embeddings.weight), (TOKENS,), generator=draws)
    return ids.view(-1, 1), ids.view(SEQUENCES, CONTEXT)


def _exact(value: Any, dtype: torch.dtype) -> Any:
    """Every floating-point tensor inside, in this precision."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _exact(v, dtype) for k, v in value.items()}
    return type(value)(_exact(v, dtype) for v in value) if type(value) in (tuple, list) else value


@dataclass
class Norm:
    """A norm of a block and what reads its output: linear layers, and other modules with a matrix
    (routers).
    """

    name: str
    readers: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    offset: float = 0.0  # the gain is offset + weight


class Probe:
    """A copy of one block, with states of single tokens (`near`) and of sequences (`far`)."""

    def __init__(self, block: nn.Module, near: walk.States, far: walk.States) -> None:
        dtype = torch.float64 if next(block.parameters()).dtype == torch.float64 else torch.float32
        self.block = copy.deepcopy(block).to(dtype).eval()
        self.near, self.far = _exact(list(near), dtype), _exact(list(far), dtype)
        self.layers = walk.linears(self.block)
        self.before = self.inputs()  # in the order in which they run

    @torch.no_grad()
    def run(self, states: walk.States) -> list[Tensor]:
        """The block's outputs for the recorded inputs."""
        return [walk.run_block(self.block, hidden, kwargs) for hidden, kwargs in states]

    @contextmanager
    def changed(self, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """What the module `name` puts out goes through `change`."""
        handle = self.block.get_submodule(name).register_forward_hook(
            lambda _, args, out: change(out)
        )
        try:
            yield
        finally:
            handle.remove()

    def inputs(self, states: walk.States | None = None) -> Seen:
        """What enters each linear layer, (tokens, in), for those that any token reaches."""
        seen: dict[str, list[Tensor]] = {}

        def see(name: str, x: Tensor) -> None:
            seen.setdefault(name, []).append(x.detach().flatten(0, -2).clone())

        handles = [
            m.register_forward_pre_hook(lambda _, args, n=n: see(n, args[0]))
            for n, m in self.layers.items()
        ]
        try:
            self.run(self.near if states is None else states)
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(parts) for name, parts in seen.items()}

    def norms(self) -> list[Norm]:
        """The norms of the block whose outputs linear layers read as they are."""
        found: dict[int, Norm] = {}  # by the memory of the output
        held: list[Any] = []  # what is held is not given to others meanwhile
        calls: dict[str, tuple] = {}

        def made(name: str, module: nn.Module, args: tuple, out: Any) -> None:
            weight: Any = module.weight
            if (
                isinstance(out, Tensor)
                and args
                and out.shape[-1] == len(weight)
                and out.shape == args[0].shape
            ):
                held.append(out)
                calls[name] = args
                found[out.untyped_storage().data_ptr()] = Norm(name)

        def read(name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else next(iter(kwargs.values()), None)
            norm = found.get(x.untyped_storage().data_ptr()) if isinstance(x, Tensor) else None
            if norm is None:
                return
            if is_listed(module):
                norm.readers += [
                    n
                    for n in self.layers
                    if n.startswith(f"{name}.listed.") and n.endswith(f".{module.into}")
                ]
            elif name in self.layers:
                norm.readers.append(name)
            elif getattr(getattr(module, "weight", None), "dim", int)() == 2:
                norm.others.append(name)

        handles = []
        for name, module in self.block.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if (
                "weight" in own
                and own["weight"].dim() == 1
                and all(p.dim() == 1 for p in own.values())
            ):
                handles.append(
                    module.register_forward_hook(lambda m, args, out, n=name: made(n, m, args, out))
                )
            elif name:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda m, args, kw, n=name: read(n, m, args, kw), with_kwargs=True
                    )
                )
        try:
            self.run(self.near[:1])
        finally:
            for handle in handles:
                handle.remove()
        norms = []
        for norm in found.values():
            offset = self._offset(norm.name, calls[norm.name])
            if norm.readers and offset is not None:
                norm.offset = offset
                norms.append(norm)
        return norms

    @torch.no_grad()
    def _offset(self, name: str, args: tuple) -> float | None:
        """0 or 1, if dividing (offset + weight) and the bias by a number divides
        the output by it.
        """
        module: Any = self.block.get_submodule(name)
        wanted, weight, bias = (
            module(*args) / 2,
            module.weight.clone(),
            getattr(module, "bias", None),
        )
        shift = bias.clone() if isinstance(bias, Tensor) else None
        for offset in (0.0, 1.0):
            module.weight.copy_((offset + weight) / 2 - offset)
            if shift is not None:
                module.bias.copy_(shift / 2)
            close = torch.allclose(module(*args), wanted, rtol=1e-4, atol=1e-6)
            module.weight.copy_(weight)
            if shift is not None:
                module.bias.copy_(shift)
            if close:
                return offset
        return None

    def carried(self, source: str) -> dict[str, Tensor]:
        """Layers whose input channels each are an output of `source` times something that does not
        depend on it.

        layer → (in,), the number of the output behind each input. Found by giving each output a
        factor of its own: the inputs must be multiplied by exactly these. Where one matrix makes
        gates too, only a part of its rows is tried.
        """
        rows = walk.weight_of(self.layers[source]).shape[0]
        every = torch.arange(rows)
        half = rows // 2
        for part in (every, every[half:], every[:half], every[1::2], every[::2]):
            if len(part) == 0:
                continue
            draws = torch.Generator().manual_seed(1)
            factor = torch.ones(rows, dtype=torch.float64)
            factor[part] = 1.25 + torch.randperm(len(part), generator=draws).double() / len(part)
            with self.changed(source, partial(torch.mul, factor.to(self.before[source]))):
                after = self.inputs()
            found = {}
            for name, x in self.before.items():
                if name != source and name in after and after[name].shape == x.shape:
                    behind = _behind(x, after[name], factor, part)
                    if behind is not None:
                        found[name] = behind
            if found:
                return found
        return {}


def _behind(before: Tensor, after: Tensor, factor: Tensor, part: Tensor) -> Tensor | None:
    """For each channel of (tokens, channels), the output whose factor it was multiplied by; None if
    one has no such output.
    """
    before, after = before.double(), after.double()
    energy = before.square().sum(0)
    used = energy > 0
    if not used.any():
        return None
    ratio = (before * after).sum(0) / energy.clamp(min=1e-300)
    rest = (after - ratio * before).square().sum(0)
    if (rest > 1e-8 * energy).any():
        return None
    ordered, order = factor[part].sort()
    place = (
        torch.searchsorted(ordered, ratio[used].cpu()).clamp(1, len(ordered) - 1)
        if len(ordered) > 1
        else None
    )
    if place is None:
        near = torch.zeros(int(used.sum()), dtype=torch.long)
    else:
        target = ratio[used].cpu()
        near = torch.where(target - ordered[place - 1] < ordered[place] - target, place - 1, place)
    if ((ordered[near] - ratio[used].cpu()).abs() > 0.25 / len(part)).any():
        return None
    behind = torch.full((before.shape[1],), -1)
    behind[used.cpu()] = part[order[near]]
    if (behind < 0).any():  # inputs that were always 0: only where all others follow one shift
        shift = behind[used.cpu()] - torch.arange(before.shape[1])[used.cpu()]
        if (shift != shift[0]).any():
            return None
        behind = torch.arange(before.shape[1]) + shift[0]
    return behind
