"""What lesson 5.6 asks of the serial world: two tasks behind one sign, a rule that a program can
check, chains as a model writes them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.distillation import reasoning
from course_utils.distillation.reasoning import BLANK, END, MARK, Rows, World, example, pad

# by the first digit, the instruction: the running sum, or s ← d − s
TASKS = {0: World(), 1: World(previous=9)}
FORBIDDEN = 7


def states(prompt: Sequence[int]) -> list[int]:
    """The chain of a prompt whose first digit says which of TASKS its other digits are given to."""
    return TASKS[int(prompt[0])].chain(prompt[1:])


def instructed(n: int, kinds: Sequence[int] = (0, 1), *, seed: int = 0) -> list[list[int]]:
    """`n` prompts of 4 to 9 digits, each behind its instruction; the kinds take turns."""
    return [
        [kinds[i % len(kinds)], *digits]
        for i, digits in enumerate(reasoning.draw(n, (4, 6, 8, 9), seed=seed))
    ]


def followed(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """(n,) 1.0 where the model writes the answer that the instruction asks for."""
    written = reasoning.write(model, prompts).tolist()
    return torch.tensor(
        [
            float(reasoning.answer_of(w) == states(p)[-1])
            for w, p in zip(written, prompts, strict=True)
        ]
    )


def of_instructions(prompts: Sequence[Sequence[int]]) -> Rows:
    """Training rows with the chain and the answer that each instruction asks for."""
    return pad([example(p, states(p), states(p)[-1]) for p in prompts])


def steps_of(written: Sequence[int]) -> list[int]:
    """What stands before ":"."""
    ids = [int(i) for i in written]
    return ids[: ids.index(MARK)] if MARK in ids else ids


def critique(written: Sequence[int]) -> list[int]:
    """The places at which a chain breaks the rule "the digit 7 is not written in the steps"."""
    return [i for i, s in enumerate(steps_of(written)) if s == FORBIDDEN]


def revision(written: Sequence[int]) -> list[int]:
    """The same text with "_" at every place that `critique` names."""
    bad = set(critique(written))
    return [BLANK if i in bad else int(s) for i, s in enumerate(written)]


def of_written(prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> Rows:
    """Training rows of texts as a model wrote them, where they have an end and an answer; others
    are left out.
    """
    pairs = []
    for digits, row in zip(prompts, written, strict=True):
        answer = reasoning.answer_of(row)
        if answer is not None:
            ids = [int(i) for i in row]
            pairs.append(example(digits, ids[: ids.index(END) - 2], answer))
    return pad(pairs)


@torch.no_grad()
def next_steps(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, wrong: bool, seed: int = 0
) -> Tensor:
    """(n,) 1.0 where the step behind a prefix follows from it: the teacher's prefix, or one whose
    last step was made wrong.

    The prefix holds half of the steps. "Follows": last written state + next digit, mod 10, whether
    that state was right or not.
    """
    rng = torch.Generator().manual_seed(seed)
    right = []
    for digits in prompts:
        chain, half = reasoning.SUMS.chain(digits), len(digits) // 2
        prefix = chain[:half]
        if wrong:
            prefix[-1] = (prefix[-1] + int(torch.randint(1, 10, (), generator=rng))) % 10
        ids = torch.tensor([reasoning.prompt(digits) + prefix])
        said = int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax())
        right.append(float(said == reasoning.SUMS.step(prefix[-1], digits[half])))
    return torch.tensor(right)


@torch.no_grad()
def by_token(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(n,) shares of right digits, and (n,) 1.0 where all of them are right: steps and answer, each
    the likeliest behind the right ones.
    """
    rows = reasoning.build(prompts)
    said = (
        model(input_ids=rows.ids, attention_mask=rows.mask.long(), use_cache=False)
        .logits[:, :-1]
        .argmax(-1)
    )
    digits = (rows.labels[:, 1:] != reasoning.trainer.IGNORED) & (rows.labels[:, 1:] < 10)
    hit = (said == rows.labels[:, 1:]) & digits
    return hit.sum(1) / digits.sum(1), (hit == digits).all(1).float()
