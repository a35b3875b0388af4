"""Accuracy on the tasks of the bundled world."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.theory.intervals import wilson
from course_utils.world import CHANCE, Item, items

from .answers import judge
from .subject import Subject


@dataclass(frozen=True, repr=False)
class Score:
    """`accuracy` and `chance` from 0 to 1, over `n` items."""

    accuracy: float
    chance: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high): Wilson's 95 % interval of the accuracy, which is not empty at 0 or 100 %
        either.
        """
        return wilson(round(self.accuracy * self.n), self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.accuracy:.1%} ({low:.1%} to {high:.1%}; chance {self.chance:.0%}, n={self.n})"
        )

    __repr__ = __str__


def task_items(tasks: Sequence[str] | None, n: int, split: str, seed: int) -> dict[str, list[Item]]:
    """The items of each task, all six if `tasks` is None.

    Raises CompressionError for an unknown task or too large an n.
    """
    if isinstance(tasks, str):
        tasks = [tasks]
    if n < 1:
        raise CompressionError(f"n={n}: ask for at least one item.")
    try:
        return {
            task: items(task, n=n, split=split, seed=seed)
            for task in (CHANCE if tasks is None else tasks)
        }
    except ValueError as error:
        raise CompressionError(str(error)) from error


def task_scores(
    model: Subject, tokenizer: PreTrainedTokenizerBase, *, tasks: Sequence[str] | None = None,
    n: int = 200, split: str = "test", seed: int = 0,
) -> dict[str, Score]:  # fmt: skip
    """The share of `n` items of each task that the model answers rightly; see
    `course_utils.world.tasks`.

    Choice (facts, stories, sentiment, entailment): the continuation with the highest summed
    log-probability.
    Generative (addition, programs): the greedy continuation up to a newline, judged by its answer,
    or by running it.
    """
    found = task_items(tasks, n, split, seed)
    everything = judge(model, tokenizer, [item for group in found.values() for item in group])
    scores, start = {}, 0
    for task, group in found.items():
        right = sum(everything[start : start + len(group)])
        start += len(group)
        scores[task] = Score(right / len(group), CHANCE[task], len(group))
    return scores
