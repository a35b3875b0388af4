"""The message of a verdict: what is wrong, on which inputs, in which line,
and where to read again.
"""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..texts import ui
from .exercise import Exercise, Verdict

if TYPE_CHECKING:
    from .trials import Trial


def right(exercise: Exercise, text: dict[str, Any], note: str) -> Verdict:
    """The verdict on a right answer."""
    head = ui("right", title=text["title"], trials=exercise.trials)
    return Verdict(True, True, None, "\n\n".join(filter(None, (head, note))))


def wrong(
    text: dict[str, Any], *parts: str, mistake: str | None = None, trial: Trial | None = None
) -> Verdict:
    """`trial` is the one that failed: its inputs are shown."""
    message = [
        ui("not_yet", title=text["title"]),
        *parts,
        _inputs(trial),
        ui("reread", where=text["reread"]),
    ]
    return Verdict(False, True, mistake, "\n\n".join(part for part in message if part))


def not_attempted(text: dict[str, Any]) -> Verdict:
    """The verdict on an answer that was not begun."""
    message = "\n\n".join([ui("not_attempted", title=text["title"]), ui("not_attempted_why")])
    return Verdict(False, False, None, message)


def _inputs(trial: Trial | None) -> str:
    if trial is None:
        return ""
    from . import shown

    lines = shown.inputs(trial.inputs).replace("```", "")
    return f"{ui('with_inputs')}\n\n```\n{lines}\n```" if lines else ""


def changes(trials: list[Trial]) -> str:
    """A note when arguments were changed in place."""
    changed = sorted({name for trial in trials for name in trial.changed})
    return (
        ui("changed_in_place", names=", ".join(f"`{name}`" for name in changed)) if changed else ""
    )


def error(raised: BaseException, function: Callable[..., Any], exercise: Exercise) -> str:
    """What an exception of the learner's function says, with the line."""
    from .trials import OutOfTime, SignatureError

    if isinstance(raised, OutOfTime):
        return ui("out_of_time", seconds=f"{exercise.seconds:g}")
    if isinstance(raised, SignatureError):
        try:
            return ui("signature", error=raised, takes=str(inspect.signature(function)))
        except (TypeError, ValueError):
            return ui("signature", error=raised, takes="()")
    try:
        said = str(raised) or ui("no_message")
    except Exception:
        said = ui("no_message")
    place = _place(raised, function)
    return ui("raised", type=type(raised).__name__, said=said) + ("\n\n" + place if place else "")


def refusal(raised: BaseException, exercise: Exercise) -> str:
    """For a ValueError, how an answer says that there is none,
    where an exercise has such inputs.
    """
    kinds = {kind.__name__ for kind in type(raised).__mro__}
    return (
        ui("refusal", word=exercise.refuses) if exercise.refuses and "ValueError" in kinds else ""
    )


def _place(raised: BaseException, function: Callable[..., Any]) -> str:
    """The learner's line where the error came from: the deepest one in the file (or cell) of the
    function.
    """
    try:
        file = inspect.unwrap(function).__code__.co_filename  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return ""
    lines = [
        n
        for frame, n in traceback.walk_tb(raised.__traceback__)
        if frame.f_code.co_filename == file
    ]
    if not lines:
        return ""
    source = linecache.getline(file, lines[-1]).strip()
    return ui("line", number=lines[-1]) + (f"\n\n```\n{source}\n```" if source else "")
