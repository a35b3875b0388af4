"""Block-wise codes with a table of values: NF4 and FP4 in 4 bits, dynamic INT8, and scales that are
quantized too.

The tensor is read row by row as one long list and cut into blocks. With a = max|x| of a block, each
value is the nearest entry of a table over [−1, 1]:

    code = argmin_k |x / a − t_k|,     x̂ = a · t_code.

NF4's table (Dettmers et al., 2023, QLoRA) holds quantiles of the normal distribution. Its codes are
not used equally often: weights that are divided by the largest of their block are not normal
(Yoshida, 2023, arXiv 2306.06965). Double quantization stores the block maxima themselves in 8 bits.
Codes, layout and tables are those of bitsandbytes.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import ExpandedLinear, frozen, layer_by_layer
from .grids import LARGEST
from .layer import storable

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK = 256
# the published table; formats.normal_float_values computes it, which gives the same to 4e-7
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
LOOKUP = 65536  # entries of the table in which bitsandbytes' CPU code looks up 8-bit codes


@functools.cache
def table(format: str) -> Tensor:
    """The values that codes 0, 1, … stand for, float32: 'nf4', 'fp4' (16) or 'int8' (256).

    fp4 has a sign bit, two exponent bits and a mantissa bit; bitsandbytes reads the 8 magnitudes as
    0, 1/16, 8, 12, 4, 6, 2, 3, here divided by 12. int8 is the dynamic type (Dettmers, 2015): a
    sign, a run of zeros that gives a power of ten, and the bits that are left as a linear fraction
    of [0.1, 1].
    """
    if format == "nf4":
        return torch.tensor(NF4)
    if format == "fp4":
        magnitudes = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
        return torch.cat([magnitudes, -magnitudes])
    if format == "int8":
        found = [0.0, 1.0]
        for i in range(7):
            edges = torch.linspace(0.1, 1, 2**i + 1)
            middles = 10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)
            found += middles.tolist() + (-middles).tolist()
        return torch.tensor(sorted(found))
    raise CompressionError(f"format={format!r}: choose one of nf4, fp4, int8.")


@dataclass(frozen=True)
class Blockwise:
    """`codes` (numel,) uint8 and `absmax` (blocks,) float32 of a tensor of `shape`."""

    codes: Tensor
    absmax: Tensor
    format: str
    block_size: int
    shape: torch.Size


def encode(x: Tensor, *, format: str = "nf4", block_size: int = 64) -> Blockwise:
    """Block-wise codes of a tensor of any shape; the last block may be shorter.

    A value halfway between two entries goes to the lower one. The 8-bit codes are found as
    bitsandbytes finds them on a CPU: x / a is first rounded to one of 65,536 places, which decides
    about one near-tie in a thousand otherwise.
    Raises CompressionError for NaN, infinity, an empty tensor, an unknown format or block size.
    """
    values = table(format).to(x.device)
    if block_size not in BLOCK_SIZES:
        raise CompressionError(
            f"block_size={block_size}: choose one of {', '.join(map(str, BLOCK_SIZES))}."
        )
    if x.numel() == 0 or not x.is_floating_point() or not torch.isfinite(x).all():
        raise CompressionError(
            "x: expected real numbers without NaN or infinity, at least one; "
            "repair the weights first."
        )
    if x.abs().max() > LARGEST:
        raise CompressionError(f"x: a magnitude above {LARGEST:.0e}; rescale the weights.")
    flat = x.detach().reshape(-1).float()
    padded = nn.functional.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    absmax = padded.abs().amax(1)
    unit = (padded * (1 / absmax.clamp(min=1e-38))[:, None]).clamp(-1, 1).view(-1)[: len(flat)]
    ordered, order = values.sort()
    middles = (ordered[:-1] + ordered[1:]) / 2
    if format == "int8":
        place = (unit * 0.5 + 0.5) * (LOOKUP - 1) + 0.5
        unit = place.long().float() * (2 / (LOOKUP - 1)) - 1
        codes = torch.bucketize(unit, middles)
        codes = torch.where(absmax.repeat_interleave(block_size)[: len(flat)] == 0, 0, codes)
    else:
        codes = order[torch.bucketize(unit, middles)]
    return Blockwise(codes.to(torch.uint8), absmax, format, block_size, x.shape)


def decode(blockwise: Blockwise, dtype: torch.dtype = torch.float32) -> Tensor:
    """x̂ = a · t_code, in the tensor's shape."""
    values = table(blockwise.format).to(blockwise.codes.device)[blockwise.codes.long()]
    scale = blockwise.absmax.repeat_interleave(blockwise.block_size)[: len(values)]
    return (values * scale).to(dtype).view(blockwise.shape)


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes below 16, two to a byte, the first of each pair in the high half:
    (ceil(n / 2),) uint8.
    """
    codes = nn.functional.pad(codes, (0, len(codes) % 2))
    return codes[::2] << 4 | codes[1::2]


def unpack_nibbles(packed: Tensor, n: int) -> Tensor:
    """`n` codes of 4 bits, the upper half of each byte first."""
    return torch.stack([packed >> 4, packed & 15], 1).view(-1)[:n]


def compress_absmax(absmax: Tensor) -> tuple[Blockwise, Tensor]:
    """Double quantization: (8-bit codes of absmax − offset in blocks of 256, the offset = mean
    absmax).
    """
    offset = absmax.mean()
    return encode(absmax - offset, format="int8", block_size=NESTED_BLOCK), offset


def expand_absmax(nested: Blockwise, offset: Tensor) -> Tensor:
    """The blocks' largest magnitudes, from their own 8-bit codes and the offset."""
    return decode(nested) + offset


def bits_per_weight(format: str, block_size: int, double: bool) -> float:
    """Bits that a weight takes: the code and its share of the scales."""
    scale = 8 + 32 / NESTED_BLOCK if double else 32
    return (8 if format == "int8" else 4) + scale / block_size


@storable
class BlockwiseLinear(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ decoded at each call.

    Buffers: `packed` uint8; `absmax` (blocks,), float32, or uint8 codes with `nested_absmax` and
    `offset`.
    """

    packed: Tensor
    absmax: Tensor
    nested_absmax: Tensor
    offset: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, format: str = "nf4", block_size: int = 64,
        nested: bool = False, bias: bool = False, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.format, self.block_size, self.nested = format, block_size, nested
        n = in_features * out_features
        blocks = -(-n // block_size)
        self.register_buffer(
            "packed", torch.zeros(n if format == "int8" else -(-n // 2), dtype=torch.uint8)
        )
        self.register_buffer(
            "absmax", torch.zeros(blocks, dtype=torch.uint8 if nested else torch.float32)
        )
        self.register_buffer(
            "nested_absmax", torch.zeros(-(-blocks // NESTED_BLOCK)) if nested else None
        )
        self.register_buffer("offset", torch.zeros(()) if nested else None)
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features,
            "format": self.format, "block_size": self.block_size, "nested": self.nested,
            "bias": self.bias is not None,
        }  # fmt: skip

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, **settings) -> "BlockwiseLinear":
        """The layer for a weight and a bias."""
        layer = cls(weight.shape[1], weight.shape[0], **settings).to(weight.device)
        found = encode(weight, format=layer.format, block_size=layer.block_size)
        layer.packed = found.codes if layer.format == "int8" else pack_nibbles(found.codes)
        layer.absmax = found.absmax
        if layer.nested:
            scales, layer.offset = compress_absmax(found.absmax)
            layer.absmax, layer.nested_absmax = scales.codes, scales.absmax
        layer.bias = frozen(bias)
        return layer

    @property
    def blockwise(self) -> Blockwise:
        """The layer's codes and scales, as `decode` takes them."""
        n = self.in_features * self.out_features
        codes = self.packed if self.format == "int8" else unpack_nibbles(self.packed, n)
        absmax = self.absmax
        if self.nested:
            scales = Blockwise(absmax, self.nested_absmax, "int8", NESTED_BLOCK, absmax.shape)
            absmax = expand_absmax(scales, self.offset)
        return Blockwise(
            codes,
            absmax,
            self.format,
            self.block_size,
            torch.Size((self.out_features, self.in_features)),
        )

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, decoded now."""
        return decode(self.blockwise)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.format}, "
            f"block {self.block_size}"
        )


def quantize(
    model: nn.Module,
    *,
    format: str = "nf4",
    block_size: int = 64,
    double: bool = True,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """Block-wise codes for every linear layer of the blocks: 'nf4', 'fp4' or 'int8'.

    Works on a copy.

    `double` quantizes the scales too, as QLoRA does. `ignore`, `per_layer` as in `rtn.quantize`.
    Raises CompressionError as `encode`, naming the layer.
    """
    table(format)
    settings = {"format": format, "block_size": block_size, "double": double}

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return BlockwiseLinear.of(
            walk.weight_of(module), module.bias, nested=own.pop("double"), **own
        )

    return layer_by_layer(
        model,
        make,
        {"method": "nf4" if format == "nf4" else f"blockwise-{format}", **settings},
        ignore,
        per_layer,
    )
