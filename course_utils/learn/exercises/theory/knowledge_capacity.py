"""Lesson 4.5: bits of fact from logits, who forgets, how many parameters a body of facts needs."""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until

LESSON = "4.5-knowledge-capacity"

# --- bits of fact ---


def logit_inputs(rng: torch.Generator) -> dict:
    """Logits over a vocabulary, the tokens of the attribute's values among it, and which value is
    right: sure, unsure, wrong.
    """
    facts, vocabulary, n = 6, pick(rng, 40, 60), turn(rng, 10, 5, 12)
    logits = 2 * torch.randn(facts, vocabulary, generator=rng, dtype=torch.float64)
    values = torch.randperm(vocabulary, generator=rng)[:n]
    right = torch.randint(n, (facts,), generator=rng)
    for i, boost in enumerate((8.0, 3.0, 0.0, -4.0)):
        logits[i, values[right[i]]] += boost
    # likelier than a guess, and not the likeliest
    logits[4, values[right[4]]] = logits[4, values].max() - 0.3
    return {"logits": logits, "values": values.tolist(), "right": right.tolist()}


def held(logits: Tensor, values: list[int], right: list[int]) -> float:
    """Σ over facts of max(0, log₂ n + log₂ p), p the softmax over the n values of the attribute
    alone.
    """
    total = 0.0
    for row, r in zip(logits, right, strict=True):
        weights = [math.exp(float(row[v])) for v in values]
        total += max(0.0, math.log2(len(values)) + math.log2(weights[r] / sum(weights)))
    return total


def held_with(bits):
    def answer(logits, values, right):
        among = logits[:, values].log_softmax(-1)[range(len(right)), right] / math.log(2)
        everywhere = logits.log_softmax(-1)[
            range(len(right)), [values[r] for r in right]
        ] / math.log(2)
        sure = (logits[:, values].argmax(1) == torch.tensor(right)).double()
        return float(
            bits(among, everywhere, sure, math.log2(len(values)), math.log2(logits.shape[1])).sum()
        )

    return answer


# --- who forgets? ---


def memory_inputs(rng: torch.Generator) -> dict:
    """What was right before and after, and how often each person was seen; some facts were never
    known, some are gained.
    """
    low, high, share = turn(rng, (0.55, 0.95, 1 / 3), (0.05, 0.45, 0.4), (0.55, 0.95, 0.23))
    n = until(
        rng,
        lambda rng: int(torch.randint(30, 61, (), generator=rng)),
        lambda n: low < share * n % 1 < high,
    )
    seen = (torch.randperm(400, generator=rng)[:n] + 1).tolist()
    before = torch.rand(n, generator=rng) < 0.75
    odds = torch.tensor([0.35 if s > 200 else 0.7 for s in seen])
    after = torch.where(
        before, torch.rand(n, generator=rng) > odds, torch.rand(n, generator=rng) < 0.3
    )
    order = torch.tensor(seen).argsort().tolist()
    before[order[:2]], before[order[-2:]] = True, True
    return {"before": before.tolist(), "after": after.tolist(), "seen": seen, "share": share}


def forgotten(
    before: list[bool], after: list[bool], seen: list[int], share: float
) -> tuple[float, float]:
    """(seldom, often): of the facts known before, the share that is wrong now, among the int(share
    n) people seen least, and most.
    """
    order = sorted(range(len(seen)), key=lambda i: seen[i])
    k = int(share * len(seen))
    result = []
    for group in (order[:k], order[-k:]):
        known = [i for i in group if before[i]]
        result.append(sum(not after[i] for i in known) / len(known))
    return result[0], result[1]


def forgotten_with(of_group, key=lambda seen, i: seen[i], swap=False, size=int):
    def answer(before, after, seen, share):
        order = sorted(range(len(seen)), key=lambda i: key(seen, i))
        k = size(share * len(seen))
        low, high = (of_group(g, before, after, seen) for g in (order[:k], order[-k:]))
        return (high, low) if swap else (low, high)

    return answer


def lost(group, before, after, seen):
    known = [i for i in group if before[i]]
    return sum(not after[i] for i in known) / len(known)


# --- how many parameters? ---


def draw_size(rng: torch.Generator) -> dict:
    values = [int(v) for v in torch.randint(3, 60, (pick(rng, 2, 4, 5),), generator=rng)]
    return {
        "people": int(torch.randint(50, 500, (), generator=rng)),
        "values": values,
        "per_parameter": pick(rng, 2.0, 1.8, 0.6),
    }


def size_inputs(rng: torch.Generator) -> dict:
    """The quotient is a little above a whole number, a little below one, above one with few bits a
    parameter, or whole.
    """
    if turn(rng, False, False, False, True):
        return {
            "people": 2 * int(torch.randint(25, 250, (), generator=rng)),
            "values": [4, pick(rng, 2, 8), 16],
            "per_parameter": 2.0,
        }
    low, high = turn(rng, (0.05, 0.3), (0.6, 0.95), (0.05, 0.3))
    rate = turn(rng, (2.0, 1.8), (2.0, 1.8, 0.6), (0.6,))

    def good(given: dict) -> bool:
        bits = given["people"] * sum(math.log2(v) for v in given["values"])
        return (
            given["per_parameter"] in rate
            and low < bits / given["per_parameter"] % 1 < high
            and 0.05 < bits % 1 < 0.95
        )

    return until(rng, draw_size, good)


def parameters_needed(people: int, values: list[int], per_parameter: float) -> int:
    """⌈people · Σ_a log₂ values_a / per_parameter⌉."""
    return math.ceil(people * sum(math.log2(v) for v in values) / per_parameter)


EXERCISES = [
    Exercise(
        "knowledge_capacity.held", logit_inputs, held,
        {
            "vocabulary": held_with(lambda among, everywhere, sure, n, v:
                (v + everywhere).clamp(min=0)),
            "not_normalized": held_with(lambda among, everywhere, sure, n, v:
                (n + everywhere).clamp(min=0)),
            "accuracy": held_with(lambda among, everywhere, sure, n, v: sure * n),
            "negative_kept": held_with(lambda among, everywhere, sure, n, v: n + among),
            "guessing_not_subtracted": held_with(lambda among, everywhere, sure, n, v:
                n * among.exp2()),
            "loss": held_with(lambda among, everywhere, sure, n, v: -among),
            "nats": held_with(lambda among, everywhere, sure, n, v:
                math.log(2) * (n + among).clamp(min=0)),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=10,
    ),
    Exercise(
        "knowledge_capacity.forgotten", memory_inputs, forgotten,
        {
            "never_known_counted": forgotten_with(lambda g, b, a, s:
                sum(not a[i] for i in g) / len(g)),
            "of_the_whole_group": forgotten_with(lambda g, b, a, s:
                sum(b[i] and not a[i] for i in g) / len(g)),
            "gains_against_losses": forgotten_with(lambda g, b, a, s:
                (sum(b[i] for i in g) - sum(a[i] for i in g)) / sum(b[i] for i in g)),
            "weighted_by_frequency": forgotten_with(
                lambda g, b, a, s:
                    sum(s[i] for i in g if b[i] and not a[i]) / sum(s[i] for i in g if b[i])
            ),
            "kept": forgotten_with(lambda g, b, a, s: 1 - lost(g, b, a, s)),
            "groups_swapped": forgotten_with(lost, swap=True),
            "order_of_the_list": forgotten_with(lost, key=lambda seen, i: i),
            "rounded": forgotten_with(lost, size=round),
        },
        lesson=LESSON, kind="design", difficulty=2, minutes=12, trials=5,
    ),
    Exercise(
        "knowledge_capacity.parameters_needed", size_inputs, parameters_needed,
        {
            "log_of_the_sum": lambda people, values, per_parameter:
                math.ceil(people * math.log2(sum(values)) / per_parameter),
            "rounded_down": lambda people, values, per_parameter:
                math.floor(people * sum(math.log2(v) for v in values) / per_parameter),
            "nats": lambda people, values, per_parameter:
                math.ceil(people * sum(math.log(v) for v in values) / per_parameter),
            "values_not_bits": lambda people, values, per_parameter:
                math.ceil(people * sum(values) / per_parameter),
            "multiplied": lambda people, values, per_parameter:
                math.ceil(people * sum(math.log2(v) for v in values) * per_parameter),
            "people_forgotten": lambda people, values, per_parameter:
                math.ceil(sum(math.log2(v) for v in values) / per_parameter),
            "whole_bits": lambda people, values, per_parameter:
                math.ceil(people * sum(math.ceil(math.log2(v)) for v in values) / per_parameter),
        },
        lesson=LESSON, kind="formula", difficulty=1, minutes=5, tolerance=1e-6, trials=8,
    ),
]  # fmt: skip
