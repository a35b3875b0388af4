"""HQQ: half-quadratic quantization, which fits the zero points to the weights alone (Badri and
Shaji, 2023).

A grid with a real zero point z, whose rounding errors may be few and large rather than many and
small:

    minimize over z and E   Σ |E|^p + (β / 2) (W − Ŵ(z) − E)²,     Ŵ(z) = s (q − z),
                            q = clamp(round(W / s + z))

by turns, with the scale s of the min-max grid kept. With z fixed, E is the generalized soft
threshold

    E ← sign(W − Ŵ) · max(0, |W − Ŵ| − |W − Ŵ|^(p−1) / β),

with E and the codes fixed, z ← mean of q − (W − E) / s in each group; and β grows by κ. No data is
used. As published:
p = 0.7, β = 10, κ = 1.01, 20 rounds at most, ended when mean|W − Ŵ| over the matrix no longer
falls. Here the zero points of the best round are kept.

`fit_scale` goes beyond the paper: scale and zero point of each group are fitted to its codes by
least squares, by turns with the codes, Σ (W − s (q − z))² → min, starting from the min-max grid;
the best round is kept for each group. At 2 bits the range is what costs most: a min-max grid has
two of its four values at the very ends. (Starts from parts of the range end at smaller squared
errors and, on the bundled model at 2 bits, at a larger KL: .7 of the range gives 0.5 % less error
and 1.8 times the KL.)

The least-squares line shrinks: its error is orthogonal to ŵ, so Σ (ŵ − w̄)² = (1 − t²) Σ (w − w̄)²
with t² the relative error, and a layer's outputs become smaller by about as much. Such errors do
not average out over inputs, and they have the same sign in all layers.
`unbiased` stretches the values of each group around their mean, codes as they are, until Σ (ŵ −
w̄)(w − w̄) = Σ (w − w̄)²: the squared error grows from t² to t² / (1 − t²), and the error has
nothing of w left in it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, packed_width, unpack
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import ExpandedLinear, frozen, layer_by_layer
from .grids import check_bits, check_group_size, check_matrix, exact_half, is_half
from .layer import storable

P, BETA, KAPPA, ROUNDS = 0.7, 10.0, 1.01, 20


@dataclass(frozen=True)
class RealZero:
    """`codes` (out, in) uint8; `scale` and `zero_point` (out, groups) float32, the zero points any
    real numbers.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int

    @property
    def weight(self) -> Tensor:
        """Ŵ = s (q − z), float32 (out, in)."""
        groups = self.codes.view(*self.scale.shape, -1).float()
        return ((groups - self.zero_point[..., None]) * self.scale[..., None]).view(
            self.codes.shape
        )


def shrink(error: Tensor, beta: float, p: float = P) -> Tensor:
    """The generalized soft threshold above; 0 stays 0."""
    size = error.abs()
    smaller = size - size.clamp(min=torch.finfo(size.dtype).tiny).pow(p - 1) / beta
    return error.sign() * smaller.clamp(min=0)


def quantize_layer(
    weight: Tensor, *, bits: int = 4, group_size: int | None = 64, fit_scale: bool = False,
    unbiased: bool = False, p: float = P, beta: float = BETA, kappa: float = KAPPA,
    rounds: int = ROUNDS,
) -> RealZero:  # fmt: skip
    """HQQ of one weight (out, in).

    Zero points are rounded to float16, in which they are stored, before the codes are taken.

    `fit_scale`: least squares for scales too, see the head (p, beta and kappa play no part);
    `unbiased` stretches them. With rounds=0 this is the min-max grid with real zero points. Raises
    CompressionError for NaN, infinity, bad bits, a group size that does not divide the inputs, or
    `unbiased` without `fit_scale`.
    """
    check_bits(bits)
    weight, largest = check_matrix(weight).float(), 2**bits - 1
    rows, columns = weight.shape
    groups = weight.view(rows, -1, check_group_size(group_size, columns))
    if fit_scale:
        made = _result(groups, *fitted(groups, largest, rounds), bits)
        return stretched(groups, made) if unbiased else made
    if unbiased:
        raise CompressionError(
            "unbiased=True: goes with fit_scale=True, whose shrinking it takes back; set both."
        )
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low) / largest
    scale = exact_half(
        torch.where(
            scale == 0,
            torch.where(low == 0, 1.0, low.abs()),
            scale.clamp(min=torch.finfo(torch.float32).tiny),
        )
    )
    units = groups / scale
    zero = -low / scale
    best, least = zero, torch.inf
    for _ in range(rounds + 1):
        codes = (units + zero).round().clamp(0, largest)
        error = groups - scale * (codes - zero)
        if (found := float(error.abs().mean())) >= least:
            break
        best, least = zero, found
        zero = (codes - units + shrink(error, beta, p) / scale).mean(-1, keepdim=True)
        beta *= kappa
    return _result(groups, scale, best, bits)


def _result(groups: Tensor, scale: Tensor, zero: Tensor, bits: int) -> RealZero:
    zero = zero.half().float()
    codes = (groups / scale + zero).round().clamp(0, 2**bits - 1).to(torch.uint8).flatten(1)
    return RealZero(codes, scale.squeeze(-1), zero.squeeze(-1), bits)


def fitted(groups: Tensor, largest: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points (out, groups, 1) with the least Σ (w − s (q − z))² found, q =
    clamp(round(w/s + z), 0, largest).

    With codes fixed the best line is that of regression: s = cov(q, w) / var(q), z = mean q − mean
    w / s.
    """
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    width = high - low
    tiny = torch.finfo(torch.float32).tiny
    # the scale of a group of equal weights
    flat = torch.where(low == 0, torch.ones_like(low), low.abs())
    least, best_scale, best_zero = torch.full_like(low, torch.inf), flat, low
    scale = torch.where(width == 0, flat, (width / largest).clamp(min=tiny))
    zero = -low / scale
    for step in range(rounds + 1):
        stored, zero = exact_half(scale), zero.half().float()
        codes = (groups / stored + zero).round().clamp(0, largest)
        error = (groups - stored * (codes - zero)).square().sum(-1, keepdim=True)
        better = error < least
        least, best_scale, best_zero = (
            torch.where(better, error, least),
            torch.where(better, stored, best_scale),
            torch.where(better, zero, best_zero),
        )
        if step < rounds:
            q, w = codes.mean(-1, keepdim=True), groups.mean(-1, keepdim=True)
            together, alone = (
                ((codes - q) * (groups - w)).sum(-1, keepdim=True),
                (codes - q).square().sum(-1, keepdim=True),
            )
            scale = torch.where(together > 0, together / alone.clamp(min=tiny), scale).clamp(
                min=tiny
            )
            zero = q - w / scale
    return best_scale, best_zero


def stretched(groups: Tensor, made: RealZero) -> RealZero:
    """The same codes (out, in) with scales and zero points such that the error of each group (out,
    groups, size) is uncorrelated with its weights.

    ŵ ← w̄ + c (ŵ − mean ŵ),
    c = Σ (w − w̄)² / Σ (w − w̄)(ŵ − mean ŵ), 1 where that is not positive.
    Scales and zero points are rounded to float16.
    """
    codes = made.codes.view(groups.shape).float()
    w, q = groups.mean(-1, keepdim=True), codes.mean(-1, keepdim=True)
    whole, together = (
        (groups - w).square().sum(-1, keepdim=True),
        ((groups - w) * (codes - q)).sum(-1, keepdim=True),
    )
    good = together > 0
    scale = torch.where(
        good, whole / together.clamp(min=torch.finfo(torch.float32).tiny), made.scale[..., None]
    )
    scale = torch.where(good, exact_half(scale), scale)
    zero = torch.where(good, (q - w / scale).half().float(), made.zero_point[..., None])
    return RealZero(made.codes, scale.squeeze(-1), zero.squeeze(-1), made.bits)


@storable
class RealZeroLinear(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ = s (q − z) made at each call.

    Buffers: `packed` (out, bytes) uint8, see `kernels.pack`; `scale` (out, groups), float16 where
    that is exact;
    `zero_point` (out, groups) float16.
    """

    packed: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, bits: int, groups: int,
        scale_dtype: str = "float16", bias: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.bits, self.groups = (
            in_features,
            out_features,
            bits,
            groups,
        )
        self.register_buffer(
            "packed", torch.zeros(out_features, packed_width(in_features, bits), dtype=torch.uint8)
        )
        self.register_buffer(
            "scale", torch.ones(out_features, groups, dtype=getattr(torch, scale_dtype))
        )
        self.register_buffer("zero_point", torch.zeros(out_features, groups, dtype=torch.float16))
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features, "bits": self.bits,
            "groups": self.groups, "scale_dtype": str(self.scale.dtype).removeprefix("torch."),
            "bias": self.bias is not None,
        }  # fmt: skip

    @classmethod
    def of(cls, result: RealZero, bias: Tensor | None) -> "RealZeroLinear":
        """The layer for a result and a bias."""
        rows, columns = result.codes.shape
        layer = cls(
            columns, rows, bits=result.bits, groups=result.scale.shape[1],
            scale_dtype="float16" if is_half(result.scale) else "float32",
        ).to(result.codes.device)  # fmt: skip
        layer.packed.copy_(pack(result.codes, result.bits))
        layer.scale.copy_(result.scale)
        layer.zero_point.copy_(result.zero_point)
        layer.bias = frozen(bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, unpacked now."""
        codes = unpack(self.packed, self.bits, self.in_features)
        return RealZero(codes, self.scale.float(), self.zero_point.float(), self.bits).weight

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.bits}, groups={self.groups}"
        )


def quantize(
    model: nn.Module, *, bits: int = 4, group_size: int | None = 64, fit_scale: bool = False,
    unbiased: bool = False, ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """HQQ of every linear layer of the blocks.

    Works on a copy; `ignore`, `per_layer` as in `rtn.quantize`; errors name the layer.
    """
    common: dict[str, Any] = {
        "bits": bits,
        "group_size": group_size,
        "fit_scale": fit_scale,
        "unbiased": unbiased,
    }

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return RealZeroLinear.of(quantize_layer(walk.weight_of(module), **own), module.bias)

    return layer_by_layer(model, make, {"method": "hqq", **common}, ignore, per_layer)
