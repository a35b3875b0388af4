"""Uniform grids: which real numbers a small integer stands for.

q = clamp(round(x / s) + z, q_min, q_max),   x̂ = s (q − z)

with an integer zero point z (Jacob et al., 2018, eq. 1). Every tensor here is a matrix: weights are
(out_features, in_features), activations are (tokens, features).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from course_utils.errors import CompressionError

GRANULARITIES = ("per_tensor", "per_channel", "per_group", "per_token")
SUPPORTED_BITS = range(2, 9)
LARGEST = 8e37  # a quarter of float32's range: every point of a grid over such values is finite


@dataclass(frozen=True)
class Grid:
    """`scale` and `zero_point` are (rows or 1, groups); `group_index` (columns,) names each
    column's group.

    Codes are unsigned, 0 … 2^bits − 1. A symmetric grid has the zero point 2^(bits−1) everywhere.
    Its range is the full one, unless it was made `narrow`: see `scale_and_zero`.
    """

    scale: Tensor
    zero_point: Tensor
    group_index: Tensor
    bits: int
    symmetric: bool

    @property
    def largest(self) -> int:
        """The largest code."""
        return 2**self.bits - 1


def check_matrix(x: Tensor, name: str = "weight") -> Tensor:
    """`x` as a floating-point matrix of at least single precision.

    Raises CompressionError for anything else.
    """
    if not isinstance(x, Tensor) or x.dim() != 2 or x.numel() == 0 or not x.is_floating_point():
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise CompressionError(f"{name}: expected a non-empty floating-point matrix, got {shape}.")
    if not torch.isfinite(x).all():
        raise CompressionError(
            f"{name}: contains NaN or infinity; repair the weights before compressing them."
        )
    if x.abs().max() > LARGEST:
        raise CompressionError(
            f"{name}: a magnitude above {LARGEST:.0e} leaves no room for a grid in float32; "
            "rescale it."
        )
    return x if x.dtype == torch.float64 else x.float()


def check_bits(bits: int) -> None:
    """Raises CompressionError unless `bits` is a whole number that grids support."""
    if not isinstance(bits, Integral) or bits not in SUPPORTED_BITS:
        raise CompressionError(f"bits={bits}: choose a whole number from 2 to 8.")


def settings_of_grid(own: Mapping[str, Any]) -> dict[str, Any]:
    """Of a layer's settings those that say its grid: `bits`, `group_size` and `symmetric`."""
    return {name: own[name] for name in ("bits", "group_size", "symmetric")}


def check_group_size(group_size: int | None, columns: int) -> int:
    """The number of columns that share a scale; None or -1 means all of them."""
    if group_size in (None, -1):
        return columns
    if not isinstance(group_size, Integral) or group_size < 1 or columns % group_size:
        fitting = [g for g in (16, 32, 64, 128, 256) if columns % g == 0] or [columns]
        raise CompressionError(
            f"group_size={group_size} does not divide the {columns} columns; choose one "
            f"of {fitting}, or -1 for whole rows (in a model, per_layer can give a layer its own)."
        )
    return group_size


def check_granularity(granularity: str, known: Sequence[str]) -> None:
    """Raises CompressionError unless `granularity` is among those known."""
    if granularity not in known:
        raise CompressionError(f"granularity={granularity!r}: choose one of {', '.join(known)}.")


def is_half(values: Tensor) -> bool:
    """Whether float16 holds all values exactly."""
    return torch.equal(values.half().to(values.dtype), values)


def exact_half(scale: Tensor) -> Tensor:
    """Scales rounded to float16, the form they are stored in; one that this would move by over
    1/1000 keeps float32.
    """
    scale = scale.float()
    half = scale.half().float()
    return torch.where((half - scale).abs() <= scale / 1000, half, scale)


def scale_and_zero(
    low: Tensor, high: Tensor, bits: int, symmetric: bool, narrow: bool = False
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of ranges [low, high], widened to contain 0.

    Asymmetric: s = (high − low) / (2^b − 1), z = round(−low / s). Symmetric, with a = max(|low|,
    |high|): z = 2^(b−1) and

        s = 2a / (2^b − 1)          all 2^b codes; ±a lie half a step from the ends. The grid of
                                    weights in the official
                                    GPTQ code, llm-compressor and torchao.
        s = a / (2^(b−1) − 1)       with `narrow`: the codes 1 … 2^b − 1, ±a are points. The usual
                                    grid of INT8 activations and of the weights they meet
                                    (bitsandbytes, SmoothQuant, ONNX), a / 127.

    A range that is only {0} gets s = 1. `narrow` says nothing about an asymmetric grid.
    """
    dtype = low.dtype
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if symmetric:
        scale = torch.maximum(-low, high) / (2 ** (bits - 1) - (1 if narrow else 0.5))
    else:
        scale = (high - low) / (2**bits - 1)
    tiny = torch.finfo(torch.float32).tiny
    scale = torch.where(scale == 0, 1.0, scale.clamp(min=tiny))
    scale = exact_half(scale).double()
    zero = (
        torch.full_like(scale, 2 ** (bits - 1))
        if symmetric
        else (-low / scale).round().clamp(0, 2**bits - 1)
    )
    return scale.to(dtype), zero.to(dtype)


def make_grid(
    x: Tensor, *, bits: int, symmetric: bool = False, granularity: str = "per_group",
    group_size: int | None = 64,
    narrow: bool = False,
) -> Grid:  # fmt: skip
    """The min-max grid of a matrix (rows, columns).

    per_tensor: one scale; per_channel and per_token: one for each row (output channel of a weight,
    token of an activation); per_group: one for each `group_size` neighbouring columns of a row.
    symmetric, narrow: `scale_and_zero`.
    Raises CompressionError for bad bits, granularity, group size, NaN or infinity.
    """
    check_bits(bits)
    x = check_matrix(x, "x")
    check_granularity(granularity, GRANULARITIES)
    rows, columns = x.shape
    size = check_group_size(group_size, columns) if granularity == "per_group" else columns
    groups = (
        x.reshape(1, 1, -1)
        if granularity == "per_tensor"
        else x.reshape(rows, columns // size, size)
    )
    scale, zero = scale_and_zero(groups.amin(-1), groups.amax(-1), bits, symmetric, narrow)
    return Grid(scale, zero, torch.arange(columns, device=x.device) // size, bits, symmetric)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Codes q = clamp(round(x / s) + z, 0, 2^b − 1), uint8, same shape as x. Ties round to even.

    Raises CompressionError for NaN, infinity, or an x of another width than the grid's.
    """
    x = check_matrix(x, "x")
    rows, columns = len(grid.scale), len(grid.group_index)
    if x.shape[1] != columns or rows not in (1, len(x)):
        raise CompressionError(
            f"x: shape {tuple(x.shape)}, but the grid is for {rows} rows and {columns} columns."
        )
    scale, zero = grid.scale[:, grid.group_index], grid.zero_point[:, grid.group_index]
    return (torch.round(x.to(scale.dtype) / scale) + zero).clamp(0, grid.largest).to(torch.uint8)


def dequantize(codes: Tensor, grid: Grid) -> Tensor:
    """x̂ = s (q − z)."""
    scale, zero = grid.scale[:, grid.group_index], grid.zero_point[:, grid.group_index]
    return scale * (codes.to(scale.dtype) - zero)


def fake_quantize(x: Tensor, **grid_settings) -> Tensor:
    """Quantize and dequantize with the matrix's own min-max grid; settings as in `make_grid`."""
    grid = make_grid(x, **grid_settings)
    return dequantize(quantize(x, grid), grid).to(x.dtype)
