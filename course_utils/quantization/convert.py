"""Replace every linear layer of a copy of a model; shared by the methods that look at one layer at a time."""

import copy
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .layer import QuantizedLinear, naming

Make = Callable[[str, nn.Module, dict[str, Any]], nn.Module]  # name, layer, its settings → the layer in its place


class FixedBuffers(nn.Module):
    """A module whose buffers keep their precision: `half()` and the like move scales, but do not round them."""

    def _apply(self, fn, recurse=True):
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            self._buffers[name] = buffer.to(self._buffers[name].device)
        return self


class ExpandedLinear(FixedBuffers):
    """y = x Ŵᵀ + b with `weight`, Ŵ (out, in) in float32, made from the buffers at each call and cast to the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


def frozen(bias: Tensor | None) -> nn.Parameter | None:
    """A copy of a bias that is not trained."""
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)


def layer_by_layer(
    model: nn.Module, make: Make, settings: dict[str, Any], ignore: Patterns = (), per_layer: PerLayer | None = None,
    told: dict[str, Any] | None = None,
) -> Compressed:  # fmt: skip
    """A copy of `model` with make(name, layer, settings) in the place of each linear layer of the blocks, but for those that
    `ignore` names. `settings`: the method's name and what `per_layer` may change (`selection.choose`); `make` is given each
    layer's own, without the method. `told`: what else the result's settings say.

    Errors that `make` raises are given the layer's name; NaN or infinity anywhere is one before any work. `model` is unchanged.
    """
    began = time.perf_counter()
    walk.check_finite(model, by_block=True)
    original, model = model, sharing.structure(model).eval()
    chosen = selection.choose(model, {k: v for k, v in settings.items() if k != "method"}, ignore, per_layer)
    names = chosen.names

    def one_block(block: nn.Module, _states: None) -> walk.Facts:
        for module in walk.linears(block).values():
            if (name := names.get(id(module))) is not None:
                with naming(name):
                    walk.replace(model, name, make(name, module, dict(chosen.own[name])))
        return {}

    walk.each_block(model, one_block, settings["method"])
    return Compressed(sharing.own(model, original), {**settings, **(told or {}), **chosen.told}, time.perf_counter() - began)


def each_layer(model: nn.Module, make: Callable[[str, nn.Module], nn.Module], settings: dict[str, Any], ignore: Patterns = ()) -> Compressed:
    """`layer_by_layer` for a make(name, layer) that treats all layers alike."""
    return layer_by_layer(model, lambda name, layer, _own: make(name, layer), {"method": settings["method"]}, ignore, told=settings)


def round_activations(compressed: Compressed) -> Compressed:
    """A copy whose packed layers (`QuantizedLinear`) round each token to INT8 before they multiply.

    The products are then sums of integers, which is faster on a CPU
    (`course_utils.kernels`); the results change, so evaluate again. Raises CompressionError if no layer is packed.
    """
    model = copy.deepcopy(compressed.model)
    packed = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    if not packed:
        raise CompressionError("compressed: it has no packed layer (QuantizedLinear), as rtn, gptq and awq make; use one of those.")
    for module in packed:
        module.activations = "int8"
    return Compressed(model, {**compressed.settings, "activations": "int8"}, compressed.seconds, dict(compressed.details))
