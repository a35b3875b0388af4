"""Lab 5.3 against rows that want to be paid for something else than what a student learns from
them, and its last exercise.
"""

import functools

import lab_attacks
import pytest
import torch
from attack_table import KIND
from up_to_n import load

from course_utils.distillation import reasoning
from course_utils.errors import CompressionError
from course_utils.grade import judge, lab
from course_utils.grade.sandbox import Limits
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote
from course_utils.learn import reasoned
from course_utils.learn.page import catalogue

LIMITS = Limits(cell=20, call=6, total=90)


@functools.cache
def opened():
    return load("lab-5.3-reasoning")


@pytest.fixture(scope="module")
def grade():
    with Zygote(opened().prelude, LIMITS, data=opened().data) as zygote:
        yield lambda answers: judge.grade(
            opened(), Submission(answers=answers), zygote.address, LIMITS, seed=3, kind=KIND
        )


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A small budget: these rows would teach nothing with a large one either."""
    monkeypatch.setattr(reasoned, "TOKENS", 4000)


@pytest.mark.parametrize("name", lab_attacks.ROWS)
def test_rows_that_teach_nothing_are_not_paid(grade, name):
    source, said = lab_attacks.ROWS[name]
    cells = {c["grade_id"]: c for c in grade({"my-data": lab_attacks.SUMS + source})["cells"]}
    assert cells["my-data-test"]["score"] == 0, cells["my-data-test"]
    message = cells["my-data-test"]["message"]
    assert said in message and message and "found" not in message


def worth(my_data, accuracy, monkeypatch):
    """Points of the last test where the students would reach this accuracy."""
    monkeypatch.setattr(reasoned.Task, "accuracy", lambda *_, **__: torch.tensor([accuracy]))
    (test,) = [t for t in opened().tests if t.grade_id == "my-data-test"]
    return lab.run_test(
        test.source, {**opened().namespace, **opened().reference, "my_data": my_data}, test.points
    )


def test_points_rise_with_what_the_student_has_learned(monkeypatch):
    mine = opened().reference["my_data"]
    assert [worth(mine, a, monkeypatch) for a in (0.1, 0.49, 0.51, 0.89, 0.91, 0.96, 0.98)] == [
        0,
        0,
        3,
        3,
        8,
        8,
        14,
    ]


def test_a_teacher_of_a_seed_makes_the_mistakes_that_it_should():
    task = reasoned.Task(3)
    assert repr(reasoned.Task(3).samples) == repr(task.samples) != repr(reasoned.Task(4).samples)
    ended = [text for some in task.samples for text in some if text[-1] == reasoning.END]
    total = len(task.prompts) * reasoned.SAMPLES
    assert abs(len(ended) / total - (1 - reasoned.CUT)) < 5 * (reasoned.CUT / total) ** 0.5
    taken: dict = {}
    for digits, texts in zip(task.prompts, task.samples, strict=True):
        assert all(len(text) <= len(digits) for text in texts if text[-1] != reasoning.END)
        for text in texts:
            states = [0, *text[: len(digits)]]
            for before, digit, after in zip(states, digits, states[1:], strict=False):
                taken.setdefault((before, digit), []).append(after)
    usual = {pair: max(set(found), key=found.count) for pair, found in taken.items()}
    rule = task.world.previous, task.world.digit, task.world.shift
    false = [
        (s, d) for (s, d), got in usual.items() if got != (rule[0] * s + rule[1] * d + rule[2]) % 10
    ]
    assert len(taken) == 100 and len(false) == reasoned.HARD, (
        "at six pairs the usual state is a wrong one"
    )
    for pair in false:
        share = taken[pair].count(usual[pair]) / len(taken[pair])
        assert abs(share - reasoned.MISLED) < 5 * (0.25 / len(taken[pair])) ** 0.5
    assert task.answers == [task.world.chain(digits)[-1] for digits in task.prompts]


@pytest.mark.parametrize("good", [True, False])
def test_accuracy_is_the_share_of_new_prompts_that_a_trained_student_answers(monkeypatch, good):
    task = reasoned.Task(2, n=40)
    rows = reasoning.build(task.prompts, world=task.world)
    monkeypatch.setattr(
        reasoning,
        "write",
        lambda model, asked: reasoning.build(
            asked, world=task.world if good else reasoning.World(1, 1, 9)
        ).ids[:, 11:],
    )
    reached = task.accuracy(rows, tokens=2000, items=200)
    assert reached.shape == (200,) and (reached.mean() == 1.0 if good else reached.mean() < 0.3)


def test_padding_inside_a_row_is_refused():
    rows = reasoning.build(reasoning.draw(40, seed=1))
    ids, labels = rows.ids.clone(), rows.labels.clone()
    ids[3, 4], labels[3, 4] = reasoning.PAD, -100
    with pytest.raises(CompressionError, match="behind the row"):
        reasoned.checked(ids, labels)
    assert reasoned.checked(rows.ids.int(), rows.labels.int())[0].equal(rows.ids)


def test_the_attacks_are_in_the_docs():
    page = (catalogue.ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert lab_attacks.section() in page
