"""LLM.int8() (Dettmers et al., 2022): outlier inputs in full precision, all others in INT8.

An input channel in which any token reaches the threshold (6.0) is an outlier. With O the outlier
channels,

    X Wᵀ ≈ X_O Ŵ_Oᵀ + S_x S_w (Q_x Q_wᵀ over the other channels),

Q_x with a scale for each token, Q_w with one for each output. Ŵ_O is the INT8 weight made real
again, so that only one copy of the weight is kept.
"""

from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import frozen, layer_by_layer
from .layer import storable
from .w8a8 import Int8Linear, integer_product, to_int8


def outlier_channels(x: Tensor, threshold: float = 6.0) -> Tensor:
    """Indices of the channels of x (tokens, features) in which some |x| ≥ threshold."""
    return (x.abs() >= threshold).any(0).nonzero().flatten()


@storable
class LLMInt8Linear(Int8Linear):
    """An INT8 layer with per-token activations whose outlier channels take part in real numbers."""

    def __init__(
        self, in_features: int, out_features: int, *, threshold: float = 6.0, bias: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias=bias, dtype=dtype)
        self.threshold = threshold

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "threshold": self.threshold,
            "bias": self.bias is not None,
        }

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if len(flat) == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        outliers = outlier_channels(flat, self.threshold)
        regular = flat.index_fill(1, outliers, 0)
        codes, scale, _ = to_int8(regular, bits=8, symmetric=True, granularity="per_token")
        y = integer_product(codes, self.weight_codes).float() * scale * self.weight_scale.T
        if len(outliers):
            real = self.weight_codes[:, outliers].float() * self.weight_scale
            y = y + flat[:, outliers].float() @ real.T
        y = y.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


def quantize(
    model: nn.Module,
    *,
    threshold: float = 6.0,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """LLM.int8() in every linear layer of the blocks; needs no calibration.

    Works on a copy; errors name the layer.

    `ignore`, `per_layer` as in `rtn.quantize`.
    """
    _check(threshold)

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        _check(own["threshold"])
        weight = walk.weight_of(module)
        layer = LLMInt8Linear(weight.shape[1], weight.shape[0], **own)
        layer.set_weight(weight)
        layer.bias = frozen(module.bias)
        return layer.to(weight.device)

    return layer_by_layer(
        model, make, {"method": "llm.int8", "threshold": threshold}, ignore, per_layer
    )


def _check(threshold: float) -> None:
    if not threshold > 0:
        raise CompressionError(f"threshold={threshold}: choose a positive number, usually 6.0.")
