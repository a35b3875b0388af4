"""Worked solutions: shown after an attempt or when asked for twice, kept in the progress, and
right.
"""

import itertools
import math

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.learn import check, progress, solution, texts
from course_utils.learn.checks import checking, exercise
from course_utils.learn.checks.solution import code_of
from course_utils.learn.page import catalogue, events

WITH = sorted(
    n
    for t in texts.topics()
    for n, e in (texts.load(t).get("exercises") or {}).items()
    if e.get("solution")
)
EXERCISES = {name: e for topic in exercise.topics() for name, e in exercise.of_topic(topic).items()}
DONE = list(catalogue.lessons())


def test_asked_twice(capsys):
    solution("toy.rows")
    first = capsys.readouterr().out
    assert "not tried" in first and "amax" not in first and not list(events.events())
    solution("toy.rows")
    assert "w / (w.abs().amax(1, keepdim=True) / 7)" in capsys.readouterr().out
    assert events.summary().solutions == {"toy.rows"} and not events.summary().passed


def test_after_an_attempt(capsys):
    check("toy.rows", lambda w: None, show=False)
    solution("toy.rows")
    assert "not tried" in capsys.readouterr().out, "an untouched stub is no attempt"
    check("toy.rows", lambda w: w, show=False)
    solution("toy.rows")
    assert "amax" in capsys.readouterr().out


def test_none_is_written_or_no_exercise(capsys):
    solution("toy.pair")
    assert "no written solution" in capsys.readouterr().out and not list(events.events())
    with pytest.raises(CompressionError, match="does not exist"):
        solution("toy.nothing")


def test_the_progress_page_says_so(capsys):
    name = next(n for n in catalogue.lessons() if catalogue.tasks(catalogue.lessons()[n])[0])
    events.record("solution", catalogue.tasks(catalogue.lesson(name))[0][0])
    progress.show()
    assert "1 solutions read" in capsys.readouterr().out


@pytest.mark.parametrize("name", WITH)
def test_the_code_of_every_solution_passes_its_check(name):
    text = texts.load(texts.topic_of(name))["exercises"][name]["solution"]
    blocks = code_of(text)
    assert len(blocks) == 1, "one block of python"
    assert len(text) - len(blocks[0]) >= 120, "a solution explains itself"
    space = {"torch": torch, "math": math, "itertools": itertools}
    exec(compile(blocks[0], f"solution of {name}", "exec"), space)
    functions = [
        v
        for v in space.values()
        if callable(v)
        and getattr(v, "__code__", None)
        and v.__code__.co_filename.startswith("solution of")
    ]
    assert functions, "it defines a function; the last one is the answer"
    for seed in range(5):
        verdict = checking.judge(name, functions[-1], seed=seed)
        assert verdict, (seed, verdict.message)


def test_every_exercise_of_a_lesson_has_its_solution():
    missing = [n for n, e in EXERCISES.items() if e.lesson in DONE and n not in WITH]
    assert not missing


@pytest.mark.parametrize("lesson", DONE)
def test_exercises_state_what_they_are_and_few_copy_a_formula(lesson):
    mine = [e for e in EXERCISES.values() if e.lesson == lesson]
    unstated = [e.id for e in mine if not (e.kind and e.difficulty and e.minutes)]
    assert not unstated
    formulas = [e.id for e in mine if e.kind == "formula"]
    assert len(formulas) <= len(mine) / 3, formulas


def test_facts_are_shown_and_nonsense_is_refused(capsys):
    stated = exercise.register(
        exercise.Exercise("toy.pair", **{**PARTS, "kind": "debug", "difficulty": 2, "minutes": 5})
    )
    assert stated.facts() == "Find the mistake · difficulty ●●○ · about 5 min"
    check("toy.pair", lambda x, n: 3)
    assert stated.facts() in capsys.readouterr().out
    for bad in ({"kind": "riddle"}, {"difficulty": 4}, {"minutes": -1}):
        with pytest.raises(CompressionError, match="toy.pair"):
            exercise.Exercise("toy.pair", **{**PARTS, **bad})


PARTS = {"inputs": lambda rng: {"x": torch.rand(3, generator=rng), "n": 2}, "spec": lambda x, n: n}
