"""Results into nbgrader's folders and gradebook, so that its formgrader, feedback and exports work
as always.
"""

import contextlib
import re
import sqlite3
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_utils.errors import CompressionError

from . import notebook_file, written
from .build import write
from .lab import Lab
from .submission import Submission

SHOWN = 20_000  # characters of a written answer
TIME = re.compile(
    r"\d{4}-\d\d?-\d\d?[T ]\d\d?:\d\d(:\d\d(\.\d{1,9})?)?\s*([A-Za-z]{1,5}|[+-]\d\d:?\d\d)?"
)


def notebook(lab: Lab, found: Submission, result: dict[str, Any]) -> NotebookNode:
    """The released notebook with the learner's answers in their cells, and what each test said as
    its output.

    People open it in nbgrader's formgrader: a written answer is shown, and nothing in it runs
    (`written`).
    """
    made = nbformat.reads(lab.released, as_version=4)
    cells = {c["grade_id"]: c for c in result["cells"]}
    for cell in made.cells:
        name = (cell.metadata.get("nbgrader") or {}).get("grade_id")
        if name in found.answers and cell.metadata.nbgrader.get("solution"):
            if cell.cell_type == "code":
                cell.source = written.readable(found.answers[name])
            else:
                cell.source, cell.attachments = shown(
                    found.answers[name], found.attachments.get(name)
                )
        if cell.cell_type == "code" and name in cells:
            cell.outputs = _outputs(cells[name])
    return made


def shown(text: str, attached: Any) -> tuple[str, dict[str, Any]]:
    """A written answer as it is recorded, and its pictures."""
    kept, names = written.attachments(attached)
    more = (
        f"\n\n[{len(text):,} characters; the rest is in the learner's own file]"
        if len(text) > SHOWN
        else ""
    )
    return written.inert(text[:SHOWN], names) + more, kept


def _outputs(cell: dict[str, Any]) -> list[NotebookNode]:
    """What nbgrader reads as this score: an error for nothing, a number for a part, no error for
    all.
    """
    if cell["score"] == 0:
        text = written.readable(cell["message"])
        kind = cell["mistake"] or cell["flag"] or "not right"
        return [
            nbformat.v4.new_output(
                "error", ename=kind, evalue=text.partition("\n")[0], traceback=[text]
            )
        ]
    if cell["score"] < cell["points"]:
        return [
            nbformat.v4.new_output(
                "execute_result", data={"text/plain": repr(cell["score"])}, execution_count=1
            )
        ]
    return []


def _changed(path: Path, made: NotebookNode) -> set[str]:
    """The grade_ids of cells that were something else when they were recorded before."""
    try:
        before = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        old = {
            cell.metadata.nbgrader.grade_id: cell.source
            for cell in before.cells
            if "nbgrader" in cell.metadata
        }
    except (OSError, ValueError, AttributeError, nbformat.ValidationError):
        return set()
    new = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in made.cells
        if "nbgrader" in cell.metadata
    }
    return {name for name in new if name in old and new[name] != old[name]}


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
        # nbgrader's own, about the order in which it adds rows
        warnings.filterwarnings("ignore", category=SAWarning)
        without_alembic()
        with said(course):
            self.gradebook = Gradebook(self.url, course_id(course / "gradebook.db"))
            self.gradebook.update_or_create_assignment(lab.name)
            names = {"assignment": lab.name, "notebook": lab.name, "db_url": self.url}
            SaveCells().preprocess(nbformat.reads(lab.released, as_version=4), {"nbgrader": names})

    def record(self, student: str, found: Submission, result: dict[str, Any]) -> list[str]:
        """Write autograded/<student>/<lab>/<lab>.ipynb and the scores; what an instructor should
        look at once more.

        Scores given by hand stay. Repeating changes nothing.
        """
        made = notebook(self.lab, found, result)
        path = self.course / "autograded" / student / self.lab.name / f"{self.lab.name}.ipynb"
        changed = _changed(path, made)
        notes = []
        self.gradebook.update_or_create_student(student)
        self.gradebook.update_or_create_submission(
            self.lab.name, student, timestamp=self.handed_in(student)
        )
        for cell in result["cells"]:
            name = cell["grade_id"]
            grade = self.gradebook.find_grade(name, self.lab.name, self.lab.name, student)
            again = (
                cell.get("by_hand", False) and grade.manual_score is not None and name in changed
            )
            if again:
                notes.append(
                    f"{name}: was changed after it was graded by hand ({grade.manual_score:g} "
                    "points); grade it again"
                )
            grade.auto_score = cell["score"]
            if cell.get("by_hand"):
                cell["score_by_hand"] = grade.manual_score
            waits = cell["score"] is None and grade.manual_score is None
            grade.needs_manual_grade = (
                waits or again or (grade.needs_manual_grade and cell["score"] is None)
            )
        self.gradebook.db.commit()
        write(path, nbformat.writes(made).encode())
        # nbgrader's; it releases feedback by them
        for name in ("timestamp.txt", "submission_secret.txt"):
            with contextlib.suppress(OSError):
                write(
                    path.with_name(name),
                    notebook_file.read_bytes(self.submitted(student) / name, 1000),
                )
        return notes

    def submitted(self, student: str) -> Path:
        """The folder of a student's submission."""
        return self.course / "submitted" / student / self.lab.name

    def handed_in(self, student: str) -> datetime | None:
        """The time that nbgrader wrote beside the submission; the formgrader compares the two to
        see what is graded.
        """
        from nbgrader.utils import parse_utc

        path = self.submitted(student) / "timestamp.txt"
        with contextlib.suppress(OSError, ValueError, OverflowError):
            said = notebook_file.read_bytes(path, 100).decode().strip()
            return parse_utc(said) if TIME.fullmatch(said) else None
        return None

    def close(self) -> None:
        """Close the database."""
        self.gradebook.close()

    def __enter__(self) -> "Book":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def without_alembic() -> None:
    """Nbgrader asks the program alembic for the version of a new gradebook; this process can say it
    itself.

    So no program has to be found, and none is left when the grader is killed.
    """
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from nbgrader import api, dbutil

    def version() -> str:
        with dbutil._temp_alembic_ini("sqlite://") as settings:
            return str(ScriptDirectory.from_config(Config(settings)).get_current_head())

    api.get_alembic_version = version


@contextlib.contextmanager
def said(course: Path) -> Iterator[None]:
    """Raises what a database says as a CompressionError with its remedy."""
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (DatabaseError, sqlite3.DatabaseError) as error:
        why = str(getattr(error, "orig", None) or error).partition("\n")[0]
        remedy = (
            "close the formgrader or the other run that uses it"
            if "locked" in why
            else "is it nbgrader's, and is there space on the disk?"
        )
        raise CompressionError(
            f"{course / 'gradebook.db'}: {why}; {remedy}. What was graded is in grades/; "
            "start again."
        ) from error


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
