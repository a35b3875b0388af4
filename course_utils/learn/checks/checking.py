"""Run the learner's function on fresh inputs, compare it with the specification, and name what is wrong."""

from __future__ import annotations

import contextlib
import copy
import inspect
import linecache
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import show, texts
from ..page import events
from ..texts import ui
from .exercise import Exercise, Verdict, find

if TYPE_CHECKING:
    from .compare import Difference


class OutOfTime(BaseException):
    """Raised inside the learner's function when its time is over; not an Exception, so that `except Exception` lets it by."""


@dataclass
class Trial:
    """One run: the inputs, what came back (or what was raised), and which inputs were changed in place."""

    inputs: dict[str, Any]
    result: Any = None
    error: BaseException | None = None
    changed: tuple[str, ...] = ()


def check(name: str, function: Callable[..., Any], *, seed: int | None = None, show: bool = True) -> Verdict:
    """Check the learner's function against an exercise, on fresh random inputs; an int `seed` repeats them.

    Nothing that the function does is raised here. Raises CompressionError when there is no such exercise.
    """
    verdict = judge(name, function, seed=seed)
    if verdict.attempted:
        events.record("check", name, passed=verdict.passed, mistake=verdict.mistake)
    if show:
        _show(verdict)
    return verdict


def judge(name: str, function: Any, *, seed: int | None = None, seconds: float | None = None) -> Verdict:
    """The verdict of `check`, neither shown nor recorded. `seconds` replaces the exercise's limit on time.

    Raises CompressionError when there is no such exercise.
    """
    exercise = find(name)
    if seconds is not None:
        exercise = replace(exercise, seconds=seconds)
    text = texts.exercise(name, mistakes=exercise.mistakes, properties=exercise.properties)
    return _judge(exercise, text, function, random.SystemRandom().getrandbits(48) if seed is None else int(seed))


def _show(verdict: Verdict) -> None:
    kind = "right" if verdict.passed else "wrong" if verdict.attempted else "note"
    title, _, body = verdict.message.partition("\n\n")
    show.message(kind, title, body)


def _judge(exercise: Exercise, text: dict[str, Any], function: Any, seed: int) -> Verdict:
    if function is None or function is ...:
        return _not_attempted(text)
    if not callable(function):
        return _wrong(text, ui("not_callable", got=type(function).__name__))
    trials = []
    with time_limit(exercise.seconds) as clock:
        for i in range(exercise.trials):
            trial = _run(exercise, function, draw(exercise, seed + i), clock)
            trials.append(trial)
            if i == 0 and _is_stub(trial):
                return _not_attempted(text)
            if trial.error is not None:
                return _wrong(text, _explain_error(trial.error, function, exercise))
    found = _difference(exercise, trials)
    note = _note_on_changes(trials)
    if found is None:
        broken = _broken_property(exercise, trials)
        return (
            _wrong(text, text["properties"][broken], note, mistake=broken) if broken else _right(exercise, text, note)
        )
    for key, mistaken in exercise.mistakes.items():
        if _equals(exercise, trials, mistaken):
            return _wrong(text, text["mistakes"][key], found.text, note, mistake=key)
    broken = _broken_property(exercise, trials) if found.of_value else None
    if broken:
        return _wrong(text, text["properties"][broken], found.text, note, mistake=broken)
    return _wrong(text, found.text, note)


def draw(exercise: Exercise, seed: int) -> dict[str, Any]:
    """Fresh inputs of an exercise."""
    import torch

    return exercise.inputs(torch.Generator().manual_seed(seed))


def clone(value: Any) -> Any:
    """A copy that shares no memory; a tensor that wants gradients becomes a new leaf."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(clone(item) for item in value)
    return copy.deepcopy(value)


def _run(exercise: Exercise, function: Callable[..., Any], inputs: dict[str, Any], clock: Clock) -> Trial:
    given = clone(inputs)
    trial = Trial(inputs)
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        trial.error = SignatureError(str(error))
        return trial
    except ValueError:  # a built-in without a signature
        pass
    clock.start()
    try:
        trial.result = _call(function, given)
    except BaseException as error:  # also SystemExit and KeyboardInterrupt: the verdict says so
        trial.error = error
    clock.stop()
    with contextlib.suppress(BaseException):  # what cannot be copied is compared as it is
        trial.result = clone(trial.result)
    trial.changed = tuple(name for name in inputs if not _same(given[name], inputs[name]))
    return trial


def _call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """The clock interrupts only what runs below this frame."""
    return function(**given)


class SignatureError(TypeError):
    """The function does not take the exercise's arguments."""


def _same(given: Any, before: Any) -> bool:
    """False when a tensor or a container among the inputs was changed; other inputs are not looked into."""
    import torch

    from . import compare

    if isinstance(before, dict):
        return given.keys() == before.keys() and all(_same(given[key], before[key]) for key in before)
    if isinstance(before, (list, tuple)):
        return len(given) == len(before) and all(map(_same, given, before))
    if isinstance(before, torch.Tensor):
        return compare.difference(given, before, 0.0) is None
    return not isinstance(before, (int, float, str)) or given == before


def _is_stub(trial: Trial) -> bool:
    if isinstance(trial.error, NotImplementedError):
        return True
    return trial.error is None and (trial.result is None or trial.result is ...)


def _difference(exercise: Exercise, trials: list[Trial]) -> Difference | None:
    from . import compare

    for trial in trials:
        want = exercise.spec(**clone(trial.inputs))
        try:
            found = compare.difference(trial.result, want, exercise.tolerance)
        except Exception as error:
            said = ui("not_comparable", where=ui("your_result"), error=f"{type(error).__name__}: {error}")
            found = compare.Difference(said)
        if found:
            return found
    return None


def _equals(exercise: Exercise, trials: list[Trial], mistaken: Callable[..., Any]) -> bool:
    """True when the results are those of a named mistake in every trial."""
    from . import compare

    try:
        pairs = ((trial.result, mistaken(**clone(trial.inputs))) for trial in trials)
        return all(compare.difference(result, wrong, exercise.tolerance) is None for result, wrong in pairs)
    except Exception:
        return False


def _broken_property(exercise: Exercise, trials: list[Trial]) -> str | None:
    for name, holds in exercise.properties.items():
        for trial in trials:
            try:
                if not holds(clone(trial.inputs), clone(trial.result)):
                    return name
            except Exception:
                return name
    return None


def _note_on_changes(trials: list[Trial]) -> str:
    changed = sorted({name for trial in trials for name in trial.changed})
    return ui("changed_in_place", names=", ".join(f"`{name}`" for name in changed)) if changed else ""


def _right(exercise: Exercise, text: dict[str, Any], note: str) -> Verdict:
    head = ui("right", title=text["title"], trials=exercise.trials)
    return Verdict(True, True, None, "\n\n".join(filter(None, (head, note))))


def _wrong(text: dict[str, Any], *parts: str, mistake: str | None = None) -> Verdict:
    message = [ui("not_yet", title=text["title"]), *parts, ui("reread", where=text["reread"])]
    return Verdict(False, True, mistake, "\n\n".join(part for part in message if part))


def _not_attempted(text: dict[str, Any]) -> Verdict:
    message = "\n\n".join([ui("not_attempted", title=text["title"]), ui("not_attempted_why")])
    return Verdict(False, False, None, message)


def _explain_error(error: BaseException, function: Callable[..., Any], exercise: Exercise) -> str:
    if isinstance(error, OutOfTime):
        return ui("out_of_time", seconds=f"{exercise.seconds:g}")
    if isinstance(error, SignatureError):
        try:
            return ui("signature", error=error, takes=str(inspect.signature(function)))
        except (TypeError, ValueError):
            return ui("signature", error=error, takes="()")
    try:
        said = str(error) or ui("no_message")
    except Exception:
        said = ui("no_message")
    place = _place(error, function)
    return ui("raised", type=type(error).__name__, said=said) + ("\n\n" + place if place else "")


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """The learner's line where the error came from: the deepest one in the file (or cell) of the function."""
    try:
        file = inspect.unwrap(function).__code__.co_filename  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return ""
    lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    if not lines:
        return ""
    source = linecache.getline(file, lines[-1]).strip()
    return ui("line", number=lines[-1]) + (f"\n\n```\n{source}\n```" if source else "")


class Clock:
    """A limit on the time that the learner's function takes in all, where the system can interrupt it."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.works = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def start(self) -> None:
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, max(self.left, 0.001), 0.001)  # again and again, if it is caught

    def stop(self) -> None:
        if self.works:
            self.left = signal.setitimer(signal.ITIMER_REAL, 0)[0]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[Clock]:
    """A clock that raises OutOfTime in this thread while it runs; the former signal handler and alarm are put back."""
    clock = Clock(seconds)
    if not clock.works:
        yield clock
        return

    def over(_signal: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code is _call.__code__:
                raise OutOfTime

    (left, interval), began = signal.setitimer(signal.ITIMER_REAL, 0), time.monotonic()
    before = signal.signal(signal.SIGALRM, over)
    try:
        yield clock
    finally:
        clock.stop()
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
        if left:  # someone else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval)
