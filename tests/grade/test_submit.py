"""The file that a learner hands in: all answers, no outputs,
and graded as the notebook would be.
"""

import json
from pathlib import Path

import nbformat
import pytest

from course_utils import cli
from course_utils.errors import CompressionError
from course_utils.grade import build, submit


@pytest.fixture
def lab(course):
    build.build(course)
    return course / "labs/lab-0/lab-0.ipynb"


def test_the_file_holds_the_answers_and_nothing_else(lab, tmp_path):
    notebook = nbformat.read(lab, as_version=4)
    answer = next(c for c in notebook.cells if c.id == "answer")
    answer.source = "def double(x):\n    return 2 * x"
    answer.outputs, answer.execution_count = (
        [nbformat.v4.new_output("stream", text="a secret of mine " * 10**5)],
        7,
    )
    notebook.metadata["widgets"] = {"state": {}}
    nbformat.write(notebook, lab)
    said = submit.submit(lab, tmp_path / "mine.ipynb")
    made = nbformat.read(tmp_path / "mine.ipynb", as_version=4)
    assert [(c.id, c.source, c.metadata) for c in made.cells] == [
        (c.id, c.source, c.metadata) for c in notebook.cells
    ]
    assert "secret" not in (tmp_path / "mine.ipynb").read_text() and "widgets" not in made.metadata
    assert said[:2] == [f"From {lab}", "answer: answered"] and "SHA-256" in said[-1]


def test_an_untouched_answer_is_said_to_be_so(lab, tmp_path):
    assert submit.submit(lab, tmp_path / "mine.ipynb")[1] == "answer: not attempted"


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("", False),
        ("YOUR ANSWER HERE\n", False),
        (
            'def f(x):\n    """Twice x."""\n    # YOUR CODE HERE\n    raise NotImplementedError()',
            False,
        ),
        (
            "def f(x):\n    return 2 * x\n    # YOUR CODE HERE\n    raise NotImplementedError()",
            True,
        ),
        ("def f(x):\n    y = (\n    raise NotImplementedError()", True),
        ("Four bits, because ...\n\nYOUR ANSWER HERE", True),
    ],
)
def test_what_was_written_above_the_line_to_be_replaced_counts(source, written):
    assert submit.blank(source) != written


@pytest.mark.parametrize(
    "content",
    ["", "{", json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})],
)
def test_what_cannot_be_handed_in_is_named(tmp_path, content):
    (path := tmp_path / "mine.ipynb").write_text(content)
    with pytest.raises(
        CompressionError, match="mine.ipynb: (not a readable notebook|holds no answer cells)"
    ):
        submit.submit(path, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_the_command(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(lab.parents[2])
    assert cli.main(["submit", "lab-0"]) == 0
    assert (
        lab.parents[2] / "lab-0-submission.ipynb"
    ).is_file() and "answer: not attempted" in capsys.readouterr().out
    assert (
        cli.main(["submit", "lab-9"]) == 2
        and "lab-9: no such lab in labs" in capsys.readouterr().err
    )


def test_the_notebook_is_found_from_its_own_folder_and_from_anywhere(
    lab, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(lab.parent)
    assert cli.main(["submit", "lab-0"]) == 0 and "From lab-0.ipynb" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "ROOT", lab.parents[2])
    assert cli.main(["submit", "lab-0"]) == 0 and f"From {lab}" in capsys.readouterr().out


def test_another_labs_notebook_and_a_folder_for_the_file_are_named(
    lab, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(submit, "ROOT", lab.parents[2])
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(lab, as_version=4)
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader.grade_id += "-of-another"
    nbformat.write(notebook, tmp_path / "lab-9.ipynb")
    assert cli.main(["submit", "lab-0", "--notebook", "lab-9.ipynb"]) == 0
    said = capsys.readouterr().out
    assert (
        "answer: its cell is MISSING" in said
        and "None of these cells is of lab-0: is this the right notebook?" in said
    )
    (tmp_path / "folder").mkdir()
    assert cli.main(["submit", "lab-0", "--out", "folder"]) == 2
    assert (
        capsys.readouterr().err.startswith("folder: Is a directory.")
        and [*tmp_path.glob(".*unfinished*")] == []
    )
    assert cli.main(["submit", "lab-0", "--out", "/dev/full"]) == 2
    assert (
        "No space left on device. What is done is kept" in capsys.readouterr().err
        and Path("/dev/full").is_char_device()
    )


def test_pictures_go_along_and_cells_that_are_missing_or_doubled_are_named(
    lab, tmp_path, monkeypatch
):
    monkeypatch.setattr(submit, "ROOT", lab.parents[2])
    (mine := tmp_path / "work").mkdir()
    notebook = nbformat.read(lab, as_version=4)
    answer = next(c for c in notebook.cells if c.id == "answer")
    notebook.cells[0].attachments = {"a.png": {"image/png": "AAAA"}}
    notebook.cells.append(nbformat.from_dict({**answer, "id": "again", "execution_count": 3}))
    answer.execution_count = 9
    nbformat.write(notebook, mine / lab.name)
    said = submit.submit(mine / lab.name, tmp_path / "mine.ipynb")
    assert "answer: 2 cells; the one that was run last counts" in said and not any(
        "MISSING" in line for line in said
    )
    made = nbformat.read(tmp_path / "mine.ipynb", as_version=4)
    assert "attachments" in made.cells[0]
    assert {c.id: c.execution_count for c in made.cells if c.id in ("answer", "again")} == {
        "answer": 9,
        "again": 3,
    }
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader.grade_id = "other"
    nbformat.write(notebook, mine / lab.name)
    said = submit.submit(mine / lab.name, tmp_path / "mine.ipynb")
    assert "answer: its cell is MISSING; copy it again from labs/lab-0/lab-0.ipynb" in said and any(
        "right notebook" in line for line in said
    )
