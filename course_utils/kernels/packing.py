"""Small integers stored without wasted bits."""

import functools

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def check_bits(bits: int) -> None:
    """Raises CompressionError unless `bits` is 1 to 8."""
    if bits not in range(1, 9):
        raise CompressionError(f"bits={bits}: choose 1 to 8.")


def packed_width(columns: int, bits: int) -> int:
    """Bytes that hold `columns` codes: ceil(columns · bits / 8)."""
    return (columns * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes (rows, columns), each below 2^bits, into bytes (rows, ceil(columns · bits / 8)).

    Each row is one little-endian bit stream: code j occupies bits j·b … j·b + b − 1. With 4 bits
    the even columns are the low nibbles. Unused bits of the last byte are 0.
    Raises CompressionError for codes that are not whole numbers or do not fit.
    """
    check_codes(codes, bits)
    rows, columns = codes.shape
    stream = (codes.to(torch.uint8)[..., None] >> _shifts(bits, codes.device)) & 1
    stream = torch.nn.functional.pad(stream.reshape(rows, columns * bits), (0, -columns * bits % 8))
    return (stream.view(rows, packed_width(columns, bits), 8) << _shifts(8, codes.device)).sum(
        -1, dtype=torch.uint8
    )


def check_codes(codes: Tensor, bits: int) -> None:
    """Raises CompressionError unless `codes` is a matrix of whole numbers that fit in `bits`."""
    check_bits(bits)
    if codes.dim() != 2 or (codes.is_floating_point() and not torch.equal(codes, codes.round())):
        raise CompressionError(
            f"codes: expected a matrix of whole numbers, got {tuple(codes.shape)} {codes.dtype}."
        )
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits):
        raise CompressionError(
            f"codes: from {int(codes.min())} to {int(codes.max())}, but {bits} bits "
            f"hold 0 to {2**bits - 1}."
        )


def check_width(packed: Tensor, wanted: int, bits: int, columns: int) -> None:
    """Raises CompressionError unless packed rows have the bytes that their codes need."""
    if packed.shape[-1] != wanted:
        raise CompressionError(
            f"packed: {packed.shape[-1]} bytes in a row, but {columns} codes of "
            f"{bits} bits take {wanted}."
        )


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`: codes (rows, columns), uint8.

    Raises CompressionError for bytes of another width.
    """
    check_bits(bits)
    check_width(packed, packed_width(columns, bits), bits, columns)
    rows = packed.shape[0]
    if 8 % bits == 0:  # whole codes in each byte
        shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
        return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(
            rows, packed.shape[1] * (8 // bits)
        )[:, :columns]
    stream = ((packed[..., None] >> _shifts(8, packed.device)) & 1).reshape(
        rows, packed.shape[1] * 8
    )[:, : columns * bits]
    return (stream.reshape(rows, columns, bits) << _shifts(bits, packed.device)).sum(
        -1, dtype=torch.uint8
    )


TRITS = 5  # in a byte: 3⁵ = 243 of its 256 values are used


def pack_ternary(codes: Tensor) -> Tensor:
    """Pack codes 0, 1, 2 (rows, columns), five in a byte: Σ_i 3^i t_i; 1.6 bits each, where the
    least possible is log₂ 3 = 1.585.

    Column 5 j + i is digit i of byte j in base 3; missing digits of the last byte are 0. Returns
    (rows, ceil(columns / 5)) uint8.
    Raises CompressionError for other codes.
    """
    check_codes(codes, 2)
    if (codes == 3).any():
        raise CompressionError(
            "codes: hold a 3, but a ternary digit is 0, 1 or 2 (a weight of −1, 0, 1 plus 1)."
        )
    rows, columns = codes.shape
    digits = torch.nn.functional.pad(codes.long(), (0, -columns % TRITS)).view(
        rows, -(-columns // TRITS), TRITS
    )
    return (digits * 3 ** torch.arange(TRITS, device=codes.device)).sum(-1).to(torch.uint8)


def unpack_ternary(packed: Tensor, columns: int) -> Tensor:
    """The inverse of `pack_ternary`: codes (rows, columns), uint8.

    Raises CompressionError for bytes that it does not write.
    """
    if packed.dim() != 2 or packed.dtype != torch.uint8 or packed.shape[1] != -(-columns // TRITS):
        found = f"{tuple(packed.shape)} {packed.dtype}"
        raise CompressionError(
            f"packed: {found}; {columns} ternary codes take rows of {-(-columns // TRITS)} bytes."
        )
    if (packed >= 3**TRITS).any():
        raise CompressionError(
            f"packed: holds {int(packed.max())}; five ternary digits give at most {3**TRITS - 1}."
        )
    digits = packed.long()[..., None] // 3 ** torch.arange(TRITS, device=packed.device) % 3
    return digits.to(torch.uint8).view(len(packed), packed.shape[1] * TRITS)[:, :columns]


def planes(bits: int) -> list[tuple[int, int]]:
    """Widths 4, 2 or 1 (or one of 8) that sum to `bits`, and the lowest bit that each holds: 3 →
    [(2, 0), (1, 2)].
    """
    check_bits(bits)
    widths = [width for width in (8, 4, 2, 1) if bits & width]
    return [(width, sum(widths[:i])) for i, width in enumerate(widths)]


def planes_width(columns: int, bits: int) -> int:
    """Bytes of a row of `pack_planes`: those of `pack` where 8 divides the columns."""
    return sum(packed_width(columns, width) for width, _ in planes(bits))


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """Like `pack`, but no code crosses a byte: one part of each row for each of `planes`, beginning
    with the low bits.

    With 1, 2, 4 and 8 bits this is `pack`. A 3-bit code is kept as 2 bits in the first part and 1
    bit in the second.
    """
    check_codes(codes, bits)
    codes = codes.to(torch.uint8)
    return torch.cat([pack(codes >> low & 2**width - 1, width) for width, low in planes(bits)], 1)


def unpack_planes(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack_planes`: codes (rows, columns), uint8.

    Raises CompressionError for bytes of another width.
    """
    check_width(packed, planes_width(columns, bits), bits, columns)
    parts = packed.split([packed_width(columns, width) for width, _ in planes(bits)], 1)
    codes = [
        unpack(part, width, columns) << low
        for part, (width, low) in zip(parts, planes(bits), strict=True)
    ]
    return functools.reduce(torch.bitwise_or, codes)


def _shifts(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device, dtype=torch.uint8)
