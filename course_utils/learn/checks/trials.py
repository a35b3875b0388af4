"""Run the learner's function once: on copies of the inputs, within its time, whatever it does."""

from __future__ import annotations

import contextlib
import copy
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from . import calling, compare, forms, gradients
from .exercise import Exercise

PATIENCE = 6  # seconds on the wall clock for each second of processor time


class OutOfTime(BaseException):
    """Raised inside the learner's function when its time is over; not an Exception, so that `except
    Exception` lets it by.
    """


class SignatureError(TypeError):
    """The function does not take the exercise's arguments."""


class Refused:
    """In the place of a result: the function said, as the exercise asks, that there is none."""


def refusal(error: BaseException, word: str) -> bool:
    """Whether it is a ValueError with the word in its message; a CompressionError is one, and in
    the grader known by its name.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return (
        bool(word)
        and bool(kinds & {"ValueError", "CompressionError"})
        and word.lower() in str(error).lower()
    )


@dataclass
class Trial:
    """One run: the inputs, what came back (or was raised), the gradients asked for, the inputs
    changed in place.
    """

    inputs: dict[str, Any]
    result: Any = None
    error: BaseException | None = None
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    seed: int | None = None  # of the inputs, where the check was asked for one


def draw(exercise: Exercise, seed: int) -> dict[str, Any]:
    """Fresh inputs of an exercise."""
    return clone(drawn(exercise.inputs, seed))


@functools.lru_cache(maxsize=64)
def drawn(inputs: Callable[[torch.Generator], dict[str, Any]], seed: int) -> dict[str, Any]:
    """The inputs of a seed, not to be changed: the specification and its mistakes are asked for the
    same ones.
    """
    return inputs(torch.Generator().manual_seed(seed))


def clone(value: Any) -> Any:
    """A copy that shares no memory; a tensor that wants gradients becomes a new leaf."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(clone(item) for item in value)
    return copy.deepcopy(value)


def run(
    function: Callable[..., Any],
    inputs: dict[str, Any],
    clock: Clock,
    wanted: tuple[str, ...] = (),
    refuses: str = "",
) -> Trial:
    """One trial; `wanted` are arguments whose gradients are asked for, `refuses` is the exercise's
    word for that there is no answer.
    """
    given = clone(inputs)
    trial = Trial(inputs)
    try:
        calling.ways(function, given)
    except TypeError as error:
        trial.error = SignatureError(str(error))
        return trial
    clock.start()
    try:
        trial.result, trial.gradients = _call(function, given, wanted)
    except BaseException as error:  # also SystemExit and KeyboardInterrupt: the verdict says so
        trial.result, trial.error = (Refused(), None) if refusal(error, refuses) else (None, error)
    clock.stop()
    with contextlib.suppress(BaseException):  # what cannot be copied is compared as it is
        trial.result = clone(trial.result)
    trial.changed = tuple(name for name in inputs if not same(given[name], inputs[name]))
    return trial


def _call(
    function: Callable[..., Any], given: dict[str, Any], wanted: tuple[str, ...]
) -> tuple[Any, dict[str, Any]]:
    """The clock interrupts only what runs below this frame."""
    if wanted:
        return gradients.called(function, given, wanted)
    return forms.settled(calling.call(function, given)), {}


def same(given: Any, before: Any) -> bool:
    """False when a tensor or a container among the inputs was changed; other inputs are not looked
    into.
    """
    if isinstance(before, dict):
        return given.keys() == before.keys() and all(
            same(given[key], before[key]) for key in before
        )
    if isinstance(before, (list, tuple)):
        return len(given) == len(before) and all(map(same, given, before))
    if isinstance(before, torch.Tensor):
        return given.shape == before.shape and compare.difference(given, before, 0.0) is None
    return not isinstance(before, (int, float, str)) or given == before


class Clock:
    """A limit on the time that the learner's function takes in all, where the system can interrupt
    it: seconds of this thread's processor time, so that a busy machine takes none of them, or
    PATIENCE times as many on the wall clock, for a function that waits.
    """

    def __init__(self, seconds: float) -> None:
        self.left, self.began = (seconds, PATIENCE * seconds), _times()
        self.works = (
            hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        )

    def start(self) -> None:
        """Let the time run; what is over raises in the learner's function."""
        if self.works:
            self.began = _times()
            self._wake()

    def over(self) -> bool:
        """Whether the time is over; if not, its end is looked at again."""
        self._wake()
        return min(self._remaining()) <= 0

    def stop(self) -> None:
        """Hold the time, and keep what is left."""
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.left, self.began = self._remaining(), _times()

    def _remaining(self) -> tuple[float, float]:
        (work, wall), now = self.began, _times()
        return self.left[0] - (now[0] - work), self.left[1] - (now[1] - wall)

    def _wake(self) -> None:
        # again and again, if what is raised is caught
        signal.setitimer(signal.ITIMER_REAL, max(min(self._remaining()), 0.001), 0.001)


def _times() -> tuple[float, float]:
    return time.thread_time(), time.monotonic()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[Clock]:
    """A clock that raises OutOfTime in this thread while it runs; the former signal handler and
    alarm are put back.
    """
    clock = Clock(seconds)
    if not clock.works:
        yield clock
        return

    def over(_signal: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code is _call.__code__ and clock.over():
                raise OutOfTime

    (left, interval), began = signal.setitimer(signal.ITIMER_REAL, 0), time.monotonic()
    before = signal.signal(signal.SIGALRM, over)
    try:
        yield clock
    finally:
        clock.stop()
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
        if left:  # someone else's alarm goes on
            signal.setitimer(
                signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval
            )
