"""Additive codebooks: eight weights are a sum of learned vectors (Babenko and Lempitsky, 2014;
Egiazarian et al., 2024, AQLM).

    ŵ = s (c¹[a₁] + … + c^M[a_M]),     c^m[·] one of K learned vectors of `width` numbers

M log₂ K bits code `width` weights. Finding the best a is a search through K^M sums; a beam keeps
the best `beam` partial sums after each codebook, and is exact when it holds all K^(M−1) of them.
With the codes fixed the best vectors are a linear least-squares problem; the two take turns, and no
turn raises the error: old codes stay where the beam finds none better.

The vectors are learned from the weights, so they are in the file. M = 2 of K = 256 in float16 are 8
kB. A layer of 4096 × 4096 does not feel that; one of 192 × 192, whose codes take 9 kB, does.
`shared` learns one set for the whole model.
"""

from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, packed_width, unpack
from course_utils.models import selection, walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .grids import check_matrix
from .layer import storable
from .vectors import ScaledCodes, mixed_weight, quantize_model, row_scales, spread, walk_groups

SAMPLE = 32768  # vectors that codebooks are learned from
LEARNED = ("width", "codebooks", "entries", "rounds", "seed", "rotation")


def decode(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Sums (n, width) of the vectors that codes (n, M) pick from codebooks (M, K, width)."""
    return sum(codebooks[m][codes[:, m].long()] for m in range(len(codebooks)))  # type: ignore[return-value]


def encode(x: Tensor, codebooks: Tensor, beam: int = 8) -> Tensor:
    """Codes (n, M) int64 for x (n, width) by beam search; exact for beam ≥ K^(M−1)."""
    if beam < 1:
        raise CompressionError(f"beam={beam}: keep at least one partial sum.")
    if x.dim() != 2 or codebooks.dim() != 3 or x.shape[1] != codebooks.shape[2]:
        raise CompressionError(
            f"x {tuple(x.shape)}, codebooks {tuple(codebooks.shape)}: "
            "expected (n, width) and (M, K, width)."
        )
    at_once = max(
        1, (1 << 20) // (min(beam, codebooks.shape[1] ** (len(codebooks) - 1)) * codebooks.shape[1])
    )
    return (
        torch.cat([_beam(part, codebooks, beam) for part in x.split(at_once)])
        if len(x)
        else x.new_zeros(0, len(codebooks)).long()
    )


def _beam(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    n, entries = len(x), codebooks.shape[1]
    rest, chosen = x[:, None], torch.zeros(n, 1, 0, dtype=torch.long, device=x.device)
    for vectors in codebooks:
        # (n, kept, K)
        cost = vectors.square().sum(1) - 2 * rest @ vectors.T + rest.square().sum(-1, keepdim=True)
        kept = 1 if chosen.shape[2] == len(codebooks) - 1 else min(beam, cost.shape[1] * entries)
        at = cost.flatten(1).topk(kept, largest=False).indices
        parent, entry = at // entries, at % entries
        chosen = torch.cat(
            [chosen.gather(1, parent[..., None].expand(-1, -1, chosen.shape[2])), entry[..., None]],
            2,
        )
        rest = rest.gather(1, parent[..., None].expand(-1, -1, x.shape[1])) - vectors[entry]
    return chosen[:, 0]


def best_vectors(x: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """The codebooks (M, K, width) of the least Σ ‖x − sum‖² for fixed codes; what that leaves open
    stays near `codebooks`.

    With B (n, M K) ones where a code picks a vector: (BᵀB + ε) C = BᵀX + ε C_before. (M ≥ 2: a
    constant can move from one codebook to another, and a vector that nobody picks is free.)
    """
    M, K, width = codebooks.shape
    column = codes + K * torch.arange(M, device=codes.device)
    ones = torch.zeros(len(x), M * K, dtype=torch.float32, device=x.device).scatter_(1, column, 1.0)
    before = codebooks.reshape(-1, width).double()
    normal = (ones.T @ ones).double()
    ridge = 1e-4 * torch.eye(M * K, dtype=torch.float64, device=x.device)
    fitted = torch.linalg.solve(normal + ridge, (ones.T @ x).double() + 1e-4 * before)
    return fitted.to(codebooks.dtype).view_as(codebooks)


def start(x: Tensor, codebooks: int, entries: int, seed: int) -> Tensor:
    """Codebooks (M, K, width) to begin with: k-means of the vectors, then of what each codebook
    leaves.
    """
    g = torch.Generator().manual_seed(seed)
    rest, found = x, []
    for _ in range(codebooks):
        centres = rest[torch.randperm(len(x), generator=g)[:entries]].clone()
        for _ in range(6):
            at = encode(rest, centres[None])[:, 0]
            count = torch.bincount(at, minlength=entries)[:, None]
            total = torch.zeros_like(centres).index_add_(0, at, rest)
            centres = torch.where(count > 0, total / count.clamp(min=1), centres)
        found.append(centres)
        rest = rest - centres[encode(rest, centres[None])[:, 0]]
    return torch.stack(found)


def learn(
    x: Tensor,
    *,
    codebooks: int = 2,
    entries: int = 256,
    rounds: int = 8,
    beam: int = 8,
    seed: int = 0,
) -> tuple[Tensor, list[float]]:
    """Codebooks (M, K, width), float32 numbers that float16 holds, for vectors x (n, width), and
    the mean squared error before the first round and after each.
    """
    if codebooks not in range(1, 9) or entries not in [2**b for b in range(1, 9)]:
        raise CompressionError(
            f"codebooks={codebooks}, entries={entries}: choose 1 to 8 codebooks "
            "of 2, 4, … 256 vectors."
        )
    if len(x) < entries:
        raise CompressionError(
            f"entries={entries}: there are only {len(x)} vectors to learn from; "
            "choose fewer, or shared=True."
        )
    vectors = start(x.float(), codebooks, entries, seed)
    codes = encode(x, vectors, beam)
    errors = [float((decode(codes, vectors) - x).square().mean())]
    for _ in range(rounds):
        vectors = best_vectors(x, codes, vectors)
        tried = encode(x, vectors, beam)
        better = (decode(tried, vectors) - x).square().sum(1) < (
            decode(codes, vectors) - x
        ).square().sum(1)
        codes = torch.where(better[:, None], tried, codes)
        errors.append(float((decode(codes, vectors) - x).square().mean()))
    return vectors.half().float(), errors


@storable
class AdditiveLinear(ScaledCodes):
    """A layer of additive codes: `packed` (out, bytes) uint8, M codes of log₂ K bits for each
    `width` columns;
    `vectors` (M, K, width) float16, one tensor for all layers where it is shared.
    """

    vectors: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, width: int = 8, codebooks: int = 2,
        entries: int = 256, groups: int = 1, scale_dtype: str = "float16", bias: bool = False,
        rotation: int | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.bits, self.per_row = (entries - 1).bit_length(), -(-in_features // width) * codebooks
        self._set_up(
            in_features,
            out_features,
            packed_width(self.per_row, self.bits),
            groups,
            scale_dtype,
            bias,
            dtype,
            rotation,
        )
        self.register_buffer("vectors", torch.zeros(codebooks, entries, width, dtype=torch.float16))

    def shape(self) -> dict[str, Any]:
        """The constructor's arguments."""
        codebooks, entries, width = self.vectors.shape
        return super().shape() | {"width": width, "codebooks": codebooks, "entries": entries}

    @property
    def codes(self) -> Tensor:
        """(out, ⌈in / width⌉, M) uint8."""
        return unpack(self.packed, self.bits, self.per_row).view(
            self.out_features, -1, len(self.vectors)
        )

    def values(self) -> Tensor:
        """The decoded weight (rows, columns) before scales."""
        codes = self.codes
        return decode(codes.flatten(0, 1), self.vectors.float()).view(self.out_features, -1)[
            :, : self.in_features
        ]


def vectors_of(weight: Tensor, width: int, group_size: int | None) -> Tensor:
    """The weight over its scales, in vectors (n, width); zeros fill the last one of a row."""
    if not isinstance(width, int) or width < 1:
        raise CompressionError(f"width={width}: choose how many weights share a code, usually 8.")
    units = weight / spread(row_scales(weight, group_size, 1.0), weight.shape[1])
    return nn.functional.pad(units, (0, -weight.shape[1] % width)).reshape(-1, width)


def quantize_layer(
    weight: Tensor, H: Tensor | None = None, *, width: int = 8, codebooks: int = 2,
    entries: int = 256, group_size: int | None = None, rounds: int = 8, beam: int = 8,
    seed: int = 0, damping: float = 0.01, vectors: Tensor | None = None,
) -> AdditiveLinear:  # fmt: skip
    """Additive codes of a weight (out, in): the packed layer, whose `weight` is Ŵ.

    With H, block LDLQ over groups of `width`.

    `vectors` (M, K, width) float16: codebooks learned before, kept as this very tensor; without
    them this layer learns its own.
    """
    weight = check_matrix(weight).float()
    rows, columns = weight.shape
    units = vectors_of(weight, width, group_size)
    if vectors is None:
        vectors = learn(
            sampled(units, seed),
            codebooks=codebooks,
            entries=entries,
            rounds=rounds,
            beam=beam,
            seed=seed,
        )[0].half()
    if vectors.shape != (codebooks, entries, width):
        raise CompressionError(
            f"vectors: {tuple(vectors.shape)}, but codebooks, entries and width are "
            f"{(codebooks, entries, width)}."
        )
    table, scale, codes = vectors.float(), row_scales(weight, group_size, 1.0), []
    each = spread(scale, columns)

    def code(block: Tensor, first: int) -> Tensor:
        own = each[:, first : first + width]
        codes.append(
            encode(nn.functional.pad(block / own, (0, width - block.shape[1])), table, beam)
        )
        return decode(codes[-1], table)[:, : block.shape[1]] * own

    if H is None:
        found = encode(units, table, beam)
    else:
        walk_groups(weight, H, width, code, damping=damping)
        found = torch.stack(codes, 1)
    layer = AdditiveLinear(
        columns, rows, width=width, codebooks=codebooks, entries=entries, groups=scale.shape[1]
    )
    layer.vectors = vectors
    layer._fill(pack(found.reshape(rows, -1), layer.bits), weight, scale, H)
    return layer


def sampled(x: Tensor, seed: int, n: int = SAMPLE) -> Tensor:
    """At most n of the rows, drawn without repetition."""
    return (
        x
        if len(x) <= n
        else x[
            torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n].to(x.device)
        ]
    )


def quantize(
    model: nn.Module, calibration: Tensor | None = None, *, width: int = 8, codebooks: int = 2,
    entries: int = 256, group_size: int | None = None, shared: bool = True, rounds: int = 8,
    beam: int = 8, seed: int = 0, rotation: int | None = None, damping: float = 0.01,
    ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Additive codes of every linear layer of the blocks: codebooks · log₂(entries) / width bits a
    weight, a scale for each row (or group of `group_size`), and the codebooks: one set for the
    model, or with shared=False one for each layer.

    Shared codebooks are learned from vectors of all layers, so `per_layer` may then change
    `group_size` and `beam` only.
    Without `calibration` each vector takes the sum that the beam finds nearest; with it block LDLQ.
    `rotation`: the seed of a mixing of rows and columns before that (see `vectors`). `ignore` as in
    `rtn.quantize`.
    """
    settings: dict[str, Any] = {
        "method": "additive", "width": width, "codebooks": codebooks, "entries": entries,
        "group_size": group_size, "rounds": rounds, "beam": beam, "seed": seed,
        "rotation": rotation,
    }  # fmt: skip
    vectors = None
    if shared and walk.source_of(model) is not None:
        raise CompressionError(
            "additive: shared codebooks are learned from layers of the whole model, "
            "which is not in memory here; give shared=False."
        )
    if shared:
        for pattern, changes in (per_layer or {}).items():
            if wrong := set(changes) & set(LEARNED):
                raise CompressionError(
                    f"per_layer: {pattern!r} sets {', '.join(sorted(wrong))}, which shared "
                    "codebooks have in common; give shared=False."
                )
        walk.check_finite(model, by_block=True)
        chosen = selection.selected(model, ignore)
        part = max(1, 2 * SAMPLE // len(chosen))
        weights = (
            mixed_weight(check_matrix(walk.weight_of(module)).float(), rotation)
            for module in chosen.values()
        )
        pool = torch.cat(
            [sampled(vectors_of(w, width, _fitting(group_size, w)), seed, part) for w in weights]
        )
        vectors = learn(
            sampled(pool, seed),
            codebooks=codebooks,
            entries=entries,
            rounds=rounds,
            beam=beam,
            seed=seed,
        )[0].half()

    def make(weight: Tensor, H: Tensor | None, own: dict[str, Any]) -> ScaledCodes:
        return quantize_layer(weight, H, **own, damping=damping, vectors=vectors)

    result = quantize_model(
        model, calibration, make, settings, damping=damping, ignore=ignore, per_layer=per_layer
    )
    result.settings["shared"] = shared
    return result


def _fitting(group_size: int | None, weight: Tensor) -> int | None:
    """The group size where it divides the weight's columns, else whole rows: `per_layer` may give
    such a layer another one.
    """
    return group_size if group_size and weight.shape[1] % group_size == 0 else None
