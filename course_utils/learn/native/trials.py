"""What a kernel is asked, and what is found: right on many shapes, and how fast beside a plain
read.

The kernel runs in a process of its own (`process`), which nobody trusts: every answer is compared
here, also those of calls that are timed; inputs are new at each call and lie in memory that the
process cannot write.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .board import Board
from .problems import Problem, draw, mistake, several
from .process import Fell, Kernel, Launch, Plain, pin

AGAIN = 4  # problems that get new inputs in their places
COLUMNS, GROUP = 4096, 64  # of the matrix that is timed
SMALLEST, LARGEST = 64 << 20, 192 << 20  # bytes of it; between them twice the largest cache
ROUNDS, MORE = 6, 12  # calls of each side, and further ones where the ratio is just below a mark
NEAR = 0.85
MARKS = (0.1, 0.2, 0.3, 0.45, 0.6)  # shares of the plain read's speed that points are given for
OF_OURS = 0.9  # no mark is above this share of what the course's own kernel reaches in the same run
LOOKED_AT = 64  # rows of each timed answer that are compared


def right(runner: Path, library: Path, seed: int, launch: Launch = Plain) -> None:
    """Raises Fell where an answer is wrong, or memory is touched that is not the kernel's."""
    problems = several(seed)
    shapes = [problem.shape for problem in problems]
    board = Board(shapes + shapes, [True] * len(shapes) + [False] * len(shapes))
    with contextlib.closing(board), Kernel(runner, library, board, launch) as kernel:
        answers = [_asked(kernel, n, problem) for n, problem in enumerate(problems + problems)]
        rng = np.random.default_rng(seed + 1)
        others = [draw(rng, *problem.shape) for problem in problems[:AGAIN]]
        answers += [_asked(kernel, n, problem) for n, problem in enumerate(others)]
    _compare(problems + problems + others, answers)


def _asked(kernel: Kernel, trial: int, problem: Problem) -> np.ndarray:
    board = kernel.board
    board.write(trial, problem)
    kernel.call(trial)
    y, clean = board.answer(trial)
    if not clean:
        raise Fell("wrote_around", buffer="y", **_shape(problem))
    return y


def _compare(problems: list[Problem], answers: list[np.ndarray]) -> None:
    for problem, y in zip(problems, answers, strict=True):
        want, room = problem.right()
        wrong = ~(np.abs(y - want) <= room)
        if wrong.any():
            b, r = map(int, np.argwhere(wrong)[0])
            named = (
                mistake(problems, answers)
                if np.isfinite(np.concatenate([a.ravel() for a in answers])).all()
                else None
            )
            raise Fell(
                "not_written" if np.isnan(y[b, r]) else "wrong", mistake=named,
                **_shape(problem), b=b, r=r, got=float(y[b, r]), want=float(want[b, r]),
                count=int(wrong.sum()), of=int(wrong.size),
            )  # fmt: skip


def _shape(problem: Problem) -> dict[str, int]:
    return dict(zip(("rows", "columns", "group", "batch"), problem.shape, strict=True))


def marks(ours: float) -> list[float]:
    """The marks that hold where the course's own kernel reaches the ratio `ours`."""
    return [min(mark, OF_OURS * ours) for mark in MARKS]


class Stream:
    """New inputs for the timed shape at each call, from a pool of random bytes that is read at
    random places.
    """

    def __init__(self, bytes_wanted: int, rng: np.random.Generator) -> None:
        groups = COLUMNS // GROUP
        self.rows = bytes_wanted // (COLUMNS // 2 + 5 * groups)
        self.rng, slack = rng, 1 << 16
        self.pool = rng.integers(
            0, 2**64, (self.rows * COLUMNS // 2 + slack) // 8, dtype=np.uint64
        ).view(np.uint8)
        self.scale = rng.uniform(0.01, 0.1, self.rows * groups + slack).astype(np.float32)
        self.zero = rng.integers(0, 16, self.rows * groups + slack, dtype=np.uint8)
        self.shape = (self.rows, COLUMNS, GROUP, 1)

    def next(self) -> Problem:
        """The next problem to be timed, with codes and inputs that were not used before."""
        groups = COLUMNS // GROUP
        at = [int(n) for n in self.rng.integers(0, (1 << 16) - 8, 3)]
        codes = self.pool[at[0] : at[0] + self.rows * COLUMNS // 2].reshape(self.rows, -1)
        scale = self.scale[at[1] : at[1] + self.rows * groups].reshape(self.rows, -1)
        zero = self.zero[at[2] : at[2] + self.rows * groups].reshape(self.rows, -1)
        return Problem(
            COLUMNS,
            GROUP,
            codes,
            scale,
            zero,
            self.rng.standard_normal((1, COLUMNS)).astype(np.float32),
        )

    def flush(self) -> int:
        """Read other memory, so that nothing of the inputs is left in a cache."""
        return int(self.pool[: len(self.pool) & ~7].view(np.uint64).max())


def ratio(
    runner: Path, library: Path, others: Mapping[str, Path], seed: int, launch: Launch = Plain
) -> dict[str, Any]:  # fmt: skip
    """Seconds of `others["plain"]`, a plain read, divided by those of the kernel, each the least of
    several calls in turn.

    All are processes of the same program, on the same processor, with the same new inputs, which
    none has in a cache.
    Seconds are all that a process used since its last answer was taken, until this one is. Where
    the ratio is just below one of the `marks`, more calls are made: a machine that is busy with
    other work loses nobody's points.
    The answer has "ratio", "ours" (the ratio of `others["ours"]`), the speeds of "kernel" and
    "plain" in GB/s, "calls", "megabytes". Raises Fell if an answer is wrong.
    """
    rng = np.random.default_rng(seed)
    stream = Stream(int(min(max(SMALLEST, 2 * _cache()), LARGEST)), rng)
    libraries = {"kernel": library, **others}
    with (
        contextlib.closing(Board([stream.shape], [True])) as board,
        contextlib.ExitStack() as stack,
    ):
        started: dict[str, Kernel] = {}
        for name, path in libraries.items():
            own = (
                board
                if name == "kernel"
                else stack.enter_context(contextlib.closing(Board.beside(board)))
            )
            started[name] = stack.enter_context(Kernel(runner, path, own, launch))
        used: dict[str, list[float]] = {name: [] for name in libraries}
        last = {name: one.seconds() for name, one in started.items()}
        turn = random.randrange(1000)
        for done in range(ROUNDS + MORE):
            problem = stream.next()
            board.write(0, problem)
            pin([one.process for one in started.values()], turn + done)
            for name in sorted(libraries, reverse=bool(done % 2)):
                kernel = started[name]
                kernel.board.clear(0)
                stream.flush()
                kernel.call(0)
                y, clean = kernel.board.answer(0)
                now = kernel.seconds()
                used[name].append(now - last[name])
                last[name] = now
                if name == "kernel":
                    _sampled(problem, y, clean, rng)
            least = {name: max(min(seconds), 1e-9) for name, seconds in used.items()}
            found = least["plain"] / least["kernel"]
            ours = least["plain"] / least.get("ours", least["plain"])
            if done + 1 >= ROUNDS and not any(NEAR * mark < found < mark for mark in marks(ours)):
                break
    size = sum(v.nbytes for v in (problem.codes, problem.scale, problem.zero))
    speed = {name: size / least[name] / 1e9 for name in ("kernel", "plain")}
    return {"ratio": found, "ours": ours, "calls": done + 1, "megabytes": size / 1e6, **speed}


def _sampled(problem: Problem, y: np.ndarray, clean: bool, rng: np.random.Generator) -> None:
    """Compare rows that nobody can foresee; every entry must be a number."""
    if not clean:
        raise Fell("wrote_around", buffer="y", **_shape(problem))
    chosen = np.sort(rng.choice(len(problem.codes), LOOKED_AT, replace=False))
    want, room = problem.rows(chosen).right()
    got = y[:, chosen]
    wrong = ~(np.abs(got - want) <= room)
    if wrong.any() or not np.isfinite(y).all():
        at = int(np.argwhere(wrong)[0][1]) if wrong.any() else 0
        raise Fell(
            "wrong_timed", r=int(chosen[at]), got=float(got[0, at]), want=float(want[0, at]),
            **_shape(problem)
        )  # fmt: skip


def _cache() -> int:
    """Bytes of the largest cache that the system tells of."""
    found = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            found.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
    return max(found)
