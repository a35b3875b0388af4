"""What the grader holds in the place of a learner's function, object or exception; see `session`
for how they are reached.
"""

import builtins
import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from course_utils.learn.checks import calling

SAID = 2000  # characters of a learner's message that are kept


class WorkerLost(Exception):
    """The worker died, was late, or sent nonsense; the message says which."""


class LearnerError(Exception):
    """An exception of a kind that is not built in, raised by the learner's code."""


class Remote:
    """An object that stays in the worker; it can be handed back, and its public attributes can be
    asked for.

    `call` is `Session.call`; `incarnation` is the number of the worker that holds the object, None
    where any has it.
    """

    def __init__(
        self, call: Callable[..., Any], where: list[Any], incarnation: int | None, kind: str
    ) -> None:
        self._call, self._where, self._incarnation, self._kind = call, where, incarnation, kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._call(self._where, self._incarnation, "attribute", name=name)

    def __bool__(self) -> bool:
        raise TypeError(
            f"the learner's {self._kind} is neither true nor false; a plain value was expected"
        )

    def __repr__(self) -> str:
        return f"<the learner's {self._kind}>"


class RemoteFunction(Remote):
    """A function (or class) of the learner; calling it calls the one in the worker.

    `_names` are those of the arguments that have a place, where they are known: with them, one that
    takes its arguments by name only (`*, x`, `**given`) can be called by place.
    """

    _names: tuple[str, ...] = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        placed = dict(zip(self._names, arguments, strict=False))
        if not placed or len(arguments) > len(placed) or placed.keys() & named.keys():
            return self._asked(*arguments, **named)
        try:
            found = calling.ways(self, placed | named)
        except TypeError:  # the learner's function says so itself
            return self._asked(*arguments, **named)
        return calling.by(found, self._asked, self)

    def _asked(self, *arguments: Any, **named: Any) -> Any:
        return self._call(self._where, self._incarnation, "call", arguments, named)

    def with_gradients(self, asked: list[str], given: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The result, and its gradients with respect to the arguments `asked`: they are taken where
        the function is.
        """
        answer = self._call(self._where, self._incarnation, "gradients", (), given, " ".join(asked))
        if not (isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], dict)):
            return answer, [None] * len(asked)
        slopes = [answer[1].get(name) for name in asked]
        return answer[0], [g if type(g) is torch.Tensor else None for g in slopes]


def text(value: Any, most: int = SAID) -> str:
    """What a learner's code sent as a text, cut; '' for anything else."""
    return value[:most] if isinstance(value, str) else ""


def signature(listed: Any) -> inspect.Signature | None:
    """The signature of [[name, kind, has a default], …]; None if it is none."""
    with contextlib.suppress(TypeError, ValueError):
        parameters = [
            inspect.Parameter(
                text(name, 100),
                inspect._ParameterKind(kind),
                default=None if has_default else inspect.Parameter.empty,
            )
            for name, kind, has_default in listed[:50]
        ]
        return inspect.Signature(parameters)
    return None


def explained(error: Any) -> dict[str, Any]:
    """An error that a worker sent, with all its parts and each of them short."""
    sent = error if isinstance(error, dict) else {}
    line = sent.get("line")
    return {
        "type": text(sent.get("type"), 60) or "an error without a name",
        "builtin": text(sent.get("builtin"), 60),  # the kind that it is a subclass of
        "said": text(sent.get("said")),
        "line": line if type(line) is int and 0 < line < 10**7 else None,
        "source": text(sent.get("source"), 200),
    }


def exception(error: dict[str, Any]) -> Exception:
    """The learner's exception as one of the same name here;
    never one that would stop the grader.
    """
    name, said = error["type"], error["said"]
    if error["line"]:
        said = f"{said} (line {error['line']}: {error['source']})"
    kind = getattr(builtins, name, None)
    # `map` and `all` would take it for an end without a complaint
    ends_a_loop = (StopIteration, StopAsyncIteration)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(
        kind, ends_a_loop
    ):
        bases = (
            (LearnerError, ValueError) if error.get("builtin") == "ValueError" else (LearnerError,)
        )
        kind = type(name, bases, {}) if name.isidentifier() else LearnerError
    try:
        return kind(said)
    except TypeError:  # a kind whose constructor wants more
        return LearnerError(f"{name}: {said}")
