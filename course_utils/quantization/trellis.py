"""Trellis codes: two bits a weight that choose among thousands of values (Tseng et al., 2024, QTIP;
Mao and Gray, 2010).

A register of L bits takes in k new bits for each weight, and its content picks the value:

    state_t = (state_(t−1) · 2^k + bits_t) mod 2^L,     ŵ_t = value[state_t]

Each weight costs k bits but has 2^L values behind it: its neighbours' bits choose which 2^k of them
are open to it. The best bits are found by dynamic programming (Viterbi, 1967): cost[s] = (x_t −
value[s])² + the least cost of the 2^k states from which s can come. A row bites its tail: the
register begins with the row's own last L − k bits, so that no start need be stored. The bits are
one ring, and state t is the L of them that end with bits_t.

Values: `normal`, quantiles of the normal distribution in a random order, kept as a table; `1mad`,
computed from the state alone with one multiplication: the four bytes of 34038481 s + 76625530 (mod
2³²), added, less 510, over 147.8.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, packed_width, unpack
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .grids import check_matrix
from .layer import storable
from .vectors import ScaledCodes, quantize_model, row_scales, spread, walk_groups

KINDS_OF_VALUES = ("normal", "1mad")
# columns behind a segment that are looked at, so that it does not end in a state that is bad for
# them
AHEAD = 16
AT_ONCE = 1 << 18  # costs (states times rows) that are worked on at once: they stay in the cache


def one_mad(state: Tensor) -> Tensor:
    """The value of each state by computation, float32: a sum of four bytes, nearly normal."""
    x = (state.long() * 34038481 + 76625530) & 0xFFFFFFFF
    total = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)
    return (total - 510).float() / 147.8


@functools.cache
def values_of(kind: str, state_bits: int) -> Tensor:
    """The value of each of the 2^L states, float32.

    Raises CompressionError for unknown kinds, or L outside 2 to 16.
    """
    if kind not in KINDS_OF_VALUES:
        raise CompressionError(f"values={kind!r}: choose one of {', '.join(KINDS_OF_VALUES)}.")
    if state_bits not in range(2, 17):
        raise CompressionError(
            f"state_bits={state_bits}: choose 2 to 16; time and memory double with each."
        )
    count = 2**state_bits
    if kind == "1mad":
        return one_mad(torch.arange(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.special.ndtri((order.double() + 0.5) / count).half().float()


def states_of(codes: Tensor, bits: int, state_bits: int) -> Tensor:
    """States (rows, T) int64 of codes (rows, T) below 2^bits, each row a ring: bits before its
    first are its last ones.
    """
    codes = codes.long()
    states = codes.clone()
    for step in range(1, -(-state_bits // bits)):
        states |= codes.roll(step, 1) << (step * bits)
    return states & (2**state_bits - 1)


def viterbi(
    x: Tensor,
    values: Tensor,
    bits: int,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    """The states (rows, T) int64 of the least Σ (x_t − value[state_t])² for x (rows, T).

    `before` (rows,): the register's last L − k bits when the row begins; without it any start is
    free. `after` (rows,):
    what its last L − k bits must be at the end.
    """
    count = len(values)
    if count >> bits == 0 or count & (count - 1):
        raise CompressionError(
            f"values: {count} of them; a trellis of {bits} bits has a power of "
            f"two, at least {2**bits}."
        )
    parts = x.float().split(max(1, AT_ONCE // count))
    limits = [[None] * len(parts) if t is None else t.split(len(parts[0])) for t in (before, after)]
    return torch.cat(
        [_viterbi(part, values, bits, b, a) for part, b, a in zip(parts, *limits, strict=True)]
    )


def _viterbi(
    x: Tensor, values: Tensor, bits: int, before: Tensor | None, after: Tensor | None
) -> Tensor:
    rows, steps = x.shape
    count, fan = len(values), 2**bits
    above = count // fan  # values of the L − k bits that a state shares with the one before it
    value, square = values.view(above, fan, 1), values.square().view(above, fan, 1)
    everyone = torch.arange(rows, device=x.device)
    start = cost = x.new_zeros(above, rows)
    if before is not None:
        start = start.fill_(torch.inf).index_put_((before, everyone), x.new_zeros(()))
    came = torch.zeros(steps, above, rows, dtype=torch.uint8, device=x.device)
    for t in range(steps):
        if t:  # states fan · j apart share their last bits: the best of them goes on
            options = cost.view(fan, above, rows)
            start = options[0]
            for j in range(1, fan):
                came[t].masked_fill_(options[j] < start, j)
                start = torch.minimum(start, options[j])
        cost = torch.addcmul(square + start[:, None], value, x[:, t], value=-2).view(count, rows)
    if after is not None:
        allowed = torch.arange(count, device=x.device)[:, None] % above == after
        cost = cost.masked_fill(~allowed, torch.inf)
    state = cost.argmin(0)
    states = torch.empty(rows, steps, dtype=torch.long, device=x.device)
    for t in range(steps - 1, -1, -1):
        states[:, t] = state
        shared = state >> bits
        state = came[t, shared, everyone].long() * above + shared
    return states


def tail_biting(x: Tensor, values: Tensor, bits: int) -> Tensor:
    """States of x (rows, T) on a ring.

    As in QTIP the row is turned by half and coded freely; the bits that the register holds in its
    middle, where the row begins, are then fixed at both ends, and it is coded again. Nearly the
    best ring.
    """
    half = x.shape[1] // 2
    turned = viterbi(x.roll(half, 1), values, bits)
    fixed = turned[:, half] >> bits
    return viterbi(x, values, bits, before=fixed, after=fixed)


@storable
class TrellisLinear(ScaledCodes):
    """A layer of trellis codes: `packed` (out, ⌈in · k / 8⌉) uint8, k bits a weight; `table` (2^L)
    float16, empty where the values are computed from the states at each call.
    """

    table: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, bits: int = 2, state_bits: int = 12,
        values: str = "normal", groups: int = 1, scale_dtype: str = "float16", bias: bool = False,
        rotation: int | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(
            in_features,
            out_features,
            packed_width(in_features, bits),
            groups,
            scale_dtype,
            bias,
            dtype,
            rotation,
        )
        self.bits, self.state_bits, self.kind = bits, state_bits, values
        self.register_buffer(
            "table", torch.zeros(0 if values == "1mad" else 2**state_bits, dtype=torch.float16)
        )

    def shape(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return super().shape() | {
            "bits": self.bits,
            "state_bits": self.state_bits,
            "values": self.kind,
        }

    @property
    def states(self) -> Tensor:
        """The register's content at each weight, (out, in) int64."""
        return states_of(
            unpack(self.packed, self.bits, self.in_features), self.bits, self.state_bits
        )

    def values(self) -> Tensor:
        """The numbers that the states stand for."""
        return one_mad(self.states) if self.kind == "1mad" else self.table.float()[self.states]


def quantize_layer(
    weight: Tensor, H: Tensor | None = None, *, bits: int = 2, state_bits: int = 12,
    values: str = "normal", group_size: int | None = None, segment: int = 16, damping: float = 0.01,
    table: Tensor | None = None,
) -> TrellisLinear:  # fmt: skip
    """Trellis codes of a weight (out, in): the packed layer, whose `weight` is Ŵ.

    With H, block LDLQ over segments of `segment` columns: the register goes on from one to the
    next, and the last one ends as the first began. `table`: the values in float16, kept as this
    very tensor, which layers can share. Raises CompressionError for bits outside 1 to 4, a row with
    fewer bits than the register, or bad states, values, groups.
    """
    weight = check_matrix(weight).float()
    columns = weight.shape[1]
    if bits not in range(1, 5):
        raise CompressionError(f"bits={bits}: choose 1 to 4.")
    listed = values_of(values, state_bits).to(weight.device)
    if columns * bits < state_bits or state_bits < bits:
        raise CompressionError(
            f"state_bits={state_bits}: a row of {columns} weights has {columns * bits} bits; "
            f"choose {bits} to that many."
        )
    if not isinstance(segment, int) or segment < 1:
        raise CompressionError(f"segment={segment}: choose a number of columns, usually 16.")
    scale = row_scales(weight, group_size, 1.0)
    each, found = spread(scale, columns), []

    def code(block: Tensor, first: int) -> Tensor:
        own = each[:, first : first + block.shape[1]]
        before = found[-1][:, -1] % (len(listed) >> bits) if found else None
        after = found[0][:, 0] >> bits if found and first + block.shape[1] == columns else None
        states = viterbi(block / own, listed, bits, before=before, after=after)[:, :segment]
        found.append(states)
        return listed[states] * own[:, :segment]

    if H is None or segment + AHEAD >= columns:
        states = tail_biting(weight / each, listed, bits)
    else:
        walk_groups(weight, H, segment, code, damping=damping, ahead=AHEAD)
        states = torch.cat(found, 1)
    layer = TrellisLinear(
        columns, len(weight), bits=bits, state_bits=state_bits, values=values, groups=scale.shape[1]
    )
    layer = layer.to(weight.device)
    if values != "1mad":
        layer.table = listed.half() if table is None else table
    layer._fill(pack((states % 2**bits).to(torch.uint8), bits), weight, scale, H)
    return layer


def quantize(
    model: nn.Module, calibration: Tensor | None = None, *, bits: int = 2, state_bits: int = 12,
    values: str = "normal", group_size: int | None = None, segment: int = 16,
    rotation: int | None = None, damping: float = 0.01, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Trellis codes of every linear layer of the blocks, `bits` a weight and a scale for each row
    (or group of `group_size`).

    Without `calibration` each row is coded as it is; with it block LDLQ. `rotation`: the seed of a
    mixing of rows and columns before that (see `vectors`). `ignore`, `per_layer` as in
    `rtn.quantize`.
    """
    settings: dict[str, Any] = {
        "method": "trellis", "bits": bits, "state_bits": state_bits, "values": values,
        "group_size": group_size, "segment": segment,
        "rotation": rotation,
    }  # fmt: skip

    tables: dict[tuple[str, int], Tensor] = {}  # one for all layers with the same values

    def make(weight: Tensor, H: Tensor | None, own: dict[str, Any]) -> ScaledCodes:
        kind = own["values"], own["state_bits"]
        if kind not in tables:
            tables[kind] = values_of(*kind).half()
        return quantize_layer(weight, H, **own, damping=damping, table=tables[kind])

    return quantize_model(
        model, calibration, make, settings, damping=damping, ignore=ignore, per_layer=per_layer
    )
