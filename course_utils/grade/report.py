"""What a run of grading says: to the instructor a table, to each learner the named mistake and what
to read again.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import names, written
from .build import write
from .lab import Lab

FORMULA = ("=", "+", "-", "@", "\t", "\r")


SHOWN = 40  # lines on the screen; the rest is in a file


def lines(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """One line a learner, with the notes that an instructor should see."""
    for student, result in results.items():
        name = names.shown(student)
        if "fault" in result:
            yield f"{name}: not graded ({written.line(result['fault'])})"
            continue
        by_hand = sum(
            c["points"] for c in result["cells"] if c["manual"] and c.get("score_by_hand") is None
        )
        yield f"{name}: {result['score']:g} of {result['points']:g}" + (
            f", {by_hand:g} to be given by hand" if by_hand else ""
        )
        yield from (f"  {written.line(note)}" for note in result["notes"])
        yield from (
            f"  {c['grade_id']}: {c['flag']}"
            for c in result["cells"]
            if c["flag"] not in ("", "not attempted")
        )


def kinds_of(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What is to be looked at, by kind: how many, which learners, what to do."""
    found: dict[str, list[str]] = {}
    for student, result in results.items():
        said = (
            ["not graded: start the run again; if it stays so, look at the fault"]
            if "fault" in result
            else []
        )
        said += [
            KINDS[key]
            for key in KINDS
            for note in result["notes"]
            if key in note and "fault" not in result
        ]
        said += [
            "an answer did not run: the learner's feedback says why"
            for c in result["cells"]
            if c["flag"] == "did not run"
        ]
        if any(c["manual"] and c.get("score_by_hand") is None for c in result["cells"]):
            said.append("waits for a person: Formgrader, Manual Grading")
        for kind in dict.fromkeys(said):
            found.setdefault(kind, []).append(names.shown(student))
    for kind, students in sorted(found.items(), key=lambda pair: -len(pair[1])):
        more = f" and {len(students) - 5} more" if len(students) > 5 else ""
        yield f"{len(students)} × {kind} ({', '.join(students[:5])}{more})"


KINDS = {
    "grade it again": "changed after it was graded by hand: grade it again in the formgrader",
    "this cell is missing": (
        "a cell is missing: ask for the notebook again, or give the points by hand"
    ),
    "cells claim to be this one": "a cell is there more than once: the notes say which one counts",
    "there is no notebook": "no notebook: ask for it",
    "is missing; ": "the notebook has another name: the notes say which one was graded",
    "damaged": "a damaged file: what stands before the damage was graded; ask for it again",
    "not read": "too large, or no ordinary file: ask for it again",
    "could not be read": "unreadable: look at the folder's permissions",
    "extra cell": "an answer uses what an extra cell makes: look at the cell in submitted/",
    "no UTF-8": "a folder whose name is no UTF-8: rename it",
}


def summary(results: dict[str, dict[str, Any]]) -> list[str]:
    """What is printed: everything for a small class, else what is to be looked at by kind, and the
    first learners.
    """
    listed = list(lines(results))
    if len(listed) <= SHOWN:
        return listed
    scores = [result["score"] for result in results.values() if result["score"] is not None]
    head = f"{len(results)} learners, {len(scores)} graded"
    if scores:
        head += (
            f": {min(scores):g} to {max(scores):g} points, the middle one has "
            f"{sorted(scores)[len(scores) // 2]:g}"
        )
    return [head, *kinds_of(results)]


def write_all(
    course: Path, lab: Lab, results: dict[str, dict[str, Any]], overlooked: list[str] | None = None
) -> list[Path]:
    """grades/<lab>.csv, grades/<lab>.txt with all notes, and a page of feedback for each learner;
    the paths of the first two.
    """
    table, notes = (course / "grades" / f"{lab.name}{ending}" for ending in (".csv", ".txt"))
    write(table, table_of(lab, results).encode())
    write(
        notes,
        "".join(
            f"{line}\n" for line in (*(overlooked or []), *kinds_of(results), "", *lines(results))
        ).encode(),
    )
    for student, result in results.items():
        write(
            course / "grades" / lab.name / f"{names.stem(student)}.md",
            feedback(lab, result).encode(),
        )
    return [table, notes]


def table_of(lab: Lab, results: dict[str, dict[str, Any]]) -> str:
    """CSV with a row for each learner and a column for each exercise; empty where a person has to
    grade.
    """
    columns = [c.grade_id for c in (*lab.answers, *lab.tests) if c.points is not None]
    rows = []
    for student, result in results.items():
        cells = {c["grade_id"]: c for c in result["cells"]}
        by_hand = [c.get("score_by_hand") for c in result["cells"]]
        scores = [_score(cells.get(name, {})) for name in columns]
        mistakes = ", ".join(c["mistake"] for c in result["cells"] if c["mistake"])
        total = None if result["score"] is None else result["score"] + sum(filter(None, by_hand))
        waits = sum(
            c["points"] for c in result["cells"] if c["manual"] and c.get("score_by_hand") is None
        )
        rows.append(
            [student, total, result["points"], waits, *scores, mistakes, "; ".join(result["notes"])]
        )
    return as_csv(
        [
            "student_id",
            "score",
            "max_score",
            "points_to_be_given_by_hand",
            *columns,
            "mistakes",
            "notes",
        ],
        rows,
    )


def _score(cell: dict[str, Any]) -> float | None:
    """An exercise's points, by hand where somebody has given them."""
    by_hand = cell.get("score_by_hand")
    return cell.get("score") if by_hand is None else by_hand


def as_csv(columns: list[str], rows: list[list[Any]]) -> str:
    """CSV for spreadsheets: UTF-8 with its mark, every value quoted, formulas neutralised."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([neutral(value) for value in row] for row in [columns, *rows])
    return "\ufeff" + out.getvalue()


def neutral(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    value = written.line(value, 2000)
    return "'" + value if value.lstrip().startswith(FORMULA) else value


def feedback(lab: Lab, result: dict[str, Any]) -> str:
    """What the learner reads, in Markdown: each exercise with its points and, as a quotation, what
    was found.
    """
    if "fault" in result:
        return f"# {lab.name}\n\nThis lab has not been graded yet.\n"
    parts = [f"# {lab.name}", f"**{result['score']:g} of {result['points']:g} points.**"]
    for cell in result["cells"]:
        parts += [f"## {cell['grade_id']}: {points(cell)}", _quoted(remark(cell))]
    if result["notes"]:
        parts += [
            "## Your file",
            *(f"- {written.inert(written.line(note, 500))}" for note in result["notes"]),
        ]
    return "\n\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    """A message as a quotation, so that nothing in it looks like a heading of this page."""
    safe = written.inert(text).splitlines()
    return "\n".join("> " + re.sub(r"^(\s*)([#=-])", r"\1\\\2", line) for line in safe)


def points(cell: dict[str, Any]) -> str:
    """The points of an exercise in words."""
    return (
        f"up to {cell['points']:g}, by hand"
        if cell["manual"]
        else f"{cell['score']:g} of {cell['points']:g}"
    )


def remark(cell: dict[str, Any]) -> str:
    """What was found in an answer, or that nothing was to be said."""
    return cell["message"] or ("A person grades this one." if cell["manual"] else "Right.")
