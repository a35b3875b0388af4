"""The report's weights, on a class that was computed by hand: concepts 30, implementation 40,
theory 20, innovation 10.
"""

import csv

import pytest

from course_utils.grade import classroom
from course_utils.grade.classroom import Classroom

SCORES = {  # Ada hands in everything; Bob neither 2.1 nor 2.2; Cyd nothing
    "lab-1.1-first-compression": {"ada": 0.8, "bob": 0.5},
    "lab-2.1-quantizer": {"ada": 1.0},
    "lab-3.1-gptq": {"ada": 0.5, "bob": 1.0},
    "lab-2.2-pruner": {"ada": 0.6},
    "lab-3.3-distillation": {"ada": 0.9, "bob": 0.3},
}
THEORY = {"lab-4.1-rate-distortion": {"ada": 1.0, "cyd": 0.2}}
BY_HAND = {
    "ada": {
        "concepts": 0.8,
        "implementation": (0.75 + 0.6 + 0.9) / 3,
        "total": (30 * 0.8 + 40 * 0.75) / 70,
    },
    "bob": {"concepts": 0.5, "implementation": (0.5 + 0.0 + 0.3) / 3, "total": (15 + 32 / 3) / 70},
    "cyd": {"concepts": 0.0, "implementation": 0.0, "total": 0.0},
}
WITH_THEORY = {"ada": (24 + 30 + 20) / 90, "bob": (15 + 32 / 3) / 90, "cyd": 4 / 90}


@pytest.mark.parametrize("learner", BY_HAND)
def test_parts_and_total_are_those_computed_by_hand(learner):
    found = classroom.parts(Classroom(scores=SCORES), learner)
    assert found["theory"] is None and found["innovation"] is None, "no lab of them was graded"
    assert {name: found[name] for name in BY_HAND[learner]} == pytest.approx(BY_HAND[learner])
    found = classroom.parts(Classroom(scores=SCORES | THEORY), learner)
    assert found["total"] == pytest.approx(WITH_THEORY[learner])
    assert classroom.parts(Classroom(), learner)["total"] is None


def test_the_file_holds_these_numbers_in_per_cent(tmp_path, monkeypatch):
    monkeypatch.setattr(
        classroom, "load", lambda course: Classroom(scores=SCORES, learners=sorted(BY_HAND))
    )
    classroom.write_report(tmp_path)
    with (tmp_path / "grades" / "class.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert {name: float(row["total"]) for name, row in rows.items()} == {
        "ada": 77.1,
        "bob": 36.7,
        "cyd": 0.0,
    }
    (title,) = (column for column in rows["ada"] if "(40 %)" in column)
    assert [rows[name][title] for name in ("ada", "bob")] == ["75.0", "26.7"]
    assert rows["bob"]["lab-2.1-quantizer"] == ""
