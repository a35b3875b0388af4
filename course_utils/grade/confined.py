"""Our own functions, where they see what a learner made: in a forked process that can write
nowhere, and with limits.

Tests, checks, references and substitutes run there. What they need is in memory before the fork;
their result comes back as JSON.
"""

import contextlib
import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import sandbox
from .sandbox import Limits

MEMORY = 384 << 20  # bytes above what the process has when it starts
FOLDER = 64 << 20
RESULT = 16 << 20  # bytes of JSON, at most


class Died(Exception):
    """The process ended before it answered; the message says how."""


def call(
    work: Callable[[], Any],
    limits: Limits,
    root: Path,
    *,
    keep: Sequence[int],
    seconds: float,
    unsafe: bool = False,
) -> Any:
    """What `work()` returns, run in a process of its own that ends with it; only the descriptors in
    `keep` stay open there.

    `root` is an empty folder. With `unsafe` there are limits, but no walls. Raises Died if it ends
    without an answer, or does not answer in `seconds`.
    """
    own = replace(limits, memory=MEMORY, folder=FOLDER, file=FOLDER, files_open=256, tasks=4096)
    (reader, writer), (heard, report) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _inside(work, own, root, writer, report, keep, unsafe)
    os.close(writer)
    os.close(report)
    content, until = b"", time.monotonic() + seconds
    inside, patience = 0, 0.0
    try:
        inside = int(os.read(heard, 32).partition(b"\n")[0] or 0)
        while True:
            left = until - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                raise Died(f"it did not answer in {seconds:.0f} seconds")
            part = os.read(reader, 1 << 16)
            content += part
            if len(content) > RESULT:
                raise Died(f"it answered with more than {RESULT >> 20} MB")
            if not part:
                patience = 5.0
                break
    finally:
        os.close(reader)
        os.close(heard)
        status = _end(child, inside, patience)
    try:
        found = json.loads(content)
    except ValueError:
        raise Died(f"it ended with status {status}") from None
    if "problem" in found:
        raise Died(found["problem"])
    return found["result"]


def _end(child: int, inside: int, patience: float) -> int:
    """The status of the process outside; what still runs after so many seconds is killed."""
    until = time.monotonic() + patience
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.001)
    if ended == (0, 0):
        for process in filter(None, (inside, child)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1])


def _inside(
    work: Callable[[], Any],
    limits: Limits,
    root: Path,
    writer: int,
    report: int,
    keep: Sequence[int],
    unsafe: bool,
) -> None:
    """The process itself; it never returns."""
    try:
        if unsafe:
            os.write(report, str(os.getpid()).encode())
            os.close(report)
            sandbox.libc().prctl(sandbox.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            sandbox.set_limits(limits, sandbox.address_space(limits))
            place = Path(tempfile.mkdtemp(dir=root))
            os.chdir(place)
        else:
            sandbox.enter(limits, root, report, [writer, *keep], hide=False)
            place = Path(sandbox.WORK)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.environ.update(
            HOME=str(place), TMPDIR=str(place), COURSE_HOME=str(place), COURSE_KERNELS="torch"
        )
        tempfile.tempdir = None
        _answer(writer, {"result": work()})
    except BaseException as error:
        _answer(writer, {"problem": f"{type(error).__name__}: {str(error)[:500]}"})
    finally:
        os._exit(0)


def _answer(writer: int, content: dict[str, Any]) -> None:
    with os.fdopen(os.dup(writer), "wb") as file:
        file.write(json.dumps(content).encode())
