"""Lab 5.1: kernels in C++ that learners give as text, compiled, called in a process of their own,
compared and timed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import show as showing
from .. import texts
from . import compiling, service, trials

__all__ = ["Report", "judged", "problem", "see"]

# a grader puts its own in this place
ask: Callable[[dict[str, Any]], dict[str, Any]] = service.answer


@dataclass(frozen=True)
class Report:
    """What was found; true when every answer was right.

    `speed` is None where it was not measured.
    """

    passed: bool
    attempted: bool
    mistake: str | None
    message: str
    speed: dict[str, Any] | None = None

    def __bool__(self) -> bool:
        return self.passed

    @property
    def ratio(self) -> float:
        """Seconds of a plain read of the same bytes divided by those of the kernel, 0 where it was
        not measured.
        """
        return float(self.speed["ratio"]) if self.speed else 0.0

    def points(self, *steps: float) -> float:
        """The sum of the steps whose mark (`trials.MARKS`) is reached."""
        if not self.speed:
            return 0.0
        marks = trials.marks(self.speed["ours"])
        return float(
            sum(step for step, mark in zip(steps, marks, strict=True) if self.ratio >= mark)
        )


def words(name: str, **details: Any) -> str:
    """A sentence of the kernels' texts."""
    return str(texts.load("kernels")["kernels"][name]).format(**details)


def judged(function: Any, *, seed: int | None = None, speed: bool = False) -> Report:
    """Compile what `function()` returns, and compare it with the specification; with `speed`, time
    it beside a plain read.

    Whatever the function or the kernel does is part of the report, not raised here.
    """
    try:
        source = function()
    except NotImplementedError:
        return Report(False, False, None, words("not_attempted"))
    except Exception as error:
        return Report(
            False, True, None, words("raised", error=f"{type(error).__name__}: {str(error)[:500]}")
        )
    if source is None or source is ...:
        return Report(False, False, None, words("not_attempted"))
    if not isinstance(source, str):
        return Report(False, True, None, words("not_text", got=type(source).__name__))
    if len(source) > compiling.LARGEST:
        return Report(
            False, True, None, words("too_large", characters=len(source), most=compiling.LARGEST)
        )
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    found = ask({"source": source, "seed": seed, "beside": _ours() if speed else None})
    if "why" in found:
        return Report(False, True, found["why"].get("mistake"), _explained(dict(found["why"])))
    if found["speed"] is None:
        return Report(True, True, None, words("right"))
    return Report(True, True, None, _measured(found["speed"]), found["speed"])


def see(function: Any, *, speed: bool = False) -> None:
    """Show what `judged` finds."""
    report = judged(function, speed=speed)
    title, _, body = report.message.partition("\n\n")
    showing.message("right" if report else "wrong" if report.attempted else "note", title, body)


def problem() -> str:
    """Why no kernel can be compiled on this machine, '' if one can."""
    from course_utils.kernels import build

    try:
        build.find_compiler()
    except build.BuildError as error:
        return words("no_compiler", said=error)
    return ""


def _ours() -> str:
    """The kernel of the course that sets the marks; the grader has it, and so has a learner's own
    machine.
    """
    from ..exercises.labs import _int4_kernels

    return _int4_kernels.FAST


def _explained(why: dict[str, Any]) -> str:
    reason, named = why.pop("reason"), why.pop("mistake", None)
    for name in ("got", "want"):
        if name in why:
            why[name] = f"{why[name]:.7g}"
    said = words(reason, **why)
    return f"{said}\n\n{words(f'mistake_{named}')}" if named else said


def _measured(speed: dict[str, Any]) -> str:
    here = trials.marks(speed["ours"])
    reached = [mark for mark in here if speed["ratio"] >= mark]
    said = words(
        "measured", ratio=f"{speed['ratio']:.2f}", kernel=f"{speed['kernel']:.1f}",
        plain=f"{speed['plain']:.1f}", megabytes=f"{speed['megabytes']:.0f}", calls=speed["calls"],
    )  # fmt: skip
    step = (
        words("all_marks")
        if len(reached) == len(here)
        else words("next_mark", mark=f"{here[len(reached)]:.2f}")
    )
    lower = words("lower_marks", ours=f"{speed['ours']:.2f}") if here[-1] < trials.MARKS[-1] else ""
    return " ".join(filter(None, (said, step, lower)))
