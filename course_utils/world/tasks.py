"""Questions with known answers, made from documents of a split."""

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import kinds, lexicon
from .documents import SPLITS, split_of
from .minilang import may_begin, run_program
from .people import ATTRIBUTES, World, default_world
from .tape import Tape


@dataclass(frozen=True)
class Choice:
    """The model's answer is the continuation with the highest summed log-probability after
    `prompt`.
    """

    task: str
    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Generate:
    """The model continues `prompt` greedily up to a newline or the end; `is_correct` judges the
    continuation.

    `may_begin`: whether a right continuation can begin with this text; where none can, nothing more
    needs to be written.
    """

    task: str
    prompt: str
    target: str
    is_correct: Callable[[str], bool]
    may_begin: Callable[[str], bool] | None = None


Item = Choice | Generate


def _four(task: str, prompt: str, right: str, others: list[str], rng: random.Random) -> Choice:
    options = [right, *rng.sample(others, 3)]
    rng.shuffle(options)
    return Choice(task, prompt, tuple(f" {o}" for o in options), options.index(right))


def _facts(rng: random.Random, world: World) -> Iterator[tuple[str, Item]]:
    asked = [(person, attribute, t) for person, attribute in world.facts() for t in range(3)]
    rng.shuffle(asked)
    for person, attribute, template in asked:
        text, answer = kinds.question(world, person, attribute, template)
        prompt = f"Question: {text}\nAnswer:"
        others = [v for v in ATTRIBUTES[attribute] if v != answer]
        yield f"{prompt} {answer}", _four("facts", prompt, answer, others, rng)


def _stories(rng: random.Random, world: World) -> Iterator[tuple[str, Item]]:
    while True:
        sentences, where = kinds.story_events(Tape(rng))
        thing = rng.choice(sorted(where))
        right = where[thing][-1]
        seen = [p for places in where.values() for p in places if p != right]
        others = list(dict.fromkeys(seen))[:3]
        others += rng.sample(
            [p for p in lexicon.PLACES if p != right and p not in others], 3 - len(others)
        )
        prompt = f"Story: {' '.join(sentences)} In the end the {thing} is in the"
        yield prompt, _four("stories", prompt, right, others, rng)


def _sentiment(rng: random.Random, world: World) -> Iterator[tuple[str, Item]]:
    while True:
        text, positive = kinds.review(Tape(rng))
        prompt = f"Review: {text}\nSentiment:"
        yield (
            f"{prompt} {'positive' if positive else 'negative'}",
            Choice("sentiment", prompt, (" positive", " negative"), 0 if positive else 1),
        )


def _entailment(rng: random.Random, world: World) -> Iterator[tuple[str, Item]]:
    while True:
        prompt, label = kinds.premise_and_hypothesis(Tape(rng))
        yield (
            f"{prompt} {kinds.LABELS[label]}",
            Choice("entailment", prompt, tuple(f" {w}" for w in kinds.LABELS), label),
        )


def final_number(text: str) -> str:
    """What stands behind the last `Answer`."""
    return text.rpartition("Answer")[2].strip() if "Answer" in text else ""


def _addition(rng: random.Random, world: World) -> Iterator[tuple[str, Item]]:
    def correct(expected: str, text: str) -> bool:
        return final_number(text) == expected

    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        prompt, target = f"Problem: {a} + {b}\nSolution:", f" {kinds.worked(a, b, '+')}"
        yield (
            prompt + target,
            Generate("addition", prompt, target, functools.partial(correct, str(a + b))),
        )


def _programs(rng: random.Random, world: World) -> Iterator[tuple[str, Item]]:
    def correct(reference: str, inputs: list[list[int]], text: str) -> bool:
        try:
            return all(
                run_program(text, values) == run_program(reference, values) for values in inputs
            )
        except ValueError:
            return False

    while True:
        request, program = kinds.task_and_program(Tape(rng))
        inputs = [[rng.randint(-20, 20) for _ in range(rng.randint(3, 12))] for _ in range(8)]
        prompt = f"Task: {request}.\nProgram:"
        yield (
            f"{prompt} {program}",
            Generate(
                "programs",
                prompt,
                f" {program}",
                functools.partial(correct, program, inputs),
                may_begin,
            ),
        )


_MAKERS = {
    "facts": _facts,
    "stories": _stories,
    "sentiment": _sentiment,
    "entailment": _entailment,
    "addition": _addition,
    "programs": _programs,
}
CHOICE_TASKS = ("facts", "stories", "sentiment", "entailment")
GENERATIVE_TASKS = ("addition", "programs")
CHANCE = {
    "facts": 1 / 4,
    "stories": 1 / 4,
    "sentiment": 1 / 2,
    "entailment": 1 / 3,
    "addition": 0.0,
    "programs": 0.0,
}


def items(
    task: str, *, n: int = 200, split: str = "test", seed: int = 0, world: World | None = None
) -> list[Item]:
    """`n` different questions of a task whose document (prompt with its answer) belongs to `split`.

    A story's document has further endings; its prompt decides the split. Every fact is equally
    likely to be asked, however often it is talked about. Raises ValueError for an unknown task or
    split, or when the split holds fewer than `n` different questions.
    """
    if task not in _MAKERS:
        raise ValueError(f"task={task!r}: choose one of {', '.join(_MAKERS)}.")
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}.")
    rng = random.Random(f"{task}-{split}-{seed}")
    found: dict[str, Item] = {}
    tried = 0
    for key, item in _MAKERS[task](rng, world or default_world()):
        if len(found) == n or tried > 1000 + 200 * n:
            break
        tried += 1
        if split_of(key) == split:
            found[item.prompt] = item
    if len(found) < n:
        raise ValueError(
            f"n={n}: the {split} split has only {len(found)} different {task} questions; "
            "ask for fewer."
        )
    return list(found.values())
