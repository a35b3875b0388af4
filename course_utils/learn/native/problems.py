"""Products y = W x with 4-bit weights: inputs, what is right, and what the common mistakes would
give.

    w[r, j] = scale[r, g] (q[r, j] − zero[r, g]),   g = j // group,   y[b, r] = Σ_j w[r, j] x[b, j]

Two codes lie in a byte, that of the even column in the low four bits; a row takes ceil(columns / 2)
bytes. There are ceil(columns / group) groups in a row, the last one may be short. `scale` is
float32, `zero` one byte for each group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

BUFFERS = ("codes", "scale", "zero", "x", "y")
GROUPS = (16, 32, 64, 128)
# of Σ scale (|q − zero| + 1) max |x| of the group: x as 16-bit integers is within it, x in half
# precision is not
TOLERANCE = 2e-5
SINGLE = 2e-6  # of Σ scale (q + zero + 1) |x|: what sums in single precision may lose, in any order
EDGES = (1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 130, 257)


@dataclass(frozen=True, eq=False)
class Problem:
    """codes (rows, ceil(columns / 2)) uint8, scale and zero (rows, groups) float32 and uint8, x
    (batch, columns) float32.
    """

    columns: int
    group: int
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    x: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """rows, columns, group, batch."""
        return len(self.codes), self.columns, self.group, len(self.x)

    def rows(self, chosen: np.ndarray) -> Problem:
        """The same with some of the rows."""
        return replace(
            self, codes=self.codes[chosen], scale=self.scale[chosen], zero=self.zero[chosen]
        )

    def unpacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q, scale and zero of each weight: (rows, columns) in double precision."""
        pairs = np.stack((self.codes & 15, self.codes >> 4), -1).reshape(len(self.codes), -1)[
            :, : self.columns
        ]
        of = np.arange(self.columns) // self.group
        return (
            pairs.astype(np.float64),
            self.scale.astype(np.float64)[:, of],
            self.zero.astype(np.float64)[:, of],
        )

    def right(self) -> tuple[np.ndarray, np.ndarray]:
        """Y and how far from it an answer may be, both (batch, rows)."""
        q, scale, zero = self.unpacked()
        x = self.x.astype(np.float64)
        starts = np.arange(0, self.columns, self.group)
        largest = np.maximum.reduceat(np.abs(x), starts, axis=1)[
            :, np.arange(self.columns) // self.group
        ]
        room = TOLERANCE * (largest @ (scale * (np.abs(q - zero) + 1)).T) + SINGLE * (
            np.abs(x) @ (scale * (q + zero + 1)).T
        )
        return x @ (scale * (q - zero)).T, room


def sizes(rows: int, columns: int, group: int, batch: int) -> dict[str, int]:
    """Bytes of each buffer."""
    groups = -(-columns // group)
    return {
        "codes": rows * -(-columns // 2), "scale": 4 * rows * groups, "zero": rows * groups,
        "x": 4 * batch * columns,
        "y": 4 * batch * rows,
    }  # fmt: skip


def draw(rng: np.random.Generator, rows: int, columns: int, group: int, batch: int) -> Problem:
    """Random inputs; the unused half of an odd row's last byte is random too, and scales span
    several powers of ten.
    """
    groups = -(-columns // group)
    return Problem(
        columns, group,
        rng.integers(0, 256, (rows, -(-columns // 2)), dtype=np.uint8),
        (10 ** rng.uniform(-3, 1, (rows, groups))).astype(np.float32),
        rng.integers(0, 16, (rows, groups), dtype=np.uint8),
        rng.standard_normal((batch, columns)).astype(np.float32),
    )  # fmt: skip


def several(seed: int) -> list[Problem]:
    """Problems of many shapes, in an order that the seed draws: edges of groups and of vectors, one
    row, several x.
    """
    rng = np.random.default_rng(seed)
    shapes = [(1, 1, 16, 1), (1, 2, 16, 2), (3, 17, 16, 1), (1, 130, 64, 3)]
    shapes += [
        (int(rng.integers(1, 12)), columns, int(rng.choice(GROUPS)), int(rng.integers(1, 4)))
        for columns in EDGES
    ]
    # whole groups, and a last one that is short by an odd and by an even number
    for group in GROUPS:
        whole = group * int(rng.integers(2, 5))
        shapes += [
            (5, whole, group, 1),
            (2, whole + int(rng.integers(1, group)), group, 2),
            (4, whole - 2, group, 1),
        ]
    shapes += [(131, 513, 128, 2), (67, 2050, 64, 1), (3, 70, 64, 9), (1, 6001, 128, 1)]
    return [draw(rng, *shapes[i]) for i in rng.permutation(len(shapes))]


def _with(
    q: Callable[[np.ndarray], np.ndarray] = lambda q: q,
    zero: Callable[[np.ndarray], np.ndarray] = lambda z: z,
    until: Callable[[int, int], int] = lambda n, group: n,
) -> Callable[[Problem], np.ndarray]:
    """Y of a product with one thing wrong."""

    def answer(problem: Problem) -> np.ndarray:
        codes, scale, zeros = problem.unpacked()
        n = until(problem.columns, problem.group)
        weight = (scale * (q(codes) - zero(zeros)))[:, :n]
        return problem.x.astype(np.float64)[:, :n] @ weight.T

    return answer


def _swapped(problem: Problem) -> np.ndarray:
    return replace(problem, codes=(problem.codes >> 4) | (problem.codes << 4)).right()[0]


def _one_group(problem: Problem) -> np.ndarray:
    """Every group has the scale and zero of its row's first."""
    first = np.zeros(problem.scale.shape[1], dtype=int)
    return replace(problem, scale=problem.scale[:, first], zero=problem.zero[:, first]).right()[0]


def _first_x(problem: Problem) -> np.ndarray:
    return np.repeat(problem.right()[0][:1], len(problem.x), 0)


def _transposed(problem: Problem) -> np.ndarray:
    y = problem.right()[0]
    return y.T.reshape(y.shape)


MISTAKES: dict[str, Callable[[Problem], np.ndarray]] = {
    "swapped": _swapped,
    "no_zero": _with(zero=lambda z: 0 * z),
    "zero_eight": _with(zero=lambda z: 0 * z + 8),
    "zero_added": _with(zero=lambda z: -z),
    "signed": _with(q=lambda q: np.where(q > 7, q - 16, q)),
    "odd_column": _with(until=lambda n, group: n - n % 2),
    "short_group": _with(until=lambda n, group: n - n % group),
    "one_group": _one_group,
    "first_x": _first_x,
    "transposed": _transposed,
}


def mistake(problems: list[Problem], answers: list[np.ndarray]) -> str | None:
    """The name of the mistake that explains all answers; a right answer among them explains
    nothing.
    """
    right = [problem.right() for problem in problems]
    for name, function in MISTAKES.items():
        wrong = [
            (y - function(p), room, y - want)
            for p, y, (want, room) in zip(problems, answers, right, strict=True)
        ]
        if all((np.abs(off) <= 2 * room).all() for off, room, _ in wrong) and any(
            (np.abs(away) > room).any() for _, room, away in wrong
        ):
            return name
    return None
