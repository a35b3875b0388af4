"""What lesson 5.8 measures on the spot: answers with their confidence, exits and cascades, drafts
that run, and the measured front.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.evaluation import comparison, pareto
from course_utils.evaluation.answers import encode_pair, log_probabilities
from course_utils.evaluation.subject import Subject, scoring
from course_utils.systems import cascade, speculative
from course_utils.world import Choice, items


def answers(
    model: Subject,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    *,
    n: int,
    split: str,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """(confidence, right) of n choice questions: the probability of the chosen one among the
    choices, and whether it is the answer.
    """
    asked = [item for item in items(task, n=n, split=split, seed=seed) if isinstance(item, Choice)]
    pairs = [
        encode_pair(tokenizer, item.prompt, choice) for item in asked for choice in item.choices
    ]
    with scoring(model) as ready:
        scores = iter(log_probabilities(ready, pairs))
    found = [
        torch.tensor([next(scores) for _ in item.choices], dtype=torch.float64).softmax(0)
        for item in asked
    ]
    right = [int(p.argmax()) == item.answer for p, item in zip(found, asked, strict=True)]
    return torch.stack([p.max() for p in found]), torch.tensor(right)


def cascades(
    large: PreTrainedModel,
    small: dict[str, tuple[Subject, float, float]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    risk: float,
    task: str = "facts",
) -> list[list[Any]]:
    """For each {name: (model, its cost, cost of passing on)}: alone on the test questions, the
    threshold from validation, what is passed on, lost, paid.
    """
    validation, test = (
        answers(large, tokenizer, task, n=n, split=split)[1] for split in ("validation", "test")
    )
    rows = [["the large one alone", float(test.double().mean()), "", 1.0, 0.0, 1.0]]
    for name, (model, cost, passing) in small.items():
        sure, right = answers(model, tokenizer, task, n=n, split="validation")
        threshold = cascade.choose_threshold(sure, validation & ~right, risk=risk)
        sure, right = answers(model, tokenizer, task, n=n, split="test")
        got = cascade.serve(sure, right, test, threshold)
        shown = f"{threshold:.3f}" if threshold <= 1 else "none"
        paid = cost + passing * got.passed_on if threshold <= 1 else 1.0
        rows.append([name, float(right.double().mean()), shown, got.passed_on, got.lost, paid])
    return rows


def runs(
    target: Subject,
    drafts: dict[str, Subject],
    prompts: Tensor,
    *,
    new_tokens: int,
    k: int,
    temperature: float,
) -> list[list[Any]]:
    """Speculative runs on a few prompts: tokens for each forward of the target, whether greedy
    texts are the same, and seconds against plain decoding.
    """
    rows: list[list[Any]] = []
    plain, alone = _timed(
        lambda ids, seed: speculative.write(
            target, None, ids, new_tokens=new_tokens, temperature=temperature, seed=seed
        ),
        prompts,
    )
    for name, draft in drafts.items():
        made, seconds = _timed(
            lambda ids, seed, draft=draft: speculative.write(
                target, draft, ids, new_tokens=new_tokens, k=k, temperature=temperature, seed=seed
            ),
            prompts,
        )
        forwards = sum(m.target_forwards for m in made)
        same = (
            sum(m.tokens == p.tokens for m, p in zip(made, plain, strict=True))
            if temperature == 0
            else ""
        )
        rows.append([name, new_tokens * len(prompts) / forwards, same, round(alone / seconds, 2)])
    return rows


def _timed(
    job: Callable[..., speculative.Written], prompts: Tensor
) -> tuple[list[speculative.Written], float]:
    began = time.perf_counter()
    made = [job(ids, seed) for seed, ids in enumerate(prompts)]
    return made, time.perf_counter() - began


def bytes_of(model: torch.nn.Module) -> int:
    """Bytes of what a model holds: packed layers as they are, everything else in 16 bits, tied
    tensors once.
    """
    held = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers()) if t.numel()}
    return sum(2 * t.numel() if t.is_floating_point() else t.nbytes for t in held.values())


def measured_front() -> dict[str, dict[str, float]]:
    """{configuration: bytes, kl with kl_half, facts, milliseconds, cache, embedding}, from
    benchmarks/holistic.py.
    """
    return held_front()["rows"]


def held_front() -> dict[str, Any]:
    """The whole file: rows, command, date, protocol."""
    return comparison.plain("holistic-front")


def preferred(
    rows: dict[str, dict[str, float]],
    *,
    bytes_: float,
    kl: float,
    facts: float,
    milliseconds: float,
) -> str:
    """The row with the least weighted sum.

    Each cost is divided by its value for the unchanged model, or by its range where that is 0.
    """
    names = list(rows)
    whole = rows[names[0]]
    spread = max(row["kl"] for row in rows.values())
    costs = [
        [
            row["bytes"] / whole["bytes"],
            row["kl"] / spread,
            1 - row["facts"],
            row["milliseconds"] / whole["milliseconds"],
        ]
        for row in rows.values()
    ]
    return names[pareto.weighted(costs, (bytes_, kl, facts, milliseconds))]


def fitting(
    rows: dict[str, dict[str, float]], *, megabytes: float, milliseconds: float, facts: float
) -> str | None:
    """The row with the least divergence that keeps the three limits; None where none does."""
    names, least = (
        list(rows),
        [
            [row["kl"], row["bytes"] / 1e6, row["milliseconds"], -row["facts"]]
            for row in rows.values()
        ],
    )
    try:
        return names[pareto.within(least, (float("inf"), megabytes, milliseconds, -facts), 0)]
    except CompressionError:
        return None
