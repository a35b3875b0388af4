"""The planted answers handed in to the labs as shipped: three right ones for every graded exercise
get full points, wrong ones none; the same seed gives the same result, and other hidden inputs the
same verdict.
"""

import contextlib
import functools
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from up_to_n import LABS, load

from course_utils.grade import judge, sandbox
from course_utils.grade.keeper import Keeper
from course_utils.grade.session import Session
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote
from course_utils.learn import texts
from course_utils.learn.checks import exercise

PLANTED = Path(__file__).resolve().parents[1] / "learn" / "planted"
CHECKED = re.compile(r'check\("([\w.]+)", (\w+)')
BORROWED = re.compile(r"^from course_utils\.learn\.exercises\.[\w.]+ import (\w+)$", re.MULTILINE)
LIMITS = sandbox.Limits(cell=120, call=120, total=1200)
SEEDS = (7, 8)


@pytest.fixture(scope="module", params=LABS)
def opened(request):
    return load(request.param)


@pytest.fixture(scope="module")
def zygote(opened):
    with Zygote(opened.prelude, LIMITS, data=opened.data) as started:
        yield started


@pytest.fixture(scope="module")
def grade(opened, zygote):
    return lambda answers, seed: judge.grade(
        opened, Submission(answers=answers), zygote.address, LIMITS, seed=seed, kind="namespaces"
    )


LOOK = """
import gc, os, sys, types
wanted = frozenset({lines!r})  # each of them backwards, so that it is not found here
met, loaded = set(), set()
def look(text):
    met.update(line for line in text.split("\\n") if line.strip()[::-1] in wanted)
for top in ("/", {package!r}):
    for folder, inner, files in os.walk(top):
        inner[:] = [name for name in inner if "course_utils" in folder
                    or name not in ("usr", "lib", "lib64", "dev", "site-packages")]
        for name in files:
            path = os.path.join(folder, name)
            if {hidden!r} in path and path != {hidden!r} + "/__init__.py":
                loaded.add(path)
            if path.startswith({package!r}) or "python3" not in path:
                with open(path, errors="replace") as file:
                    look(file.read())
gc.unfreeze()  # what was there before the fork, too
for held in gc.get_objects():
    if type(held) is types.FunctionType and {hidden!r} in held.__code__.co_filename:
        loaded.add(held.__code__.co_filename)
    elif type(held) in (dict, list):
        for text in list(held.values()) if type(held) is dict else held:
            if type(text) is str and len(text) >= {shortest}:
                look(text)
told = sorted(met), sorted(loaded - {{{hidden!r} + "/__init__.py"}})
"""
SHORTEST = 16  # characters of a line that gives something away


def lines_of(text):
    return {line.strip() for line in text.split("\n") if len(line.strip()) >= SHORTEST}


@functools.cache
def in_sight():
    """Lines of the package that a learner may read."""
    hidden = (sandbox.HIDDEN, *(path for path in sandbox.TEXTS.glob("*/*") if path.is_dir()))
    files = [
        path
        for path in sandbox.PACKAGE.rglob("*")
        if path.suffix in (".py", ".yaml", ".md", ".json")
    ]
    return set().union(
        *(
            lines_of(p.read_text(encoding="utf-8"))
            for p in files
            if not set(hidden) & set(p.parents)
        )
    )


def secrets(opened):
    """Lines of the lab's answers, of its hidden tests, and of the exercises' specifications and
    worked solutions.
    """
    released = {cell.grade_id: cell.released for cell in (*opened.answers, *opened.tests)}
    found = {
        line
        for cell in (*opened.answers, *opened.tests)
        for line in lines_of(cell.source) - lines_of(released[cell.grade_id])
    }
    for _, name, _ in checked(opened):
        found |= lines_of(inspect.getsource(inspect.getmodule(exercise.find(name).spec)))
        found |= lines_of(texts.load(texts.topic_of(name))["exercises"][name].get("solution", ""))
    # an include of a kernel in C++, the end of a signature
    found = {line for line in found if not line.startswith(("#include <", ") ->"))}
    return (
        found
        - in_sight()
        - lines_of(opened.released)
        - lines_of("\n".join(source for _, source in opened.prelude))
    )


def checked(opened):
    """(test, exercise, function) of every test that calls `check`."""
    return [
        (test, *found.groups()) for test in opened.tests if (found := CHECKED.search(test.source))
    ]


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
    """An answer cell for each checked test: the planted file, in a namespace of its own, and one
    function out of it.

    What the file borrows from the course's exercises is the learner's own function, from an earlier
    cell.
    """
    cells = {}
    for test, name, function in checked(opened):
        source = BORROWED.sub("", planted(name))
        kind, place = choice
        taken = f"space[{kind!r}][{name!r}][{place}]" + ("[0]" if kind == "WRONG" else "")
        cells[test.of[-1]] = (
            f"space = dict(globals())\nexec({source!r}, space)\n{function} = {taken}\n"
        )
    return cells


def of_tests(opened, result):
    found = {cell["grade_id"]: cell for cell in result["cells"]}
    return {name: found[test.grade_id] for test, name, _ in checked(opened)}


def test_no_solution_is_in_the_sandbox(opened, zygote):
    """Neither in a file nor in the memory that the worker has from the process that started it."""
    lines, decoy = secrets(opened), "a line that is to be found"
    assert len(lines) > 40
    look = LOOK.format(
        lines=sorted(line[::-1] for line in (*lines, decoy)),
        package=str(sandbox.PACKAGE),
        hidden=str(sandbox.HIDDEN),
        shortest=SHORTEST,
    )
    with contextlib.closing(Session(Keeper(zygote.address, 300), LIMITS)) as session:
        assert session.run("look", f"kept = [{f'x{chr(10)}{decoy}'!r}]\n{look}", ["told"]) is None
        assert session.get("look", "told") == ([decoy], [])


def test_every_lab_has_exercises_that_are_checked(opened):
    judged = [
        test
        for test in opened.tests
        if "native.judged(" in test.source or "smallest.judged(" in test.source
    ]
    assert len(checked(opened)) + len(judged) >= 4
    assert all(len(table(name, "RIGHT")) >= 3 for _, name, _ in checked(opened))


@pytest.mark.parametrize("place", range(3))
def test_right_answers_get_full_points(opened, grade, place):
    for seed in SEEDS if place == 0 else SEEDS[:1]:
        for name, cell in of_tests(opened, grade(answers(opened, ("RIGHT", place)), seed)).items():
            assert cell["score"] == cell["points"] > 0, (name, seed, cell["message"])


@pytest.mark.parametrize("place", [0, -1])
def test_wrong_answers_get_none_on_every_seed_and_the_same_seed_gives_the_same_result(
    opened, grade, place
):
    seeds = (SEEDS[0], *SEEDS) if place == 0 else SEEDS
    results = [of_tests(opened, grade(answers(opened, ("WRONG", place)), seed)) for seed in seeds]
    assert results[0] == results[-2], "one seed, one result"
    for found in results[-2:]:
        for name, cell in found.items():
            assert cell["score"] == 0, (name, cell["message"])
            if not BORROWED.search(planted(name)):  # else it calls another wrong answer
                assert cell["mistake"] == table(name, "WRONG")[place][1], (name, cell["message"])
