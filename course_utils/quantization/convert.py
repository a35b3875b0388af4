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


def each_layer(
    model: nn.Module, make: Callable[[str, nn.Module], nn.Module], settings: dict[str, Any], ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """A copy of `model` with make(name, layer) in the place of each linear layer of the blocks, but for those in whose names a
    regular expression of `ignore` is found. `settings`: the method's name and what `per_layer` may change, which `make` looks up.

    Errors that `make` raises are given the layer's name; NaN or infinity anywhere is one before any work. `model` is unchanged.
    """
    began = time.perf_counter()
    walk.check_finite(model, by_block=True)
    original, model = model, sharing.structure(model).eval()
    names = {id(module): name for name, module in selection.selected(model, ignore).items()}
    selection.check_per_layer(per_layer, names.values(), [name for name in settings if name != "method"])

    def one_block(block: nn.Module, _states: None) -> walk.Facts:
        for module in walk.linears(block).values():
            if (name := names.get(id(module))) is not None:
                with naming(name):
                    walk.replace(model, name, make(name, module))
        return {}

    walk.each_block(model, one_block, settings["method"])
    return Compressed(sharing.own(model, original), {**settings, **selection.kept(ignore, per_layer)}, time.perf_counter() - began)


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
