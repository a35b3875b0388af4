"""Weights in a narrower floating-point format: FP16, BF16, and FP8 with a scale.

    ŵ = s · cast(w / s),     s = max|w| / (largest number of the format)

FP16 and BF16 reach far enough for weights, so that s = 1 and there is nothing to choose. FP8 keeps
3 (E4M3) or 2 (E5M2) bits of mantissa, a relative error of at most 1/16 or 1/8 for all but the
smallest numbers; s, one for each row or for the whole matrix, puts the largest weight at the
largest number (Micikevicius et al., 2022, FP8 Formats for Deep Learning).
Patterns and rounding are those of `formats`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import ExpandedLinear, frozen, layer_by_layer
from .formats import find
from .grids import check_granularity, check_matrix, exact_half, is_half
from .layer import storable

DTYPES = {
    "FP16": torch.float16, "BF16": torch.bfloat16, "FP8 E4M3": torch.float8_e4m3fn,
    "FP8 E5M2": torch.float8_e5m2,
}  # fmt: skip
GRANULARITIES = ("per_channel", "per_tensor")


@dataclass(frozen=True)
class FloatResult:
    """`values` (out, in) in the format's type and `scale` (out or 1, 1) float32; `weight` = scale ·
    values, float32.
    """

    values: Tensor
    scale: Tensor
    format: str
    weight: Tensor


def check_format(format: str) -> torch.dtype:
    """The type that holds a format.

    Raises CompressionError for one that weights are not stored in here.
    """
    if format not in DTYPES:
        raise CompressionError(
            f"format={format!r}: choose one of {', '.join(DTYPES)}; "
            "FP4 and NF4 are in `nf4`, integers in `rtn`."
        )
    return DTYPES[format]


def quantize_layer(
    weight: Tensor, *, format: str = "FP8 E4M3", granularity: str = "per_channel"
) -> FloatResult:
    """A weight (out, in) in a floating-point format, with scales for FP8 (kept in float16 where
    that loses nothing).

    Raises CompressionError for an unknown format or granularity, NaN, infinity, or weights beyond
    FP16's 65504.
    """
    dtype, weight = check_format(format), check_matrix(weight).float()
    check_granularity(granularity, GRANULARITIES)
    largest = find(format).largest
    if dtype.itemsize == 2:
        scale = weight.new_ones(1, 1)
        if weight.abs().max() > largest:
            raise CompressionError(
                f"weight: a magnitude above {largest:.5g}, the largest of {format}; "
                "choose BF16 or FP8."
            )
    else:
        peak = (
            weight.abs().amax(1, keepdim=True)
            if granularity == "per_channel"
            else weight.abs().amax().view(1, 1)
        )
        scale = exact_half((peak / largest).clamp(min=torch.finfo(torch.float32).tiny))
        scale = torch.where(peak == 0, 1.0, scale)
    values = (weight / scale).clamp(-largest, largest).to(dtype)
    return FloatResult(values, scale, format, values.float() * scale)


@storable
class FloatLinear(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ made from its patterns at each call.

    Buffers: `packed` (out, bytes) uint8, the patterns; `scale` (out or 1, 1), float16 where that is
    exact (FP8 only).
    """

    packed: Tensor
    scale: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, format: str = "FP8 E4M3", scales: int = 0,
        scale_dtype: str = "float16", bias: bool = False, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.format = in_features, out_features, format
        width = in_features * check_format(format).itemsize
        self.register_buffer("packed", torch.zeros(out_features, width, dtype=torch.uint8))
        self.register_buffer(
            "scale", torch.ones(scales, 1, dtype=getattr(torch, scale_dtype)) if scales else None
        )
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        stored = self.scale is not None
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "format": self.format,
            "scales": len(self.scale) if stored else 0,
            "bias": self.bias is not None,
            "scale_dtype": str(self.scale.dtype).removeprefix("torch.") if stored else "float16",
        }

    @classmethod
    def of(cls, result: FloatResult, bias: Tensor | None) -> "FloatLinear":
        """The layer for a result and a bias."""
        rows, columns = result.values.shape
        layer = cls(
            columns, rows, format=result.format,
            scales=len(result.scale) if result.values.itemsize == 1 else 0,
            scale_dtype="float16" if is_half(result.scale) else "float32",
        ).to(result.values.device)  # fmt: skip
        layer.packed.copy_(result.values.contiguous().view(torch.uint8))
        if layer.scale is not None:
            layer.scale.copy_(result.scale)
        layer.bias = frozen(bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, made now."""
        values = self.packed.view(DTYPES[self.format]).float()
        return values if self.scale is None else values * self.scale.float()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.format}"


def quantize(
    model: nn.Module,
    *,
    format: str = "FP8 E4M3",
    granularity: str = "per_channel",
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """FP16, BF16 or FP8 weights in every linear layer of the blocks.

    Works on a copy; errors name the layer.

    `ignore`, `per_layer` as in `rtn.quantize`.
    """
    check_format(format)
    settings = {"format": format, "granularity": granularity}

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return FloatLinear.of(quantize_layer(walk.weight_of(module), **own), module.bias)

    return layer_by_layer(model, make, {"method": "float", **settings}, ignore, per_layer)
