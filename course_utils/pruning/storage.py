"""What a sparse matrix weighs: zeros are free only if the places of the others cost less than the
zeros did.

A weight (out, in) with n nonzero values of b bits is kept as

    dense     out · in values
    bitmask   n values, and one bit for every weight, zero or not
    csr       n values, a column number of 32 bits (csr16: 16 bits) for each, and out + 1 row starts
              of 32 bits
    N:M       N values of every M, and ceil(log2 M) bits for the place of each (2:4: Mishra et al.,
              2021, figure 3)

A value of −0 comes back as 0; everything else comes back bit for bit.
"""

import bisect
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, packed_width, unpack
from course_utils.models import experts, selection, sharing, walk
from course_utils.quantization.compressed import Compressed
from course_utils.quantization.convert import frozen
from course_utils.quantization.layer import naming, storable

from . import apply, masks

FORMATS = ("dense", "bitmask", "csr", "csr16", "2:4")
INDEX = {"csr": torch.int32, "csr16": torch.int16}
# places that fill up a group of four; the order of NVIDIA's own tools
PAD_ORDER = torch.tensor([0.1, 0.2, 0.4, 0.3])


def _group(format: str, shape: tuple[int, int]) -> tuple[int, int]:
    """(N, M) of a format by name, after checking that the shape allows the format; (0, 0) for one
    without groups.
    """
    found = masks.parse(format, ":") if isinstance(format, str) else None
    if found is None and format not in FORMATS:
        raise CompressionError(
            f"format={format!r}: choose one of {', '.join(FORMATS)}, or another N:M."
        )
    if format == "csr16" and shape[1] > 2**15:
        raise CompressionError(
            f"format='csr16': 16 bits number 32768 columns, the weight has {shape[1]}; "
            "choose 'csr'."
        )
    if found is None:
        return 0, 0
    if not 1 <= found[0] <= found[1] <= 256 or shape[1] % found[1]:
        raise CompressionError(
            f"format={format!r}: 1 <= N <= M <= 256 is needed, and an M that divides "
            f"the {shape[1]} inputs."
        )
    return found


def _place_bits(m: int) -> int:
    return max(1, math.ceil(math.log2(m)))


def size(format: str, shape: tuple[int, int], nonzeros: int, bits: int = 16) -> int:
    """Bytes of a weight (out, in) with that many nonzero values of `bits` bits.

    N:M formats keep N of every M anyway.

    Raises CompressionError for an unknown format, or one that the shape does not allow.
    """
    rows, columns = shape
    n, m = _group(format, shape)
    if not 0 <= nonzeros <= rows * columns:
        raise CompressionError(
            f"nonzeros={nonzeros}: a weight of {rows} x {columns} has 0 to {rows * columns}."
        )
    kept = {"dense": rows * columns}.get(format, nonzeros) if not m else rows * columns // m * n
    values = math.ceil(kept * bits / 8)
    if m:
        return values + rows * packed_width(columns // m * n, _place_bits(m))
    if format == "bitmask":
        return values + rows * packed_width(columns, 1)
    return values if format == "dense" else values + kept * INDEX[format].itemsize + (rows + 1) * 4


def break_even(format: str, shape: tuple[int, int], bits: int = 16) -> float | None:
    """The lowest sparsity from which on the format is smaller than dense storage; None if it never
    is.

    For a large matrix: bitmask 1 / b, CSR i / (b + i) with i bits for an index. N:M is smaller as
    soon as its pattern holds, at 1 − N/M.
    """
    n, m = _group(format, shape)
    total = shape[0] * shape[1]
    dense = size("dense", shape, total, bits)
    if m:
        return 1 - n / m if size(format, shape, total, bits) < dense else None
    too_many = bisect.bisect_left(
        range(total + 1), dense, key=lambda count: size(format, shape, count, bits)
    )
    return 1 - (too_many - 1) / total if too_many else None


def fits(format: str, weight: Tensor) -> bool:
    """Whether the format can hold this weight exactly: for N:M, at most N nonzero values in every
    M.
    """
    try:
        n, m = _group(format, tuple(weight.shape))
    except CompressionError:
        return False
    return not m or bool(((weight != 0).reshape(-1, m).sum(1) <= n).all())


def encode(weight: Tensor, format: str) -> dict[str, Tensor]:
    """The tensors that a format keeps of a weight (out, in) of any precision; `values` are in that
    precision.

    bitmask: `mask` (out, ceil(in / 8)) packed bits, `values` (n,) row by row. csr, csr16: `columns`
    (n,), `starts` (out + 1,), `values` (n,). N:M: `places` (out, bytes), packed places within their
    group, `values` (out, in · N / M);
    a group with fewer than N nonzero values is filled up with zeros. dense: `values` as they are.
    Raises CompressionError for an unknown format or a weight that does not fit it.
    """
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise CompressionError("weight: expected a matrix (out, in).")
    n, m = _group(format, tuple(weight.shape))
    if format == "dense":
        return {"values": weight.clone()}
    mask = weight != 0
    if m:
        if not fits(format, weight):
            raise CompressionError(
                f"weight: more than {n} of some {m} neighbours in a row are not zero; "
                f"prune to {format} first."
            )
        filler = (
            PAD_ORDER.to(weight.device)
            if m == 4
            else torch.linspace(0.5, 0, m, device=weight.device)
        )
        kept = masks.n_of_m(mask + filler.repeat(weight.shape[1] // m), n, m)
        places = (kept.nonzero()[:, 1] % m).view(len(weight), -1)
        return {
            "places": pack(places, _place_bits(m)),
            "values": weight[kept].view(len(weight), -1),
        }
    if format == "bitmask":
        return {"mask": pack(mask, 1), "values": weight[mask]}
    starts = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    return {
        "columns": mask.nonzero()[:, 1].to(INDEX[format]),
        "starts": starts.int(),
        "values": weight[mask],
    }


def decode(parts: dict[str, Tensor], format: str, shape: tuple[int, int]) -> Tensor:
    """The weight that `encode` was given."""
    rows, columns = shape
    n, m = _group(format, shape)
    values = parts["values"]
    if format == "dense":
        return values.clone()
    weight = values.new_zeros(shape)
    if m:
        places = unpack(parts["places"], _place_bits(m), columns // m * n).long()
        group = torch.arange(columns // m, device=values.device).repeat_interleave(n) * m
        return weight.scatter_(1, group + places, values)
    if format == "bitmask":
        return weight.masked_scatter_(unpack(parts["mask"], 1, columns).bool(), values)
    row = torch.repeat_interleave(torch.arange(rows, device=values.device), parts["starts"].diff())
    return weight.index_put_((row, parts["columns"].long()), values)


def nbytes(parts: dict[str, Tensor]) -> int:
    """The bytes of all tensors."""
    return sum(tensor.nbytes for tensor in parts.values())


def best(weight: Tensor, formats: tuple[str, ...] = FORMATS) -> str:
    """The format with the fewest bytes for this weight; of equal ones the first."""
    count = int((weight != 0).sum())
    possible = [f for f in formats if fits(f, weight)]
    return min(
        possible, key=lambda f: size(f, tuple(weight.shape), count, weight.element_size() * 8)
    )


@torch.no_grad()
def sixteen_bits(compressed: Compressed) -> Compressed:
    """A copy in which every parameter holds a bfloat16 value, so that its file takes two bytes for
    each.

    Methods that move weights (SparseGPT, `compensate`, training) leave float32 values, which a file
    keeps in four bytes.
    The model still computes in its own precision: measure the quality of this copy, not of the
    other.
    """
    model = sharing.structure(compressed.model)
    halve(model)
    model = sharing.own(experts.fuse(model), compressed.model)
    return Compressed(
        model, {**compressed.settings, "values": "bfloat16"}, compressed.seconds, compressed.details
    )


@torch.no_grad()
def halve(module: nn.Module) -> None:
    """Give every parameter below `module` a new tensor of bfloat16 values, in the precision that it
    had; tied ones stay tied.
    """
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                made.setdefault(
                    id(old), nn.Parameter(old.bfloat16().to(old.dtype), old.requires_grad)
                )
                part._parameters[name] = made[id(old)]


@storable
class SparseLinear(nn.Module):
    """y = x Wᵀ + b with W unpacked from a sparse format at each call: fewer bytes in memory and on
    disk, not less time.

    Its buffers are the tensors of `encode`.
    """

    def __init__(
        self, in_features: int, out_features: int, format: str, nonzeros: int, *, bias: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.format, self.nonzeros = (
            in_features,
            out_features,
            format,
            nonzeros,
        )
        n, m = _group(format, (out_features, in_features))
        like = torch.zeros(out_features, in_features, dtype=dtype)
        if m:
            like.view(-1, m)[:, :n] = 1
        else:
            like.view(-1)[: like.numel() if format == "dense" else nonzeros] = 1
        self.names = []
        for name, tensor in encode(like, format).items():
            self.register_buffer(name, torch.zeros_like(tensor))
            self.names.append(name)
        self.bias = (
            nn.Parameter(torch.zeros(out_features, dtype=dtype), requires_grad=False)
            if bias
            else None
        )

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features,
            "format": self.format, "nonzeros": self.nonzeros, "bias": self.bias is not None,
        }  # fmt: skip

    @classmethod
    def of(cls, module: nn.Module, format: str) -> "SparseLinear":
        """The sparse form of an nn.Linear or Conv1D."""
        weight = walk.weight_of(module)
        rows, columns = weight.shape
        layer = cls(
            columns,
            rows,
            format,
            int((weight != 0).sum()),
            bias=module.bias is not None,
            dtype=weight.dtype,
        )
        for name, tensor in encode(weight.contiguous(), format).items():
            setattr(layer, name, tensor)
        layer.bias = frozen(module.bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """W (out, in), unpacked now."""
        parts = {name: getattr(self, name) for name in self.names}
        return decode(parts, self.format, (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"format={self.format}, nonzeros={self.nonzeros}"
        )


@torch.no_grad()
def compress(
    model: nn.Module,
    format: str | None = None,
    *,
    ignore: selection.Patterns = (),
    per_layer: selection.PerLayer | None = None,
) -> Compressed:
    """A copy of a pruned model whose linear layers keep only what is not zero; `save` writes the
    smaller file.

    `format` None: for each layer the smallest, and a layer that no format makes smaller stays as it
    is. Works on any model whose layers are nn.Linear or Conv1D; the outputs stay the same.
    `ignore`, `per_layer` (of format) as in `selection.choose`.
    Raises CompressionError for an unknown format, or a layer that does not fit it.
    """
    began = time.perf_counter()
    original, model = model, sharing.structure(model).eval()
    settings = {
        "method": "sparse_storage",
        "format": format or "smallest",
        "sparsity": apply.sparsity_of(model),
    }
    found = selection.choose(model, {"format": format}, ignore, per_layer)
    chosen = shrink(model, found.layers, {name: own["format"] for name, own in found.own.items()})
    settings |= found.told
    return Compressed(
        sharing.own(experts.fuse(model), original),
        settings,
        time.perf_counter() - began,
        {"formats": chosen},
    )


def shrink(
    root: nn.Module, layers: dict[str, nn.Module], formats: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Put the sparse form of each of these layers of `root` in its place, where that is smaller;
    returns the chosen formats.
    """
    chosen: dict[str, str] = {}
    for name, module in layers.items():
        weight = walk.weight_of(module)
        chosen[name] = (formats or {}).get(name) or best(weight)
        if chosen[name] != "dense":
            with naming(name):
                walk.replace(root, name, SparseLinear.of(module, chosen[name]))
    return chosen


def store(block: nn.Module) -> None:
    """`sixteen_bits` and `compress` of one block, in place: for `quantization.streaming`."""
    experts.list_in_place(block)
    halve(block)
    shrink(block, walk.linears(block))
    experts.fuse(block)


def stored_settings(pruned: Compressed) -> Compressed:
    """What a result is told of whose blocks went through `store`."""
    return Compressed(
        pruned.model,
        {**pruned.settings, "values": "bfloat16", "storage": "smallest"},
        pruned.seconds,
        pruned.details,
    )
