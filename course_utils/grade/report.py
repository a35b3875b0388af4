"""What a run of grading says: to the instructor a table, to each learner the named mistake and what to read again."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .build import write
from .gradebook import clean
from .lab import Lab

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def lines(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """One line a learner, with the notes that an instructor should see."""
    for student, result in results.items():
        if "fault" in result:
            yield f"{clean(student)}: not graded ({result['fault']})"
            continue
        by_hand = sum(c["points"] for c in result["cells"] if c["manual"])
        yield f"{clean(student)}: {result['score']:g} of {result['points']:g}" + (
            f", {by_hand:g} to be given by hand" if by_hand else ""
        )
        yield from (f"  {note}" for note in result["notes"])
        yield from (
            f"  {c['grade_id']}: {c['flag']}" for c in result["cells"] if c["flag"] not in ("", "not attempted")
        )


def write_all(course: Path, lab: Lab, results: dict[str, dict[str, Any]]) -> list[Path]:
    """grades/<lab>.csv and a page of feedback for each learner; their paths, the table first."""
    table = course / "grades" / f"{lab.name}.csv"
    write(table, table_of(lab, results).encode())
    for student, result in results.items():
        write(course / "grades" / lab.name / f"{student}.md", feedback(lab, result).encode())
    return [table]


def table_of(lab: Lab, results: dict[str, dict[str, Any]]) -> str:
    """CSV with a row for each learner and a column for each exercise; empty where a person has to grade."""
    columns = [c.grade_id for c in (*lab.answers, *lab.tests) if c.points is not None]
    rows = []
    for student, result in results.items():
        cells = {c["grade_id"]: c for c in result["cells"]}
        scores = [cells.get(name, {}).get("score") for name in columns]
        mistakes = ", ".join(c["mistake"] for c in result["cells"] if c["mistake"])
        rows.append([student, result["score"], result["points"], *scores, mistakes, "; ".join(result["notes"])])
    return as_csv(["student_id", "score", "max_score", *columns, "mistakes", "notes"], rows)


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
    return "'" + clean(value) if value.startswith(FORMULA) else clean(value)


def feedback(lab: Lab, result: dict[str, Any]) -> str:
    """What the learner reads, in Markdown: each exercise with its points and what was found."""
    if "fault" in result:
        return f"# {lab.name}\n\nThis lab has not been graded yet.\n"
    parts = [f"# {lab.name}", f"**{result['score']:g} of {result['points']:g} points.**"]
    for cell in result["cells"]:
        parts += [f"## {cell['grade_id']}: {points(cell)}", remark(cell)]
    if result["notes"]:
        parts += ["## Your file", *(f"- {note}" for note in result["notes"])]
    return clean("\n\n".join(parts)) + "\n"


def points(cell: dict[str, Any]) -> str:
    """The points of an exercise in words."""
    return f"up to {cell['points']:g}, by hand" if cell["manual"] else f"{cell['score']:g} of {cell['points']:g}"


def remark(cell: dict[str, Any]) -> str:
    """What was found in an answer, or that nothing was to be said."""
    return cell["message"] or ("A person grades this one." if cell["manual"] else "Right.")
