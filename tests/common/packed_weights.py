"""Random packed weights, and the product in float64 as a slow, separate calculation.

TOLERANCE is a part of Σ |x| (s q + s z), plus |b|. A float32 rounds by 6e-8 and the sums are short
trees; s q and s z are what the integer path subtracts from each other.
"""

import numpy as np
import torch

from course_utils import kernels

TOLERANCE = 4e-7
# rows, columns, groups: one number, odd sizes, one row, groups of 2 to 256, groups that begin
# inside a byte, ragged ends
SHAPES = [
    (1, 1, 1), (3, 7, 1), (1, 64, 1), (2, 128, 2), (5, 96, 3), (17, 192, 3), (9, 40, 5),
    (8, 36, 18), (4, 33, 3), (7, 33, 1), (16, 1024, 8), (6, 1024, 32), (10, 30, 2), (3, 514, 1),
    (5, 288, 6), (2, 768, 3), (33, 160, 2),
]  # fmt: skip


def make_weight(rows, columns, groups, bits, *, symmetric=False, half=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (rows, columns), generator=g)
    scale = torch.rand(rows, groups, generator=g) * 0.1 + 0.01
    zero = None if symmetric else torch.randint(2**bits, (rows, groups), generator=g)
    return kernels.from_codes(codes, scale.half() if half else scale, zero, bits=bits)


def spec(weight):
    """Ŵ and the size of its parts, s q + s z, both float64, read from the bytes with numpy."""

    def read(packed, count, width):
        bits = np.unpackbits(packed.numpy(), axis=1, bitorder="little")[:, : count * width]
        return bits.reshape(len(bits), count, width) @ 2.0 ** np.arange(width)

    codes, scale, low, start = 0, weight.scale.double().numpy(), 0, 0
    for width in (8, 4, 2, 1):  # the parts of a row, the low bits first
        if weight.bits & width:
            codes = codes + 2**low * read(weight.codes[:, start:], weight.columns, width)
            low, start = low + width, start + (weight.columns * width + 7) // 8
    zero = (
        np.full(scale.shape, 2.0 ** (weight.bits - 1))
        if weight.zero_point is None
        else read(weight.zero_point, weight.groups, weight.bits)
    )
    size = weight.columns // weight.groups
    s, z = scale.repeat(size, 1), zero.repeat(size, 1)
    return torch.from_numpy(s * (codes - z)), torch.from_numpy(s * (codes + z))


def error(y, x, weight, bias):
    """The largest difference from float64, as a part of the size of what was summed."""
    matrix, size = spec(weight)
    wanted, scale = x.double() @ matrix.T, x.double().abs() @ size.T
    if bias is not None:
        wanted, scale = wanted + bias.double(), scale + bias.double().abs()
    return float(((y.double() - wanted).abs() / scale.clamp(min=1e-30)).max())


def by_hand(x):
    """Each token in INT8 and back, number by number, in float64 from float32 scales."""
    out = torch.empty(x.shape, dtype=torch.float64)
    for t, token in enumerate(x):
        scale = token.abs().max() / 127
        out[t] = (token / scale).round().double() * scale.double() if scale > 0 else 0
    return out


ELEMENTS = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # of E2M1


def make_blocks(rows, columns, kind, *, seed=0, scales=None):
    """A BlockWeight with every code and scales of six octaves,
    or with these patterns of `scales`.
    """
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (rows, columns), generator=g)
    shape = (rows, -(-columns // kernels.BLOCKS[kind]))
    low, high = (120, 126) if kind == "E8M0" else (40, 88)
    drawn = (
        torch.randint(low, high, shape, generator=g)
        if scales is None
        else torch.tensor(scales)[torch.randint(len(scales), shape, generator=g)]
    )
    whole = None if kind == "E8M0" else torch.tensor(0.0371)
    return kernels.BlockWeight(kernels.pack(codes, 4), drawn.to(torch.uint8), whole, kind, columns)


def scale_by_hand(pattern, kind):
    """What a byte of E8M0 or E4M3 stands for, in Python's floats."""
    if kind == "E8M0":
        return float("nan") if pattern == 255 else 2.0 ** (pattern - 127)
    sign, e, m = (-1) ** (pattern >> 7), pattern >> 3 & 15, pattern & 7
    if e == 15 and m == 7:
        return float("nan")
    return sign * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))


def blocks_by_hand(weight):
    """Ŵ and the size of its parts, number by number in float64: what is subtracted of the products
    of integers is 6 s each.
    """
    whole, block = (
        1.0 if weight.tensor_scale is None else float(weight.tensor_scale),
        kernels.BLOCKS[weight.kind],
    )
    matrix = torch.empty(weight.rows, weight.columns, dtype=torch.float64)
    size = torch.empty_like(matrix)
    for i, (row, scales) in enumerate(
        zip(weight.codes.tolist(), weight.scale.tolist(), strict=True)
    ):
        for j in range(weight.columns):
            code, scale = (
                row[j // 2] >> 4 * (j % 2) & 15,
                whole * scale_by_hand(scales[j // block], weight.kind),
            )
            matrix[i, j] = scale * (-ELEMENTS[code - 8] if code > 7 else ELEMENTS[code])
            size[i, j] = abs(matrix[i, j]) + 6 * abs(scale)
    return matrix, size


def block_error(y, x, weight, bias):
    """As `error`, for blocks; a row whose products hold NaN must be NaN."""
    matrix, size = blocks_by_hand(weight)
    wanted, scale = x.double() @ matrix.T, x.double().abs() @ size.T
    if bias is not None:
        wanted, scale = wanted + bias.double(), scale + bias.double().abs()
    if not torch.equal(wanted.isnan(), y.isnan()):
        return float("inf")
    return float(((y.double() - wanted).abs() / scale.clamp(min=1e-30)).nan_to_num(0).max())
