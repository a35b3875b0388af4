"""Grade a whole class: jobs side by side, each result kept as soon as it is there, one writer to the gradebook.

A course is a folder as nbgrader lays it out: submitted/<learner>/<lab>/ goes in; autograded/, gradebook.db and
grades/<lab>/<learner>.json (ours) come out. What was graded from the same bytes, lab and seed is not graded again.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from course_utils.errors import CompressionError
from course_utils.learn.checks import exercise

from . import gradebook, judge, sandbox, submission
from .build import write
from .lab import Lab
from .sandbox import Limits
from .warm import Zygote

TRIES = 2  # for a submission during which the grader's own process dies
_job: dict[str, Any] = {}  # what a forked job needs, set before the fork


def submissions(course: Path, lab: str) -> dict[str, Path]:
    """The folder of each learner who submitted the lab."""
    folder = course / "submitted"
    if not folder.is_dir():
        raise CompressionError(
            f"{folder}: is missing; put each notebook in submitted/<learner>/{lab}/ (nbgrader collect does)."
        )
    found = {p.name: p / lab for p in sorted(folder.iterdir()) if p.is_dir() and not p.is_symlink()}
    return {student: path for student, path in found.items() if path.is_dir() and not path.is_symlink()}


def run(
    root: Path, course: Path, lab: Lab, *, jobs: int = 1, seed: int | None = None, kind: str | None = None, again: bool = False,
    limits: Limits | None = None, book: bool = True, progress: bool = True, dask: str | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Grade what is new under course/submitted and return every learner's result.

    `kind` is a sandbox of `sandbox.KINDS`, the best one there is if left out. With `dask`, the address of a scheduler or
    "local", its workers grade, each in its own sandbox.
    Raises CompressionError if there is no sandbox of this kind, if learners' code could read what is graded, or if
    the lab's own solution does not get full points.
    """
    limits = limits or Limits()
    if not dask:
        kind = kind or sandbox.best()
        check_sandbox(kind, root / "solutions", course)
    todo, out = submissions(course, lab.name), course / "grades" / lab.name
    seed = _seed(out, seed, again)
    parsed = {student: _read(path, lab) for student, path in todo.items()}
    done = {} if again else dict(_kept(out, parsed, lab, seed))
    kept = list(done)
    waiting = {student: found for student, found in parsed.items() if student not in done}
    with contextlib.ExitStack() as stack:
        opened = functools.cache(lambda: stack.enter_context(gradebook.Book(course, lab)))

        def record(student: str) -> None:
            if book and "fault" not in done[student]:
                opened().record(student, parsed[student].answers, done[student])

        if waiting:
            if dask:
                from . import cluster

                results = cluster.results(dask, jobs, waiting, cluster.order(root, lab, limits, seed, kind))
            else:
                assert kind
                results = _here(waiting, jobs, lab, limits, seed, kind)
            with tqdm(total=len(waiting), desc=lab.name, unit="submission", disable=not progress) as bar:
                for student, result in results:
                    if "fault" in result:
                        result |= {"cells": [], "notes": [f"not graded: {result['fault']}"], "score": None, "points": lab.points}
                    write(out / f"{student}.json", json.dumps(result, indent=1).encode())
                    done[student] = result
                    record(student)  # while the next ones are graded
                    bar.update()
        for student in kept:  # an earlier run may have been stopped before it came to these
            record(student)
    return {student: done[student] for student in parsed if student in done}


def check_sandbox(kind: str, *private: Path) -> None:
    """Raises CompressionError if there is no such sandbox here, or if learners' code could read one of the paths."""
    if why := sandbox.missing(kind):
        unprotected = " To run it unprotected all the same: --unsafe-no-sandbox." if sys.platform == "linux" else ""
        raise CompressionError(f"no sandbox: {why}{unprotected}")
    if kind != "none":
        sandbox.check_private(*private)


@contextlib.contextmanager
def ready(lab: Lab, limits: Limits, seed: int, kind: str) -> Iterator[None]:
    """A context in which `grade` works: workers can be started, and the lab's own solution has got its points."""
    lab.namespace  # noqa: B018  this and the exercises are loaded once, before the jobs are forked
    for topic in exercise.topics():
        exercise.of_topic(topic)
    with _quiet_home(), Zygote(lab.prelude, limits, data=lab.data, kind=kind) as zygote:
        _job.update(lab=lab, limits=limits, seed=seed, kind=kind, address=zygote.address)
        check_solution(lab)
        yield


def _seed(out: Path, seed: int | None, again: bool) -> int:
    """The seed asked for, else that of the run that is going on, else a new one."""
    path = out / "seed"
    if seed is None and not again:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
    seed = secrets.randbits(40) if seed is None else seed
    write(path, str(seed).encode())
    return seed


def _read(folder: Path, lab: Lab) -> submission.Submission:
    """The answers of one learner; a folder that cannot be read is a submission without answers and with a note."""
    try:
        path, notes = submission.find(folder, lab)
        found = submission.parse(submission.read_bytes(path), lab) if path else submission.Submission(digest="none")
    except (OSError, RecursionError, MemoryError) as error:
        found, notes = submission.Submission(digest="unreadable"), [f"could not be read ({type(error).__name__})"]
    found.notes[:0] = notes
    return found


def _kept(
    out: Path, parsed: dict[str, submission.Submission], lab: Lab, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for student, found in parsed.items():
        with contextlib.suppress(OSError, ValueError):
            result = json.loads((out / f"{student}.json").read_bytes())
            if (result.get("submission"), result.get("bundle"), result.get("seed")) == (found.digest, lab.digest, seed):
                yield student, result


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Forked processes for judges."""
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork"), initializer=_begin)


def _begin() -> None:
    """A judge shares nothing that it could wait for: neither OpenMP's threads, which a fork has not, nor a lock of tqdm."""
    import torch

    _end_with_parent()
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())


def _end_with_parent() -> None:
    """End when the grader does, also when it is killed: this process would wait for work for ever otherwise."""
    parent = multiprocessing.parent_process()
    assert parent
    join = parent.join

    def wait() -> None:
        join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def check_solution(lab: Lab) -> None:
    """Grade the lab's own solution. Raises CompressionError if it does not get every point that is not given by hand."""
    own = submission.Submission(answers={a.grade_id: a.source for a in lab.answers})
    with _pool(1) as pool:
        try:
            result = pool.submit(grade, own).result()
        except BrokenProcessPool:
            result = {"fault": "the judge's own process died; is there memory enough?"}
    if "fault" in result:
        raise CompressionError(f"{lab.name}: its own solution could not be graded: {result['fault']}")
    for cell in result["cells"]:
        if not cell["manual"] and cell["score"] != cell["points"]:
            raise CompressionError(
                f"{lab.name}: its own solution gets {cell['score']:g} of {cell['points']:g} for {cell['grade_id']}, so nobody was "
                f"graded. {cell['message']}"
            )


def grade(found: submission.Submission) -> dict[str, Any]:
    """The result of one submission, inside `ready`."""
    try:
        return judge.grade(_job["lab"], found, _job["address"], _job["limits"], seed=_job["seed"], kind=_job["kind"])
    except (Exception, judge.TestsTookTooLong) as error:
        return {"fault": f"{type(error).__name__}: {error}"}


def _here(
    found: dict[str, submission.Submission], jobs: int, lab: Lab, limits: Limits, seed: int, kind: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    with ready(lab, limits, seed, kind):
        yield from _side_by_side(found, jobs)


def _side_by_side(found: dict[str, submission.Submission], jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results as they come. When a job's process dies, the submissions it may have been are tried again one by one.

    A fault means that nothing is known about the submission; it is graded in the next run.
    """
    tried = dict.fromkeys(found, 0)
    while tried:
        alone = any(tried.values())
        width, batch = (1, list(tried)[:1]) if alone else (jobs, list(tried))
        with _pool(width) as pool:
            running: dict[Future[dict[str, Any]], str] = {}
            with contextlib.suppress(BrokenProcessPool):  # already: what was not handed out is in the next round
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


@contextlib.contextmanager
def _quiet_home() -> Iterator[None]:
    """Checks leave no trace in the instructor's own progress."""
    before = os.environ.get("COURSE_HOME")
    with tempfile.TemporaryDirectory() as place:
        os.environ["COURSE_HOME"] = place
        try:
            yield
        finally:
            os.environ.pop("COURSE_HOME")
            if before is not None:
                os.environ["COURSE_HOME"] = before
