"""What codes for several weights at once share: scales, a walk over groups of columns, and models
made of such layers.

Block LDLQ (Tseng et al., 2024, QuIP#, section 4.1) is GPTQ with groups of g columns in the place of
single ones. With H⁻¹ = UᵀU, U upper triangular, and the columns B of a group,

    Ŵ_B = code(W_B),     E_B = (W_B − Ŵ_B) U_BB⁻¹,     W_later −= E_B U_B,later.

Codes for normal numbers saturate at outliers. `rotation` (a seed) first mixes rows and columns, W'
= R₁ W R₂ᵀ, with Hadamard products of random signs (incoherence processing, QuIP#): each R is a
block diagonal of the largest power of two that divides the width, needs no bytes, and its inverse
is applied when the weight is decoded. Numbers of W' are nearly normal.

A row's scale is its root mean square times the code's own factor, and is fitted once more when its
codes are known:
s = w H q / (q H q), H = 1 without calibration, q the row of code values.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from . import hadamard
from .compressed import Compressed
from .convert import ExpandedLinear, Seen, frozen, layer_by_layer
from .grids import check_group_size, check_matrix, exact_half, is_half
from .hessians import check_walk, damped, inverse_cholesky, layer_error
from .layer import KINDS

# values (rows, g), first column → the values that their codes stand for
Encode = Callable[[Tensor, int], Tensor]


def row_scales(weight: Tensor, group_size: int | None, factor: float) -> Tensor:
    """(out, groups): the root mean square of each group times `factor`, in the precision that is
    stored; zeros have 1.
    """
    groups = weight.view(len(weight), -1, check_group_size(group_size, weight.shape[1]))
    scale = exact_half(groups.square().mean(-1).sqrt() * factor)
    return torch.where(scale > 0, scale, 1.0)


def spread(scale: Tensor, columns: int) -> Tensor:
    """Scales (out, groups) for each column, (out, columns)."""
    return scale.repeat_interleave(columns // scale.shape[1], 1)


def walk_groups(
    weight: Tensor, H: Tensor, width: int, encode: Encode, *, damping: float = 0.01, ahead: int = 0
) -> Tensor:
    """Ŵ (out, in): groups of `width` columns coded from left to right, the later ones moved by each
    error as above.

    encode(W_B, first column) returns Ŵ_B; it is shown `ahead` columns more, where there are any.
    Weights of inputs that are always 0 become 0 before they are coded.
    """
    W = check_walk(weight, H, damping, width).clone()
    U = inverse_cholesky(damped(H.to(W), damping))
    W[:, H.diagonal() == 0] = 0
    result = torch.empty_like(W)
    for first in range(0, W.shape[1], width):
        group = slice(first, first + width)
        result[:, group] = encode(W[:, first : first + width + ahead], first)
        errors = torch.linalg.solve_triangular(
            U[group, group], W[:, group] - result[:, group], upper=True, left=False
        )
        W[:, first + width :] -= errors @ U[group, first + width :]
    return result


def refitted(weight: Tensor, values: Tensor, scale: Tensor, H: Tensor | None = None) -> Tensor:
    """Scales (out, groups) of the least error for code values (out, in), w ≈ s · values; as they
    are where values are 0.

    With H, only scales of whole rows are fitted; smaller groups act on each other there and stay as
    they are.
    """
    if H is not None and scale.shape[1] > 1:
        return scale
    w, q = (t.view(*scale.shape, -1) for t in (weight, values))
    if H is not None:
        w = (weight @ H.to(weight)).view_as(w)
        alone = (q * (values @ H.to(values)).view_as(q)).sum(-1)
    else:
        alone = q.square().sum(-1)
    together = (w * q).sum(-1)
    fitted = exact_half(
        torch.where((together > 0) & (alone > 0), together / alone.clamp(min=1e-30), scale)
    )
    return torch.where(fitted > 0, fitted, scale)


def _signs(width: int, seed: int) -> Tensor:
    return (
        torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1
    )


def mixed(x: Tensor, seed: int) -> Tensor:
    """X Rᵀ for rows x (…, n), R = H diag(±1) with H a block diagonal of Hadamard matrices;
    float32.
    """
    n = x.shape[-1]
    turned = (x.float() * _signs(n, seed).to(x.device)).reshape(*x.shape[:-1], -1, n & -n)
    return hadamard.transform(turned).reshape(x.shape)


def unmixed(x: Tensor, seed: int) -> Tensor:
    """X R, the inverse of `mixed`: these Hadamard matrices are symmetric."""
    n = x.shape[-1]
    return hadamard.transform(x.reshape(*x.shape[:-1], -1, n & -n)).reshape(x.shape) * _signs(
        n, seed
    ).to(x.device)


def mixed_weight(weight: Tensor, seed: int | None) -> Tensor:
    """R₁ W R₂ᵀ; the weight itself without a seed."""
    if seed is None:
        return weight
    if not isinstance(seed, int) or seed < 0:
        raise CompressionError(
            f"rotation={seed!r}: give a seed, a whole number from 0 up, or None."
        )
    return mixed(mixed(weight, seed).T, seed + 1).T.contiguous()


class ScaledCodes(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ = s · values(codes), the values made at each call.

    Kinds say what their codes mean.

    Buffers: `packed` (out, bytes) uint8; `scale` (out, groups), float16 where that is exact; and
    those of the kind.
    """

    packed: Tensor
    scale: Tensor
    rotation: int | None = None  # the seed of `mixed`

    def _set_up(
        self, in_features: int, out_features: int, width: int, groups: int, scale_dtype: str,
        bias: bool, dtype: torch.dtype, rotation: int | None
    ) -> None:  # fmt: skip
        self.in_features, self.out_features, self.groups, self.rotation = (
            in_features,
            out_features,
            groups,
            rotation,
        )
        self.register_buffer("packed", torch.zeros(out_features, width, dtype=torch.uint8))
        self.register_buffer(
            "scale", torch.ones(out_features, groups, dtype=getattr(torch, scale_dtype))
        )
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def _fill(self, packed: Tensor, weight: Tensor, scale: Tensor, H: Tensor | None) -> None:
        """The codes of a weight, and its scales, fitted once more now that the codes are known."""
        self.packed = packed
        scale = refitted(weight, self.values(), scale, H)
        self.scale = scale.half() if is_half(scale) else scale

    def shape(self) -> dict[str, Any]:
        """The constructor's arguments that all kinds have."""
        return {
            "in_features": self.in_features, "out_features": self.out_features,
            "groups": self.groups, "scale_dtype": str(self.scale.dtype).removeprefix("torch."),
            "bias": self.bias is not None, "rotation": self.rotation,
        }  # fmt: skip

    def values(self) -> Tensor:
        """What the codes stand for before the scale, (out, in) float32."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, decoded now."""
        weight = self.values() * spread(self.scale.float(), self.in_features)
        return (
            weight
            if self.rotation is None
            else unmixed(unmixed(weight.T, self.rotation + 1).T, self.rotation)
        )


def bits_per_weight(model: nn.Module) -> float:
    """Bits of everything that the compressed layers of any method hold, but for their biases, for
    each of their weights: codes, scales, tables.

    A table that layers share counts once.
    """
    layers: list[Any] = [
        m for m in model.modules() if type(m).__name__ in KINDS and hasattr(m, "in_features")
    ]
    if not layers:
        raise CompressionError("model: no layer of it is compressed; quantize it first.")
    held = {
        (b.data_ptr() or id(b), b.nbytes): b.nbytes
        for m in layers
        for b in m.buffers(recurse=False)
    }
    return 8 * sum(held.values()) / sum(m.in_features * m.out_features for m in layers)


Make = Callable[[Tensor, Tensor | None, dict[str, Any]], ScaledCodes]  # weight, H, settings → layer


@torch.no_grad()
def quantize_model(
    model: nn.Module, calibration: Tensor | None, layer_of: Make, settings: dict[str, Any], *,
    damping: float = 0.01, ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """A copy of `model` with layer_of(weight, H, settings) in the place of each linear layer of the
    blocks; H is None without calibration, and for layers that saw fewer tokens than they have
    inputs (experts; `details["few_tokens"]`).

    `details`: `bits_per_weight`, everything counted; with calibration `layer_error` by name. Works
    on a copy; errors name the layer.
    """

    def make(
        _name: str, module: nn.Module, own: dict[str, Any], seen: Seen | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The layer, made in the mixed basis where there is one."""
        weight = check_matrix(walk.weight_of(module)).float()
        rotation, H, kept = (
            own.pop("rotation"),
            None if seen is None or seen.few else seen.known,
            weight,
        )
        if rotation is not None and H is not None:
            kept, H = (
                weight.masked_fill(H.diagonal() == 0, 0),
                mixed(mixed(H, rotation).T, rotation),
            )
        layer = layer_of(mixed_weight(kept, rotation), H, own)
        layer.rotation, layer.bias = rotation, frozen(module.bias)  # type: ignore[arg-type]
        if seen is None:
            return layer, {}
        return layer, {"few_tokens": seen.tokens} if seen.few else {
            "layer_error": layer_error(weight, layer.weight, seen.H)
        }  # type: ignore[arg-type]

    told = {} if calibration is None else {"damping": damping}
    result = layer_by_layer(model, make, settings, ignore, per_layer, told, calibration)
    result.details = {"bits_per_weight": bits_per_weight(result.model)} | result.details
    if calibration is not None:
        result.details = {"layer_error": {}, "few_tokens": {}} | result.details
    return result
