"""What an exercise is, where exercises are found, and what a check answers."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from course_utils.errors import CompressionError

from .. import exercises as folder
from ..texts import topic_of, ui

if TYPE_CHECKING:
    import torch

_added: dict[str, Exercise] = {}

# formula: a formula of the page as code; decide: a decision from numbers; debug: given wrong code;
# confirm: a
# prediction that code confirms; design: a small design; step: a step that the page leaves out
KINDS = ("formula", "decide", "debug", "confirm", "design", "step")


@dataclass(frozen=True)
class Exercise:
    """A function that the learner writes.

    `inputs(generator)` draws the keyword arguments; `spec(**inputs)` is the right answer.
    `mistakes` are wrong functions with a name; `properties[name](inputs, result)` must be true of a
    right result as well.
    A result is right when every number is within `tolerance` times the largest magnitude of the
    spec's. Where several answers are right, such as masks among equal scores, `counts(inputs,
    result)` is what they have in common.
    `refuses`: a word; where the spec raises ValueError there is no right answer, and a right
    function raises ValueError with that word in its message. `kind` (one of KINDS), `difficulty` (1
    to 3) and `minutes` are shown; a lab's exercises may leave them out.
    """

    id: str
    inputs: Callable[[torch.Generator], dict[str, Any]]
    spec: Callable[..., Any]
    mistakes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    properties: Mapping[str, Callable[[dict[str, Any], Any], bool]] = field(default_factory=dict)
    tolerance: float = 1e-5
    lesson: str = ""
    trials: int = 3
    seconds: float = 10.0  # for all trials together
    counts: Callable[[dict[str, Any], Any], Any] | None = None
    # arguments: where they ask for gradients, those of the result are compared too
    gradients: tuple[str, ...] = ()
    refuses: str = ""
    kind: str = ""
    difficulty: int = 0
    minutes: int = 0

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise CompressionError(
                f"exercise {self.id!r}: kind={self.kind!r}; choose one of {', '.join(KINDS)}."
            )
        if self.difficulty not in range(4) or self.minutes < 0:
            raise CompressionError(
                f"exercise {self.id!r}: difficulty is 1 to 3, minutes are not negative."
            )

    def facts(self) -> str:
        """Kind, difficulty and minutes in one line; empty where an exercise does not state them."""
        if not (self.kind and self.difficulty and self.minutes):
            return ""
        stars = "●" * self.difficulty + "○" * (3 - self.difficulty)
        return ui(
            "exercise_facts", kind=ui(f"kind_{self.kind}"), difficulty=stars, minutes=self.minutes
        )


@dataclass(frozen=True)
class Verdict:
    """The answer to a check or a question; true when it passed."""

    passed: bool
    attempted: bool
    mistake: str | None
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def _ipython_display_(self) -> None:
        """Nothing: the message was shown when the verdict was given."""


def register(exercise: Exercise) -> Exercise:
    """Add an exercise that is not in the exercises folder."""
    topic_of(exercise.id)
    _added[exercise.id] = exercise
    return exercise


@functools.cache
def _modules() -> dict[str, str]:
    """Each topic's module, by topic: the rooms of the exercises folder hold one module a topic, and
    parts of some (`_…`).
    """
    rooms = [module.name for module in pkgutil.iter_modules(folder.__path__) if module.ispkg]
    return {
        module.name: f"{folder.__name__}.{room}.{module.name}"
        for room in rooms
        for module in pkgutil.iter_modules([f"{path}/{room}" for path in folder.__path__])
        if not module.name.startswith("_")
    }


def topics() -> list[str]:
    """The topics that hold exercises."""
    return sorted(_modules())


def of_topic(topic: str) -> dict[str, Exercise]:
    """The exercises of one topic by id; empty for an unknown topic."""
    found = {name: e for name, e in _added.items() if topic_of(name) == topic}
    if topic not in _modules():
        return found
    for exercise in importlib.import_module(_modules()[topic]).EXERCISES:
        if topic_of(exercise.id) != topic:
            raise CompressionError(
                f"exercise {exercise.id!r} is in {topic}.py; its id must begin with {topic!r}."
            )
        found[exercise.id] = exercise
    return found


def find(name: str) -> Exercise:
    """The exercise with this id."""
    known = of_topic(topic_of(name))
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        advice = (
            f"did you mean {close[0]!r}?"
            if close
            else f"topics with exercises: {', '.join(topics()) or 'none'}."
        )
        raise CompressionError(f"exercise {name!r} does not exist; {advice}")
    return known[name]
