"""The planted answers handed in to the labs as shipped: three right ones for every graded exercise get full points, wrong
ones none; the same seed gives the same result, and other hidden inputs the same verdict."""

import importlib.util
import re
from pathlib import Path

import pytest

from course_utils.grade import judge, lab, sandbox
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote
from course_utils.learn.page import catalogue

PLANTED = Path(__file__).resolve().parents[1] / "learn" / "planted"
LABS = sorted(path.name for path in (catalogue.ROOT / "solutions").iterdir() if path.is_dir())
CHECKED = re.compile(r'check\("([\w.]+)", (\w+)')
BORROWED = re.compile(r"^from course_utils\.learn\.exercises\.[\w.]+ import (\w+)$", re.MULTILINE)
LIMITS = sandbox.Limits(cell=120, call=120, total=1200)
SEEDS = (7, 8)


@pytest.fixture(scope="module", params=LABS)
def opened(request):
    return lab.load(catalogue.ROOT, request.param)


@pytest.fixture(scope="module")
def grade(opened):
    with Zygote(opened.prelude, LIMITS, data=opened.data) as zygote:
        yield lambda answers, seed: judge.grade(
            opened, Submission(answers=answers), zygote.address, LIMITS, seed=seed, kind="namespaces"
        )


def checked(opened):
    """(test, exercise, function) of every test that calls `check`."""
    return [(test, *found.groups()) for test in opened.tests if (found := CHECKED.search(test.source))]


def path_of(name):
    return next(PLANTED.glob(f"*/{name.partition('.')[0]}.py"))


def planted(name):
    return path_of(name).read_text(encoding="utf-8")


def table(name, kind):
    path = path_of(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kind)[name]


def answers(opened, choice):
    """An answer cell for each checked test: the planted file, in a namespace of its own, and one function out of it.

    What the file borrows from the course's exercises is the learner's own function, from an earlier cell.
    """
    cells = {}
    for test, name, function in checked(opened):
        source = BORROWED.sub("", planted(name))
        kind, place = choice
        taken = f"space[{kind!r}][{name!r}][{place}]" + ("[0]" if kind == "WRONG" else "")
        cells[test.of[-1]] = f"space = dict(globals())\nexec({source!r}, space)\n{function} = {taken}\n"
    return cells


def of_tests(opened, result):
    found = {cell["grade_id"]: cell for cell in result["cells"]}
    return {name: found[test.grade_id] for test, name, _ in checked(opened)}


def test_every_lab_has_exercises_that_are_checked(opened):
    assert len(checked(opened)) >= 4
    assert all(len(table(name, "RIGHT")) >= 3 for _, name, _ in checked(opened))


@pytest.mark.parametrize("place", range(3))
def test_right_answers_get_full_points(opened, grade, place):
    for seed in SEEDS if place == 0 else SEEDS[:1]:
        for name, cell in of_tests(opened, grade(answers(opened, ("RIGHT", place)), seed)).items():
            assert cell["score"] == cell["points"] > 0, (name, seed, cell["message"])


@pytest.mark.parametrize("place", [0, -1])
def test_wrong_answers_get_none_on_every_seed_and_the_same_seed_gives_the_same_result(opened, grade, place):
    results = [of_tests(opened, grade(answers(opened, ("WRONG", place)), seed)) for seed in (SEEDS[0], *SEEDS)]
    assert results[0] == results[1], "one seed, one result"
    for found in results[1:]:
        for name, cell in found.items():
            assert cell["score"] == 0, (name, cell["message"])
            if not BORROWED.search(planted(name)):  # else it calls another wrong answer
                assert cell["mistake"] == table(name, "WRONG")[place][1], (name, cell["message"])
