"""Stops our own code when what a learner made keeps it busy: a limit on the processor time of each
test.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

TICK = 0.25  # seconds of processor time


class TestsTookTooLong(BaseException):
    """The tests themselves, or a function of ours that a learner's code calls, used more time than
    they may.
    """


class Clock:
    """A context manager for the main thread.

    It looks at the time every TICK, and raises again if that is caught.
    """

    def __init__(self) -> None:
        self.until: float | None = None  # time.process_time()
        self.session: Any = None

    def __enter__(self) -> "Clock":
        self.before = signal.signal(signal.SIGVTALRM, self._tick)
        signal.setitimer(signal.ITIMER_VIRTUAL, TICK, TICK)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, self.before)

    @contextlib.contextmanager
    def limit(self, seconds: float, session: Any) -> Iterator[None]:
        """For the code inside: so many seconds of processor time, and while it serves the session's
        worker its deadline.
        """
        self.until, self.session = time.process_time() + seconds, session
        try:
            yield
        finally:
            self.until = self.session = None

    def _tick(self, _signal: int, _frame: object) -> None:
        serving = self.session.serving_until if self.session else None
        late = self.until is not None and time.process_time() > self.until
        if late or (serving is not None and time.monotonic() > serving):
            raise TestsTookTooLong
