"""Lesson 5.7: pictures in the places of digits, a step of the projector, a round of DAgger, a test
that leaked.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until

LESSON = "5.7-cross-modal"

# --- pictures in their places ---


def prompt(rng: torch.Generator) -> dict:
    """A prompt whose digits are neither at its start nor all together, and vectors of a size unlike
    the embeddings'.
    """

    def make(rng):
        size, width, length = 12, pick(rng, 3, 4), pick(rng, 7, 8)
        digits = torch.arange(2, 8)[torch.randperm(6, generator=rng)[:4]]
        ids = pick(rng, 0, 1) + 8 + torch.randint(0, 3, (length,), generator=rng)
        where = torch.randperm(length - 1, generator=rng)[:3].sort().values + 1
        ids[where] = digits[torch.randint(0, 4, (3,), generator=rng)]
        table = torch.randn(size, width, generator=rng, dtype=torch.float64)
        vectors = 2.5 * torch.randn(3, width, generator=rng, dtype=torch.float64)
        return {"table": table, "ids": ids, "digits": digits, "vectors": vectors}

    def good(given):
        where = torch.isin(given["ids"], given["digits"]).nonzero().flatten()
        return (
            len(where) == 3
            and int(where[-1] - where[0]) > 2
            and len(given["ids"][where].unique()) > 1
        )

    return until(rng, make, good)


def insert(table: Tensor, ids: Tensor, digits: Tensor, vectors: Tensor) -> Tensor:
    """table[ids], with `vectors` one after the other where a token is a digit; the table itself
    stays.
    """
    inputs = table[ids].clone()
    inputs[torch.isin(ids, digits)] = vectors
    return inputs


def insert_with(change=lambda vectors, old: vectors, places=lambda where: where):
    def answer(table, ids, digits, vectors):
        inputs = table[ids].clone()
        where = places(torch.isin(ids, digits).nonzero().flatten())
        inputs[where] = change(vectors, inputs[where])
        return inputs

    return answer


def in_the_table(table: Tensor, ids: Tensor, digits: Tensor, vectors: Tensor) -> Tensor:
    """Writes the vectors into (a copy of) the table: a digit that comes twice gets the last one in
    both places.
    """
    changed = table.clone()
    for place, vector in zip(
        torch.isin(ids, digits).nonzero().flatten().tolist(), vectors, strict=True
    ):
        changed[ids[place]] = vector
    return changed[ids]


def as_given(table: Tensor, ids: Tensor, digits: Tensor, vectors: Tensor) -> Tensor:
    """The code that the lesson asks to mend, word for word."""
    inputs = table[ids].clone()
    first = torch.isin(ids, digits).int().argmax()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    inputs[first : first + len(vectors)] = vectors
    return inputs


# --- one step of the projector ---


def pairs(rng: torch.Generator) -> dict:
    n, pixels, width = pick(rng, 4, 5), 3, pick(rng, 2, 4)
    return {
        "W": torch.randn(width, pixels, generator=rng, dtype=torch.float64),
        "table": torch.randn(6, width, generator=rng, dtype=torch.float64),
        "x": torch.randn(n, pixels, generator=rng, dtype=torch.float64),
        "tokens": torch.randint(0, 6, (n,), generator=rng),
        "lr": 0.1 + 0.3 * float(torch.rand((), generator=rng)),
    }


def step(W: Tensor, table: Tensor, x: Tensor, tokens: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """(W − lr ∂L/∂W, table), L = the mean over pictures of ‖W x − table[token]‖²: the model is
    frozen.
    """
    miss = x @ W.T - table[tokens]
    return W - lr * 2 * miss.T @ x / len(x), table


def step_with(factor=2.0, over=len, target=lambda t: t, table_moves=False, sign=-1.0):
    def answer(W, table, x, tokens, lr):
        miss = x @ W.T - target(table[tokens])
        new = table
        if table_moves:
            new = table.index_add(0, tokens, 2 * lr * miss / len(x))
        return W + sign * lr * factor * miss.T @ x / over(x), new

    return answer


# --- a round of DAgger ---


def road(rng: torch.Generator) -> dict:
    """A car on a line, x ← x + u + push, and drivers u = −gain · x, who differ."""
    steps, old = pick(rng, 4, 5), turn(rng, 2, 3, 4)
    # as many labels as the clone had: enough for all of the drive, for a part of it,
    # or more than that
    budget = old + steps + turn(rng, -2, 0, -1, 2)
    old_states = torch.randn(old, generator=rng, dtype=torch.float64)
    expert = 0.6 + 0.3 * float(torch.rand((), generator=rng))
    return {
        "old_states": old_states,
        "old_labels": -expert * old_states,
        "start": 1 + float(torch.rand((), generator=rng)),
        "pushes": 0.5 * torch.randn(steps, generator=rng, dtype=torch.float64),
        "learner": 0.1 + 0.3 * float(torch.rand((), generator=rng)),
        "expert": expert,
        "budget": budget,
    }


def round_of(
    old_states: Tensor,
    old_labels: Tensor,
    start: float,
    pushes: Tensor,
    learner: float,
    expert: float,
    budget: int,
) -> tuple[Tensor, Tensor]:
    """All states and labels after a round: the learner drives, the expert says what it would do in
    each state before the step.

    There are at most `budget` labels in all, as many as the clone that it is compared with had: the
    first ones of the drive.
    """
    x, seen = start, []
    for push in pushes.tolist():
        seen.append(x)
        x = x - learner * x + push
    states = torch.tensor(seen, dtype=torch.float64)[: budget - len(old_states)]
    return torch.cat([old_states, states]), torch.cat([old_labels, -expert * states])


def round_with(
    drives="learner",
    labels="expert",
    keep=True,
    pushed=True,
    after=False,
    mixed=False,
    relabel=False,
    drop=0,
    room=lambda budget, old: slice(budget - old),
    last=False,
):
    def answer(old_states, old_labels, start, pushes, learner, expert, budget):
        gains, x, seen = {"learner": learner, "expert": expert}, start, []
        for i, push in enumerate(pushes.tolist()):
            new = (
                x
                - gains["expert" if mixed and i % 2 == 0 else drives] * x
                + (push if pushed else 0.0)
            )
            seen.append(new if after else x)
            x = new
        states = torch.tensor(seen[drop:], dtype=torch.float64)[room(budget, len(old_states))]
        new_labels = -gains[labels] * states
        if not keep:
            return states, new_labels
        old_labels = -learner * old_states if relabel else old_labels
        both = torch.cat([old_states, states]), torch.cat([old_labels, new_labels])
        return (both[0][-budget:], both[1][-budget:]) if last else both

    return answer


# --- whose test images leaked ---


def reports(rng: torch.Generator) -> dict:
    """Four reports: trained on its test images, chosen by them, clean, and tested twice: in an
    order by chance.
    """
    made = []
    for leak in (None, "fitted", "chosen", "both" if turn(rng, True, False) else None):
        ids = torch.randperm(40, generator=rng).tolist()
        fitted, chosen, tested = ids[:8], ids[8:12], ids[12:17]
        if leak in ("fitted", "both"):
            fitted = [*fitted[:-1], tested[pick(rng, 0, 4)]]
        if leak in ("chosen", "both"):
            chosen = [*chosen[:-1], tested[pick(rng, 0, 3)]]
        elif pick(rng, True, False):
            chosen = [*chosen[:-1], fitted[0]]  # not good practice, but no test image
        made.append({"fitted": fitted, "chosen": chosen, "tested": tested})
    return {"reports": [made[i] for i in torch.randperm(4, generator=rng).tolist()]}


def leaked(reports: list) -> list:
    """The numbers of the reports whose tested images were also fitted on, or used for choosing a
    setting.
    """
    return [
        i for i, r in enumerate(reports) if set(r["tested"]) & (set(r["fitted"]) | set(r["chosen"]))
    ]


def leaked_by(wrong):
    def answer(reports):
        return [
            i
            for i, r in enumerate(reports)
            if wrong(set(r["fitted"]), set(r["chosen"]), set(r["tested"]), r)
        ]

    return answer


EXERCISES = [
    Exercise(
        "senses.insert", prompt, insert,
        {
            "as_given": as_given,
            "one_after_the_other": insert_with(places=lambda where: torch.arange(3) + where[0]),
            "at_the_start": insert_with(places=lambda where: torch.arange(3)),
            "one_late": insert_with(places=lambda where: (where + 1).clamp(max=int(where.max()))),
            "norm": insert_with(change=lambda v, old: v / v.norm(dim=1, keepdim=True)),
            "norm_of_the_digit": insert_with(change=lambda v, old:
                v / v.norm(dim=1, keepdim=True) * old.norm(dim=1, keepdim=True)),
            "added": insert_with(change=lambda v, old: old + v),
            "backwards": insert_with(change=lambda v, old: v.flip(0)),
            "table_changed": in_the_table,
            "text_only": lambda table, ids, digits, vectors: table[ids],
        },
        lesson=LESSON, kind="debug", difficulty=1, minutes=5, trials=6,
    ),
    Exercise(
        "senses.step", pairs, step,
        {
            "model_trained": step_with(table_moves=True),
            "sum_for_mean": step_with(over=lambda x: 1),
            "mean_over_entries": lambda W, table, x, tokens, lr:
                (step(W, table, x, tokens, lr / len(W))[0], table),
            "half": step_with(factor=1.0),
            "uphill": step_with(sign=1.0),
            "unit_targets": step_with(target=lambda t: t / t.norm(dim=1, keepdim=True)),
            "first_rows": lambda W, table, x, tokens, lr:
                step(W, table, x, torch.arange(len(x)), lr),
        },
        lesson=LESSON, kind="formula", difficulty=2, minutes=6, trials=6,
    ),
    Exercise(
        "senses.dagger", road, round_of,
        {
            "expert_drives": round_with(drives="expert"),
            "forgets": round_with(keep=False),
            "own_labels": round_with(labels="learner"),
            "clone": round_with(drives="expert", labels="learner"),
            "no_pushes": round_with(pushed=False),
            "state_after": round_with(after=True),
            "expert_helps": round_with(mixed=True),
            "old_relabelled": round_with(relabel=True),
            "start_left_out": round_with(drop=1),
            "unequal_labels": round_with(room=lambda budget, old: slice(None)),
            "last_of_the_drive": round_with(room=lambda budget, old: slice(-(budget - old), None)),
            "old_thrown_out": round_with(room=lambda budget, old: slice(None), last=True),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=8, trials=6,
    ),
    Exercise(
        "senses.leaked", reports, leaked,
        {
            "fitted_only": leaked_by(lambda fitted, chosen, tested, r: tested & fitted),
            "chosen_only": leaked_by(lambda fitted, chosen, tested, r: tested & chosen),
            "both_needed": leaked_by(lambda fitted, chosen, tested, r:
                tested & fitted and tested & chosen),
            "all_needed": leaked_by(lambda fitted, chosen, tested, r: tested <= fitted | chosen),
            "any_overlap": leaked_by(lambda fitted, chosen, tested, r:
                tested & (fitted | chosen) or fitted & chosen),
            "clean_ones": leaked_by(lambda fitted, chosen, tested, r:
                not tested & (fitted | chosen)),
            "first_image": leaked_by(lambda fitted, chosen, tested, r:
                r["tested"][0] in fitted | chosen),
        },
        lesson=LESSON, kind="decide", difficulty=1, minutes=5, trials=8,
    ),
]  # fmt: skip
