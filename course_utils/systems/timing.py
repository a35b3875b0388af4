"""Seconds of calls that take microseconds: the best of many turns, each of many calls."""

import math
import time
from collections.abc import Callable, Mapping

from course_utils.errors import CompressionError
from course_utils.evaluation.scaling import one_thread

SHORTEST = 2e-3  # seconds of one turn: far above what the clock can tell


def best(
    jobs: Mapping[str, Callable[[], object]],
    *,
    turns: int = 7,
    shortest: float = SHORTEST,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """{name: processor seconds of one call} on one thread.

    Each job is called as often in a turn as fills `shortest` seconds; jobs take turns, and the best
    of `turns` counts. What disturbs a run can only make it longer, and what disturbs a while falls
    on all jobs alike.
    Raises CompressionError for no jobs or no turns.
    """
    if not jobs or turns < 1 or not shortest > 0:
        raise CompressionError(
            "jobs, turns, shortest: give at least one job, one turn, and a time above 0."
        )
    found = dict.fromkeys(jobs, math.inf)
    with one_thread():
        calls = {name: _calls(job, shortest, clock) for name, job in jobs.items()}
        for _ in range(turns):
            for name, job in jobs.items():
                found[name] = min(found[name], _turn(job, calls[name], clock) / calls[name])
    return found


def _turn(job: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(calls):
        job()
    return clock() - began


def _calls(job: Callable[[], object], shortest: float, clock: Callable[[], float]) -> int:
    """How many calls fill a turn, after one that does not count."""
    job()
    calls = 1
    while (taken := _turn(job, calls, clock)) < shortest and calls < 1 << 20:
        calls = max(
            2 * calls, min(1 << 20, round(1.2 * calls * shortest / max(taken, shortest / 50)))
        )
    return calls
