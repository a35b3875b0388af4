"""Labs are made from solutions: the same every time, stale ones are found, wrong solutions are
refused by name.
"""

import shutil
import sys

import nbformat
import pytest

from course_utils.errors import CompressionError
from course_utils.grade import build, release
from course_utils.grade.__main__ import main

LAB = "labs/lab-0/lab-0.ipynb"


def run(course, *arguments):
    return main(["build", *arguments, "--root", str(course)])


def snapshot(course):
    return {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(course.rglob("*")) if p.is_file()
    }


def test_a_lab_is_built_with_its_data(course, capsys):
    assert run(course) == 0 and "lab-0.ipynb: written" in capsys.readouterr().out
    cells = {c.id: c for c in nbformat.read(course / LAB, as_version=4).cells}
    assert (
        cells["answer"].source
        == "def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    )
    assert cells["test"].source == "assert double(1) == 2"
    assert cells["test"].metadata.editable is False and cells["answer"].metadata.deletable is False
    assert (
        cells["test"].metadata.nbgrader.points == 3
        and len(cells["test"].metadata.nbgrader.checksum) == 32
    )
    assert (course / "labs/lab-0/data/numbers.bin").read_bytes() == bytes(range(256))
    assert not (course / "labs/lab-0/.ipynb_checkpoints").exists()


def test_building_again_changes_nothing(course, capsys):
    run(course)
    before = snapshot(course)
    assert run(course) == 0 and run(course, "--check") == 0
    assert snapshot(course) == before
    assert "up to date" in capsys.readouterr().out


def test_a_run_in_the_solution_does_not_change_the_lab(course, edit):
    run(course)
    before = (course / LAB).read_bytes()

    def ran(cells, notebook):
        notebook.metadata.update(
            {
                "widgets": {"state": {}},
                "papermill": {"duration": 3},
                "kernelspec": {"name": "other", "display_name": "Other"},
            }
        )
        cells["answer"].update(execution_count=7)
        cells["test"].outputs.append(nbformat.v4.new_output("stream", text="secret output"))
        cells["test"].metadata["execution"] = {"iopub.execute_input": "now"}
        cells["title"].metadata["papermill"] = {"status": "completed"}

    edit(ran)
    shutil.rmtree(course / "labs")
    run(course)
    assert (course / LAB).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("solution", "lab-0.ipynb: stale"),
        ("lab", "lab-0.ipynb: stale"),
        ("data", "data/numbers.bin: stale"),
        ("missing", "lab-0.ipynb: missing"),
        ("extra lab", "labs/lab-9/lab-9.ipynb: extra"),
        ("extra file", "labs/lab-0/notes.txt: extra"),
    ],
)
def test_check_names_what_differs_and_changes_nothing(course, edit, capsys, change, said):
    run(course)
    if change == "solution":
        edit(lambda cells, _: cells["title"].update(source="# Lab 0."))
    elif change == "lab":
        (course / LAB).write_bytes((course / LAB).read_bytes().replace(b"# Lab 0", b"# Lab O"))
    elif change == "data":
        (course / "labs/lab-0/data/numbers.bin").write_bytes(b"\0")
    elif change == "missing":
        (course / LAB).unlink()
    else:
        extra = course / (
            "labs/lab-9/lab-9.ipynb" if change == "extra lab" else "labs/lab-0/notes.txt"
        )
        extra.parent.mkdir(exist_ok=True)
        extra.write_text("{}")
    before = snapshot(course)
    capsys.readouterr()
    assert run(course, "--check") == 1
    assert said in capsys.readouterr().err
    assert snapshot(course) == before
    assert run(course) == 0
    assert run(course, "--check") == (1 if change.startswith("extra") else 0), (
        "extra files are left to a person"
    )


def markers(source):
    return lambda cells, _: cells["answer"].update(source=source)


def metadata(cell, **values):
    return lambda cells, _: cells[cell].metadata.nbgrader.update(values)


WRONG = {
    "no end": (markers("### BEGIN SOLUTION\nx = 1"), "'answer'", "no END SOLUTION"),
    "no begin": (markers("x = 1\n### END SOLUTION"), "'answer'", "END SOLUTION without"),
    "nested": (markers("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION"), "'answer'",
               "before END SOLUTION"),
    "crossed": (markers("### BEGIN SOLUTION\n### END HIDDEN TESTS\n### END SOLUTION"), "'answer'",
                "END HIDDEN TESTS without"),
    "no markers": (markers("x = 1"), "'answer'", "without ### BEGIN SOLUTION"),
    "markers in prose": (lambda cells, _:
        cells["title"].update(source="### BEGIN SOLUTION\nx\n### END SOLUTION"), "'title'",
        "no nbgrader metadata"),
    "no metadata": (lambda cells, _: cells["test"].metadata.pop("nbgrader"), "'test'",
                    "no nbgrader metadata"),
    "same id": (metadata("test", grade_id="answer"), "'test'", "used by cell 'answer'"),
    "no id": (metadata("test", grade_id=""), "'test'", "no grade_id"),
    "no points": (lambda cells, _: cells["test"].metadata.nbgrader.pop("points"), "'test'",
                  "no points"),
    "old schema": (metadata("test", schema_version=2), "'test'", "schema_version 2"),
    "not a solution": (metadata("answer", solution=False, locked=True), "'answer'",
                       "does not say solution"),
    "hidden tests elsewhere": (metadata("test", grade=False), "'test'", "not a test cell"),
    "bad id": (metadata("test", grade_id="a b"), "lab-0.ipynb", "nbgrader refuses"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_solution_is_refused_and_nothing_is_written(course, edit, capsys, case):
    run(course)
    before = snapshot(course / "labs")
    change, *said = WRONG[case]
    edit(change)
    assert run(course) == 2 and run(course, "--check") == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ["lab-0", *said]), message
    assert snapshot(course / "labs") == before


def test_other_errors_say_what_to_do(course, capsys):
    path = course / "solutions/lab-0/lab-0.ipynb"
    good = path.read_text()
    path.write_text(good[:-40])
    assert run(course) == 2 and "not a readable notebook" in capsys.readouterr().err
    path.write_text(good.replace('"nbformat_minor": 5', '"nbformat_minor": 4'))
    assert run(course) == 2 and "lab-0.ipynb" in capsys.readouterr().err
    path.rename(path.with_name("other.ipynb"))
    assert run(course) == 2 and "lab-0.ipynb is missing" in capsys.readouterr().err
    shutil.rmtree(course / "solutions")
    assert run(course) == 2 and "holds no solutions" in capsys.readouterr().err


def test_without_nbgrader_the_extra_is_named(course, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    assert run(course) == 2
    assert '".[grade]"' in capsys.readouterr().err


def test_a_lab_with_answers_is_not_overwritten(course, edit, capsys):
    run(course)
    worked = (course / LAB).read_text().replace("raise NotImplementedError()", "return x + x")
    (course / LAB).write_text(worked)
    edit(lambda cells, _: cells["title"].update(source="# Lab zero"))
    assert run(course) == 2 and "holds answers in answer" in capsys.readouterr().err
    assert (course / LAB).read_text() == worked
    assert run(course, "--force") == 0
    assert (
        "return x + x" not in (course / LAB).read_text()
        and "# Lab zero" in (course / LAB).read_text()
    )


def test_an_interrupted_write_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "lab.ipynb"
    build.write(path, b"former")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.write(path, b"new")
    assert path.read_bytes() == b"former" and list(tmp_path.iterdir()) == [path]


def test_release_raises_what_the_command_prints(course, edit):
    edit(markers("### BEGIN SOLUTION"))
    with pytest.raises(CompressionError, match="'answer'"):
        release.release(course / "solutions/lab-0/lab-0.ipynb")
