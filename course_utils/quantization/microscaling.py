"""Blocks of narrow numbers that share a scale of 8 bits: the MX formats and NVFP4.

MX: a block of 32 shares one power of two (E8M0), chosen so that the largest number falls into the
element's top binade.

    X = 2^(⌊log2 max|x|⌋ − e_max),     x̂ = X · cast(x / X)

⌊·⌋ is the rule of the specification (OCP Microscaling Formats 1.0, 2023, section 6.3): max|x| / X
can exceed the largest element, which then saturates (E2M1: 6, where x / X reaches 8). rule="ceil"
takes the smallest power of two that lets nothing saturate.

NVFP4: a block of 16 shares an FP8 number s, and the whole tensor one number t in FP32.

    t = max|x| / (6 · 448),     s = E4M3(max of the block / (6 t)),     x̂ = t · s · E2M1(x / (t s))

6 and 448 are the largest numbers of E2M1 and E4M3; t is the reciprocal of a number in FP32, because
files hold 1 / t. With `four_over_six` (Cook et al., 2025) each block also tries the scale that puts
its largest number at 4, and keeps the better in the squared error: E2M1 has nothing between 4 and
6. That scale is 1.5 times as large, so t puts the largest at 256, for 1.5 · 256 = 384 is in E4M3.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels import BlockWeight, compiled_for, pack, reference, unpack
from course_utils.kernels.packing import packed_width
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from . import formats
from .compressed import Compressed
from .convert import ExpandedLinear, frozen, layer_by_layer
from .formats import Format
from .grids import check_matrix
from .layer import Described, check_activations, storable

E8M0_BIAS, LOWEST, HIGHEST = 127, -127, 127  # 0xFF is NaN: it stands for no scale
RULES = ("floor", "ceil")
PRODUCTS = ("MXFP4", "NVFP4")  # schemes that `course_utils.kernels` multiplies with
E2M1, E4M3 = formats.find("FP4 E2M1"), formats.find("FP8 E4M3")


@dataclass(frozen=True)
class Scheme:
    """Elements, how many of them share a scale, the scale's format, and what the last place of a
    whole number stands for.
    """

    element: Format
    block: int
    scale: str = "E8M0"
    unit: float = 1.0

    @property
    def largest(self) -> float:
        """The largest element; −128/64 of INT8 is left out,
        so that no number is larger below zero.
        """
        return self.element.largest * self.unit

    @property
    def e_max(self) -> int:
        """⌊log2 of the largest element⌋."""
        return int(torch.tensor(self.largest).log2().floor())

    @property
    def bits_per_weight(self) -> float:
        """An element and its share of the block's scale."""
        return self.element.bits + 8 / self.block


SCHEMES = {
    "MXFP4": Scheme(E2M1, 32),
    "MXFP6 E2M3": Scheme(Format("FP6 E2M3", 6, "float", 2, 3), 32),
    "MXFP6 E3M2": Scheme(Format("FP6 E3M2", 6, "float", 3, 2), 32),
    "MXFP8 E4M3": Scheme(E4M3, 32),
    "MXFP8 E5M2": Scheme(formats.find("FP8 E5M2"), 32),
    "MXINT8": Scheme(formats.find("INT8"), 32, unit=1 / 64),
    "NVFP4": Scheme(E2M1, 16, "E4M3"),
}


@dataclass(frozen=True)
class Blocks:
    """`codes` (rows, columns) int64 patterns of elements, `scales` (rows, blocks) uint8 patterns,
    `tensor_scale` () float32.
    """

    codes: Tensor
    scales: Tensor
    tensor_scale: Tensor
    scheme: str


def find(scheme: str) -> Scheme:
    """A scheme by its name. Raises CompressionError with the names that there are."""
    if scheme not in SCHEMES:
        raise CompressionError(f"scheme={scheme!r}: choose one of {', '.join(SCHEMES)}.")
    return SCHEMES[scheme]


def _in_blocks(x: Tensor, size: int) -> Tensor:
    """(rows, blocks, size); the last block is filled up with zeros, which change no maximum."""
    return nn.functional.pad(x, (0, -x.shape[1] % size)).view(len(x), -1, size)


def scale_values(scales: Tensor, scheme: str) -> Tensor:
    """The numbers, float64, that patterns of scales stand for: 2^(E − 127), NaN for E = 255, or
    E4M3.
    """
    if find(scheme).scale == "E4M3":
        return formats.decode(scales, E4M3).double()
    return torch.where(scales == 255, torch.nan, formats.power_of_two(scales.long() - E8M0_BIAS))


def _block_scales(scales: Tensor, scheme: str, tensor_scale: Tensor) -> Tensor:
    """T · s of each block, float64 (rows, blocks, 1)."""
    return (scale_values(scales, scheme) * tensor_scale.double())[..., None]


def _nearest(blocks: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    """Patterns of x / scale; zeros where the scale is 0."""
    unit = torch.where(scale > 0, scale, torch.inf)
    elements = (blocks / unit).clamp(-scheme.largest, scheme.largest) / scheme.unit
    return formats.encode(elements, scheme.element, saturate=True)


def _shared_exponents(peak: Tensor, scheme: Scheme, rule: str) -> Tensor:
    """Patterns of E8M0. A block of zeros takes the smallest scale."""
    mantissa, exponent = torch.frexp(peak)  # peak = mantissa · 2^exponent with mantissa in [1/2, 1)
    shared = exponent.long() - 1 - scheme.e_max
    if rule == "ceil":
        shared = shared + (mantissa * 2.0 ** (1 + scheme.e_max) > scheme.largest)
    shared = torch.where(peak > 0, shared, LOWEST)
    return (shared.clamp(LOWEST, HIGHEST) + E8M0_BIAS).to(torch.uint8)


def encode(x: Tensor, scheme: str, *, rule: str = "floor", four_over_six: bool = False) -> Blocks:
    """A matrix (rows, columns) in a block format; blocks lie along the rows, the last of a row may
    be shorter.

    `rule` is for E8M0 scales, `four_over_six` for NVFP4. An NVFP4 block whose scale would round to
    0 takes the smallest scale, 2^−9 t. Raises CompressionError for NaN, infinity, an unknown
    scheme, or an option that the scheme does not have.
    """
    found = find(scheme)
    if rule not in RULES:
        raise CompressionError(f"rule={rule!r}: choose one of {', '.join(RULES)}.")
    if (four_over_six and found.scale != "E4M3") or (rule != "floor" and found.scale != "E8M0"):
        raise CompressionError(
            f"{scheme}: `rule` is for scales of powers of two (MX), `four_over_six` for NVFP4; "
            "leave it out."
        )
    x = check_matrix(x)
    blocks = _in_blocks(x.double(), found.block)
    peak = blocks.abs().amax(-1)
    tensor_scale = torch.ones((), device=x.device)
    if found.scale == "E8M0":
        scales = _shared_exponents(peak, found, rule)
        codes = _nearest(blocks, _block_scales(scales, scheme, tensor_scale), found)
    else:
        top = 256.0 if four_over_six else E4M3.largest
        tensor_scale = _reciprocal(peak.amax() / (top * E2M1.largest))
        scales, codes = _with_peak_at(E2M1.largest, blocks, peak, tensor_scale)
        if four_over_six:
            others = _with_peak_at(4.0, blocks, peak, tensor_scale)
            errors = [
                _squared_error(blocks, *tried, tensor_scale) for tried in ((scales, codes), others)
            ]
            better = errors[1] < errors[0]
            scales = torch.where(better, others[0], scales)
            codes = torch.where(better[..., None], others[1], codes)
    return Blocks(codes.flatten(1)[:, : x.shape[1]], scales, tensor_scale, scheme)


def _reciprocal(t: Tensor) -> Tensor:
    """The number nearest to t that is 1 / g for a g in float32 (1 for t = 0): 1 / (1 / t) gives it
    back bit for bit.
    """
    inverse = torch.where(t > 0, 1 / t, 1.0).clamp(max=2.0**126).float()
    return 1 / inverse


def _with_peak_at(
    place: float, blocks: Tensor, peak: Tensor, tensor_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Scales (E4M3 patterns) that put the largest of each block at `place`, and the codes."""
    wanted = peak / place / tensor_scale.double()
    scales = formats.encode(wanted, E4M3, saturate=True)
    # 1: the smallest number, 2^−9
    scales = torch.where((scales == 0) & (peak > 0), 1, scales).to(torch.uint8)
    return scales, _nearest(blocks, _block_scales(scales, "NVFP4", tensor_scale), SCHEMES["NVFP4"])


def _squared_error(blocks: Tensor, scales: Tensor, codes: Tensor, tensor_scale: Tensor) -> Tensor:
    scale = _block_scales(scales, "NVFP4", tensor_scale)
    return (formats.decode(codes, E2M1).double() * scale - blocks).square().sum(-1)


def decode(blocks: Blocks) -> Tensor:
    """x̂ = t · s · element (rows, columns), float32. element · s is exact; the product with t is
    rounded once.
    """
    found = find(blocks.scheme)
    elements = _in_blocks(formats.decode(blocks.codes, found.element) * found.unit, found.block)
    scale = _block_scales(blocks.scales, blocks.scheme, blocks.tensor_scale)
    return (elements.double() * scale).float().flatten(1)[:, : blocks.codes.shape[1]]


def fake_quantize(
    x: Tensor, scheme: str, *, rule: str = "floor", four_over_six: bool = False
) -> Tensor:
    """decode(encode(x)): the matrix as the format holds it, float32."""
    return decode(encode(x, scheme, rule=rule, four_over_six=four_over_six))


@storable
class MicroscaledLinear(Described, ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ read from its elements and scales.

    MXFP4 and NVFP4: up to 32 tokens on a CPU go through the compiled products of
    `course_utils.kernels`, which sum the same products in float32; `activations="int8"` rounds each
    token to INT8 first. Otherwise Ŵ is decoded at each call.

    Buffers: `packed` (out, bytes) uint8, elements as `kernels.pack` packs them; `scales` (out,
    blocks) uint8;
    `tensor_scale` () float32, NVFP4 only.
    """

    packed: Tensor
    scales: Tensor
    tensor_scale: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, *, scheme: str, bias: bool = False,
        dtype: torch.dtype = torch.float32,
        activations: str = "float",
    ) -> None:  # fmt: skip
        super().__init__()
        self.activations = check_activations(activations)
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        found = find(scheme)
        blocks = -(-in_features // found.block)
        width = packed_width(in_features, found.element.bits)
        self.register_buffer("packed", torch.zeros(out_features, width, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(out_features, blocks, dtype=torch.uint8))
        self.register_buffer("tensor_scale", torch.ones(()) if found.scale == "E4M3" else None)
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features,
            "scheme": self.scheme, "bias": self.bias is not None,
            "activations": self.activations,
        }  # fmt: skip

    @classmethod
    def of(cls, blocks: Blocks, bias: Tensor | None) -> "MicroscaledLinear":
        """The layer for encoded blocks and a bias."""
        rows, columns = blocks.codes.shape
        layer = cls(columns, rows, scheme=blocks.scheme).to(blocks.codes.device)
        layer.packed.copy_(pack(blocks.codes, find(blocks.scheme).element.bits))
        layer.scales.copy_(blocks.scales)
        if layer.tensor_scale is not None:
            layer.tensor_scale.copy_(blocks.tensor_scale)
        layer.bias = frozen(bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, decoded now."""
        codes = unpack(self.packed, find(self.scheme).element.bits, self.in_features)
        whole = (
            torch.ones((), device=codes.device) if self.tensor_scale is None else self.tensor_scale
        )
        return decode(Blocks(codes, self.scales, whole, self.scheme))

    def packed_weight(self) -> BlockWeight:
        """The weight as `course_utils.kernels` reads it.

        Raises CompressionError for other schemes than MXFP4 and NVFP4.
        """
        if self.scheme not in PRODUCTS:
            raise CompressionError(
                f"scheme: {self.scheme}; the kernels read {' and '.join(PRODUCTS)} only; "
                "use `weight`."
            )
        return BlockWeight(
            self.packed, self.scales, self.tensor_scale, find(self.scheme).scale, self.in_features
        )

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.scheme in PRODUCTS
            and self.packed.device == x.device
            and compiled_for(x, self.in_features)
        ):
            return self.product(x, ("packed", "scales", "tensor_scale"))
        return super().forward(reference.rounded(x) if self.activations == "int8" else x)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme}"


def quantize(
    model: nn.Module, *, scheme: str = "MXFP4", rule: str = "floor", four_over_six: bool = False,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Weights of every linear layer of the blocks in a block format.

    Works on a copy; errors name the layer.

    `ignore`, `per_layer` as in `rtn.quantize`.
    """
    settings = {"scheme": scheme, "rule": rule, "four_over_six": four_over_six}
    encode(torch.ones(1, 1), **settings)  # refuses a scheme, a rule or an option before any work

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return MicroscaledLinear.of(encode(walk.weight_of(module), **own), module.bias)

    return layer_by_layer(model, make, {"method": "microscaling", **settings}, ignore, per_layer)
