"""A file is scored in a process of its own: whatever it does to that process, its own row is all
that it costs.
"""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from . import sandbox

LARGEST = 1 << 20  # bytes of JSON that a score may be
TICK = 0.2  # seconds between two looks at whether the run was stopped


class Fault(Exception):
    """No score: the process died or took too long. The message says which."""


class Stopped(Exception):
    """The run was stopped; nothing is known about the file."""


def score(
    work: Callable[..., dict[str, Any]],
    file: Path,
    seeds: tuple[int, ...],
    *,
    seconds: float,
    memory: int,
    threads: int,
    stop: threading.Event,
) -> dict[str, Any]:
    """What `work(file, seeds=seeds)` returns, a function of a module, from a process that ends with
    this one.

    `memory` limits its address space, in bytes. Raises Fault if it dies or does not answer in
    `seconds`, Stopped once `stop` is set.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(
        target=_inside, args=(work, str(file), seeds, memory, threads, writer), daemon=True
    )
    process.start()
    writer.close()
    until = time.monotonic() + seconds
    try:
        while not reader.poll(TICK):
            if stop.is_set():
                raise Stopped
            if time.monotonic() > until:
                raise Fault(f"no score after {seconds:g} seconds")
        found: dict[str, Any] = json.loads(reader.recv_bytes(LARGEST))
    except (EOFError, OSError, ValueError):
        process.join(5)
        code = process.exitcode
        how = f"was ended by signal {-code}" if code and code < 0 else "ended without an answer"
        raise Fault(f"the process that scored it {how} (memory?)") from None
    finally:
        process.kill()
        process.join()
        process.close()
        reader.close()
    if "problem" in found:
        raise Fault(found["problem"])
    return found


def _inside(
    work: Callable[..., dict[str, Any]],
    file: str,
    seeds: tuple[int, ...],
    memory: int,
    threads: int,
    out: Connection,
) -> None:
    """The process itself."""
    with contextlib.suppress(AttributeError, OSError):
        sandbox.libc().prctl(sandbox.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends this process
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        answer = work(Path(file), seeds=seeds)
        content = json.dumps(answer)
    except MemoryError:
        content = json.dumps({"problem": "it needs more memory than a file may take"})
    except BaseException as error:
        content = json.dumps({"problem": f"{type(error).__name__}: {str(error)[:300]}"})
    with contextlib.suppress(OSError):
        out.send_bytes(content.encode())
