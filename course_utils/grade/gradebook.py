"""Results into nbgrader's folders and gradebook, so that its formgrader, feedback and exports work as always."""

import contextlib
import os
import sqlite3
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_utils.errors import CompressionError

from . import submission
from .build import write
from .lab import Lab


def notebook(lab: Lab, answers: dict[str, str], result: dict[str, Any]) -> NotebookNode:
    """The released notebook with the learner's answers in their cells, and what each test said as its output."""
    made = nbformat.reads(lab.released, as_version=4)
    cells = {c["grade_id"]: c for c in result["cells"]}
    for cell in made.cells:
        name = (cell.metadata.get("nbgrader") or {}).get("grade_id")
        if name in answers and cell.metadata.nbgrader.get("solution"):
            cell.source = clean(answers[name])
        if cell.cell_type == "code" and name in cells:
            cell.outputs = _outputs(cells[name])
    return made


def clean(text: str) -> str:
    """The text without halves of characters that no file can hold."""
    return text.encode("utf-8", errors="replace").decode()


def _outputs(cell: dict[str, Any]) -> list[NotebookNode]:
    """What nbgrader reads as this score: an error for nothing, a number for a part, no error for all."""
    if cell["score"] == 0:
        text = clean(cell["message"])
        kind = cell["mistake"] or cell["flag"] or "not right"
        return [nbformat.v4.new_output("error", ename=kind, evalue=text.partition("\n")[0], traceback=[text])]
    if cell["score"] < cell["points"]:
        return [nbformat.v4.new_output("execute_result", data={"text/plain": repr(cell["score"])}, execution_count=1)]
    return []


class Book:
    """The gradebook of a course, opened once and written by one process."""

    def __init__(self, course: Path, lab: Lab) -> None:
        self.course, self.lab = course, lab
        self.url = f"sqlite:///{course / 'gradebook.db'}"
        try:
            from nbgrader.api import Gradebook
            from nbgrader.preprocessors import SaveCells
            from sqlalchemy.exc import SAWarning
        except ImportError as error:
            raise CompressionError(
                'nbgrader is not installed; add the extra `grade`: pip install -e ".[grade]".'
            ) from error
        warnings.filterwarnings("ignore", category=SAWarning)  # nbgrader's own, about the order in which it adds rows
        find_commands()
        self.gradebook = Gradebook(self.url, course_id(course / "gradebook.db"))
        self.gradebook.update_or_create_assignment(lab.name)
        names = {"assignment": lab.name, "notebook": lab.name, "db_url": self.url}
        SaveCells().preprocess(nbformat.reads(lab.released, as_version=4), {"nbgrader": names})

    def record(self, student: str, answers: dict[str, str], result: dict[str, Any]) -> None:
        """Write autograded/<student>/<lab>/<lab>.ipynb and the scores; scores given by hand stay. Repeating changes nothing."""
        made = notebook(self.lab, answers, result)
        path = self.course / "autograded" / student / self.lab.name / f"{self.lab.name}.ipynb"
        write(path, nbformat.writes(made).encode())
        for name in ("timestamp.txt", "submission_secret.txt"):  # nbgrader's; it releases feedback by them
            with contextlib.suppress(OSError):
                write(path.with_name(name), submission.read_bytes(self.submitted(student) / name))
        self.gradebook.update_or_create_student(student)
        self.gradebook.update_or_create_submission(self.lab.name, student, timestamp=self.handed_in(student))
        for cell in result["cells"]:
            grade = self.gradebook.find_grade(cell["grade_id"], self.lab.name, self.lab.name, student)
            grade.auto_score = cell["score"]
            grade.needs_manual_grade = cell["score"] is None and grade.manual_score is None
        self.gradebook.db.commit()

    def submitted(self, student: str) -> Path:
        return self.course / "submitted" / student / self.lab.name

    def handed_in(self, student: str) -> datetime | None:
        """The time that nbgrader wrote beside the submission; the formgrader compares the two to see what is graded."""
        from nbgrader.utils import parse_utc

        path = self.submitted(student) / "timestamp.txt"
        with contextlib.suppress(OSError, ValueError, OverflowError):
            return parse_utc(submission.read_bytes(path).decode().strip())
        return None

    def close(self) -> None:
        self.gradebook.close()

    def __enter__(self) -> "Book":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_commands() -> None:
    """Put this Python's folder of commands on the path: nbgrader makes a new gradebook with one of them, alembic."""
    folder = str(Path(sys.executable).parent)
    if folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PATH"))))


def course_id(database: Path) -> str:
    """The course that the gradebook is of; '' for a new one."""
    if not database.is_file():
        return ""
    with sqlite3.connect(database) as connection:
        try:
            found = connection.execute("select id from course").fetchall()
        except sqlite3.OperationalError:
            return ""
    return str(found[0][0]) if len(found) == 1 else ""
