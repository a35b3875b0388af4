"""The labs as shipped: up to date, points add up, and nbgrader itself makes and grades the same."""

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from course_utils.grade import build, lab

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("*/*.ipynb"))
# run by nbgrader itself, in Python and in C++; all: `tests/notebooks`
STOCK = ("lab-2.1-quantizer", "lab-5.1-int4-kernel")

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
    graded = [
        c.metadata.nbgrader.points for c in cells if c.metadata.get("nbgrader", {}).get("grade")
    ]
    prose = [c.source for c in cells if c.cell_type == "markdown"]
    headings = [
        int(n) for text in prose for n in re.findall(r"^### .+\((\d+) points", text, re.MULTILINE)
    ]
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
            # the learner sees at once
            assert re.search(rf"\b{function}\b", checked.source), cell.id
            assert test.metadata.nbgrader.grade and "### BEGIN HIDDEN TESTS" in test.source, cell.id
            assert function in test.source


def done(said):
    """What nbgrader's own interface answers, which it is asked in this process: it need not be
    started for each lab.
    """
    assert said["success"], said.get("error") or said.get("log")


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A course of nbgrader with every solution as its source, released by nbgrader: the folder and
    nbgrader's interface.
    """
    folder = tmp_path_factory.mktemp("course")
    config = Config()
    config.CourseDirectory.root, config.CourseDirectory.course_id = str(folder), "compression"
    # nbgrader's own is 30 seconds for a cell, which a busy machine exceeds
    config.Execute.timeout = 300
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    # the commands of this environment; kernels with progress of their own
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(
            "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        patched.setenv("COURSE_HOME", str(folder / "home"))
        for solution in SOLUTIONS:
            place = folder / "source" / solution.stem
            place.mkdir(parents=True)
            (place / solution.name).write_bytes(solution.read_bytes())
            done(api.generate_assignment(solution.stem))
        yield folder, api


def book(folder):
    return Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "compression")


@solutions
def test_nbgrader_releases_the_same_cells(solution, stock):
    released = read(stock[0] / "release" / solution.stem / solution.name)
    ours = read(lab_of(solution))
    assert [dict(c) for c in ours.cells] == [dict(c) for c in released.cells]


@solutions
def test_nbgrader_counts_the_same_points(solution, stock):
    with book(stock[0]) as gradebook:
        assignment = gradebook.find_assignment(solution.stem)
        wanted = sum(
            c.metadata.nbgrader.points
            for c in read(solution).cells
            if c.metadata.get("nbgrader", {}).get("grade")
        )
        assert assignment.max_score == wanted
        assert assignment.max_written_score > 0


def autograded(solution, stock, student, notebook):
    """nbgrader's record of a notebook handed in, and the cells that it ran."""
    folder, api = stock
    next(c for c in notebook.cells if c.id == "parameters").source += "\nfast = True"
    place = folder / "submitted" / student / solution.stem
    shutil.copytree(lab_of(solution).parent, place)  # what the lab reads lies beside it
    nbformat.write(notebook, place / solution.name)
    done(api.autograde(solution.stem, student))
    with book(folder) as gradebook:
        record = gradebook.find_submission(solution.stem, student)
        return (
            record.code_score,
            record.max_code_score,
            read(folder / "autograded" / student / solution.stem / solution.name).cells,
        )


@solutions
def test_nbgrader_pays_nothing_for_the_stub(solution, stock):
    score, most, cells = autograded(solution, stock, "blank", read(lab_of(solution)))
    assert score == 0 < most
    says_what_is_missing(cells)


def without_experiments(notebook):
    """Answers, tests and what stands before them; the measurements between them run with each
    solution (`tests/notebooks`).
    """
    first = next(
        i
        for i, c in enumerate(notebook.cells)
        if c.cell_type == "code" and "nbgrader" in c.metadata
    )
    for cell in notebook.cells[first:]:
        if cell.cell_type == "code" and "nbgrader" not in cell.metadata:
            cell.source = "\n".join(lab.imports(cell.source))


@pytest.mark.parametrize(
    "solution", [path for path in SOLUTIONS if path.stem in STOCK], ids=lambda path: path.stem
)
def test_nbgrader_pays_the_solution(solution, stock):
    notebook = read(solution)
    without_experiments(notebook)
    score, most, cells = autograded(solution, stock, "right", notebook)
    assert score == most > 0, [
        o for c in cells for o in c.get("outputs", []) if o.output_type == "error"
    ]


def says_what_is_missing(cells):
    """Only graded test cells may raise on unwritten work; the learner's own cells and checks say
    what is missing.
    """
    assert any("not attempted" in str(cell.get("outputs")).lower() for cell in cells)
    for cell in cells:
        tests = cell.metadata.get("nbgrader", {})
        if not (tests.get("grade") and tests.get("locked")):
            assert not [o for o in cell.get("outputs", []) if o.output_type == "error"], cell.id
