"""Who stands where on the board of the challenge: rounded values, the worst gate, ranks, and the
Pareto front.

Bytes are ranked only behind the gates. How good an entry is, beside its bytes, is the part of each
gate's allowance that it uses: (1 − value)/(1 − needed) for a share that must reach `needed`,
value/needed for a divergence that must stay below it.
The largest one over the gates is its quality: 0 is the original, 1 stands on a gate, lower is
better.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from course_utils.evaluation.pareto import front

STEP = 0.005  # of shares: what is shown of hidden items is rounded to it
DIGITS = 2  # of everything else
# as `challenge.gates` gives it: "value", "interval": [low, high], "needed", "passed";
# "lower": lower is better
Gate = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A file that counts: `kind` is "learner", "instructor" or "baseline"; `gates` as they may be
    shown (`shown_gate`).
    """

    name: str
    bytes: int
    gates: dict[str, Gate]
    kind: str = "learner"
    note: str = ""
    # the gate, and the part of its allowance that is used
    worst: tuple[str, float] = field(init=False)

    def __post_init__(self) -> None:
        uses = {name: allowance(gate, gate["value"]) for name, gate in self.gates.items()}
        object.__setattr__(
            self, "worst", max(uses.items(), key=lambda pair: pair[1], default=("", math.inf))
        )

    @property
    def failed(self) -> list[str]:
        """The names of the gates that it does not pass."""
        return [name for name, gate in self.gates.items() if not gate["passed"]]

    @property
    def span(self) -> tuple[float, float]:
        """(low, high): the interval of its worst gate, in parts of the allowance."""
        if not self.gates:
            return math.inf, math.inf
        gate = self.gates[self.worst[0]]
        low, high = sorted(allowance(gate, edge) for edge in gate["interval"])
        return low, high


@dataclass(frozen=True)
class Row:
    """An entry and its place.

    `rank` is None for what fails a gate, and for entries that do not compete.
    """

    entry: Entry
    rank: int | None
    on_front: bool
    equal_to: str = ""  # the name of a smaller entry of the front that is not seen to be worse


def rounded(value: float, lower: bool) -> float:
    """A value as it may be shown: shares to STEP, others to DIGITS digits; what is no number is
    NaN.
    """
    if not math.isfinite(value):
        return math.nan
    if not lower:
        return round(round(value / STEP) * STEP, 4)
    return float(f"{value:.{DIGITS}g}") + 0.0


def shown_gate(gate: Gate) -> Gate:
    """A measured gate with its numbers rounded; whether it is passed was decided before."""
    lower = bool(gate["lower"])
    low, high = gate["interval"]
    return {
        "value": rounded(gate["value"], lower),
        "interval": [rounded(low, lower), rounded(high, lower)], "needed": gate["needed"],
        "passed": bool(gate["passed"]), "lower": lower,
    }  # fmt: skip


def allowance(gate: Gate, value: float) -> float:
    """The part of a gate's allowance that a value uses; infinite where the value is no number."""
    needed = gate["needed"]
    used, allowed = (value, needed) if gate["lower"] else (1 - value, 1 - needed)
    if math.isnan(used):
        return math.inf
    if allowed <= 0:
        return 0.0 if used <= allowed else math.inf
    return max(0.0, round(used / allowed, 6))


def standing(entries: list[Entry]) -> list[Row]:
    """All entries in the order of the board: those that pass by bytes, then the others by how many
    gates they pass.

    Equal bytes share a rank. On the front is what no other entry beats in bytes and quality, both
    as shown. Where the interval of a front entry's worst gate meets that of a smaller one on the
    front, the two are equal in quality, and the row says so.
    """
    kept = front([(entry.bytes, entry.worst[1]) for entry in entries])
    equal: dict[int, str] = {}
    for place, i in enumerate(kept):  # in the order of bytes
        for j in kept[:place]:
            if entries[j].bytes < entries[i].bytes and entries[i].span[1] >= entries[j].span[0]:
                equal[i] = entries[j].name
                break
    sizes = [entry.bytes for entry in entries if entry.kind == "learner" and not entry.failed]
    rows = [
        Row(
            entry,
            None
            if entry.failed or entry.kind != "learner"
            else 1 + sum(size < entry.bytes for size in sizes),
            i in kept,
            equal.get(i, ""),
        )
        for i, entry in enumerate(entries)
    ]
    return sorted(
        rows,
        key=lambda row: (
            *merit(row.entry.gates, row.entry.bytes),
            row.entry.worst[1],
            row.entry.name,
        ),
    )


def merit(gates: dict[str, Gate], size: int) -> tuple[bool, int, int]:
    """Lower is better: all gates passed, then how many (what was not asked after a collapse is not
    passed), then bytes.
    """
    passed = sum(gate["passed"] for gate in gates.values())
    return passed < len(gates), -passed if passed < len(gates) else 0, size
