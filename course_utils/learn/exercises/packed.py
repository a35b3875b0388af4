"""Two codes in a byte, and products with them: what the exercises of GPTQ compare with."""

import torch
from torch import Tensor

from .draws import pick, turn

# --- packing ---


def code_inputs(rng: torch.Generator) -> dict:
    shape = (pick(rng, 3, 5), turn(rng, 8, 34, 130))
    return {"codes": torch.randint(0, 16, shape, generator=rng, dtype=torch.uint8)}


def pack_int4(codes: Tensor) -> Tensor:
    """Byte k = code 2k + 16 · code (2k + 1)."""
    packed = torch.zeros(codes.shape[0], codes.shape[1] // 2, dtype=torch.uint8)
    for row in range(codes.shape[0]):
        for k in range(packed.shape[1]):
            packed[row, k] = int(codes[row, 2 * k]) + 16 * int(codes[row, 2 * k + 1])
    return packed


def halves(codes: Tensor) -> Tensor:
    low, high = codes.chunk(2, dim=1)
    return low | (high << 4)


# --- the packed product ---


def product_inputs(rng: torch.Generator) -> dict:
    rows, columns, groups = turn(rng, (5, 12, 3), (3, 40, 5), (2, 132, 11), (4, 6, 1))
    codes = torch.randint(0, 16, (rows, columns), generator=rng, dtype=torch.uint8)
    return {
        "x": torch.randn(4, columns, generator=rng, dtype=torch.float64),
        "packed": pack_int4(codes),
        "scale": torch.rand(rows, groups, generator=rng, dtype=torch.float64) + 0.1,
        "zero": torch.randint(0, 16, (rows, groups), generator=rng).double(),
    }


def packed_linear(
    x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, *, high_first: bool = False
) -> Tensor:
    """Y = x Ŵᵀ with ŵ_rj = s_rg (q_rj − z_rg), g = ⌊j / group size⌋."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    size = columns // scale.shape[1]
    weight = torch.zeros(rows, columns, dtype=scale.dtype)
    for r in range(rows):
        for j in range(columns):
            shift = 4 * ((j % 2) ^ high_first)
            code = (int(packed[r, j // 2]) >> shift) & 15
            weight[r, j] = scale[r, j // size] * (code - zero[r, j // size])
    return x @ weight.T


def unpacked(packed: Tensor) -> Tensor:
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).double()


def with_grid(spread, formula):
    """A wrong product: `spread` lays a group's number over the columns, `formula(q, s, z)` gives
    the weight.
    """

    def product(x, packed, scale, zero):
        size = 2 * packed.shape[1] // scale.shape[1]
        weight = formula(unpacked(packed), spread(scale, size), spread(zero, size))
        return x @ weight.T

    return product


def neighbours(values: Tensor, size: int) -> Tensor:
    return values.repeat_interleave(size, 1)


def tiled(values: Tensor, size: int) -> Tensor:
    return values.repeat(1, size)
