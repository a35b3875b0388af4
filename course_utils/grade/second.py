"""A second look at an answer that failed its test: was it the answer itself, or another one of the
same learner?

It counts as right only if that is shown: with the other's doing it fails again and again, without
it it is right again and again, in new workers and in an order that nobody can foresee. So an answer
gains nothing by a second try.
"""

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .lab import Cell
from .session import TOO_LONG, Session

if TYPE_CHECKING:
    from .judge import Bench

# prepares a new worker for the test; the errors of the answer's own cell
Setting = Callable[[Session], dict[str, Any]]


def opinion(bench: "Bench", test: Cell, result: dict[str, Any], session: Session) -> dict[str, Any]:
    """The result of the test, a better one if another answer is shown to be why it failed."""
    if result["flag"] == "not attempted" or result["mistake"] or session.lost == TOO_LONG:
        return result
    retried = 0.0

    def tried(setting: Setting) -> dict[str, Any]:
        nonlocal retried
        with (
            contextlib.closing(bench.session()) as again,
            bench.clock.limit(bench.limits.call, again),
        ):
            found = bench.test(test, again, setting(again))
        retried += again.learner
        return found

    for good, bad, said in _ways(bench, test, result, session):
        found = tried(good)
        if found["score"] > result["score"]:
            order = [good, good, bad, bad, bad]
            random.SystemRandom().shuffle(order)
            if all((tried(way)["score"] > result["score"]) == (way is good) for way in order):
                result = {**found, "message": said}
                break
    return {**result, "retried": retried}


def _ways(
    bench: "Bench", test: Cell, result: dict[str, Any], session: Session
) -> Iterator[tuple[Setting, Setting, str]]:
    """Pairs of settings, without and with what may be the cause, and what to say if it is."""
    given = [a for a in bench.lab.answers if a.code and a.grade_id in bench.submission.answers]
    last = max(
        (place for place, a in enumerate(bench.lab.answers) if a.grade_id in test.of), default=-1
    )
    before = [a for a in bench.lab.answers[: last + 1] if a.code and a.grade_id not in test.of]
    others = tuple(a.grade_id for a in before if a in given)
    after = tuple(a.grade_id for a in given if a not in before and a.grade_id not in test.of)
    names = {name for a in before for name in a.names if name in bench.lab.reference}
    replaced = dict(session.references)

    def prefix(again: Session) -> dict[str, Any]:
        bench.run(again, others)
        for name in replaced.keys() & names:
            again.substitute(name, replaced[name])
        return bench.run(again, test.of, test)

    def whole(again: Session) -> dict[str, Any]:
        failed = prefix(again)
        bench.run(again, after)
        return failed

    def alone(again: Session) -> dict[str, Any]:
        for name in sorted(names):
            again.substitute(name, bench.lab.reference[name])
        return bench.run(again, test.of, test)

    def beside_others(again: Session) -> dict[str, Any]:
        bench.run(again, others)
        return alone(again)

    missing = re.search(r"name '(\w+)' is not defined", result["message"])
    if after and missing:
        yield whole, prefix, f"Right, with {missing[1]} from a later cell."
    if others:
        yield alone, beside_others, "Right on its own. Another answer of yours disturbs it."
