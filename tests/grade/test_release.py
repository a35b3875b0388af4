"""The labs as shipped: up to date, points add up, and nbgrader itself makes and grades the same."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course_utils.grade import build

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("*/*.ipynb"))

solutions = pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def lab_of(solution):
    return ROOT / "labs" / solution.relative_to(ROOT / "solutions")


def test_the_labs_are_what_the_solutions_make():
    assert build.differences(ROOT) == []


@solutions
def test_points_add_up(solution):
    cells = read(lab_of(solution)).cells
    graded = [c.metadata.nbgrader.points for c in cells if c.metadata.get("nbgrader", {}).get("grade")]
    prose = [c.source for c in cells if c.cell_type == "markdown"]
    headings = [int(n) for text in prose for n in re.findall(r"^### .+\((\d+) points", text, re.MULTILINE)]
    assert headings == graded
    stated = re.search(r"\*\*(\d+) points", prose[0])
    assert stated and int(stated[1]) == sum(graded)
    manual = [text for text in prose if "graded by a person" in text]
    rubric = [int(n) for text in manual for n in re.findall(r"\*\((\d+) points?", text)]
    assert manual and sum(rubric) == graded[-1]


@solutions
def test_every_answer_has_a_check_and_a_test(solution):
    cells = read(solution).cells
    for i, cell in enumerate(cells):
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("solution") and cell.cell_type == "code":
            checked, test = cells[i + 1], cells[i + 2]
            function = re.search(r"def (\w+)", cell.source)[1]
            assert "nbgrader" not in checked.metadata, cell.id
            assert "check" in checked.source or f"{function}(" in checked.source, cell.id  # the learner sees at once
            assert test.metadata.nbgrader.grade and "### BEGIN HIDDEN TESTS" in test.source, cell.id
            assert function in test.source


def nbgrader(folder, *arguments):
    """Run a command of nbgrader in a course folder; its environment's bin must be on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "COURSE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A course of nbgrader with every solution as its source, released by nbgrader."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'compression'\n")
    for solution in SOLUTIONS:
        place = folder / "source" / solution.stem
        place.mkdir(parents=True)
        (place / solution.name).write_bytes(solution.read_bytes())
        nbgrader(folder, "generate_assignment", solution.stem)
    return folder


@solutions
def test_nbgrader_releases_the_same_cells(solution, stock):
    released = read(stock / "release" / solution.stem / solution.name)
    ours = read(lab_of(solution))
    assert [dict(c) for c in ours.cells] == [dict(c) for c in released.cells]


@solutions
def test_nbgrader_counts_the_same_points(solution, stock):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{stock / 'gradebook.db'}", "compression") as gradebook:
        assignment = gradebook.find_assignment(solution.stem)
        wanted = sum(c.metadata.nbgrader.points for c in read(solution).cells if c.metadata.get("nbgrader", {}).get("grade"))
        assert assignment.max_score == wanted
        assert assignment.max_written_score > 0


@solutions
def test_nbgrader_pays_the_solution_and_not_the_stub(solution, stock):
    from nbgrader.api import Gradebook

    for student, source in {"right": solution, "blank": lab_of(solution)}.items():
        notebook = read(source)
        next(c for c in notebook.cells if c.id == "parameters").source += "\nfast = True"
        place = stock / "submitted" / student / solution.stem
        shutil.copytree(lab_of(solution).parent, place)  # what the lab reads lies beside it
        nbformat.write(notebook, place / solution.name)
    nbgrader(stock, "autograde", solution.stem)
    with Gradebook(f"sqlite:///{stock / 'gradebook.db'}", "compression") as gradebook:
        right = gradebook.find_submission(solution.stem, "right")
        blank = gradebook.find_submission(solution.stem, "blank")
        assert right.code_score == right.max_code_score > 0
        assert blank.code_score == 0 and blank.max_code_score == right.max_code_score
    says_what_is_missing(read(stock / "autograded" / "blank" / solution.stem / solution.name).cells)


def says_what_is_missing(cells):
    """Only graded test cells may raise on unwritten work; the learner's own cells and checks say what is missing."""
    assert any("not attempted" in str(cell.get("outputs")).lower() for cell in cells)
    for cell in cells:
        tests = cell.metadata.get("nbgrader", {})
        if not (tests.get("grade") and tests.get("locked")):
            assert not [o for o in cell.get("outputs", []) if o.output_type == "error"], cell.id
