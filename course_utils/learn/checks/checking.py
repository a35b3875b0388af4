"""Run the learner's function on fresh inputs, compare it with the specification, and name what is
wrong.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import show, texts
from ..page import events
from ..texts import ui
from . import saying
from .exercise import Exercise, Verdict, find

if TYPE_CHECKING:
    from .compare import Difference
    from .trials import Trial


def check(
    name: str, function: Callable[..., Any], *, seed: int | None = None, show: bool = True
) -> Verdict:
    """Check the learner's function against an exercise, on fresh random inputs; an int `seed`
    repeats them.

    Nothing that the function does is raised here. Raises CompressionError when there is no such
    exercise.
    """
    verdict = judge(name, function, seed=seed)
    if verdict.attempted:
        events.record("check", name, passed=verdict.passed, mistake=verdict.mistake)
    if show:
        _show(verdict, find(name).facts())
    return verdict


def judge(
    name: str, function: Any, *, seed: int | None = None, seconds: float | None = None
) -> Verdict:
    """The verdict of `check`, neither shown nor recorded.

    `seconds` replaces the exercise's limit on time.

    Raises CompressionError when there is no such exercise.
    """
    exercise = find(name)
    if seconds is not None:
        exercise = replace(exercise, seconds=seconds)
    text = texts.exercise(name, mistakes=exercise.mistakes, properties=exercise.properties)
    return _judge(exercise, text, function, seed)


def remember(name: str, seed: int) -> None:
    """Ask the specification what it answers to the inputs of this seed, before anybody's answer is
    judged.
    """
    exercise = find(name)
    for i in range(exercise.trials):
        _remembered(exercise.spec, exercise.inputs, exercise.gradients, exercise.refuses, seed + i)


def _show(verdict: Verdict, facts: str) -> None:
    kind = "right" if verdict.passed else "wrong" if verdict.attempted else "note"
    title, _, body = verdict.message.partition("\n\n")
    show.message(kind, title, "\n\n".join(filter(None, (body, facts))))


def _judge(exercise: Exercise, text: dict[str, Any], function: Any, seed: int | None) -> Verdict:
    from .trials import draw, run, time_limit

    if function is None or function is ...:
        return saying.not_attempted(text)
    if not callable(function):
        return saying.wrong(text, ui("not_callable", got=type(function).__name__))
    trials: list[Trial] = []
    first = random.SystemRandom().getrandbits(48) if seed is None else int(seed)
    with time_limit(exercise.seconds) as clock:
        for i in range(exercise.trials):
            trial = run(
                function, draw(exercise, first + i), clock, exercise.gradients, exercise.refuses
            )
            trial.seed = None if seed is None else first + i
            trials.append(trial)
            if i == 0 and isinstance(trial.error, NotImplementedError):
                return saying.not_attempted(text)
            if trial.error is not None:
                shown = trial if isinstance(trial.error, Exception) else None
                said = saying.error(trial.error, function, exercise)
                return saying.wrong(text, said, saying.refusal(trial.error, exercise), trial=shown)
    return _compared(exercise, text, trials)


def _compared(exercise: Exercise, text: dict[str, Any], trials: list[Trial]) -> Verdict:
    wanted = [_wanted(exercise.spec, exercise, trial) for trial in trials]
    if _nothing(trials) and any(want.result is not None for want in wanted):
        return saying.not_attempted(text)
    found, note = _difference(exercise, trials, wanted), saying.changes(trials)
    slope = None if found else _slope(exercise, trials, wanted)
    broken = None if found and not found.of_value else _broken(exercise, trials, wanted)
    if found is None and slope is None and broken is None:
        return saying.right(exercise, text, note)
    if found is None and broken:
        return saying.wrong(
            text, text["properties"][broken.text], note, mistake=broken.text, trial=broken.trial
        )
    first = found or slope
    assert first
    for key in _named(exercise, trials, wanted, slopes=found is None):
        return saying.wrong(
            text, text["mistakes"][key], first.text, note, mistake=key, trial=first.trial
        )
    if broken:
        return saying.wrong(
            text,
            text["properties"][broken.text],
            first.text,
            note,
            mistake=broken.text,
            trial=first.trial,
        )
    return saying.wrong(text, first.text, note, trial=first.trial)


class Found(NamedTuple):
    """Something wrong: a sentence (or the name of a property), the trial, and whether only values
    differ.
    """

    text: str
    trial: Trial
    of_value: bool = True


def _nothing(trials: list[Trial]) -> bool:
    """True when no trial gave anything back: None is an answer only beside others, or where it is
    right.
    """
    return all(trial.result is None or trial.result is ... for trial in trials)


def _wanted(function: Callable[..., Any], exercise: Exercise, trial: Trial) -> Trial:
    """What the specification (or a named mistake) answers to the inputs of a trial; remembered
    where a seed repeats them.
    """
    from .trials import clone

    if trial.seed is not None:
        return _remembered(
            function, exercise.inputs, exercise.gradients, exercise.refuses, trial.seed
        )
    return _answer(function, clone(trial.inputs), exercise.gradients, exercise.refuses)


def _answer(
    function: Callable[..., Any], given: dict[str, Any], wanted: tuple[str, ...], refuses: str
) -> Trial:
    from .gradients import called
    from .trials import Refused, Trial, refusal

    try:
        result, slopes = called(function, given, wanted)
    except Exception as error:
        if not refusal(error, refuses):
            raise
        result, slopes = Refused(), {}
    return Trial(given, result, gradients=slopes)


@functools.lru_cache(maxsize=4096)
def _remembered(
    function: Callable[..., Any],
    inputs: Callable[..., Any],
    wanted: tuple[str, ...],
    refuses: str,
    seed: int,
) -> Trial:
    from .trials import clone, drawn

    return _answer(function, clone(drawn(inputs, seed)), wanted, refuses)


def _difference(exercise: Exercise, trials: list[Trial], wanted: list[Trial]) -> Found | None:
    from . import compare

    for trial, want in zip(trials, wanted, strict=True):
        try:
            found = _apart(exercise, trial, want.result)
        except Exception as error:
            said = ui(
                "not_comparable", where=ui("your_result"), error=f"{type(error).__name__}: {error}"
            )
            found = compare.Difference(said)
        if found:
            return Found(found.text, trial, found.of_value)
    return None


def _apart(exercise: Exercise, trial: Trial, want: Any) -> Difference | None:
    """How a result differs from another, in what counts."""
    from . import compare
    from .forms import like
    from .trials import Refused, clone

    refused = [isinstance(one, Refused) for one in (trial.result, want)]
    if any(refused):
        return (
            None
            if all(refused)
            else compare.Difference(
                ui("refused" if refused[0] else "not_refused", word=exercise.refuses), True
            )
        )
    found = compare.difference(trial.result, want, exercise.tolerance)
    if found is None or not found.of_value or exercise.counts is None:
        return found
    try:
        mine, right = (
            exercise.counts(clone(trial.inputs), like(clone(r), want)) for r in (trial.result, want)
        )
    except Exception:
        return found
    return found if compare.difference(mine, right, exercise.tolerance) else None


def _slope(exercise: Exercise, trials: list[Trial], wanted: list[Trial]) -> Found | None:
    """The first gradient that is not the specification's."""
    from . import compare

    for trial, want in zip(trials, wanted, strict=True):
        for name, slope in want.gradients.items():
            where = ui("gradient_of", name=name)
            found = compare.difference(
                trial.gradients.get(name), slope, _of_slopes(exercise), where
            )
            if found:
                return Found(ui("wrong_gradient", name=name, said=found.text), trial)
    return None


def _of_slopes(exercise: Exercise) -> float:
    """Gradients are allowed ten times the tolerance: they lose more than values do."""
    return 10 * exercise.tolerance


def _named(
    exercise: Exercise, trials: list[Trial], wanted: list[Trial], slopes: bool
) -> Iterator[str]:
    """The mistakes that explain all trials, the first one first.

    Where several answers are right (`counts`), there are several ways to be wrong, too: then half
    of the trials are enough, if one of them is wrong.
    """
    alike = {
        key: list(_equals(exercise, trials, f, slopes)) for key, f in exercise.mistakes.items()
    }
    # a list that ends early ends with False
    yield from (key for key, same in alike.items() if all(same))
    if exercise.counts is not None:
        wrong = [
            _apart(exercise, *pair) is not None
            for pair in zip(trials, (w.result for w in wanted), strict=True)
        ]
        for key, same in alike.items():
            if 2 * sum(same) >= len(trials) and any(
                a and b for a, b in zip(same, wrong, strict=False)
            ):
                yield key


def _equals(
    exercise: Exercise, trials: list[Trial], mistaken: Callable[..., Any], slopes: bool
) -> Iterator[bool]:
    """Trial by trial: is the result that of a named mistake?

    With `slopes`, the gradients must be, too.
    """
    from . import compare

    others = 0
    for trial in trials:
        try:
            wrong = _wanted(mistaken, exercise, trial)
            same = _apart(exercise, trial, wrong.result) is None
            pairs = (
                [(trial.gradients.get(name), slope) for name, slope in wrong.gradients.items()]
                if slopes
                else []
            )
            same = same and not any(
                compare.difference(a, b, _of_slopes(exercise)) for a, b in pairs
            )
        except Exception:
            same = False
        yield same
        others += not same
        if others and (exercise.counts is None or 2 * others > len(trials)):
            return


def _broken(exercise: Exercise, trials: list[Trial], wanted: list[Trial]) -> Found | None:
    """The first property that does not hold."""
    from .forms import like
    from .trials import clone

    for name, holds in exercise.properties.items():
        for trial, want in zip(trials, wanted, strict=True):
            try:
                fine = holds(clone(trial.inputs), clone(like(trial.result, want.result)))
            except Exception:
                fine = False
            if not fine:
                return Found(name, trial)
    return None
