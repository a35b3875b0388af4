"""What a model knows of its world, fact by fact: the probability of the right value among all
values of the attribute.

p(value) is that of the shortest beginning of its tokens that no other value of the attribute shares
(nearly always the first token), normalized over the values. From it come right answers (with its
rank) and bits held (`theory.capacity`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.theory import capacity
from course_utils.world import kinds
from course_utils.world.people import ATTRIBUTES, World, default_world

from . import answers
from .subject import Subject, scoring


@dataclass(frozen=True)
class Known:
    """One entry for each fact, people in order of their frequency (the most talked about first),
    attributes within.

    `right` (n,) 1.0 where the right value is the likeliest, `bits` (n,) held of it, `person` (n,)
    the rank of the person.
    """

    right: Tensor
    bits: Tensor
    person: Tensor


def beginnings(tokens: list[list[int]]) -> list[list[int]]:
    """The shortest beginning of each row that begins no other row; the whole row where there is
    none.
    """
    found = []
    for i, row in enumerate(tokens):
        others = [other for j, other in enumerate(tokens) if j != i]
        cuts = [
            row[:n] for n in range(1, len(row)) if not any(other[:n] == row[:n] for other in others)
        ]
        found.append(cuts[0] if cuts else row)
    return found


@dataclass(frozen=True)
class Asked:
    """All questions in one wording: pairs of tokens, how many values each question has, and which
    of them is right.
    """

    pairs: list[tuple[list[int], list[int]]]
    sizes: list[int]
    rights: list[int]


def questions(
    tokenizer: PreTrainedTokenizerBase, *, template: int = 0, world: World | None = None
) -> Asked:
    """Ask for every fact of the world in the words of `template` (0, 1 or 2).

    Raises CompressionError for another one.
    """
    if template not in (0, 1, 2):
        raise CompressionError(f"template={template}: questions are worded in three ways, 0 to 2.")
    world = default_world() if world is None else world
    values: dict[str, list[list[int]]] = {}
    asked = Asked([], [], [])
    for person, attribute in world.facts():
        question, answer = kinds.question(world, person, attribute, template)
        context = f"Question: {question}\nAnswer:"
        if attribute not in values:
            values[attribute] = beginnings(
                [answers.encode_pair(tokenizer, context, f" {v}")[1] for v in ATTRIBUTES[attribute]]
            )
        ids = tokenizer(context)["input_ids"]
        asked.pairs.extend((ids, part) for part in values[attribute])
        asked.sizes.append(len(values[attribute]))
        asked.rights.append(ATTRIBUTES[attribute].index(answer))
    return asked


def known(model: Subject, asked: Asked) -> Known:
    """What the model knows of what is asked."""
    with scoring(model) as ready:
        scores = torch.tensor(
            answers.log_probabilities(ready, asked.pairs), dtype=torch.float64
        ).split(asked.sizes)
    right = torch.tensor(
        [float(int(s.argmax()) == r) for s, r in zip(scores, asked.rights, strict=True)]
    )
    log_p = [s.log_softmax(-1)[r : r + 1] for s, r in zip(scores, asked.rights, strict=True)]
    bits = torch.cat([capacity.stored_bits(p, n) for p, n in zip(log_p, asked.sizes, strict=True)])
    return Known(right, bits, torch.arange(len(asked.sizes)) // len(ATTRIBUTES))
