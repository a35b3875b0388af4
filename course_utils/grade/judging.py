"""Judge submissions on this machine: forked processes, each submission in a confined one, all of it
ready before.
"""

import contextlib
import functools
import io
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from course_utils.errors import CompressionError
from course_utils.learn import native
from course_utils.learn.checks import checking, exercise

from . import clock, confined, judge, submission
from . import lab as labs
from .keeper import Keeper
from .lab import Lab
from .sandbox import Limits
from .warm import Zygote
from .workshop import Workshop

TRIES = 2  # for a submission during which the grader's own process dies
NOT_LENT = (
    "the grader's own process died twice over it, so wrong answers were not replaced by the "
    "course's own functions"
)
_job: dict[str, Any] = {}  # what a forked job needs, set before the fork


@contextlib.contextmanager
def ready(lab: Lab, limits: Limits, seed: int, kind: str) -> Iterator[None]:
    """A context in which `grade` works: workers can be started, and the lab's own solution has got
    its points.
    """
    # these and the exercises are loaded once, before the jobs are forked
    _ = lab.namespace, lab.reference
    for topic in exercise.topics():
        exercise.of_topic(topic)
    with Zygote(lab.prelude, limits, data=lab.data, kind=kind) as zygote:
        _answer_once(lab, seed)
        _job.update(
            lab=lab, limits=limits, seed=seed, kind=kind, address=zygote.address, root=zygote.bench
        )
        check_solution(lab)
        yield


def _answer_once(lab: Lab, seed: int) -> None:
    """Ask the specifications about the inputs of this run, once for all submissions: judges are
    forked from this process.

    Each test runs up to the first thing that it asks of a learner's function itself, which there is
    none of here.
    """

    def filled(name: str, _function: Any, *, seed: int, show: bool) -> Any:
        checking.remember(name, seed)
        return exercise.Verdict(True, True, None, "")

    for test in lab.tests:
        functions = dict.fromkeys(lab.reference)
        namespace = {**lab.namespace, **functions, "check": labs.seeded(filled, seed, [])}
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            labs.run_test(test.source, namespace, test.points or 0.0)


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Forked processes for judges."""
    return ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("fork"), initializer=_begin
    )


def _begin() -> None:
    """A judge shares nothing that it could wait for: neither OpenMP's threads, which a fork has
    not, nor a lock of tqdm.
    """
    import torch

    _end_with_parent()
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())


def _end_with_parent() -> None:
    """End when the grader does, also when it is killed: this process would wait for work for ever
    otherwise.
    """
    parent = multiprocessing.parent_process()
    assert parent
    join = parent.join

    def wait() -> None:
        join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def check_solution(lab: Lab) -> None:
    """Grade the lab's own solution.

    Raises CompressionError if it does not get every point that is not given by hand.
    """
    own = submission.Submission(answers={a.grade_id: a.source for a in lab.answers})
    with _pool(1) as pool:
        try:
            result = pool.submit(grade, own).result()
        except BrokenProcessPool:
            result = {"fault": "the judge's own process died; is there memory enough?"}
    if "fault" in result:
        raise CompressionError(
            f"{lab.name}: its own solution could not be graded: {result['fault']}"
        )
    for cell in result["cells"]:
        if not cell["manual"] and cell["score"] != cell["points"]:
            raise CompressionError(
                f"{lab.name}: its own solution gets {cell['score']:g} of {cell['points']:g} for "
                f"{cell['grade_id']}, so nobody was graded. {cell['message']}"
            )


def grade(found: submission.Submission) -> dict[str, Any]:
    """The result of one submission, inside `ready`; {"fault": why} if nothing is known about it."""
    why = ""
    limits = _job["limits"]
    for lend in [True] * TRIES + [False]:
        try:
            with Keeper(_job["address"], limits.total) as keeper, _workshop() as shop:
                kept = [keeper.socket.fileno(), *([shop.channel.fileno()] if shop else [])]
                return confined.call(
                    functools.partial(_judge, found, keeper, lend, shop), limits,
                    _job["root"], keep=kept, seconds=2 * limits.total + 60,
                    unsafe=_job["kind"] == "none",
                )  # fmt: skip
        except (
            confined.Died
        ) as died:  # twice: what a learner's code makes our functions do must be kept from it
            why = str(died)
        except OSError as error:
            return {"fault": f"{type(error).__name__}: {error}"}
    return {"fault": f"the grader's own process died at every try of this submission ({why})"}


def _workshop() -> contextlib.AbstractContextManager[Workshop | None]:
    """What compiles and runs kernels, for a lab that asks for it; None for others."""
    if not _job["lab"].compiles:
        return contextlib.nullcontext()
    return Workshop(
        _job["root"], Path(_job["address"]).with_name("measuring"), unsafe=_job["kind"] == "none"
    )


def _asked(shop: Workshop, keeper: Keeper, order: dict[str, Any]) -> dict[str, Any]:
    """The workshop's answer; without one nothing is known about the submission."""
    try:
        return shop.ask(order)
    except OSError as error:
        keeper.broken = keeper.broken or str(error)
        raise


def _judge(
    found: submission.Submission, keeper: Keeper, lend: bool, shop: Workshop | None = None
) -> dict[str, Any]:
    """With `lend`, the solution's functions take the places of wrong answers."""
    if shop:
        native.ask = functools.partial(_asked, shop, keeper)
    try:
        if not lend:
            _job["lab"].reference.clear()  # of this process only
        result = judge.grade(
            _job["lab"], found, keeper, _job["limits"], seed=_job["seed"], kind=_job["kind"]
        )
        return result if lend else {**result, "notes": [*result["notes"], NOT_LENT]}
    except (Exception, clock.TestsTookTooLong) as error:
        return {"fault": f"{type(error).__name__}: {error}"[:500]}


def here(
    found: dict[str, submission.Submission],
    jobs: int,
    lab: Lab,
    limits: Limits,
    seed: int,
    kind: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Grade on this machine, `jobs` submissions at a time: (student, result) as they end."""
    with ready(lab, limits, seed, kind):
        yield from _side_by_side(found, jobs)


def _side_by_side(
    found: dict[str, submission.Submission], jobs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results as they come.

    When a job's process dies, the submissions it may have been are tried again one by one.

    A fault means that nothing is known about the submission; it is graded in the next run.
    """
    tried = dict.fromkeys(found, 0)
    while tried:
        alone = any(tried.values())
        width, batch = (1, list(tried)[:1]) if alone else (jobs, list(tried))
        with _pool(width) as pool:
            running: dict[Future[dict[str, Any]], str] = {}
            # already: what was not handed out is in the next round
            with contextlib.suppress(BrokenProcessPool):
                for student in batch:
                    running[pool.submit(grade, found[student])] = student
            for future in as_completed(running):
                student = running[future]
                try:
                    result = future.result()
                except BrokenProcessPool:
                    tried[student] += 1
                    if tried[student] < TRIES:
                        continue
                    result = {"fault": "the grader's own process died twice over this submission"}
                except Exception as error:  # it could not be sent there or back
                    result = {"fault": f"{type(error).__name__}: {error}"}
                del tried[student]
                yield student, result
