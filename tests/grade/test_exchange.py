"""What nbgrader wrote beside a submission: the formgrader and the release of feedback go by it."""

import pytest
from grading import LAB, make_root

from course_utils.grade import lab as labs
from course_utils.grade.gradebook import Book
from course_utils.grade.submission import Submission

RESULT = {
    "cells": [
        {
            "grade_id": "double-test",
            "score": 3.0,
            "points": 3.0,
            "message": "",
            "mistake": None,
            "flag": None,
        }
    ]
}


@pytest.fixture
def record(tmp_path):
    """Record a result for bob's submission with such files; the time that the gradebook has, and
    the graded folder.
    """
    lab = labs.load(make_root(tmp_path / "root"), LAB)

    def recorded(**files):
        folder = tmp_path / "class" / "submitted" / "bob" / LAB
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / f"{name}.txt").write_bytes(content)
        with Book(tmp_path / "class", lab) as book:
            book.record("bob", Submission(), RESULT)
            time = book.gradebook.find_submission(LAB, "bob").timestamp
        return time, tmp_path / "class" / "autograded" / "bob" / LAB

    return recorded


def test_time_and_secret_are_kept(record):
    time, graded = record(timestamp=b"2026-11-25 22:56:11.210145 UTC\n", submission_secret=b"abc")
    assert time.isoformat() == "2026-11-25T22:56:11.210145"
    assert (graded / "submission_secret.txt").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "content", [b"", b"yesterday", b"\xff\xfe", b"9" * 400, b"1:" + b"1" * 30, b"1." * 400_000]
)
def test_a_time_that_is_none_does_not_stop_grading(record, content):
    time, graded = record(timestamp=content)
    assert (
        time is None
        and (graded / f"{LAB}.ipynb").is_file()
        and not (graded / "submission_secret.txt").exists()
    )
