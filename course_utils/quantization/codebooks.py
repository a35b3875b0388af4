"""k-means quantization: the values themselves are learned (Han et al., 2016, Deep Compression,
section 3).

    min over c_1 … c_K and assignments a_i   Σ_i h_i (w_i − c_{a_i})²,     K = 2^bits

with the weights of a row (or of the whole matrix) sharing one codebook. h_i = 1, or an importance
such as the mean squared input behind the weight (Kim et al., 2024, SqueezeLLM).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, packed_width, unpack
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import ExpandedLinear, frozen, layer_by_layer
from .grids import check_granularity, check_matrix, is_half
from .layer import storable

GRANULARITIES = ("per_channel", "per_tensor")


@dataclass(frozen=True)
class CodebookResult:
    """`codes` (out, in) uint8 index the rows of `codebook` (out or 1, 2^bits), ascending; `weight`
    is what they give.
    """

    codes: Tensor
    codebook: Tensor
    bits: int
    weight: Tensor


def look_up(codes: Tensor, codebook: Tensor) -> Tensor:
    """ŵ_ij = c_{i, codes_ij}."""
    return codebook.expand(len(codes), -1).gather(1, codes.long())


def lloyd(
    values: Tensor, k: int, importance: Tensor | None = None, iterations: int = 1000
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm for each row of `values` (rows, n) by itself: (centroids (rows, k)
    ascending, codes (rows, n)).

    In one dimension a cluster is an interval of the sorted values, so that a step is k − 1 searches
    and differences of cumulative sums. A centroid without values moves to the value that costs
    most. Every step lowers the cost or leaves it, and the walk ends when nothing moves. Where it
    ends is a local minimum and depends on the `start`; from this one its cost lies a few percent
    above the least one (exact by dynamic programming, see the tests).
    """
    x, order = values.double().contiguous().sort(1)
    h = (
        torch.ones_like(x)
        if importance is None
        else importance.double().expand_as(values).gather(1, order)
    )
    zero = x.new_zeros(len(x), 1)
    mass = torch.cat([zero, h.cumsum(1)], 1)
    moment = torch.cat([zero, (h * x).cumsum(1)], 1)

    def means(edges: Tensor, centroids: Tensor | None) -> Tensor:
        total, first = mass.gather(1, edges).diff(dim=1), moment.gather(1, edges).diff(dim=1)
        found = first / total.clamp(min=1e-300)
        if (total <= 0).any():
            found = torch.where(
                total > 0, found, x[:, :1] if centroids is None else farthest(x, h, centroids)
            )
        return found.sort(1).values

    centroids = means(start(x, h, k), None)
    for _ in range(iterations):
        cuts = torch.searchsorted(
            x, ((centroids[:, 1:] + centroids[:, :-1]) / 2).contiguous(), right=True
        )
        moved = means(_with_ends(cuts, x.shape[1]), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids, nearest(values.double(), centroids)


def _with_ends(cuts: Tensor, n: int) -> Tensor:
    return nn.functional.pad(nn.functional.pad(cuts, (1, 0)), (0, 1), value=n)


def start(x: Tensor, h: Tensor, k: int) -> Tensor:
    """Edges (rows, k + 1) of k intervals of the sorted values x (rows, n) with importance h, to
    begin with.

    The best centroids lie as densely as the cube root of the density (Panter and Dite, 1951).
    Sorted values with gaps g have the density 1 / g, so that ∫ p^(1/3) = Σ h^(1/3) g^(2/3); 4 k
    intervals take an equal part of it each (few values:
    an interval for each). Then the two neighbours whose union costs least more, m₁ m₂ / (m₁ + m₂)
    (c₁ − c₂)², become one, until k are left (Ward, 1963).
    """
    rows, n = x.shape
    if n <= 4 * k:
        cuts = torch.arange(1, max(n, k), device=x.device).clamp(max=n).expand(rows, -1)
    else:
        part = ((h[:, 1:] + h[:, :-1]) * x.diff(dim=1) ** 2) ** (1 / 3)
        total = nn.functional.pad(part.cumsum(1), (1, 0))
        places = total[:, -1:] * torch.arange(1, 4 * k, device=x.device) / (4 * k)
        cuts = torch.searchsorted(total, places.contiguous())
    edges = _with_ends(cuts, n)
    mass, moment = (
        nn.functional.pad(t.cumsum(1), (1, 0)).gather(1, edges).diff(dim=1) for t in (h, h * x)
    )
    while mass.shape[1] > k:
        mean, both = moment / mass.clamp(min=1e-300), mass[:, 1:] + mass[:, :-1]
        cost = mass[:, 1:] * mass[:, :-1] / both.clamp(min=1e-300) * mean.diff(dim=1) ** 2
        at = cost.argmin(1, keepdim=True)
        mass, moment = (t.scatter_add(1, at, t.gather(1, at + 1)) for t in (mass, moment))
        mass, moment = (
            t[torch.ones_like(t, dtype=torch.bool).scatter_(1, at + 1, False)].view(rows, -1)
            for t in (mass, moment)
        )
        edges = edges[torch.ones_like(edges, dtype=torch.bool).scatter_(1, at + 1, False)].view(
            rows, -1
        )
    return edges


def farthest(x: Tensor, h: Tensor, centroids: Tensor) -> Tensor:
    """The value of each row with the largest h (x − c)², (rows, 1)."""
    cost = h * (x - look_up(nearest(x, centroids), centroids)) ** 2
    return x.gather(1, cost.argmax(1, keepdim=True))


def nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """The index of the nearest of each row's ascending centroids; halfway goes to the lower one."""
    return torch.searchsorted(
        ((centroids[:, 1:] + centroids[:, :-1]) / 2).contiguous(), values.contiguous()
    )


def quantize_layer(
    weight: Tensor,
    *,
    bits: int = 4,
    granularity: str = "per_channel",
    importance: Tensor | None = None,
) -> CodebookResult:
    """k-means codes of a weight (out, in), with a codebook of 2^bits values for each row or for the
    whole matrix.

    `importance`: (in,) or (out, in), not negative, not all zero. Centroids are kept in float16, or
    in float32 where float16 would move one by over 1/1000 of its row's largest.
    Raises CompressionError for NaN, infinity, bits outside 1 to 8, or an importance that does not
    fit.
    """
    weight = check_matrix(weight)
    if bits not in range(1, 9):
        raise CompressionError(f"bits={bits}: choose 1 to 8.")
    check_granularity(granularity, GRANULARITIES)
    values, h = weight, importance
    if h is not None:
        if (
            h.shape not in (weight.shape, weight.shape[1:])
            or not torch.isfinite(h).all()
            or (h < 0).any()
            or not h.any()
        ):
            raise CompressionError(
                "importance: expected (in,) or (out, in), finite, not negative, not all zero."
            )
        h = h.expand_as(weight)
    if granularity == "per_tensor":
        values, h = weight.reshape(1, -1), None if h is None else h.reshape(1, -1)
    centroids, _ = lloyd(values, 2**bits, h)
    half = centroids.half().to(centroids.dtype)
    near = (half - centroids).abs() <= centroids.abs().amax(1, keepdim=True) / 1000
    stored = (half if near.all() else centroids).float().sort(1).values
    codes = nearest(values.double(), stored.double()).view(weight.shape).to(torch.uint8)
    return CodebookResult(codes, stored, bits, look_up(codes, stored))


@storable
class CodebookLinear(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ looked up at each call.

    Buffers: `packed` (out, bytes) uint8, as `packing.pack`; `codebook` (out or 1, 2^bits), float16
    where that is exact.
    """

    def __init__(
        self, in_features: int, out_features: int, bits: int, *, codebooks: int = 1,
        bias: bool = False, codebook_dtype: str = "float16", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        self.register_buffer(
            "packed", torch.zeros(out_features, packed_width(in_features, bits), dtype=torch.uint8)
        )
        self.register_buffer(
            "codebook", torch.zeros(codebooks, 2**bits, dtype=getattr(torch, codebook_dtype))
        )
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features, "bits": self.bits,
            "codebooks": len(self.codebook), "bias": self.bias is not None,
            "codebook_dtype": str(self.codebook.dtype).removeprefix("torch."),
        }  # fmt: skip

    @classmethod
    def of(cls, result: CodebookResult, bias: Tensor | None) -> "CodebookLinear":
        """The layer for a result and a bias."""
        rows, columns = result.codes.shape
        layer = cls(
            columns, rows, result.bits, codebooks=len(result.codebook),
            codebook_dtype="float16" if is_half(result.codebook) else "float32",
        ).to(result.codes.device)  # fmt: skip
        layer.packed.copy_(pack(result.codes, result.bits))
        layer.codebook.copy_(result.codebook)
        layer.bias = frozen(bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, looked up now."""
        return look_up(unpack(self.packed, self.bits, self.in_features), self.codebook.float())

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def quantize(
    model: nn.Module,
    *,
    bits: int = 4,
    granularity: str = "per_channel",
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """k-means codebooks for every linear layer of the blocks.

    Works on a copy; errors name the layer.

    `ignore`, `per_layer` as in `rtn.quantize`.
    """
    settings = {"bits": bits, "granularity": granularity}

    def make(_name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return CodebookLinear.of(quantize_layer(walk.weight_of(module), **own), module.bias)

    return layer_by_layer(model, make, {"method": "kmeans", **settings}, ignore, per_layer)
