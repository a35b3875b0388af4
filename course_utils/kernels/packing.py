"""Small integers stored without wasted bits."""

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def check_bits(bits: int) -> None:
    if bits not in range(1, 9):
        raise CompressionError(f"bits={bits}: choose 1 to 8.")


def packed_width(columns: int, bits: int) -> int:
    """Bytes that hold `columns` codes: ceil(columns · bits / 8)."""
    return (columns * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes (rows, columns), each below 2^bits, into bytes (rows, ceil(columns · bits / 8)).

    Each row is one little-endian bit stream: code j occupies bits j·b … j·b + b − 1. With 4 bits the even columns
    are the low nibbles. Unused bits of the last byte are 0.
    Raises CompressionError for codes that are not whole numbers or do not fit.
    """
    check_bits(bits)
    if codes.dim() != 2 or (codes.is_floating_point() and not torch.equal(codes, codes.round())):
        raise CompressionError(f"codes: expected a matrix of whole numbers, got {tuple(codes.shape)} {codes.dtype}.")
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits):
        raise CompressionError(
            f"codes: from {int(codes.min())} to {int(codes.max())}, but {bits} bits hold 0 to {2**bits - 1}."
        )
    rows, columns = codes.shape
    stream = (codes.to(torch.uint8)[..., None] >> _shifts(bits, codes.device)) & 1
    stream = torch.nn.functional.pad(stream.reshape(rows, -1), (0, -columns * bits % 8))
    return (stream.view(rows, -1, 8) << _shifts(8, codes.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`: codes (rows, columns), uint8. Raises CompressionError for bytes of another width."""
    check_bits(bits)
    if packed.shape[-1] != packed_width(columns, bits):
        wanted = packed_width(columns, bits)
        raise CompressionError(
            f"packed: {packed.shape[-1]} bytes in a row, but {columns} codes of {bits} bits take {wanted}."
        )
    rows = packed.shape[0]
    if 8 % bits == 0:  # whole codes in each byte
        shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
        return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(rows, -1)[:, :columns]
    stream = ((packed[..., None] >> _shifts(8, packed.device)) & 1).reshape(rows, -1)[:, : columns * bits]
    return (stream.reshape(rows, columns, bits) << _shifts(bits, packed.device)).sum(-1, dtype=torch.uint8)


def _shifts(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device, dtype=torch.uint8)
