"""The process of a kernel, seen from outside: start it, call it, take its processor time, say how
it ended.

Its processor time is the kernel's (the operating system's) own count of all that the process did,
threads and system calls included, read from here; the process cannot change it, and nothing that it
says about time is asked for.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from .board import Board
from .problems import BUFFERS

CALL = 4.0  # seconds of processor time that one call may take
PATIENCE = 20.0  # seconds on the wall clock that one call may take, as nothing in it may wait
LOADED, NOT_LOADED, NO_PRODUCT, RUNNING, MEMORY, EXCEPTION, SIGNAL = range(1, 8)


class Fell(Exception):
    """The kernel did not do what it was asked;
    `why` has a reason and what a text about it needs.
    """

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.why = {"reason": reason, **details}


class Started(Protocol):
    """A process that was started: its number here, and an end."""

    pid: int

    def kill(self) -> int:
        """End it if it still runs; its exit status, 128 + n for signal n."""
        ...


# the runner, the library, the descriptors that it is given
Launch = Callable[[Path, Path, Sequence[int]], Started]


class Plain:
    """A child of this process, without walls."""

    def __init__(self, runner: Path, library: Path, files: Sequence[int]) -> None:
        words = [str(runner), str(library), *map(str, files)]
        self.process = subprocess.Popen(
            words, pass_fds=files, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=_limited if sys.platform == "linux" else None,
        )  # fmt: skip
        self.pid = self.process.pid

    def kill(self) -> int:
        """End the process; its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        code = self.process.wait()
        return code if code >= 0 else 128 - code


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Kernel:
    """A runner with a library and a board.

    Raises Fell where it does not come up. A context manager.
    """

    def __init__(self, runner: Path, library: Path, board: Board, launch: Launch = Plain) -> None:
        self.board = board
        self.ended: int | None = None
        self.trial = 0
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = launch(
                runner, library, [theirs.fileno(), board.read_only, board.files["outputs"]]
            )
        try:
            self._wait(time.monotonic() + PATIENCE, CALL if sys.platform == "linux" else None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        """End the kernel; the exit code of its process."""
        self.channel.close()
        if self.ended is None:
            self.ended = self.process.kill()
        return self.ended

    def seconds(self) -> float:
        """Processor time of the process so far."""
        try:
            return time.clock_gettime_ns((~self.process.pid << 3) | 2) / 1e9
        except OSError:
            raise self._fallen() from None

    def call(self, trial: int) -> None:
        """One call. Raises Fell; the answer is to be taken from the board at once."""
        self.trial, limit = trial, time.monotonic() + PATIENCE
        try:
            self.channel.sendall(struct.pack("=i", trial))
        except OSError:
            raise self._fallen() from None
        self._wait(limit, self.seconds() + CALL if sys.platform == "linux" else None)

    def _wait(self, limit: float, processor: float | None = None) -> None:
        while True:
            if select.select([self.channel], [], [], 0.25)[0]:
                try:
                    if self.channel.recv(1):
                        return
                except OSError:
                    pass
                raise self._fallen()
            if processor is not None and self.seconds() > processor:
                raise self._late("slow", seconds=CALL)
            if time.monotonic() > limit:
                raise self._late("hangs", seconds=PATIENCE)

    def _late(self, reason: str, **details: Any) -> Fell:
        self.close()
        return Fell(reason, **details)

    def _fallen(self) -> Fell:
        """Why the process is gone."""
        code = self.close()
        state, buffer, place = self.board.status()
        if code == 128 + signal.SIGSYS:
            return Fell("system_call")
        if state == MEMORY and 0 <= buffer < len(BUFFERS):
            return _outside(
                BUFFERS[buffer], place, self.board.places[self.trial][BUFFERS[buffer]][3]
            )
        if state == MEMORY:
            return Fell("memory")
        if state == SIGNAL:
            return (
                Fell("aborted") if buffer == signal.SIGABRT else Fell("signal", name=_name(buffer))
            )
        known = {NOT_LOADED: "not_loaded", NO_PRODUCT: "no_product", EXCEPTION: "exception"}
        if state in known:
            return Fell(known[state])
        return Fell("signal", name=_name(code - 128)) if code > 128 else Fell("ended")


def _outside(name: str, place: int, size: int) -> Fell:
    """What was touched, `place` bytes from the beginning of a buffer of so many bytes."""
    if 0 <= place < size:
        return Fell("wrote_input", buffer=name)
    if place < 0:
        return Fell("before", buffer=name, bytes=-place)
    return Fell("after", buffer=name, bytes=place - size + 1)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)[:20]


def pin(processes: Sequence[Started], turn: int) -> None:
    """Put the processes on one of the processors that this process may use, where the system can do
    that.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        for process in processes:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(process.pid, {allowed[turn % len(allowed)]})
