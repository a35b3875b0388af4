"""Round-to-nearest: each weight goes to the closest point of its grid, looking at nothing else."""

from typing import Any

from torch import Tensor, nn

from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import layer_by_layer
from .grids import dequantize, make_grid
from .grids import quantize as to_codes
from .layer import LayerResult, QuantizedLinear


def quantize_layer(
    weight: Tensor, *, bits: int = 4, group_size: int | None = 64, symmetric: bool = False
) -> LayerResult:
    """RTN of one weight (out, in) with a scale for each `group_size` inputs of a row (-1: whole
    rows).

    Ŵ = s (clamp(round(W / s) + z, 0, 2^b − 1) − z), the nearest point of the min-max grid of each
    group. Raises CompressionError for NaN, infinity, bad bits, or a group size that does not divide
    the inputs.
    """
    grid = make_grid(weight, bits=bits, symmetric=symmetric, group_size=group_size)
    codes = to_codes(weight, grid)
    return LayerResult(codes, grid, dequantize(codes, grid))


def quantize(
    model: nn.Module, *, bits: int = 4, group_size: int | None = 64, symmetric: bool = False,
    ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """RTN of every linear layer in the transformer blocks (of any other module: every nn.Linear).

    Embeddings, norms and the output head stay as they are, and so do layers that `ignore` names.
    per_layer={"down_proj": {"bits": 8}} changes settings of the layers that a pattern means: both
    as in `selection.choose`.
    Works on a copy; `model` is unchanged. Raises CompressionError as `quantize_layer` does, naming
    the layer, or if there is nothing to quantize.
    """
    common = {"bits": bits, "group_size": group_size, "symmetric": symmetric}

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return QuantizedLinear.of(quantize_layer(walk.weight_of(module), **own), module.bias)

    return layer_by_layer(model, make, {"method": "rtn", **common}, ignore, per_layer)
