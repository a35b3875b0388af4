"""The packed weights that the products here read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from .packing import pack, pack_planes, packed_width, planes_width, unpack, unpack_planes

BITS = tuple(range(1, 9))
SCALES = (torch.float16, torch.float32)
BLOCKS = {"E8M0": 32, "E4M3": 16}  # scales of MXFP4 and NVFP4, and how many numbers share one
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the codes 0 to 7; 8 to 15 are their negatives


class _Scaled:
    """A weight with scales (rows, groups)."""

    scale: Tensor

    @property
    def rows(self) -> int:
        """The number of outputs."""
        return self.scale.shape[0]

    @property
    def groups(self) -> int:
        """The number of groups in a row."""
        return self.scale.shape[1]


@dataclass(frozen=True, eq=False)
class PackedWeight(_Scaled):
    """Ŵ = s (q − z), a matrix (rows, columns) with one s and z for each group of neighbouring
    columns in a row.

    `codes` (rows, bytes) uint8, each row as `packing.pack_planes` writes it: with 4 bits the even
    columns are the low nibbles. `scale` (rows, groups) float16 or float32. `zero_point` (rows,
    ceil(groups · bits / 8)) as `packing.pack` writes it, or None for 2^(bits − 1) everywhere
    (symmetric). Raises CompressionError for whatever does not fit together.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bits: int
    columns: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise CompressionError(f"bits={self.bits}: the kernels read weights of 1 to 8 bits.")
        rows, groups = self.scale.shape if self.scale.dim() == 2 else (-1, 0)
        if self.scale.dtype not in SCALES:
            raise CompressionError(
                f"scale: {self.scale.dtype}; the kernels read torch.float16 and torch.float32."
            )
        if not groups or self.columns % groups:
            raise CompressionError(
                f"scale: shape {tuple(self.scale.shape)}; expected (rows, groups), groups dividing "
                f"the {self.columns} columns."
            )
        wanted = {"codes": (self.codes, planes_width(self.columns, self.bits))}
        if self.zero_point is not None:
            wanted["zero_point"] = (self.zero_point, packed_width(groups, self.bits))
        for name, (tensor, width) in wanted.items():
            if tensor.dtype != torch.uint8 or tensor.shape != (rows, width):
                found = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise CompressionError(
                    f"{name}: expected bytes of shape ({rows}, {width}), got {found}."
                )
            if tensor.device != self.scale.device:
                raise CompressionError(
                    f"{name}: on {tensor.device}, but scale is on {self.scale.device}; "
                    "move one of them."
                )
        for name in ("codes", "scale", "zero_point"):  # the kernels take addresses
            tensor = getattr(self, name)
            if tensor is not None and not tensor.is_contiguous():
                object.__setattr__(self, name, tensor.contiguous())

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return sum(t.nbytes for t in (self.codes, self.scale, self.zero_point) if t is not None)


@dataclass(frozen=True, eq=False)
class BlockWeight(_Scaled):
    """Ŵ = t · s · E2M1(code), a matrix (rows, columns) with one s for each block of neighbours in a
    row: MXFP4 and NVFP4.

    `codes` (rows, ceil(columns / 2)) uint8, as `packing.pack` writes them. `scale` (rows, blocks)
    uint8, patterns of `kind`:
    "E8M0", 2^(e − 127) for 32 numbers, or "E4M3", FP8 for 16; patterns of NaN make their rows NaN.
    The last block of a row may be shorter. `tensor_scale` () float32, None for 1. Raises
    CompressionError for whatever does not fit together.
    """

    codes: Tensor
    scale: Tensor
    tensor_scale: Tensor | None
    kind: str
    columns: int

    def __post_init__(self) -> None:
        if self.kind not in BLOCKS:
            raise CompressionError(
                f"kind={self.kind!r}: the kernels read scales of the kinds {', '.join(BLOCKS)}."
            )
        wanted = {
            "codes": (self.codes, packed_width(self.columns, 4)),
            "scale": (self.scale, -(-self.columns // self.block)),
        }
        for name, (tensor, width) in wanted.items():
            if (
                tensor.dtype != torch.uint8
                or tensor.dim() != 2
                or tensor.shape != (len(self.codes), width)
            ):
                found = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise CompressionError(
                    f"{name}: expected bytes of shape ({len(self.codes)}, {width}), got {found}."
                )
        whole = self.tensor_scale
        if whole is not None and (whole.dtype != torch.float32 or whole.numel() != 1):
            raise CompressionError(
                f"tensor_scale: expected one float32, got {tuple(whole.shape)} {whole.dtype}."
            )
        for name in ("codes", "scale", "tensor_scale"):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if tensor.device != self.codes.device:
                raise CompressionError(
                    f"{name}: on {tensor.device}, but codes are on {self.codes.device}; "
                    "move one of them."
                )
            if not tensor.is_contiguous():  # the kernels take addresses
                object.__setattr__(self, name, tensor.contiguous())

    @property
    def block(self) -> int:
        """Numbers that share a scale."""
        return BLOCKS[self.kind]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(t.nbytes for t in (self.codes, self.scale, self.tensor_scale) if t is not None)


def from_codes(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, bits: int = 4
) -> PackedWeight:
    """Pack codes (rows, columns), whole numbers 0 … 2^bits − 1, with scales and zero points (rows,
    groups).

    Scales become float16 where that is exact, else float32. zero_point None: symmetric. Raises
    CompressionError for codes or zero points that do not fit, and for scales that are NaN,
    infinite, or not positive.
    """
    if bits not in BITS:
        raise CompressionError(f"bits={bits}: the kernels read weights of 1 to 8 bits.")
    if codes.is_floating_point() and not torch.isfinite(codes).all():
        raise CompressionError("codes: contain NaN or infinity; quantize a finite weight.")
    if not torch.isfinite(scale).all() or (scale <= 0).any():
        raise CompressionError(
            "scale: contains NaN, infinity, or numbers that are not positive; "
            "quantize a finite weight."
        )
    if scale.dim() != 2 or len(scale) != len(codes):
        raise CompressionError(
            f"scale: shape {tuple(scale.shape)}; expected ({len(codes)}, groups)."
        )
    half = scale.half()
    stored = half if torch.equal(half.to(scale.dtype), scale) else scale.float()
    zero = None if zero_point is None else pack(zero_point, bits)
    return PackedWeight(pack_planes(codes, bits), stored, zero, bits, codes.shape[1])


def unpack_weight(weight: PackedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (rows, columns), scales and zero points (rows, groups),
    float32 except for the codes.
    """
    codes, scale = unpack_planes(weight.codes, weight.bits, weight.columns), weight.scale.float()
    if weight.zero_point is None:
        return codes, scale, torch.full_like(scale, 2 ** (weight.bits - 1))
    return codes, scale, unpack(weight.zero_point, weight.bits, weight.groups).float()


def block_scales(scale: Tensor, kind: str) -> Tensor:
    """The numbers, float32, that patterns (uint8) of "E8M0" or "E4M3" stand for."""
    return scale.view(torch.float8_e8m0fnu if kind == "E8M0" else torch.float8_e4m3fn).float()
