"""The products in plain torch: what every kernel here must agree with, and what runs where none
can.
"""

import torch
from torch import Tensor

from .formats import E2M1, BlockWeight, PackedWeight, block_scales, unpack_weight
from .packing import unpack


def dequantize(weight: PackedWeight | BlockWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ŵ = s (q − z) or t s E2M1(q), (rows, columns), computed in float32 (blocks: float64) at least
    and then rounded once to `dtype`.
    """
    if isinstance(weight, BlockWeight):
        elements = torch.tensor(
            [*E2M1, *(-v for v in E2M1)], dtype=torch.float64, device=weight.codes.device
        )
        scale = block_scales(weight.scale, weight.kind).double() * (
            1 if weight.tensor_scale is None else weight.tensor_scale.double()
        )
        values = elements[unpack(weight.codes, 4, weight.columns).long()]
        return (values * scale.repeat_interleave(weight.block, 1)[:, : weight.columns]).to(dtype)
    codes, scale, zero = unpack_weight(weight)
    work = torch.promote_types(dtype, torch.float32)
    shape = (weight.rows, weight.groups, weight.columns // weight.groups)
    real = scale[..., None].to(work) * (codes.view(shape).to(work) - zero[..., None].to(work))
    return real.view(weight.rows, weight.columns).to(dtype)


def round_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each token (row) of x as INT8 without a zero point: q = round(x / s), s = max |x| / 127; ties
    to even.

    Returns q (tokens, columns) int8 and s (tokens, 1). A token of zeros has s = 1; NaN or infinity
    make s NaN.
    """
    largest = x.abs().amax(1, keepdim=True)
    scale = torch.where(
        largest == 0, 1.0, (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
    )
    scale = torch.where(largest.isfinite(), scale, torch.nan)
    return (x / scale).round().nan_to_num(0).to(torch.int8), scale


def rounded(x: Tensor) -> Tensor:
    """X (…, columns) after `round_tokens` and back: s q."""
    q, scale = round_tokens(x.reshape(-1, x.shape[-1]).float())
    return (q * scale).view(x.shape).to(x.dtype)


def linear(
    x: Tensor,
    weight: PackedWeight | BlockWeight,
    bias: Tensor | None = None,
    *,
    activations: str = "float",
) -> Tensor:
    """X Ŵᵀ + b for x (…, columns), in the precision of x.

    activations "int8": every token is rounded first, x ≈ s_x q_x; the sum is the one that integers
    give, s_x Σ_g s_g Σ q_x (q_w − z_g).
    """
    x = rounded(x) if activations == "int8" else x
    return torch.nn.functional.linear(
        x, dequantize(weight, x.dtype), None if bias is None else bias.to(x.dtype)
    )
