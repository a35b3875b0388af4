"""What the learner has done, as one line of JSON per event in COURSE_HOME/progress.jsonl.

Events are only ever appended, each with a single write, so a crash, a damaged line or two kernels
at once lose nothing.
Without COURSE_HOME the folder is .course in the checkout, or ~/.course. Where nothing can be
written, progress lasts until Python ends, and this is said once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import texts
from ..show import message
from . import catalogue

KINDS = ("check", "question", "hint", "solution", "prediction", "measurement")
_in_memory: list[dict[str, Any]] = []
_told = False


def home() -> Path:
    """The folder of the learner's progress."""
    if chosen := os.environ.get("COURSE_HOME"):
        return Path(chosen).expanduser()
    root = catalogue.checkout()
    return root / ".course" if root else Path.home() / ".course"


def path() -> Path:
    """The file that keeps a learner's progress."""
    return home() / "progress.jsonl"


def record(kind: str, name: str, **details: Any) -> None:
    """Append an event; keep it in memory when the disk refuses."""
    global _told
    event = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "kind": kind, "id": name, **details}
    try:
        home().mkdir(parents=True, exist_ok=True)
        _append(path(), event)
    except (OSError, RuntimeError):  # RuntimeError: no home folder is known
        _in_memory.append(event)
        if not _told:
            _told = True
            message("note", texts.ui("progress_title"), texts.ui("progress_in_memory"))


def _append(file: Path, event: dict[str, Any]) -> None:
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(
        file, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644
    )
    try:
        size = os.fstat(descriptor).st_size
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            # the last writer was stopped in the middle of its line
            if os.read(descriptor, 1) != b"\n":
                line = b"\n" + line
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def events() -> Iterator[dict[str, Any]]:
    """Every readable event, oldest first; damaged lines are passed over and stay in the file."""
    try:
        lines = path().read_bytes().splitlines()
    except (OSError, RuntimeError):
        lines = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(event, dict)
            and event.get("kind") in KINDS
            and isinstance(event.get("id"), str)
        ):
            yield event
    yield from list(_in_memory)


@dataclass
class Summary:
    """Ids of what has been done at least once, and how often hints were taken."""

    passed: set[str] = field(default_factory=set)  # exercises
    tried: set[str] = field(default_factory=set)  # exercises and questions
    right: set[str] = field(default_factory=set)  # questions
    hints: dict[str, int] = field(default_factory=dict)  # highest rung of each exercise
    solutions: set[str] = field(default_factory=set)  # exercises whose solution was read
    # the guess that counts, of each prediction
    guesses: dict[str, Guess] = field(default_factory=dict)


@dataclass
class Guess:
    """What was guessed, and once it was measured: whether it was right, and ln(guess / measured) of
    a number.
    """

    value: Any
    right: bool | None = None
    log_ratio: float | None = None


def summary() -> Summary:
    """The learner's progress, from all events."""
    result = Summary()
    for event in events():
        name = event["id"]
        if event["kind"] == "hint":
            rung = event.get("rung")
            result.hints[name] = max(
                result.hints.get(name, 0), rung if isinstance(rung, int) else 1
            )
        elif event["kind"] == "solution":
            result.solutions.add(name)
        elif event["kind"] in ("prediction", "measurement"):
            _guessed(result.guesses, event)
        else:
            result.tried.add(name)
            if event.get("passed") is True:
                (result.passed if event["kind"] == "check" else result.right).add(name)
    return result


def _guessed(guesses: dict[str, Guess], event: dict[str, Any]) -> None:
    """The last guess before the first measurement counts: later ones know the answer."""
    name = event["id"]
    if event["kind"] == "prediction":
        if name not in guesses or guesses[name].right is None:
            guesses[name] = Guess(event.get("guess"))
    elif name in guesses and guesses[name].right is None and isinstance(event.get("right"), bool):
        ratio = event.get("log_ratio")
        guesses[name].right = event["right"]
        guesses[name].log_ratio = float(ratio) if isinstance(ratio, (int, float)) else None
