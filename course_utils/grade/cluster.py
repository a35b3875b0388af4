"""The same jobs on the workers of a Dask cluster: on this machine, or on many.

A Dask worker hands its jobs to a grader that it starts, `python -m course_utils.grade.cluster`: a
process of its own, as a judge needs the main thread and may die. The two speak JSON, a line at a
time. The grader loads the lab from its own machine's course, whose files must be the same as here,
and has its own sandbox. Results come back to the one process that writes them down.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError

from . import judging, kinds, sandbox
from . import lab as labs
from .submission import Submission

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "course_utils"
WAIT = 60  # seconds for a first worker
COMMAND = [sys.executable, "-m", __package__ + ".cluster"]
# by the thread of a Dask worker
_graders: dict[int, tuple[dict[str, Any], subprocess.Popen[str]]] = {}


def order(
    root: Path, lab: labs.Lab, limits: sandbox.Limits, seed: int, kind: str | None
) -> dict[str, Any]:
    """What a grader has to know, as JSON. `root` is sent only if it is not this course's own
    folder.
    """
    place = None if root.resolve() == ROOT else str(root.resolve())
    known = {"root": place, "lab": lab.name, "digest": lab.digest, "course": fingerprint()}
    return {**known, "limits": asdict(limits), "seed": seed, "kind": kind}


@functools.cache
def fingerprint() -> str:
    """SHA-256 of every Python and text file of `course_utils`, with their names."""
    found = hashlib.sha256()
    for path in sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".yaml")):
        found.update(
            path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return found.hexdigest()


def results(
    address: str, jobs: int, found: dict[str, Submission], order: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results as they come, from `jobs` workers here if the address is "local".

    A job whose grader or worker dies is tried again, by another worker if there is one, then marked
    as a fault.
    Raises CompressionError if there is no worker, or if a machine refuses to grade.
    """
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise CompressionError(
            '--dask: Dask is not installed; add the extra: pip install -e ".[cluster]".'
        ) from error
    if address == "local":  # with TLS, so that other users of this machine cannot send it anything
        settings = {
            "n_workers": jobs,
            "threads_per_worker": 1,
            "memory_limit": 0,
            "dashboard_address": "127.0.0.1:0",
        }
        with (
            LocalCluster(host="127.0.0.1", security=True, **settings) as cluster,
            cluster.get_client() as client,
        ):  # type: ignore[no-untyped-call]
            yield from _results(client, as_completed, found, order)
        return
    with contextlib.ExitStack() as opened:
        try:
            client = opened.enter_context(Client(address, timeout=WAIT))  # type: ignore[no-untyped-call]
            client.wait_for_workers(1, timeout=WAIT)
        except (OSError, ValueError) as error:
            raise CompressionError(
                f"--dask {address}: no worker was found in {WAIT} seconds ({error})."
            ) from error
        yield from _results(client, as_completed, found, order)


def _results(
    client: Any, as_completed: Any, found: dict[str, Submission], order: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    running = {
        client.submit(
            graded, order, asdict(submission), pure=False, retries=judging.TRIES - 1
        ): student
        for student, submission in found.items()
    }
    try:
        for future in as_completed(running):
            try:
                result = future.result()
            except Exception as error:
                result = {"fault": f"{type(error).__name__}: {error}"}
            if "refused" in result:
                raise CompressionError(f"--dask: {result['refused']}")
            yield running.pop(future), result
    finally:
        with contextlib.suppress(OSError):  # no scheduler any more: its workers end their graders
            client.cancel(list(running))
            client.run(stop, on_error="return")


class GraderDied(RuntimeError):
    """The grader of a Dask worker ended before it answered."""


def graded(order: dict[str, Any], submission: dict[str, Any]) -> dict[str, Any]:
    """The job: the result of one submission, {"fault": why} or {"refused": why}.

    Runs on a Dask worker.
    """
    try:
        grader = _grader(order)
        assert grader.stdin and grader.stdout
        grader.stdin.write(json.dumps(submission) + "\n")
        grader.stdin.flush()
        said = grader.stdout.readline()
    except OSError:
        said = ""
    if not said.endswith("\n"):
        _end(threading.get_ident())
        raise GraderDied("the grader's own process died over this submission")
    result: dict[str, Any] = json.loads(said)
    return result


def _grader(order: dict[str, Any]) -> subprocess.Popen[str]:
    """This thread's grader, a new one when there is none for the order."""
    known = _graders.get(threading.get_ident())
    if known and known[0] == order and known[1].poll() is None:
        return known[1]
    _end(threading.get_ident())
    grader = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    _graders[threading.get_ident()] = order, grader
    assert grader.stdin
    grader.stdin.write(json.dumps(order) + "\n")
    grader.stdin.flush()
    return grader


def _end(thread: int) -> None:
    _order, grader = _graders.pop(thread, (None, None))
    if grader and grader.stdin and grader.stdout:
        grader.kill()  # the zygote ends when its stdin does, and every worker with it
        grader.communicate()


def stop() -> None:
    """End this Dask worker's graders."""
    for thread in list(_graders):
        _end(thread)


def main() -> None:
    """The grader: an order, then submissions from stdin; for each one a result to stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # what else is printed does not come between, and no program started here keeps the pipe open
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=lambda: os.dup2(2, out.fileno()))  # nor does a judge
    asked = json.loads(sys.stdin.readline())

    def answer(result: dict[str, Any]) -> None:
        sys.stdin.readline()
        print(json.dumps(result), file=out, flush=True)

    try:
        root, limits = Path(asked["root"] or ROOT), sandbox.Limits(**asked["limits"])
        opened = labs.load(root, asked["lab"])
        if (opened.digest, fingerprint()) != (asked["digest"], asked["course"]):
            raise CompressionError(
                "its course_utils or its solution of the lab is not the same; "
                "give it the same version of the course."
            )
        kind = asked["kind"] or kinds.best()
        kinds.check_sandbox(kind, root / "solutions")
        with judging.ready(opened, limits, asked["seed"], kind):
            for line in sys.stdin:
                print(
                    json.dumps(judging.grade(Submission(**json.loads(line)))), file=out, flush=True
                )
    except CompressionError as error:
        answer({"refused": f"{platform.node()} does not grade: {error}"})


if __name__ == "__main__":
    main()
