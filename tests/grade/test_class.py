"""A class as it may be: strange names, unreadable folders, broken files; nobody's folder costs
another one anything.
"""

import contextlib
import csv
import errno
import json
import os
import sqlite3
import subprocess
import sys
import time

import grading
import pytest

from course_utils.errors import CompressionError
from course_utils.grade import (
    classroom,
    gradebook,
    judging,
    lab,
    names,
    notebook_file,
    report,
    run,
    scratch,
    submission,
)
from course_utils.grade.__main__ import main

pytestmark = pytest.mark.usefixtures("one_zygote")
NAMES = [
    "ann", "o'neil, jr.", "=1+1", "<img src=x onerror=1>", "\u202eevil", "new\nline: 12 of 12",
    "\x1b[31mred", "學生", "x" * 250, "ü" * 120, os.fsdecode(b"caf\xe9"), "-rf", "a b", "CON",
    "..x", "%s%n{0}", "`id`",
]  # fmt: skip
STRANGE = os.fsdecode(b"caf\xe9\n12 of 12\x1b[31m.ipynb")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


@pytest.fixture(scope="module")
def graded(tmp_path_factory, opened):
    """The class, graded by the command with a terminal that takes ASCII only."""
    course = tmp_path_factory.mktemp("class")
    for name in NAMES:
        notebook = grading.submit(opened, {"written": "mine"} if name == "ann" else {})
        folder = grading.hand_in(
            course,
            opened,
            name,
            notebook,
            name=STRANGE if name == "CON" else f"{grading.LAB}.ipynb",
        )
        (folder / "timestamp.txt").write_text("1:" + "1" * 30 if name == "a b" else "1." * 400_000)
    (course / "submitted" / "linked").symlink_to(course / "submitted" / "ann")
    (course / "submitted" / "case" / "LAB-A").mkdir(parents=True)
    (course / "submitted" / "beside").mkdir()
    (course / "submitted" / "beside" / "lab-a.ipynb").write_text("{}")
    (course / "submitted" / "top.ipynb").write_text("{}")
    (shut := course / "submitted" / "shut" / grading.LAB).mkdir(parents=True)
    shut.chmod(0)
    command = [
        sys.executable,
        "-m",
        "course_utils.grade",
        "run",
        grading.LAB,
        "--root",
        str(opened.folder.parents[1]),
        "--course",
        str(course),
    ]
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [*command, "--jobs", "2"],
        capture_output=True,
        text=True,
        env=env,
        timeout=500,
        errors="replace",
    )
    return course, done


def test_everybody_is_graded(graded):
    course, done = graded
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    with (course / "grades" / f"{grading.LAB}.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NAMES) + 1 and sum(row["score"] == "12.0" for row in rows) == len(NAMES)
    assert not any(row["student_id"].startswith(("=", "-", "+", "@")) for row in rows)
    assert "caf?" in {row["student_id"] for row in rows}
    assert (
        "is a link" in done.stdout
        and "is not called lab-a" in done.stdout
        and done.stdout.count("lies") == 2
    )
    assert (
        "\x1b" not in done.stdout
        and "\n12 of 12" not in done.stdout
        and "new line: 12 of 12: 12 of 14" in done.stdout
    )


def test_a_folder_that_may_not_be_read_is_a_note(tmp_path, opened, monkeypatch):
    """The class above is graded by root in CI, who may read everything."""

    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(submission.os, "scandir", refused)
        found = run._read(tmp_path, opened)
    assert found.answers == {} and found.notes == ["could not be read (PermissionError)"]


def test_a_run_with_nothing_new_says_what_it_does(graded, opened, monkeypatch, capsys):
    course, _ = graded
    monkeypatch.setattr(judging, "Zygote", None)  # nobody is graded
    found = run.run(opened.folder.parents[1], course, opened, kind="namespaces")
    said = capsys.readouterr().err
    assert len(found) == len(NAMES) + 1 and "reading" in said and "as before" in said


def test_the_report_of_such_a_class(graded):
    course, _ = graded
    table, page, folder = classroom.write_report(course)
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "onerror=1&gt;" in text
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = {row["student_id"].removeprefix("'"): row for row in csv.DictReader(file)}
    assert (
        rows["ann"]["not counted yet"] == "lab-a: 2 points by hand"
        and rows["學生"]["not counted yet"] == ""
    )
    assert len(list(folder.iterdir())) == len(rows) >= len(NAMES)


def test_names_of_files():
    assert names.stem("ann") == "ann" and names.stem("a/b") == "a_b"
    long = [names.stem("x" * n) for n in (250, 251)]
    assert len(set(long)) == 2 and all(len(os.fsencode(name)) <= 200 for name in long)
    assert not names.is_text(os.fsdecode(b"\xff")) and names.is_text("ü")


def test_a_large_class_is_summed_up(opened):
    cell = {
        "grade_id": "x",
        "points": 5,
        "score": 0.0,
        "manual": False,
        "flag": "did not run",
        "mistake": None,
        "message": "",
    }
    broken = {
        "score": 0.0,
        "points": 14,
        "notes": ["hessian: this cell is missing", "the notebook is damaged (x)"],
        "cells": [cell],
    }
    results = {f"learner-{n}": broken for n in range(2000)} | {
        "lost": {"fault": "x", "notes": [], "cells": [], "score": None, "points": 14}
    }
    said = report.summary(results)
    assert (
        len(said) < 10
        and said[0] == "2001 learners, 2000 graded: 0 to 0 points, the middle one has 0"
    )
    assert any(
        line.startswith("2000 × a cell is missing: ask for the notebook again")
        and "and 1995 more" in line
        for line in said
    )
    assert any(line.startswith("1 × not graded") and "lost" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "nan"], "--seconds nan: give a number"),
        (["--seconds", "-1"], "--seconds -1.0"),
        (["--jobs", "0"], "--jobs 0"),
        (["--course", "{course}/file"], "submitted: is missing"),
    ],
)
def test_mistakes_at_the_command_are_sentences(tmp_path, opened, capsys, arguments, said):
    (tmp_path / "file").write_text("")
    words = [word.format(course=tmp_path) for word in arguments]
    assert main(["run", grading.LAB, "--root", str(opened.folder.parents[1]), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_lab_is_a_name_and_nobody_is_said_to_be_nobody(tmp_path, opened, capsys):
    root = str(opened.folder.parents[1])
    (tmp_path / "submitted").mkdir()
    assert main(["run", f"./{grading.LAB}", "--root", root, "--course", str(tmp_path)]) == 2
    assert main(["run", grading.LAB, "--root", root, "--course", str(tmp_path)]) == 2
    assert (
        "give the lab's name alone" in (err := capsys.readouterr().err)
        and "nobody has handed in lab-a" in err
    )


def test_a_result_that_is_none_is_named(tmp_path, opened):
    with gradebook.Book(tmp_path, opened):
        pass
    (tmp_path / "grades" / "lab-a").mkdir(parents=True)
    (tmp_path / "grades" / "lab-a" / "ann.json").write_text("{")
    with pytest.raises(CompressionError, match=r"ann.json: is no result of the grader"):
        classroom.load(tmp_path)


def test_a_gradebook_that_is_none_is_named(tmp_path, opened):
    (tmp_path / "gradebook.db").write_text("no database " * 100)
    with pytest.raises(CompressionError, match=r"gradebook.db: file is not a database; "):
        gradebook.Book(tmp_path, opened)


def test_a_gradebook_that_is_locked_is_named(tmp_path, opened):
    with gradebook.Book(tmp_path, opened):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "gradebook.db")) as other:
        other.execute("begin exclusive")
        with pytest.raises(
            CompressionError, match=r"gradebook.db: database is locked; close the formgrader"
        ):
            gradebook.Book(tmp_path, opened)


def test_a_disk_that_is_full_is_said(tmp_path, opened, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    grading.hand_in(tmp_path, opened, "ann", grading.submit(opened, {}))
    monkeypatch.setattr(run, "write", full)
    assert (
        main(
            ["run", grading.LAB, "--root", str(opened.folder.parents[1]), "--course", str(tmp_path)]
        )
        == 2
    )
    assert "seed: No space left on device. What is done is kept" in capsys.readouterr().err


def test_what_a_killed_run_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    (left := tmp_path / "course-grade-left").mkdir()
    (left / "lock").write_text("")
    (tmp_path / "course-grade-new").mkdir()
    with scratch.folder() as mine:
        assert not left.exists() and mine.exists() and (tmp_path / "course-grade-new").exists()
        scratch.sweep()
        assert mine.exists(), "one that is in use"
    assert not mine.exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".ann.json.unfinished-abc").write_text("")
    scratch.sweep_unfinished(tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


BOMBS = {
    "empty lines": "\n" * 900_000, "spaces": " " * 900_000,
    "names": "\n".join(f"def n{n}(): pass" for n in range(50_000)), "brackets": "(" * 900_000,
    "words": "hessian " * 120_000, "equals": "hessian=" * 110_000, "prompts": ">>> " * 220_000,
    "tabs": "\t\n" * 400_000, "def": "def " * 220_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_reading_takes_time_in_proportion(opened, name):
    notebook = grading.submit(
        opened,
        {
            "hessian": BOMBS[name] + grading.ANSWERS["hessian"],
            "double": grading.ANSWERS["double"] + "\n" + BOMBS[name],
        },
    )
    notebook["cells"] += [
        {**grading.by_id(notebook)["imports"], "id": "more", "metadata": {}, "source": BOMBS[name]}
    ]
    content = json.dumps(notebook).encode()
    began = time.process_time()
    found = submission.parse(content, opened)
    assert time.process_time() - began < 5 and set(found.answers) == set(grading.ANSWERS)


def test_a_file_of_very_many_values_is_read_without_its_outputs_or_not_at_all(
    tmp_path, opened, monkeypatch
):
    monkeypatch.setattr(notebook_file, "PARTS", 20_000)
    notebook = grading.submit(opened, {})
    for place, read in (
        (grading.by_id(notebook)["imports"]["outputs"], True),
        (notebook["metadata"].setdefault("x", []), False),
    ):
        place.extend([0] * 20_000)
        (tmp_path / "one.ipynb").write_text(json.dumps(notebook))
        found = submission.read(tmp_path / "one.ipynb", opened)
        assert bool(found.answers) == read and any("not read" in note for note in found.notes)


def test_a_fault_is_in_the_report(tmp_path, opened, monkeypatch):
    for name in ("ann", "bob"):
        grading.hand_in(
            tmp_path,
            opened,
            name,
            grading.submit(opened, {"double": f"def double(x):\n    return 2 * x  # {name}"}),
        )
    real = judging._judge
    monkeypatch.setattr(
        judging,
        "_judge",
        lambda found, *rest: (
            os._exit(3) if "# bob" in found.answers["double"] else real(found, *rest)
        ),
    )
    found = run.run(opened.folder.parents[1], tmp_path, opened, kind="namespaces", progress=False)
    assert found["bob"]["fault"].startswith(
        "the grader's own process died at every try of this submission (it ended with status 3"
    )
    room = classroom.load(tmp_path)
    assert room.learners == ["ann", "bob"] and room.pending == {
        "ann": [],
        "bob": ["lab-a: not graded"],
    }
