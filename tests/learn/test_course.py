"""course.yaml holds the whole syllabus; the map shows it with any number of lessons on disk."""

import re

import pytest

from course_utils.errors import CompressionError
from course_utils.learn import overview, texts
from course_utils.learn.checks import exercise
from course_utils.learn.page import catalogue, events, progress

LESSONS = """
1.1-why-compress 1.2-numbers-in-a-box 1.3-the-trade-off
2.1-quantization 2.2-pruning 2.3-distillation 2.4-choosing 2.5-pitfalls
3.1-uniform-quantization 3.2-gptq 3.3-awq-smoothquant 3.4-pruning-scores
3.5-distillation-losses 3.6-what-it-costs
4.1-information-and-rate-distortion 4.2-lottery-tickets-and-overparameterization
4.3-quantization-noise 4.4-intrinsic-dimension 4.5-knowledge-capacity
5.1-mixed-precision 5.2-number-formats 5.3-rotations-and-codebooks 5.4-differentiable-pruning
5.5-hardware-aware 5.6-llm-distillation 5.7-cross-modal 5.8-holistic 5.9-frontiers
""".split()
LAB_DAYS = {
    "lab-1.1-first-compression": {1, 2},
    "lab-2.1-quantizer": {3},
    "lab-2.2-pruner": {4},
    "lab-3.1-gptq": {3},
    "lab-3.2-wanda": {4},
    "lab-3.3-distillation": {5},
    "lab-3.4-pipeline": {6},
    "lab-4.1-rate-distortion": {7, 8, 9, 10},
    "lab-4.2-lottery-ticket": {7, 8, 9, 10},
    "lab-5.1-int4-kernel": {11},
    "lab-5.2-mixed-precision": {11, 12},
    "lab-5.3-reasoning": {11, 12},
    "lab-5.4-challenge": {12},
}


def test_every_lesson_and_lab_of_the_syllabus_is_there():
    assert list(catalogue.lessons()) == LESSONS
    labs = catalogue.labs()
    assert list(labs) == list(LAB_DAYS)
    assert all(set(labs[name].days) <= days for name, days in LAB_DAYS.items())
    assert catalogue.lesson("3.2-gptq").path == "notebooks/3-formalization/3.2-gptq.ipynb"
    assert labs["lab-3.1-gptq"].path == "labs/lab-3.1-gptq/lab-3.1-gptq.ipynb"


def test_titles_outcomes_and_minutes():
    units = {**catalogue.lessons(), **catalogue.labs()}
    assert all(unit.title and 20 <= unit.minutes <= 90 for unit in units.values())
    assert len({unit.title for unit in units.values()}) == len(units)
    assert all(len(unit.outcomes) >= 3 for unit in catalogue.lessons().values())
    hours = catalogue.structure()["hours"]
    assert hours == {"reading": 10, "practice": 24, "mastery": 48}
    total = sum(unit.minutes for unit in units.values()) / 60
    assert hours["reading"] + hours["practice"] - 4 < total <= hours["mastery"], (
        f"{total:.1f} hours in all"
    )


def test_a_lesson_has_time_for_its_exercises():
    for lesson in catalogue.lessons().values():
        asked = [
            e
            for topic in exercise.topics()
            for e in exercise.of_topic(topic).values()
            if e.lesson == lesson.id
        ]
        assert sum(e.minutes for e in asked) < lesson.minutes, lesson.id


def test_no_unit_needs_one_of_a_later_day():
    units = {**catalogue.lessons(), **catalogue.labs()}
    order = list(units)
    for unit in units.values():
        assert len(set(unit.requires)) == len(unit.requires) and unit.id not in unit.requires
        for name in unit.requires:
            assert units[name].days[0] <= max(unit.days), f"{unit.id} needs {name}"
            assert order.index(name) < order.index(unit.id) or units[name].days[0] < unit.days[0]


def test_every_day_has_work_and_words():
    units = {**catalogue.lessons(), **catalogue.labs()}
    words = texts.load("course")["days"]
    assert list(catalogue.structure()["schedule"]) == list(words) == list(range(1, 13))
    for day in words:
        assert [unit for unit in units.values() if day in unit.days], day


def test_the_assessment_is_the_syllabus():
    parts, words = catalogue.structure()["assessment"], texts.load("course")["assessment"]
    assert [part["weight"] for part in parts.values()] == [30, 40, 20, 10]
    units = {**catalogue.lessons(), **catalogue.labs()}
    for name, part in parts.items():
        assert len(part["items"]) == 3 and list(part["items"]) == list(words[name]["items"])
        assert all(proof in units for proofs in part["items"].values() for proof in proofs)
    graded = {
        proof for part in parts.values() for proofs in part["items"].values() for proof in proofs
    }
    assert graded >= set(catalogue.labs()), "every lab proves an item"


def test_words_and_structure_name_the_same_things():
    data, words = catalogue.structure(), texts.load("course")
    for key in ("lessons", "labs", "levels"):
        assert list(data[key]) == list(words[key])
    before, after = data["prerequisites"], data["enables"]
    assert (
        sorted(before["hard"] + before["soft"]) == sorted(words["prerequisites"])
        and len(before["hard"]) == 3
    )
    assert sorted(after["direct"] + after["indirect"]) == sorted(words["enables"])


@pytest.mark.parametrize("name", LESSONS)
def test_overview_of_each_lesson(name, capsys):
    overview(name)
    shown = capsys.readouterr().out
    unit = catalogue.lesson(name)
    assert f"Day {unit.days[0]}" in shown and f"{unit.minutes} minutes" in shown
    assert shown.count("  - ") == len(unit.outcomes)


def test_overview_of_an_unknown_lesson():
    with pytest.raises(CompressionError, match="9.9"):
        overview("9.9-nothing")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """An empty course in which notebooks can be put."""
    root = tmp_path / "copy"
    (root / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(root / "notebooks")

    def put(unit, source):
        path = root / unit.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            '{"cells": [{"source": [' + ", ".join(f'"{line}"' for line in source) + "]}]}",
            encoding="utf-8",
        )

    return put


def shown(capsys):
    progress.show()
    return capsys.readouterr().out


def test_a_map_without_lessons(course, capsys):
    page = shown(capsys)
    assert "No lesson is on this disk yet." in page and ".ipynb" not in page
    assert page.count("(in preparation)") >= 2 * (len(LESSONS) + len(LAB_DAYS))


def test_counts_links_and_what_to_open_next(course, capsys):
    lessons, labs = catalogue.lessons(), catalogue.labs()
    course(
        lessons["1.1-why-compress"],
        [r"check(\"toy.rows\", f)", r"ask(\"toy.choice\")", r"q = ask('toy.ordering')"],
    )
    course(lessons["1.2-numbers-in-a-box"], [r"check(\"toy.pair\", f); check(\"toy.pair\", g)"])
    course(labs["lab-1.1-first-compression"], [r"check(\"toy.rows\", f)"])
    page = shown(capsys)
    assert re.search(
        (
            r"1\.1 +Why compress \[1-intuition/1\.1-why-compress\.ipynb\] +0/1 "
            r"exercises · 0/2 questions"
        ),
        page,
    )
    assert re.search(r"1\.2 .*0/1 exercises$", page, re.MULTILINE), (
        "an exercise checked twice counts once"
    )
    assert "[../labs/lab-1.1-first-compression/lab-1.1-first-compression.ipynb]" in page
    following = re.compile(r"Open next\n  (.*?) \[")
    assert following.search(page)[1] == "Why compress"
    for kind, name in [
        ("check", "toy.rows"),
        ("question", "toy.choice"),
        ("question", "toy.ordering"),
    ]:
        events.record(kind, name, passed=True)
    page = shown(capsys)
    assert re.search(r"1\.1 .*1/1 exercises · 2/2 questions · done", page)
    assert following.search(page)[1] == "Numbers in a box"
    events.record("check", "toy.pair", passed=True)
    assert "You have done every exercise and question that is here." in shown(capsys)


def test_a_lesson_without_tasks_can_be_opened(course, capsys):
    course(catalogue.lesson("2.4-choosing"), ["text"])
    assert re.search(r"Open next\n  Choosing a technique \[", shown(capsys))


def test_a_checked_item_of_the_assessment(course, capsys):
    units = {**catalogue.lessons(), **catalogue.labs()}
    for name in catalogue.structure()["assessment"]["concepts"]["items"]["trade_off"]:
        course(units[name], [rf"ask(\"toy.{name[-3:]}\")"])
    assert "☐ Master the trade-off" in shown(capsys)
    for name in catalogue.structure()["assessment"]["concepts"]["items"]["trade_off"]:
        events.record("question", f"toy.{name[-3:]}", passed=True)
    assert "☑ Master the trade-off" in shown(capsys)


def test_a_damaged_notebook_does_not_stop_the_map(course, capsys):
    course(catalogue.lesson("1.1-why-compress"), ["x"])
    (catalogue.root() / catalogue.lesson("1.1-why-compress").path).write_bytes(b"\xff\xfe\x00{")
    assert "Why compress [" in shown(capsys)
