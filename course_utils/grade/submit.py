"""A learner's notebook as one small file to hand in: the cells as they are, without outputs."""

import ast
import hashlib
from pathlib import Path

import nbformat

from course_utils.errors import CompressionError

from .build import write
from .release import read

ROOT = Path(__file__).resolve().parents[2]
# what a released answer cell ends with
PROSE, CODE = "YOUR ANSWER HERE", "raise NotImplementedError()"


def find(lab: str) -> Path:
    """The lab's notebook where a learner has it: in labs/ here, in this folder, else in labs/ of
    the course.

    Raises CompressionError if it is in none of them.
    """
    name = f"{lab}.ipynb"
    places = [Path("labs", lab, name), Path(name), ROOT / "labs" / lab / name]
    for place in places:
        if place.is_file():
            return place
    raise CompressionError(
        f"{lab}: no such lab in {', '.join(str(place.parent) for place in places)}; "
        "name its notebook with --notebook."
    )


def submit(notebook: Path, out: Path, lab: str = "") -> list[str]:
    """Write the file to hand in and return what to tell the learner: each answer cell, and the
    file's fingerprint.

    `lab` is the one that it should be of, the notebook's own name if left out.
    Raises CompressionError if the notebook cannot be read or holds no answer cells.
    """
    found = read(notebook)
    answers = [c for c in found.cells if (c.metadata.get("nbgrader") or {}).get("solution")]
    if not answers:
        raise CompressionError(
            f"{notebook}: holds no answer cells; give the lab's notebook, "
            "for example labs/LAB/LAB.ipynb."
        )
    for cell in found.cells:
        if cell.cell_type == "code":
            # the execution count stays: of two copies of a cell the one that was run last counts
            cell.outputs = []
    found.metadata = nbformat.from_dict(
        {k: v for k, v in found.metadata.items() if k in ("kernelspec", "language_info")}
    )
    content = nbformat.writes(found).encode()
    write(out, content)
    lines = [
        (
            f"{cell.metadata.nbgrader.grade_id}: "
            f"{'not attempted' if blank(cell.source) else 'answered'}"
        )
        for cell in answers
    ]
    lines += said_of_cells(
        lab or notebook.stem, [cell.metadata.nbgrader.grade_id for cell in answers]
    )
    return [
        f"From {notebook}",
        *lines,
        f"{out}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}",
    ]


def said_of_cells(lab: str, there: list[str]) -> list[str]:
    """What is wrong with the answer cells: one that the released lab has and this notebook has not,
    or has twice.
    """
    lines = [
        f"{name}: {there.count(name)} cells; the one that was run last counts"
        for name in dict.fromkeys(there)
        if there.count(name) > 1
    ]
    released = ROOT / "labs" / lab / f"{lab}.ipynb"
    if released.is_file():
        wanted = [
            c.metadata.nbgrader.grade_id
            for c in read(released).cells
            if (c.metadata.get("nbgrader") or {}).get("solution")
        ]
        lines += [
            f"{name}: its cell is MISSING; copy it again from labs/{lab}/{lab}.ipynb"
            for name in wanted
            if name not in there
        ]
        if not set(wanted) & set(there):
            lines.append(f"None of these cells is of {lab}: is this the right notebook?")
    return lines


def blank(source: str) -> bool:
    """True for an answer cell in which nothing was written: functions that do nothing before they
    raise.
    """
    source = source.strip()
    if source in ("", PROSE):
        return True
    if not source.endswith(CODE):
        return False
    try:
        found = ast.parse(source).body
    except SyntaxError:
        return False
    inside = [
        part
        for node in found
        for part in (node.body if isinstance(node, ast.FunctionDef) else [node])
    ]
    return all(
        isinstance(part, (ast.Raise, ast.Expr, ast.Import, ast.ImportFrom)) for part in inside
    )
