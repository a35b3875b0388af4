"""One or one and a half bits: binary and ternary weights.

Binary (Rastegari et al., 2016, XNOR-Net): ŵ = α sign(w), least squares gives α = mean|w|.
Ternary: ŵ = α t, t ∈ {−1, 0, 1}, t = 0 where |w| ≤ Δ; for a given Δ least squares gives α =
mean{|w| : |w| > Δ}. Rules for Δ:
'twn' Δ = 0.7 mean|w| (Li et al., 2016); 'optimal' tries every Δ and takes the least squared error;
'absmean' rounds w / mean|w| and keeps α = mean|w| (Ma et al., 2024, BitNet b1.58).

Ternary codes take 2 bits in a layer, which the products read, and 1.6 in a file (`ternary_files`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .codebooks import CodebookLinear, CodebookResult
from .compressed import Compressed
from .convert import layer_by_layer
from .grids import Grid, check_group_size, check_matrix, exact_half
from .layer import LayerResult, QuantizedLinear

RULES = ("twn", "optimal", "absmean")


def _groups(weight: Tensor, group_size: int | None) -> Tensor:
    weight = check_matrix(weight)
    return weight.view(len(weight), -1, check_group_size(group_size, weight.shape[1]))


def _stored(scale: Tensor) -> Tensor:
    """Scales as they are stored; a group of zeros gets 1."""
    return exact_half(torch.where(scale > 0, scale, 1.0)).to(scale.dtype)


def binary_layer(weight: Tensor) -> CodebookResult:
    """Ŵ = α_i sign(w_ij), α_i = mean_j |w_ij| of row i; 0 counts as positive.

    The codebook of a row is (−α_i, α_i).
    """
    weight = check_matrix(weight)
    alpha = exact_half(weight.abs().mean(1, keepdim=True)).to(weight.dtype)
    codes = (weight >= 0).to(torch.uint8)
    return CodebookResult(
        codes, torch.cat([-alpha, alpha], 1).float(), 1, torch.where(codes == 1, alpha, -alpha)
    )


def ternary_layer(
    weight: Tensor, *, rule: str = "optimal", group_size: int | None = -1
) -> LayerResult:
    """Ternary codes with a scale for each `group_size` inputs of a row (-1: whole rows), as a
    symmetric 2-bit grid.

    Raises CompressionError for an unknown rule, NaN, infinity, or a group size that does not divide
    the inputs.
    """
    if rule not in RULES:
        raise CompressionError(f"rule={rule!r}: choose one of {', '.join(RULES)}.")
    w = _groups(weight, group_size)
    magnitude = w.abs()
    mean = magnitude.mean(-1, keepdim=True)
    if rule == "absmean":
        scale = _stored(mean)
        signs = (w / scale).round().clamp(-1, 1)
    else:
        delta = 0.7 * mean if rule == "twn" else best_threshold(magnitude)
        kept = magnitude > delta
        total = (magnitude * kept).sum(-1, keepdim=True)
        scale = _stored(total / kept.sum(-1, keepdim=True).clamp(min=1))
        signs = w.sign() * kept
    rows, columns = weight.shape
    codes = (signs + 2).to(torch.uint8).view(rows, columns)
    scale = scale.squeeze(-1)
    index = torch.arange(columns, device=w.device) // w.shape[-1]
    grid = Grid(scale, torch.full_like(scale, 2), index, 2, True)
    return LayerResult(codes, grid, (signs * scale[..., None]).view(rows, columns))


def best_threshold(magnitude: Tensor) -> Tensor:
    """Δ (…, 1) of the least squared error for magnitudes (…, n).

    Keeping the k largest costs Σ m² − (Σ_{kept} m)² / k, so that the best k maximizes the second
    term.
    """
    ordered = magnitude.double().sort(-1, descending=True).values
    k = torch.arange(1, ordered.shape[-1] + 1, dtype=torch.float64, device=magnitude.device)
    best = (ordered.cumsum(-1) ** 2 / k).argmax(-1, keepdim=True)
    padded = nn.functional.pad(ordered, (0, 1), value=-1.0)
    inside, outside = ordered.gather(-1, best), padded.gather(-1, best + 1)
    return torch.where(outside < 0, -1.0, (inside + outside) / 2).to(magnitude.dtype)


def quantize(
    model: nn.Module, *, kind: str = "ternary", rule: str = "optimal", group_size: int | None = -1,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Binary ('binary') or ternary ('ternary') weights in every linear layer of the blocks.

    Works on a copy.

    `rule` and `group_size` concern ternary weights. `ignore`, `per_layer` as in `rtn.quantize`.
    Errors name the layer.
    """
    _known(kind)

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        weight = walk.weight_of(module)
        if _known(own.pop("kind")) == "binary":
            return CodebookLinear.of(binary_layer(weight), module.bias)
        return QuantizedLinear.of(ternary_layer(weight, **own), module.bias)

    return layer_by_layer(
        model,
        make,
        {"method": kind, "kind": kind, "rule": rule, "group_size": group_size},
        ignore,
        per_layer,
    )


def _known(kind: str) -> str:
    if kind not in ("binary", "ternary"):
        raise CompressionError(f"kind={kind!r}: choose 'binary' or 'ternary'.")
    return kind
