"""Grade one submission: run the answers in a worker, the lab's tests here, and write down what was earned and why."""

import contextlib
import io
import signal
import time
from collections.abc import Iterator
from typing import Any

from course_utils.learn.checks import checking

from . import lab as labs
from . import sandbox
from .lab import Cell, Lab
from .sandbox import Limits
from .session import RemoteFunction, Session, WorkerLost
from .submission import Submission

NO_LIMIT = 1e6  # seconds


class MachineFault(Exception):
    """The grader could not do its work; nothing is known about the submission."""


def grade(
    lab: Lab, submission: Submission, address: str, limits: Limits, *, seed: int, kind: str
) -> dict[str, Any]:
    """The result of one submission as plain JSON, with workers from the zygote at `address`; `kind` is their sandbox.

    Raises MachineFault if no worker can be started.
    """
    began = time.monotonic()
    session = Session(address, limits, seed=seed, shared=lab.namespace)
    try:
        failed = {
            a.grade_id: error for a in lab.answers
            if a.code and a.grade_id in submission.answers and (error := session.run(a.grade_id, submission.answers[a.grade_id], list(a.names)))
        }  # fmt: skip
        cells = [_manual(a, submission) for a in lab.answers if a.manual]
        with _watch(limits.total):
            for place, test in enumerate(lab.tests):
                cells.append(_test(lab, test, submission, session, failed, seed))
                if cells[-1]["score"] < (test.points or 0.0):
                    _stand_in(lab, test, lab.tests[place + 1 :], session)
                    if _may_be_disturbed(lab, test, submission, cells[-1]):
                        alone = _alone(lab, test, submission, address, limits, seed, session.over)
                        cells[-1] = alone if alone["score"] > cells[-1]["score"] else cells[-1]
    finally:
        session.close()
    if session.broken:
        raise MachineFault(session.broken)
    return {
        "lab": lab.name, "submission": submission.digest, "bundle": lab.digest, "seed": seed,
        "sandbox": sandbox.describe(kind), "cells": cells, "notes": submission.notes,
        "score": sum(c["score"] or 0 for c in cells), "points": lab.points, "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip


def _manual(answer: Cell, submission: Submission) -> dict[str, Any]:
    written = answer.grade_id in submission.answers
    return {
        "grade_id": answer.grade_id, "points": answer.points, "score": None if written else 0.0, "manual": written,
        "message": "" if written else "Not attempted.", "mistake": None, "flag": "" if written else "not attempted", "by_hand": True,
    }  # fmt: skip


def _test(
    lab: Lab, test: Cell, submission: Submission, session: Session, failed: dict[str, Any], seed: int
) -> dict[str, Any]:
    """One test cell: its functions come from the worker, everything else is trusted."""
    owner = {name: a.grade_id for a in lab.answers if a.code for name in a.names}
    mentioned = [name for name in owner if name in labs.used(test.source)]
    result = {
        "grade_id": test.grade_id,
        "points": test.points,
        "score": 0.0,
        "manual": False,
        "message": "",
        "mistake": None,
        "flag": "",
    }
    about = test.of or [owner[name] for name in mentioned]
    if not any(answer in submission.answers for answer in about):
        return {**result, "message": "Not attempted.", "flag": "not attempted"}
    verdicts: list[Any] = []
    session.referred.clear()
    namespace = dict(lab.namespace)
    namespace["check"] = labs.seeded(_check, seed, verdicts)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for name in mentioned:
                namespace[name] = session.get(owner[name], name)
            result["score"] = labs.run_test(test.source, namespace, test.points or 0.0)
    except WorkerLost as lost:
        result["message"], result["flag"] = f"Did not run to its end: {lost}.", "did not run"
    except AssertionError as error:
        result["message"] = str(error) or "An answer was not right in a further test."
    except Exception as error:
        result["message"] = f"{type(error).__name__}: {str(error)[:1000]}"
    except BaseException as error:  # a test that is interrupted belongs to the person at the keyboard
        if isinstance(error, KeyboardInterrupt):
            raise
        result["message"] = f"{type(error).__name__}"
    if result["score"] == (test.points or 0.0):
        borrowed = ", ".join(sorted(session.referred))
        result["message"] = borrowed and f"Right, with the course's own {borrowed} in the place of yours."
    else:
        result["mistake"] = next((v.mistake for v in verdicts if not v.passed and v.mistake), None)
        errors = [failed[answer] for answer in dict.fromkeys(about) if answer in failed]
        if errors:
            line = f" (line {errors[0]['line']}: {errors[0]['source']})" if errors[0].get("line") else ""
            result["message"] = (
                f"The answer cell failed: {errors[0]['type']}: {errors[0]['said']}{line}\n\n{result['message']}".strip()
            )
            result["flag"] = result["flag"] or "did not run"
    return result


def _stand_in(lab: Lab, test: Cell, later: tuple[Cell, ...], session: Session) -> None:
    """An answer that failed costs its own points only: later answers that call it get the solution's function.

    Not before the last test of that answer is over.
    """
    about = {answer for answer in test.of if not any(answer in other.of for other in later)}
    for answer in lab.answers:
        for name in answer.names if answer.grade_id in about else ():
            if name in lab.reference:
                session.substitute(name, lab.reference[name])


def _may_be_disturbed(lab: Lab, test: Cell, submission: Submission, result: dict[str, Any]) -> bool:
    """True when another answer may be why the test failed: there is one, and no mistake of this one was named."""
    others = [a for a in lab.answers if a.code and a.grade_id in submission.answers and a.grade_id not in test.of]
    return bool(others) and result["flag"] == "" and result["mistake"] is None


def _alone(
    lab: Lab, test: Cell, submission: Submission, address: str, limits: Limits, seed: int, over: float
) -> dict[str, Any]:
    """The test once more, with only its own answers in a new worker and the solution's functions for those before them.

    Not for those after them: of two answers that each call the other, both would be right.
    It has to end by the time `over` of the whole submission.
    """
    session = Session(address, limits, seed=seed, shared=lab.namespace)
    session.over = over
    try:
        failed = {}
        last = max((place for place, answer in enumerate(lab.answers) if answer.grade_id in test.of), default=-1)
        for answer in lab.answers[: last + 1]:
            if answer.code and answer.grade_id in test.of and answer.grade_id in submission.answers:
                source = submission.answers[answer.grade_id]
                failed[answer.grade_id] = session.run(answer.grade_id, source, list(answer.names))
            elif answer.code:
                for name in set(answer.names) & set(lab.reference):
                    session.substitute(name, lab.reference[name])
        failed = {name: error for name, error in failed.items() if error}
        result = _test(lab, test, submission, session, failed, seed)
    finally:
        session.close()
    if session.broken:
        raise MachineFault(session.broken)
    return {
        **result,
        "message": "Right on its own. Another answer of yours disturbs it." if result["score"] else result["message"],
    }


class TestsTookTooLong(BaseException):
    """The tests themselves, which run here, used more time than a submission may."""


@contextlib.contextmanager
def _watch(seconds: float) -> Iterator[None]:
    """Raises TestsTookTooLong again and again once this process has computed for so long: an answer may keep a test busy."""

    def over(_signal: int, _frame: object) -> None:
        raise TestsTookTooLong

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _check(name: str, function: Any, *, seed: int, show: bool = False) -> Any:
    """`check` without the learner's progress, and without its limit on time: the worker has its own."""
    if not isinstance(function, RemoteFunction):
        raise AssertionError(f"{name}: the answer cell defines no function, but a {type(function).__name__}.")
    return checking.judge(name, function, seed=seed, seconds=NO_LIMIT)
