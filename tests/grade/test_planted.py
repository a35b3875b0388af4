"""Planted answers, called through a worker: right ones pass, wrong ones get the same name as
without it.

All of a lab's exercises, which are graded so; a few of each exercise of a lesson, which only
learners check.
All of them print, to stdout and to stderr, before they answer.
"""

import importlib
import re
from pathlib import Path

import pytest
from torch import nn

from course_utils.grade import judge, sandbox
from course_utils.grade.keeper import Keeper
from course_utils.grade.session import Session
from course_utils.grade.warm import Zygote
from course_utils.learn.checks import exercise, trials

PLANTED = Path(__file__).resolve().parents[1] / "learn" / "planted"
TOPICS = sorted(path.stem for path in PLANTED.glob("*/*.py"))
EXERCISES = {name: e for topic in TOPICS for name, e in sorted(exercise.of_topic(topic).items())}
# no wire
LOCAL = {
    n
    for n, e in EXERCISES.items()
    if any(isinstance(v, nn.Module) for v in trials.draw(e, 0).values())
}
NAMES = sorted(EXERCISES.keys() - LOCAL)
BORROWED = re.compile(r"^from (course_utils\.learn\.exercises\.[\w.]+) import (\w+)$", re.MULTILINE)
LOUD = """

def loud(function):
    def talks(*arguments, **named):
        import sys
        print("working on", list(named))
        print("Warning: not for the grader", file=sys.stderr)
        return function(*arguments, **named)
    return talks


RIGHT = {name: [loud(function) for function in answers] for name, answers in RIGHT.items()}
WRONG = {name: [(loud(function), mistake) for function, mistake in answers]
         for name, answers in WRONG.items()}
"""
LIMITS = sandbox.Limits(cell=300, call=120, total=1200)


@pytest.fixture(scope="module")
def zygote():
    with Zygote([("imports", "import torch")], LIMITS) as started:
        yield started


@pytest.fixture(scope="module")
def planted(zygote):
    """RIGHT and WRONG of a topic, with functions that run in a worker."""
    sessions = {}

    def of(topic):
        if topic not in sessions:
            sessions[topic] = session = Session(Keeper(zygote.address, 1200), LIMITS)
            source = next(PLANTED.glob(f"*/{topic}.py")).read_text(encoding="utf-8")
            # the right answers are not in the sandbox
            for module, name in BORROWED.findall(source):
                session.substitute(name, getattr(importlib.import_module(module), name))
            assert session.run(topic, BORROWED.sub("", source) + LOUD, ["RIGHT", "WRONG"]) is None
            sessions[topic].answers = session.get(topic, "RIGHT"), session.get(topic, "WRONG")
        return sessions[topic].answers

    yield of
    for session in sessions.values():
        session.close()


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_are_the_same_through_a_worker(name, planted):
    right, wrong = planted(name.partition(".")[0])
    assert len(right[name]) >= 3
    some = slice(None if name.startswith("lab_") else 2)
    for i, function in enumerate(right[name][some]):
        verdict = judge._check(name, function, seed=3)
        assert verdict, (i, verdict.message)
    for i, (function, mistake) in enumerate(wrong[name][some]):
        verdict = judge._check(name, function, seed=3)
        assert verdict.attempted and not verdict.passed and verdict.mistake == mistake, (
            i,
            verdict.message,
        )
