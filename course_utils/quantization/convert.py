"""Replace every linear layer of a copy of a model; shared by the methods that look at one layer at
a time, with calibration or without.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .hessians import block_hessians, shrunk, too_few, warn_of_few_tokens
from .layer import Described, naming

# the layer in a layer's place, and what is told of it: plain values by name
Made = nn.Module | tuple[nn.Module, dict[str, Any]]
# of a layer's name, the layer, its settings, and with calibration what was `Seen`
Make = Callable[..., Made]


class FixedBuffers(nn.Module):
    """A module whose buffers keep their precision: `half()` and the like move scales, but do not
    round them.
    """

    def _apply(self, fn: Callable, recurse: bool = True) -> Any:
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            self._buffers[name] = buffer.to(self.get_buffer(name).device)
        return self


class ExpandedLinear(FixedBuffers):
    """y = x Ŵᵀ + b with `weight`, Ŵ (out, in) in float32, made from the buffers at each call and
    cast to the dtype of x.
    """

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


def frozen(bias: Tensor | None) -> nn.Parameter | None:
    """A copy of a bias that is not trained."""
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)


@dataclass(frozen=True)
class Seen:
    """What calibration brought to a layer: H = (2/N) XᵀX (in, in) of its N `tokens`, None where
    none reached it.

    `few`: `hessians.too_few`.
    """

    H: Tensor | None
    tokens: int
    few: bool

    @property
    def known(self) -> Tensor | None:
        """H, shrunk where the tokens are too few to say it."""
        return None if self.H is None else shrunk(self.H, self.tokens)


def layer_by_layer(
    model: nn.Module, make: Make, settings: dict[str, Any], ignore: Patterns = (),
    per_layer: PerLayer | None = None, told: dict[str, Any] | None = None, calibration: Any = None,
) -> Compressed:  # fmt: skip
    """A copy of `model` with make(name, layer, settings) in the place of each linear layer of the
    blocks, but for those that `ignore` names.

    `settings`: the method's name and what `per_layer` may change (`selection.choose`); `make` is
    given each layer's own, without the method. `told`: what else the result's settings say.

    With `calibration` it is make(name, layer, settings, seen), seen a `Seen` of inputs that went
    through the blocks done so far. What `make` tells beside the layer is in the result:
    details[key][name]. It is kept when a model is read and written block by block.

    Errors that `make` raises are given the layer's name; NaN or infinity anywhere is one before any
    work. `model` is unchanged.
    """
    began = time.perf_counter()
    walk.check_finite(model, by_block=True)
    if calibration is not None:
        walk.blocks(model)  # type: ignore[arg-type]
        calibration = walk.check_calibration(calibration, model)  # type: ignore[arg-type]
    original, model = model, sharing.structure(model).eval()
    chosen = selection.choose(
        model, {k: v for k, v in settings.items() if k != "method"}, ignore, per_layer
    )
    names = chosen.names
    if calibration is not None:
        warn_of_few_tokens(calibration, chosen.layers)

    def one_block(block: nn.Module, states: walk.States | None) -> walk.Facts:
        wanted = [module for module in walk.linears(block).values() if id(module) in names]
        counts: dict[nn.Module, int] = {}
        hessians = {} if states is None else block_hessians(block, states, wanted, counts)
        facts: walk.Facts = {}
        for module in wanted:
            name, seen = names[id(module)], ()  # type: str, tuple[Seen, ...]
            if states is not None:
                H, tokens = hessians.pop(module, None), counts.get(module, 0)
                seen = (Seen(H, tokens, too_few(H, tokens, calibration)),)
                del H
            with naming(name):
                made = make(name, module, dict(chosen.own[name]), *seen)
            layer, facts[name] = made if isinstance(made, tuple) else (made, {})
            walk.replace(model, name, layer)
        return facts

    details: dict[str, dict[str, Any]] = {}
    for name, found in walk.each_block(model, one_block, settings["method"], calibration).items():
        for key, value in found.items():
            details.setdefault(key, {})[name] = value
    shape = {} if calibration is None else {"calibration": list(calibration.shape)}
    settings = {**settings, **(told or {}), **shape, **chosen.told}
    return Compressed(sharing.own(model, original), settings, time.perf_counter() - began, details)


def each_layer(
    model: nn.Module,
    make: Callable[[str, nn.Module], nn.Module],
    settings: dict[str, Any],
    ignore: Patterns = (),
) -> Compressed:
    """`layer_by_layer` for a make(name, layer) that treats all layers alike."""
    return layer_by_layer(
        model,
        lambda name, layer, _own: make(name, layer),
        {"method": settings["method"]},
        ignore,
        told=settings,
    )


def round_activations(compressed: Compressed) -> Compressed:
    """A copy whose packed layers (`QuantizedLinear`, MXFP4 and NVFP4) round each token to INT8
    before they multiply.

    The products are then sums of integers, which is faster on a CPU (`course_utils.kernels`); the
    results change, so evaluate again. Raises CompressionError if no layer is packed.
    """
    model = copy.deepcopy(compressed.model)
    packed = [module for module in model.modules() if isinstance(module, Described)]
    if not packed:
        raise CompressionError(
            "compressed: it has no packed layer, as rtn, gptq, awq and microscaling (MXFP4, NVFP4) "
            "make; use one of those."
        )
    for module in packed:
        module.activations = "int8"
    return Compressed(
        model,
        {**compressed.settings, "activations": "int8"},
        compressed.seconds,
        dict(compressed.details),
    )
