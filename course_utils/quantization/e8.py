"""E8P: eight weights in 16 bits, points of a shifted E₈ (Tseng et al., 2024, QuIP#, section 4.2).

A code word is ± ¼ beside a point of D₈ + ½ (half-integers with an even sum), which is one of E₈'s
two halves:

    index (16 bits) = size (8) | signs (7) | shift (1)

`size` picks one of 256 vectors of positive half-integers: the 227 with norm² at most 10, and 29 of
the 56 with five 3/2 and three 1/2 (which 29 hardly matters: the distortion of normal numbers moves
by 0.1 %; the published code's list is another one).
Seven signs are stored; the eighth makes the sum even. `shift` adds +¼ or −¼ to all eight numbers.
So 2¹⁶ points need a table of 256 · 8 numbers, computed here and the same for all layers: nothing of
it is in a file.

Normal numbers, each vector at its nearest point, the best scale: .0914 of the variance is left. The
published code's own 256 sizes at its own scale (1/1.03) leave .0913, on the same numbers. The
papers list .089 for E8P; that was not reached with either, and why is not known.
"""

import functools
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .grids import check_matrix
from .layer import storable
from .vectors import ScaledCodes, quantize_model, row_scales, spread, walk_groups

WIDTH = 8
FACTOR = 0.97  # scale over the root mean square of normal numbers, of the least error


@functools.cache
def sizes() -> Tensor:
    """The 256 vectors of sizes (256, 8), ascending by norm² and then as lists."""
    inner = [
        v for v in itertools.product((0.5, 1.5, 2.5), repeat=WIDTH) if sum(x * x for x in v) <= 10
    ]
    outer = [v for v in itertools.product((0.5, 1.5), repeat=WIDTH) if sum(v) == 9]
    return torch.tensor(
        sorted(inner, key=lambda v: (sum(x * x for x in v), v)) + outer[: 256 - len(inner)]
    )


def decode(index: Tensor) -> Tensor:
    """Points (…, 8) float32 of indices 0 … 65535."""
    index = index.long()
    size = sizes().to(index.device)[index >> 8]
    negative = (index[..., None] >> torch.arange(1, 8, device=index.device)) & 1
    last = (size.sum(-1).long() + negative.sum(-1)) % 2  # each sign moves the sum by an odd number
    signs = 1 - 2 * torch.cat([negative, last[..., None]], -1)
    return size * signs + 0.25 - 0.5 * (index[..., None] & 1)


def encode(x: Tensor) -> Tensor:
    """The index (n,) int64 of the nearest of the 65,536 points for each x (n, 8).

    Exact: for each shift and each of the 256 sizes the best signs are those of x − shift, but for
    one where the sum would be odd: the one that costs least.
    """
    if x.dim() != 2 or x.shape[1] != WIDTH:
        raise CompressionError(
            f"x: expected vectors of {WIDTH}, (n, {WIDTH}), got {tuple(x.shape)}."
        )
    return (
        torch.cat([_encode(part) for part in x.float().split(1024)])
        if len(x)
        else torch.zeros(0, dtype=torch.long)
    )


def _encode(x: Tensor) -> Tensor:
    table = sizes().to(x.device)
    odd = table.sum(1).long() % 2
    least, best = (
        x.new_full((len(x),), torch.inf),
        torch.zeros(len(x), dtype=torch.long, device=x.device),
    )
    for shift in (0, 1):
        y = x - (0.25 - 0.5 * shift)
        size, negative = y.abs(), y < 0
        cheapest = size[:, :1] * table[:, 0]
        for i in range(1, WIDTH):
            torch.minimum(cheapest, size[:, i : i + 1] * table[:, i], out=cheapest)
        wrong = (negative.sum(1)[:, None] + odd) % 2  # sizes for which a sign must be turned
        score = torch.addmm(table.square().sum(1), size, table.T, alpha=-2).add_(
            4 * cheapest * wrong
        )
        found, at = score.min(1)
        found += y.square().sum(1)
        turned = (size * table[at]).argmin(1, keepdim=True)
        signs = negative.scatter(
            1, turned, negative.gather(1, turned) ^ (wrong.gather(1, at[:, None]) == 1)
        ).long()
        index = (at << 8) | (signs[:, :7] << torch.arange(1, 8, device=x.device)).sum(1) | shift
        better = found < least
        least, best = torch.where(better, found, least), torch.where(better, index, best)
    return best


@storable
class E8Linear(ScaledCodes):
    """A layer of E8P codes: `packed` (out, 2 · ⌈in / 8⌉) uint8 holds the low and the high byte of
    each index.
    """

    def __init__(
        self, in_features: int, out_features: int, *, groups: int = 1, scale_dtype: str = "float16",
        bias: bool = False, rotation: int | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(
            in_features,
            out_features,
            2 * -(-in_features // WIDTH),
            groups,
            scale_dtype,
            bias,
            dtype,
            rotation,
        )

    @property
    def codes(self) -> Tensor:
        """Indices (out, ⌈in / 8⌉) int64."""
        pairs = self.packed.view(self.out_features, -1, 2).long()
        return pairs[..., 0] | pairs[..., 1] << 8

    def values(self) -> Tensor:
        """The decoded weight (rows, columns) before scales."""
        return decode(self.codes).flatten(1)[:, : self.in_features]


def quantize_layer(
    weight: Tensor, H: Tensor | None = None, *, group_size: int | None = None, damping: float = 0.01
) -> E8Linear:
    """E8P of a weight (out, in): the packed layer, whose `weight` is Ŵ.

    With H, block LDLQ over groups of eight.

    2 bits a weight, and 16 for each scale (a row's, or a group's). Where `in` is no multiple of 8,
    zeros fill the last vector.
    """
    weight = check_matrix(weight).float()
    rows, columns = weight.shape
    scale, codes = row_scales(weight, group_size, FACTOR), []
    each = spread(scale, columns)

    def code(block: Tensor, first: int) -> Tensor:
        own = each[:, first : first + WIDTH]
        index = encode(nn.functional.pad(block / own, (0, WIDTH - block.shape[1])))
        codes.append(index)
        return decode(index)[:, : block.shape[1]] * own

    if H is None:
        filled = nn.functional.pad(weight / each, (0, -columns % WIDTH))
        index = encode(filled.reshape(-1, WIDTH)).view(rows, -1)
    else:
        walk_groups(weight, H, WIDTH, code, damping=damping)
        index = torch.stack(codes, 1)
    layer = E8Linear(columns, rows, groups=scale.shape[1])
    layer._fill(
        torch.stack([index & 255, index >> 8], -1).to(torch.uint8).flatten(1), weight, scale, H
    )
    return layer


def quantize(
    model: nn.Module, calibration: Tensor | None = None, *, group_size: int | None = None,
    rotation: int | None = None, damping: float = 0.01, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """E8P of every linear layer of the blocks, at 2 bits a weight and a scale for each row (or
    group of `group_size`).

    Without `calibration` each vector goes to its nearest point; with it block LDLQ. `rotation`: the
    seed of a mixing of rows and columns before that (see `vectors`). `ignore`, `per_layer` as in
    `rtn.quantize`.
    """
    settings: dict[str, Any] = {"method": "e8", "group_size": group_size, "rotation": rotation}

    def make(weight: Tensor, H: Tensor | None, own: dict[str, Any]) -> ScaledCodes:
        return quantize_layer(weight, H, **own, damping=damping)

    return quantize_model(
        model, calibration, make, settings, damping=damping, ignore=ignore, per_layer=per_layer
    )
