"""Lab 5.3: a teacher of a serial world who makes mistakes, and what a fixed student learns from the
rows that are made of its chains.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_utils.distillation import reasoning
from course_utils.distillation.trainer import IGNORED
from course_utils.errors import CompressionError

TOKENS, LENGTHS, ASKED, PROMPTS, SAMPLES = 320_000, (4, 6, 8, 10), (6, 7, 8, 9, 10), 2000, 6
HARD, MISLED, SLIP, CUT = 6, 0.65, 0.01, 0.05
MOST_ROWS, MOST_PLACES = 20_000, 40
# tokens of a row: with shorter ones, the steps within a budget would have no end
SHORTEST = reasoning.WIDTH + 2
Chains = list[list[list[int]]]


def world(seed: int) -> reasoning.World:
    """The rule of this seed, other than the running sum."""
    rng = torch.Generator().manual_seed(seed)
    previous, digit, shift = (int(torch.randint(n, (), generator=rng)) for n in (4, 4, 10))
    return reasoning.World((1, 3, 7, 9)[previous], (3, 7, 9, 1)[digit], shift or 5)


def teach(
    rule: reasoning.World,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    agree: bool = True,
) -> Chains:
    """What the teacher writes, `samples` times after each prompt: [steps, ":", answer, "."], as
    ids.

    At `HARD` of the 100 pairs (state, digit) it has learned another state, which it takes with
    probability `MISLED`; anywhere it slips with probability `SLIP`. Without `agree` the wrong
    states of those pairs are drawn anew each time. What follows continues from the state that it
    wrote. A share `CUT` of the texts is cut off.
    """
    rng = torch.Generator().manual_seed(1000 + seed)
    hard = {
        divmod(p, 10): int(torch.randint(1, 10, (), generator=rng))
        for p in torch.randperm(100, generator=rng)[:HARD].tolist()
    }
    chance = torch.rand(len(prompts), samples, reasoning.WIDTH + 1, generator=rng).tolist()
    other = torch.randint(
        1, 10, (len(prompts), samples, reasoning.WIDTH + 1), generator=rng
    ).tolist()
    found: Chains = []
    for digits, by_sample, off in zip(prompts, chance, other, strict=True):
        found.append([])
        for u, o in zip(by_sample, off, strict=True):
            steps, state = [], 0
            for i, d in enumerate(digits):
                wrong = (
                    (o[i] if not agree else hard[state, d])
                    if (state, d) in hard and u[i] < MISLED
                    else o[i]
                    if u[i] > 1 - SLIP
                    else 0
                )
                state = (rule.step(state, d) + wrong) % 10
                steps.append(state)
            text = [*steps, reasoning.MARK, state, reasoning.END]
            found[-1].append(text[: 1 + o[-1] % len(digits)] if u[-1] < CUT else text)
    return found


class Task:
    """A rule, prompts, what the teacher wrote after them, and the right answers,
    all by one seed.
    """

    def __init__(self, seed: int, *, n: int = PROMPTS, agree: bool = True) -> None:
        self.seed, self.world = seed, world(seed)
        self.prompts = reasoning.draw(n, LENGTHS, seed=2000 + seed)
        self.answers = [self.world.chain(digits)[-1] for digits in self.prompts]
        self.samples = teach(self.world, self.prompts, seed=seed, agree=agree)

    def __repr__(self) -> str:
        return f"Task(seed={self.seed})"

    def accuracy(
        self,
        rows: reasoning.Rows | tuple[Tensor, Tensor],
        *,
        tokens: int = TOKENS,
        items: int = 500,
        seed: int = 0,
    ) -> Tensor:
        """(items,) 1.0 where the student that has read `tokens` tokens of these rows answers a new
        prompt rightly.

        The prompts are drawn when the rows are there, by their hash. Raises CompressionError for
        rows that break a rule.
        """
        ids, labels = checked(
            *((rows.ids, rows.labels) if isinstance(rows, reasoning.Rows) else rows)
        )
        asked = reasoning.draw(items, ASKED, seed=zlib.crc32(ids.numpy().tobytes(), seed))
        made = reasoning.train(
            reasoning.student(seed), reasoning.Rows(ids, labels), tokens=tokens, seed=seed
        )
        return reasoning.right(reasoning.write(made.model, asked), asked, self.world)


def checked(ids: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """The rows as whole numbers (n, W).

    Raises CompressionError that says which rule they break: shapes, ids, labels, their number.
    """
    for name, one in (("ids", ids), ("labels", labels)):
        if (
            not isinstance(one, Tensor)
            or one.dim() != 2
            or one.is_floating_point()
            or one.is_complex()
            or one.dtype == torch.bool
        ):
            raise CompressionError(f"{name}: expected a tensor of whole numbers (rows, places).")
    if ids.shape != labels.shape:
        raise CompressionError(
            f"ids, labels: shapes {tuple(ids.shape)} and {tuple(labels.shape)} differ."
        )
    rows, places = ids.shape
    if not reasoning.BATCH <= rows <= MOST_ROWS or not reasoning.WIDTH < places <= MOST_PLACES:
        raise CompressionError(
            f"ids: {rows} rows of {places} places; from {reasoning.BATCH} to {MOST_ROWS} rows, "
            f"at most {MOST_PLACES} places."
        )
    ids, labels = ids.long(), labels.long()
    if int(ids.min()) < 0 or int(ids.max()) >= len(reasoning.SYMBOLS):
        raise CompressionError(f"ids: must lie from 0 to {len(reasoning.SYMBOLS) - 1}.")
    held = (ids != reasoning.PAD).sum(1)
    if int(held.min()) < SHORTEST:
        raise CompressionError(
            f"ids: row {int(held.argmin())} holds {int(held.min())} tokens; "
            f"a prompt and what follows are at least {SHORTEST}."
        )
    scored = labels != IGNORED
    if not bool((labels == ids)[scored].all()) or bool((ids == reasoning.PAD)[scored].any()):
        raise CompressionError(
            f"labels: each is the id that stands at its place, or {IGNORED}; at padding {IGNORED}."
        )
    if not bool(scored[:, 1:].any(1).all()):
        raise CompressionError(
            f"labels: row {int((~scored[:, 1:].any(1)).nonzero()[0])} has nothing to predict."
        )
    if bool(((ids != reasoning.PAD)[:, 1:] & (ids == reasoning.PAD)[:, :-1]).any()) or bool(
        (ids[:, 0] == reasoning.PAD).any()
    ):
        raise CompressionError("ids: padding stands behind the row, not in it or before it.")
    return ids, labels


def judged(make: Callable[..., Any], seed: int, *, tokens: int | None = None) -> float:
    """The share of new prompts that a student answers rightly which was trained here on
    `make(prompts, samples, answers)`.

    It reads `tokens` of them, TOKENS by default. Raises CompressionError that says which rule the
    rows break.
    """
    task = Task(seed)
    found = make(
        [list(p) for p in task.prompts],
        [[list(s) for s in some] for some in task.samples],
        list(task.answers),
    )
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise CompressionError(
            "rows: expected two tensors, ids and labels: return rows.ids, rows.labels."
        )
    return float(task.accuracy((found[0], found[1]), tokens=tokens or TOKENS, seed=seed).mean())
