"""The same products for a GPU, in Triton: each program unpacks a tile of the weight and multiplies
it at once.

`linear` needs the extra `gpu`. On a CPU the kernels run through Triton's interpreter, far too slow
for work but good for tests: set TRITON_INTERPRET=1 before this module is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from course_utils.errors import CompressionError

from .formats import PackedWeight

GEMV = {"ROWS": 16, "BYTES": 128}
GEMM = {"TOKENS": 16, "ROWS": 32, "BYTES": 32}
BITS = (4, 8)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def weight_tile(
    codes, scale, zero, row, byte, half, rows, columns, groups,
    GROUP: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """S (q − z), float32, for the rows `row` and number `half` of the bytes `byte`; 0 outside the
    matrix.
    """
    per_byte: tl.constexpr = 8 // BITS
    largest: tl.constexpr = 2**BITS - 1
    row = row[:, None].to(tl.int64)
    column = byte[None, :] * per_byte + half
    group = column // GROUP
    inside = (row < rows) & (column < columns)
    packed = tl.load(
        codes + row * tl.cdiv(columns, per_byte) + byte[None, :], mask=inside, other=0
    ).to(tl.int32)
    code = (packed >> (BITS * half)) & largest
    s = tl.load(scale + row * groups + group, mask=inside, other=0).to(tl.float32)
    if SYMMETRIC:
        z = tl.full(code.shape, 2 ** (BITS - 1), tl.int32)
    else:
        at = row * tl.cdiv(groups, per_byte) + group // per_byte
        z = (
            tl.load(zero + at, mask=inside, other=0).to(tl.int32) >> (group % per_byte * BITS)
        ) & largest
    return s * (code - z).to(tl.float32)


@triton.jit
def gemv(
    x, codes, scale, zero, y, rows, columns, groups,
    GROUP: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):  # fmt: skip
    """One token (axis 1 of the grid) and ROWS rows (axis 0)."""
    per_byte: tl.constexpr = 8 // BITS
    row, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, tl.cdiv(columns, per_byte), BYTES):
        byte = start + tl.arange(0, BYTES)
        for half in tl.static_range(per_byte):
            column = byte * per_byte + half
            part = tl.load(x + token * columns + column, mask=column < columns, other=0).to(
                tl.float32
            )
            w = weight_tile(
                codes, scale, zero, row, byte, half, rows, columns, groups, GROUP, BITS, SYMMETRIC
            )
            total += tl.sum(w * part[None, :], 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


@triton.jit
def gemm(
    x, codes, scale, zero, y, tokens, rows, columns, groups,
    GROUP: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """TOKENS tokens (axis 1 of the grid) times ROWS rows (axis 0); the tile of Ŵ takes the
    precision of x.
    """
    per_byte: tl.constexpr = 8 // BITS
    row, token = (
        tl.program_id(0) * ROWS + tl.arange(0, ROWS),
        tl.program_id(1) * TOKENS + tl.arange(0, TOKENS),
    )
    token = token.to(tl.int64)  # tokens times rows may leave 32 bits
    total = tl.zeros([TOKENS, ROWS], tl.float32)
    for start in range(0, tl.cdiv(columns, per_byte), BYTES):
        byte = start + tl.arange(0, BYTES)
        for half in tl.static_range(per_byte):
            column = (byte * per_byte + half)[None, :]
            inside = (token < tokens)[:, None] & (column < columns)
            part = tl.load(x + token[:, None] * columns + column, mask=inside, other=0)
            w = weight_tile(
                codes, scale, zero, row, byte, half, rows, columns, groups, GROUP, BITS, SYMMETRIC
            )
            total += tl.dot(part, tl.trans(w.to(part.dtype)), input_precision="ieee")
    inside = (token < tokens)[:, None] & (row < rows)[None, :]
    tl.store(y + token[:, None] * rows + row[None, :], total, mask=inside)


def linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    blocks: dict | None = None,
    **launch,
) -> Tensor:
    """Y = x Ŵᵀ + b for x (tokens, columns); one token goes through `gemv`, more through `gemm`.

    Sums are float32; in `gemm` Ŵ is rounded to the dtype of x first, as for `F.linear` with a
    weight of that dtype.
    `blocks` replaces GEMV or GEMM (powers of two; those of `gemm` at least 16), `launch` goes to
    Triton (num_warps, num_stages). Raises CompressionError for other widths than BITS, and for
    shapes, dtypes or devices that do not fit.
    """
    if weight.bits not in BITS:
        raise CompressionError(
            f"weight: {weight.bits} bits; these kernels read 4 and 8. Use `reference.linear`."
        )
    if x.dim() != 2 or x.shape[1] != weight.columns or x.dtype not in DTYPES:
        names = ", ".join(map(str, DTYPES))
        raise CompressionError(
            f"x: expected (tokens, {weight.columns}) of {names}, got {tuple(x.shape)} {x.dtype}."
        )
    if x.device != weight.codes.device:
        raise CompressionError(
            f"x: on {x.device}, but the weight is on {weight.codes.device}; move one of them."
        )
    if x.device.type != "cuda" and isinstance(gemv, triton.JITFunction):
        raise CompressionError(
            "x: Triton needs a GPU; on a CPU set TRITON_INTERPRET=1 before importing this module."
        )
    x, tokens, (rows, groups) = x.contiguous(), len(x), weight.scale.shape
    y = torch.empty(tokens, rows, device=x.device, dtype=torch.float32)
    # not read when symmetric
    zero = weight.codes if weight.zero_point is None else weight.zero_point
    layout = {
        "GROUP": weight.columns // groups,
        "BITS": weight.bits,
        "SYMMETRIC": weight.zero_point is None,
    }
    if tokens == 1:
        blocks = blocks or GEMV
        gemv[(triton.cdiv(rows, blocks["ROWS"]), 1)](
            x, weight.codes, weight.scale, zero, y, rows, weight.columns, groups, **layout,
            **blocks, **launch
        )  # fmt: skip
    elif tokens:
        blocks = blocks or GEMM
        gemm[(triton.cdiv(rows, blocks["ROWS"]), triton.cdiv(tokens, blocks["TOKENS"]))](
            x, weight.codes, weight.scale, zero, y, tokens, rows, weight.columns, groups, **layout,
            **blocks, **launch
        )  # fmt: skip
    return (y if bias is None else y + bias.float()).to(x.dtype)
