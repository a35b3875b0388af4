"""Grade one submission: run the answers in a worker, the lab's tests here, and write down what was
earned and why.

Answers run in the notebook's order, each just before its own test, as in a kernel in which every
cell is run once.
"""

import contextlib
import io
import re
import resource
import time
from typing import Any

from course_utils.learn.checks import calling, checking

from . import kinds, remote, second
from . import lab as labs
from .clock import Clock, TestsTookTooLong
from .keeper import Keeper
from .lab import Cell, Lab
from .remote import RemoteFunction, WorkerLost
from .sandbox import Limits
from .session import TOO_LONG, Session
from .submission import Submission

NO_LIMIT = 1e6  # seconds


class MachineFault(Exception):
    """The grader could not do its work; nothing is known about the submission."""


def grade(
    lab: Lab,
    submission: Submission,
    keeper: "str | Keeper",
    limits: Limits,
    *,
    seed: int,
    kind: str,
) -> dict[str, Any]:
    """The result of one submission as plain JSON, with workers of the keeper, or of a new one of
    the zygote at an address.

    `kind` is the workers' sandbox. Raises MachineFault if no worker can be started.
    """
    if isinstance(keeper, str):
        with Keeper(keeper, limits.total) as opened:
            return grade(lab, submission, opened, limits, seed=seed, kind=kind)
    began = time.monotonic()
    with Clock() as clock:
        bench = Bench(lab, submission, keeper, limits, seed, clock)
        cells = [_manual(a, submission) for a in lab.answers if a.manual] + bench.graded()
    if keeper.broken:
        raise MachineFault(keeper.broken)
    return {
        "lab": lab.name, "submission": submission.digest, "bundle": lab.digest, "seed": seed,
        "sandbox": kinds.describe(kind), "cells": cells, "notes": [*submission.notes, *bench.notes],
        "score": sum(c["score"] or 0 for c in cells), "points": lab.points,
        "seconds": round(time.monotonic() - began, 3),
        "used": {
            "learner's seconds": bench.used,
            "megabytes of the grader": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        },
    }  # fmt: skip


def _manual(answer: Cell, submission: Submission) -> dict[str, Any]:
    written = answer.grade_id in submission.answers
    return {
        "grade_id": answer.grade_id, "points": answer.points, "score": None if written else 0.0,
        "manual": written, "message": "" if written else "Not attempted.", "mistake": None,
        "flag": "" if written else "not attempted",
        "by_hand": True, "score_by_hand": None,  # the gradebook has it, where somebody gave one
    }  # fmt: skip


class Bench:
    """Where the tests of one submission are run, one after the other.

    Each has a share of the time: what is left, divided by the number of tests that are left.
    """

    def __init__(
        self,
        lab: Lab,
        submission: Submission,
        keeper: Keeper,
        limits: Limits,
        seed: int,
        clock: Clock,
    ) -> None:
        self.lab, self.submission, self.limits, self.seed, self.clock = (
            lab,
            submission,
            limits,
            seed,
            clock,
        )
        self.keeper = keeper
        self.over = time.monotonic() + limits.total
        self.until = self.over
        self.notes: dict[str, None] = {}
        self.used: dict[str, float] = {}  # seconds that the learner's code took, by test
        self.owner = {name: a.grade_id for a in lab.answers if a.code for name in a.names}

    def session(self) -> Session:
        """A new session of the worker, with the lab's names."""
        opened = Session(
            self.keeper, self.limits, seed=self.seed, shared=self.lab.namespace, over=self.over
        )
        opened.until = self.until
        return opened

    def graded(self) -> list[dict[str, Any]]:
        """The results of all tests."""
        session, found = self.session(), []
        with contextlib.closing(session):
            for place, test in enumerate(self.lab.tests):
                left = self.over - time.monotonic()
                share = max(1.0, left / (len(self.lab.tests) - place))
                self.until = session.until = time.monotonic() + share
                began = session.learner
                session.lost = ""
                session.forget_slow(self.lab.reference)
                with self.clock.limit(share, session):
                    result = self.test(test, session, self.run(session, test.of, test))
                if result["score"] < (test.points or 0.0):
                    self._stand_in(test, self.lab.tests[place + 1 :], session)
                    result = second.opinion(self, test, result, session)
                self.used[test.grade_id] = round(
                    result.pop("retried", 0.0) + session.learner - began, 3
                )
                found.append(result)
        return found

    def run(
        self, session: Session, names: tuple[str, ...], test: Cell | None = None
    ) -> dict[str, Any]:
        """Run the learner's answers of these names, and what stands before them and before the
        test; the errors of those that failed.
        """
        failed: dict[str, Any] = {}
        for answer in self.lab.answers:
            source = self.submission.answers.get(answer.grade_id)
            if answer.code and answer.grade_id in names:
                self._extras(session, answer.grade_id)
                error = (
                    session.run(answer.grade_id, source, list(answer.names))
                    if source is not None
                    else None
                )
                failed |= {answer.grade_id: error} if error else {}
        if test is not None:
            self._extras(session, test.grade_id)
        return failed

    def _extras(self, session: Session, name: str) -> None:
        for source in self.submission.extras.get(name, []):
            left_out = session.run_extra(source)
            used = {
                word
                for word in left_out
                if any(
                    re.search(rf"\b{re.escape(word)}\b", a)
                    for a in self.submission.answers.values()
                )
            }
            if used:
                note = (
                    f"{', '.join(sorted(used))}: made by an extra cell, of which only imports, "
                    "plain constants and functions are run"
                )
                self.notes |= {note: None}

    def test(self, test: Cell, session: Session, failed: dict[str, Any]) -> dict[str, Any]:
        """One test cell: its functions come from the worker, everything else is trusted."""
        mentioned = [name for name in self.owner if name in labs.used(test.source)]
        result = {
            "grade_id": test.grade_id, "points": test.points, "score": 0.0, "manual": False,
            "message": "", "mistake": None,
            "flag": "",
        }  # fmt: skip
        about = test.of or tuple(self.owner[name] for name in mentioned)
        if not any(answer in self.submission.answers for answer in about):
            return {**result, "message": "Not attempted.", "flag": "not attempted"}
        verdicts: list[Any] = []
        said = io.StringIO()
        session.referred.clear()
        namespace = dict(self.lab.namespace)
        namespace["check"] = labs.seeded(_check, self.seed, verdicts)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
                for name in mentioned:
                    namespace[name] = answer = session.get(self.owner[name], name)
                    if isinstance(answer, RemoteFunction):
                        answer._names = calling.names(self.lab.reference.get(name))
                result["score"] = labs.run_test(test.source, namespace, test.points or 0.0)
        except WorkerLost as lost:
            result["message"], result["flag"] = f"Did not run to its end: {lost}.", "did not run"
        except TestsTookTooLong:
            session.lost = TOO_LONG
            result["message"], result["flag"] = "The test of it took too long.", "did not run"
        except AssertionError as error:
            result["message"] = (
                remote.text(str(error)) or "An answer was not right in a further test."
            )
        except Exception as error:
            result["message"] = f"{type(error).__name__}: {str(error)[:1000]}"
        except (
            BaseException
        ) as error:  # a test that is interrupted belongs to the person at the keyboard
            if isinstance(error, KeyboardInterrupt):
                raise
            result["message"] = f"{type(error).__name__}"
        if result["score"] == (test.points or 0.0):
            borrowed = ", ".join(sorted(session.referred))
            result["message"] = (
                borrowed and f"Right, with the course's own {borrowed} in the place of yours."
            )
            return result
        # why some of the points
        result["message"] = result["message"] or said.getvalue().strip()[:1000]
        result["mistake"] = next((v.mistake for v in verdicts if not v.passed and v.mistake), None)
        if errors := [failed[answer] for answer in dict.fromkeys(about) if answer in failed]:
            line = (
                f" (line {errors[0]['line']}: {errors[0]['source']})" if errors[0]["line"] else ""
            )
            head = f"The answer cell failed: {errors[0]['type']}: {errors[0]['said']}{line}"
            result["message"] = f"{head}\n\n{result['message']}".strip()
        if errors or (session.lost and not result["mistake"]):
            result["flag"] = result["flag"] or "did not run"
        result["message"] = remote.text(result["message"])
        return result

    def _stand_in(self, test: Cell, later: tuple[Cell, ...], session: Session) -> None:
        """An answer that failed costs its own points only: later answers that call it get the
        solution's function.

        Not before the last test of that answer is over.
        """
        about = {answer for answer in test.of if not any(answer in other.of for other in later)}
        for answer in self.lab.answers:
            for name in answer.names if answer.grade_id in about else ():
                if name in self.lab.reference:
                    session.substitute(name, self.lab.reference[name])


def _check(name: str, function: Any, *, seed: int, show: bool = False) -> Any:
    """`check` without the learner's progress, and without its limit on time: the worker has its
    own.
    """
    if not isinstance(function, RemoteFunction):
        raise AssertionError(
            f"{name}: the answer cell defines no function, but a {type(function).__name__}."
        )
    return checking.judge(name, function, seed=seed, seconds=NO_LIMIT)
