"""A small course with one solution, for tests that change it."""

import contextlib
from pathlib import Path

import nbformat
import pytest
from grading import cell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_utils.grade import judging

ROOT = Path(__file__).resolve().parents[2]
ANSWER = (
    "def double(x):\n    ### BEGIN SOLUTION\n"
    "    answer_in_full = 2 * x\n    return answer_in_full\n    ### END SOLUTION"
)
TEST = (
    "assert double(1) == 2\n### BEGIN HIDDEN TESTS\nassert double(21) == 42\n### END HIDDEN TESTS"
)


@pytest.fixture(scope="module")
def one_zygote():
    """Runs of a file that need the same process with torch in it start it once."""
    started, make = {}, judging.Zygote
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patched:

        @contextlib.contextmanager
        def shared(prelude, limits, *, data=None, kind="namespaces"):
            key = tuple(prelude), limits, data, kind
            if key not in started:
                started[key] = stack.enter_context(make(prelude, limits, data=data, kind=kind))
            yield started[key]

        patched.setattr(judging, "Zygote", shared)
        yield


@pytest.fixture
def course(tmp_path):
    """A folder with solutions/lab-0/lab-0.ipynb and a data file; nothing is built yet."""
    folder = tmp_path / "course" / "solutions" / "lab-0"
    folder.mkdir(parents=True)
    notebook = new_notebook(
        cells=[
            cell(new_markdown_cell, "title", "# Lab 0"),
            cell(new_code_cell, "answer", ANSWER, solution=True),
            cell(new_code_cell, "test", TEST, grade=True, locked=True, points=3),
        ]
    )
    nbformat.write(notebook, folder / "lab-0.ipynb")
    (folder / "data").mkdir()
    (folder / "data" / "numbers.bin").write_bytes(bytes(range(256)))
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "old.ipynb").write_text("not a notebook")
    return tmp_path / "course"


@pytest.fixture
def edit(course):
    """Change the solution's notebook with a function of its cells by id."""

    def change(function):
        path = course / "solutions/lab-0/lab-0.ipynb"
        notebook = nbformat.read(path, as_version=4)
        function({c.id: c for c in notebook.cells}, notebook)
        path.write_text(nbformat.writes(notebook))  # writes nothing that is invalid away

    return change
