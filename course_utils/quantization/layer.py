"""A linear layer whose weight lives in memory as packed integers."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils import kernels
from course_utils.errors import CompressionError
from course_utils.kernels.packing import (
    pack,
    pack_planes,
    packed_width,
    planes_width,
    unpack,
    unpack_planes,
)

from .grids import Grid, dequantize, is_half


@dataclass(frozen=True)
class LayerResult:
    """What a layer algorithm returns: codes (out, in) uint8, their grid, and the weight they stand
    for.

    `rounded` says that GPTQ kept plain rounding, because that was better; `error` is its
    `layer_error`, where it was computed.
    """

    codes: Tensor
    grid: Grid
    weight: Tensor
    rounded: bool = False
    error: float | None = None


KINDS: dict[str, type[nn.Module]] = {}  # layers that can be saved and loaded, by class name


def storable(kind: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: `Compressed.save` keeps such layers as they are. kind(**layer.shape()) must
    build an empty one.
    """
    KINDS[kind.__name__] = kind
    return kind


@contextlib.contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put a layer's name before the message of a CompressionError."""
    try:
        yield
    except CompressionError as error:
        raise CompressionError(f"{layer}: {error}") from error


def check_activations(activations: str) -> str:
    """`activations`, or a CompressionError if the products do not take such."""
    if activations not in kernels.ACTIVATIONS:
        raise CompressionError(
            f"activations={activations!r}: choose one of {', '.join(kernels.ACTIVATIONS)}."
        )
    return activations


class Described:
    """A layer that the compiled products read: `packed_weight()`, `bias`, and `activations`, one of
    `kernels.ACTIVATIONS`.
    """

    activations: str
    _described: tuple | None = None  # what the products were told, and where the buffers were then

    def product(self, x: Tensor, buffers: tuple[str, ...]) -> Tensor:
        """Y = x Ŵᵀ + b by the compiled product, from the buffers of these names."""
        found = [tensor for name in buffers if (tensor := getattr(self, name)) is not None]
        place = [t.data_ptr() if t.is_contiguous() else None for t in found]
        if self._described is None or self._described[0] != place:
            for name in buffers:  # the products are told addresses: what lies there must stay
                setattr(
                    self,
                    name,
                    None if (tensor := getattr(self, name)) is None else tensor.contiguous(),
                )
            place = [
                tensor.data_ptr() for name in buffers if (tensor := getattr(self, name)) is not None
            ]
            self._described = place, kernels.cpu.describe(self.packed_weight())  # type: ignore[attr-defined]
        bias: Tensor | None = getattr(self, "bias", None)
        int8 = self.activations == "int8"
        return kernels.cpu.product(x, self._described[1], bias, int8=int8)


@storable
class QuantizedLinear(Described, nn.Module):
    """y = x Ŵᵀ + b with Ŵ read from its integers.

    Up to 32 tokens on a CPU go through the compiled products of `course_utils.kernels`; otherwise Ŵ
    is unpacked at each call. Both sum the same products, up to float32 rounding.
    `activations="int8"` rounds each token to INT8 first, which is faster and changes the result.

    Buffers: `packed` (out, bytes) uint8, see `kernels.pack_planes`; `scale` (out, groups) float16
    where that is exact, else float32; `zero_point` (out, bytes), see `kernels.pack` (absent when
    symmetric). `group_index` (in,) is there only when the columns of a group are not neighbours, as
    with GPTQ's act-order. Then `packed` holds the columns group by group, and the input is permuted
    by `order` (in,), which is not saved. `to`, `half` and the like move the buffers but leave their
    precision, because other scales would be another grid. Inputs of any floating-point precision
    are taken;
    Ŵ is cast to theirs.
    """

    packed: Tensor
    scale: Tensor

    def __init__(
        self, in_features: int, out_features: int, bits: int, groups: int, *, symmetric: bool,
        bias: bool, scattered: bool = False, scale_dtype: torch.dtype | str = torch.float16,
        dtype: torch.dtype = torch.float32,
        activations: str = "float",
    ) -> None:  # fmt: skip
        super().__init__()
        self.activations = check_activations(activations)
        self.in_features, self.out_features, self.bits, self.symmetric = (
            in_features,
            out_features,
            int(bits),
            symmetric,
        )
        self.groups = groups
        self.register_buffer(
            "packed", torch.zeros(out_features, planes_width(in_features, bits), dtype=torch.uint8)
        )
        scale_dtype = getattr(torch, scale_dtype) if isinstance(scale_dtype, str) else scale_dtype
        self.register_buffer("scale", torch.ones(out_features, groups, dtype=scale_dtype))
        zero = (
            None
            if symmetric
            else torch.zeros(out_features, packed_width(groups, bits), dtype=torch.uint8)
        )
        self.register_buffer("zero_point", zero)
        self.register_buffer(
            "group_index", torch.zeros(in_features, dtype=torch.int32) if scattered else None
        )
        self.register_buffer("order", None, persistent=False)
        self._set_order()
        self.bias = (
            nn.Parameter(torch.zeros(out_features, dtype=dtype), requires_grad=False)
            if bias
            else None
        )

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features, "bits": self.bits,
            "groups": self.groups, "symmetric": self.symmetric, "bias": self.bias is not None,
            "scattered": self.group_index is not None,
            "scale_dtype": str(self.scale.dtype).removeprefix("torch."),
            "activations": self.activations,
        }  # fmt: skip

    @classmethod
    def of(cls, result: LayerResult, bias: Tensor | None) -> "QuantizedLinear":
        """The packed form of a layer algorithm's result."""
        grid = result.grid
        rows, columns = result.codes.shape
        groups = grid.scale.shape[1]
        natural = torch.arange(columns, device=grid.group_index.device) // (columns // groups)
        scattered = not torch.equal(grid.group_index, natural)
        layer = cls(
            columns, rows, grid.bits, groups, symmetric=grid.symmetric, bias=bias is not None,
            scattered=scattered,
            scale_dtype=torch.float16 if is_half(grid.scale) else torch.float32,
        ).to(result.codes.device)  # fmt: skip
        if layer.group_index is not None:
            layer.group_index.copy_(grid.group_index)
            layer._set_order()
        ordered = result.codes if layer.order is None else result.codes[:, layer.order]
        layer.packed.copy_(pack_planes(ordered, grid.bits))
        layer.scale.copy_(grid.scale.expand(rows, groups))
        if layer.zero_point is not None:
            layer.zero_point.copy_(pack(grid.zero_point.expand(rows, groups), grid.bits))
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer

    def _set_order(self) -> None:
        """`order` from `group_index`, and whether the groups are equally large, as the kernels want
        them.
        """
        self._even = True
        if self.group_index is None or self.group_index.is_meta:
            return
        self.order = self.group_index.argsort(stable=True)
        sizes = self.group_index.bincount(minlength=self.groups)
        self._even = bool((sizes * self.groups == self.in_features).all())

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._set_order()

    def _apply(self, fn: Callable, recurse: bool = True) -> Any:
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        return self

    def grid(self, dtype: torch.dtype = torch.float32) -> Grid:
        """The scales and zero points, in `dtype`."""
        scale = self.scale.to(dtype)
        if self.symmetric:
            zero = torch.full_like(scale, 2 ** (self.bits - 1))
        else:
            zero = unpack(self.zero_point, self.bits, self.groups).to(dtype)
        index = self.group_index
        if index is None:
            index = torch.arange(self.in_features, device=scale.device) // (
                self.in_features // self.groups
            )
        return Grid(scale, zero, index.long(), self.bits, self.symmetric)

    @property
    def codes(self) -> Tensor:
        """The integers (out, in), uint8, unpacked now."""
        codes = unpack_planes(self.packed, self.bits, self.in_features)
        return (
            codes
            if self.order is None
            else torch.empty_like(codes).index_copy_(1, self.order, codes)
        )

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, unpacked now."""
        codes, grid = self.codes, self.grid()
        if self.group_index is not None:
            return dequantize(codes, grid)
        # the same s (q − z), without an index for every column
        shape = (self.out_features, self.groups, -1)
        weight = (
            codes.view(shape).float().sub_(grid.zero_point[..., None]).mul_(grid.scale[..., None])
        )
        return weight.view(self.out_features, self.in_features)

    def packed_weight(self) -> kernels.PackedWeight:
        """The weight as `course_utils.kernels` reads it, its columns in the order `order` (None: as
        they are).

        Raises CompressionError where the groups differ in size.
        """
        if not self._even:
            raise CompressionError(
                "group_index: the kernels read groups of one size only; use `weight`."
            )
        return kernels.PackedWeight(
            self.packed, self.scale, self.zero_point, self.bits, self.in_features
        )

    def forward(self, x: Tensor) -> Tensor:
        if (
            self._even
            and self.packed.device == x.device
            and kernels.compiled_for(x, self.in_features)
        ):
            x = x if self.order is None else x.index_select(-1, self.order)
            return self.product(x, ("packed", "scale", "zero_point"))
        x = kernels.reference.rounded(x) if self.activations == "int8" else x
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.bits}, groups={self.groups}"
        )
