"""Hardware that computes with currents or light, as noise on the weights and the sums of a digital
model.

Simulations only.

A crossbar keeps a weight as the difference of two conductances, programmed with an error whose size
belongs to the *device*: a share of the largest conductance g_max. How many weights share one g_max
decides what that share means for a small weight.

    array:  one range for the matrix       ŵ = w + σ · max|W| · e
    column: a range for each output         ŵ = w + σ · max_j |w_ij| · e
                                            (the wires of one output are a column)

Inputs enter by tiles of `tile` rows; each column's sum leaves through a converter of `bits`, in
which what lies beyond its range is cut off. Light counts photons: a product of N photons has a shot
noise of 1/√N of full scale (Hamerly et al., 2019).
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

RANGES = ("array", "column")


def ranges(weight: Tensor, kind: str = "column") -> Tensor:
    """(out, 1): the largest magnitude that a row of W can hold.

    Raises CompressionError for another `kind`.
    """
    if kind not in RANGES:
        raise CompressionError(f"kind={kind!r}: choose one of {', '.join(RANGES)}.")
    if not weight.numel() or not torch.isfinite(weight).all():
        raise CompressionError("weight: empty, NaN or infinite; give a finite matrix (out, in).")
    top = (
        weight.abs().amax(1, keepdim=True)
        if kind == "column"
        else weight.abs().max().expand(len(weight), 1)
    )
    return top.clamp(min=torch.finfo(weight.dtype).tiny)


def program(
    weight: Tensor, noise: float, kind: str = "column", rng: torch.Generator | None = None
) -> Tensor:
    """Weights (out, in) as a crossbar holds them after one programming with an error of `noise`
    times the range.
    """
    _share(noise=noise)
    return weight + noise * ranges(weight, kind) * torch.randn(
        weight.shape, generator=rng, dtype=weight.dtype
    )


def convert(sums: Tensor, bits: int, top: Tensor | float) -> Tensor:
    """A converter: 2^bits − 1 even steps from −top to top; what lies beyond is cut off."""
    if not 1 <= bits <= 24:
        raise CompressionError(f"bits={bits}: a converter here has 1 to 24.")
    step = 2 * torch.as_tensor(top, dtype=sums.dtype) / (2**bits - 1)
    half = (2**bits - 1) / 2
    return ((sums / step + half).round().clamp(0, 2**bits - 1) - half) * step


def crossbar(
    x: Tensor, weight: Tensor, *, tile: int = 64, bits: int | None = 8, reach: float = 4.0
) -> Tensor:
    """Y = x Wᵀ in memory: tiles of `tile` inputs, each column's sum through a converter, sums added
    digitally.

    The converter of a column reaches `reach` times the root mean square of what it may see,
    ‖x_tile‖ · ‖w_tile‖ / √tile, where the mean over tokens is taken. bits None: an ideal converter.
    x (tokens, in), weight (out, in).
    Raises CompressionError for shapes that do not fit.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or tile < 1:
        raise CompressionError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, tile={tile}: "
            "expected (tokens, in), (out, in) and a tile of at least 1."
        )
    total = x.new_zeros(len(x), len(weight))
    for part, w in zip(x.split(tile, 1), weight.split(tile, 1), strict=True):
        sums = part @ w.T
        if bits is not None:
            spread = part.square().sum(1).mean().sqrt() * w.norm(dim=1) / math.sqrt(part.shape[1])
            sums = convert(sums, bits, (reach * spread).clamp(min=1e-20))
        total += sums
    return total


def optical(
    x: Tensor, weight: Tensor, *, photons: float, rng: torch.Generator | None = None
) -> Tensor:
    """Y = x Wᵀ with shot noise: each product has `photons` photons at full scale, so a sum errs by
    max|x| · max|w| · √(in / photons) · e.

    The largest input of a token and the largest weight of an output are full scale.
    """
    if not photons > 0:
        raise CompressionError(f"photons={photons}: give a number above 0.")
    full = x.abs().amax(1, keepdim=True) * ranges(weight).T
    return x @ weight.T + full * math.sqrt(x.shape[1] / photons) * torch.randn(
        len(x), len(weight), generator=rng, dtype=x.dtype
    )


class _Inexact(nn.Module):
    def __init__(self, linear: nn.Module, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.product = (
            walk.weight_of(linear).detach(),
            getattr(linear, "bias", None),
            product,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def on_device(
    model: PreTrainedModel,
    *,
    program_with: Callable[[Tensor], Tensor] | None = None,
    multiply_with: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> PreTrainedModel:
    """A copy whose linear layers are programmed by `program_with(weight)` and multiply by
    `multiply_with(x, weight)`.
    """
    made = copy.deepcopy(model).eval()
    for name, module in walk.compressible(made).items():
        if program_with is not None:
            walk.weight_of(module).copy_(program_with(walk.weight_of(module)))
        if multiply_with is not None:
            walk.replace(made, name, _Inexact(module, multiply_with))
    return made


def _share(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise CompressionError(f"{name}={value}: give a finite number that is not negative.")
