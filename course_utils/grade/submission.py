"""The answers in a learner's notebook: the source of known answer cells, and of its own cells what
they need.

What is wrong with the file becomes a note for the instructor, and what can be read is graded.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import notebook_file, written
from .lab import Cell, Lab

LARGEST_CELL = 1 << 20  # characters
CANDIDATES = 20  # notebooks of other names that are looked into
DEFINES = re.compile(
    (
        r"^[ \t]*(?:(?:>>>|\.\.\.|In ?\[\d{0,9}\]:)[ \t]*)?(?P<kind>(?:async[ \t]+)?def[ "
        r"\t]+|class[ \t]+)?(?P<name>\w+)[ \t]*(?P<then>[(\[:=])(?!=)"
    ),
    re.MULTILINE,
)
WORD = re.compile(r"\w+")


@dataclass
class Submission:
    """`answers` by grade_id; a cell that is absent or as it was released is not among them.

    `extras` are the learner's own cells, by the grade_id of the answer or test that comes next (""
    after the last).
    `attachments` are the pictures of written answers, as the notebook has them.
    """

    answers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    digest: str = ""
    extras: dict[str, list[str]] = field(default_factory=dict)
    attachments: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Found:
    """A cell of the notebook."""

    source: str
    grade_id: str
    cell_id: str
    code: bool
    count: int  # how often cells had been run in the kernel, 0 if it does not say
    attachments: Any


def find(folder: Path, lab: Lab) -> tuple[Path | None, list[str]]:
    """The notebook to grade in a learner's folder, and notes. Links are not followed."""
    notebooks = [
        Path(e.path)
        for e in sorted(os.scandir(folder), key=lambda e: e.name)
        if e.name.endswith(".ipynb")
    ]
    real = [p for p in notebooks if notebook_file.regular(p)]
    notes = [
        f"{written.line(p.name, 80)} is a link or no ordinary file; it was not read"
        for p in notebooks
        if p not in real
    ][:CANDIDATES]
    for path in real:
        if path.name == f"{lab.name}.ipynb":
            return path, notes
    if not real:
        return None, [*notes, "there is no notebook"]
    known = [f'"{a.grade_id}"'.encode() for a in lab.answers]
    content = {path: notebook_file.read_bytes(path) for path in real[:1]}
    content |= {path: notebook_file.read_bytes(path, LARGEST_CELL) for path in real[1:CANDIDATES]}
    best = max(content, key=lambda p: (sum(k in content[p] for k in known), p.name))
    return best, [*notes, f"{lab.name}.ipynb is missing; {written.line(best.name, 80)} was graded"]


def read(path: Path, lab: Lab) -> Submission:
    """The answers in a notebook's file."""
    content, digest, note = notebook_file.read(path)
    found = parse(content, lab) if content is not None else Submission()
    found.digest = digest
    found.notes[:0] = [note] if note else []
    return found


def parse(content: bytes, lab: Lab) -> Submission:
    """The answers in the bytes of a notebook."""
    made = Submission()
    cells = []
    for cell in notebook_file.cells(content, made.notes):
        if (source := notebook_file.source(cell)) is None:
            continue
        count, name = cell.get("execution_count"), cell.get("id")
        cells.append(
            Found(
                source, notebook_file.grade_id(cell), name if isinstance(name, str) else "",
                cell.get("cell_type", "code") == "code", count if type(count) is int else 0,
                cell.get("attachments"),
            )
        )  # fmt: skip
    index = Index(cells)
    taken: dict[str, Found] = {}
    for answer in lab.answers:
        chosen = _choose(answer, index, made.notes)
        if chosen is None:
            continue
        taken[answer.grade_id] = chosen
        if chosen.source.strip() != answer.released.strip():
            made.answers[answer.grade_id] = chosen.source
            if answer.manual and chosen.attachments:
                made.attachments[answer.grade_id] = chosen.attachments
    made.extras = _extras(lab, cells, taken, made.notes)
    return made


class Index:
    """The cells by grade_id, by cell id and by what they define; each is looked through once."""

    def __init__(self, cells: list[Found]) -> None:
        self.by_grade: dict[str, list[Found]] = {}
        self.by_cell: dict[str, Found] = {}
        self.defining: dict[str, list[Found]] = {}
        self.names: dict[int, set[str]] = {}
        for cell in cells:
            self.by_grade.setdefault(cell.grade_id, []).append(cell)
            self.by_cell.setdefault(cell.cell_id, cell)
            self.names[id(cell)] = (
                defined(cell.source) if cell.code and len(cell.source) <= LARGEST_CELL else set()
            )
            for name in self.names[id(cell)]:
                self.defining.setdefault(name, []).append(cell)

    def define(self, cell: Found, names: Iterable[str]) -> bool:
        """Whether a cell defines all of `names`."""
        return set(names) <= self.names[id(cell)]

    def that_define(self, names: list[str]) -> list[Found]:
        """The cells that define all of `names`."""
        return (
            [cell for cell in self.defining.get(names[0], []) if self.define(cell, names)]
            if names
            else []
        )


def defined(source: str) -> set[str]:
    """Names of which a line of the source begins a definition: `def name(`, `class name:`, `name =
    `, `name: int = `.
    """
    return {f["name"] for f in DEFINES.finditer(source) if f["kind"] or f["then"] in ":="}


def required(answer: Cell) -> list[str]:
    """The names that the released stub defines: what the learner was asked for."""
    words = set(WORD.findall(answer.released))
    return [n for n in answer.names if n in words]


def _choose(answer: Cell, index: Index, notes: list[str]) -> Found | None:
    """The cell to grade for an answer: by grade_id, else by the cell's id, else by what it defines.

    Of several that were worked on, the one that was run last in the kernel counts; where it is not
    said, the last one.
    """
    name, names = answer.grade_id, required(answer) if answer.code else []
    touched = lambda cell: cell.source.strip() not in ("", answer.released.strip())  # noqa: E731
    marked = index.by_grade.get(name, [])
    chosen: Found | None = marked[0] if marked else None
    if len(marked) > 1:
        worked_on = [c for c in marked if touched(c)]
        full = [c for c in worked_on if index.define(c, names)] or worked_on
        chosen = last_run(full or marked)
        which = (
            f"number {marked.index(chosen) + 1} of them counts, the last one run"
            if full
            else "none of them was worked on"
        )
        notes.append(f"{name}: {len(marked)} cells claim to be this one; {which}")
    elif chosen is None and answer.cell_id in index.by_cell:
        chosen = index.by_cell[answer.cell_id]
        notes.append(f"{name}: found by its cell id, its metadata is gone")
    if names and (chosen is None or not touched(chosen) or not index.define(chosen, names)):
        others = [c for c in index.that_define(names) if touched(c) and not c.grade_id]
        if others:
            why = (
                "its cell is as it was released"
                if chosen and not touched(chosen)
                else f"its cell does not define {', '.join(names)}"
            )
            notes.append(
                f"{name}: {why}; another cell that does was taken"
                if chosen
                else f"{name}: its cell is missing; one that defines {', '.join(names)} was taken"
            )
            chosen = last_run(others)
    if chosen is None:
        notes.append(f"{name}: this cell is missing")
    elif len(chosen.source) > LARGEST_CELL:
        notes.append(f"{name}: this cell is larger than {LARGEST_CELL >> 20} MB; it was not read")
        chosen = None
    return chosen


def last_run(cells: list[Found]) -> Found:
    """The cell that was run last, by its execution count; of equal ones the last."""
    return max(enumerate(cells), key=lambda pair: (pair[1].count, pair[0]))[1]


def _extras(
    lab: Lab, cells: list[Found], taken: dict[str, Found], notes: list[str]
) -> dict[str, list[str]]:
    """The learner's own code cells, and cells of the lab that were changed, by the graded cell that
    comes next.
    """
    graded = {id(cell): name for name, cell in taken.items()}
    tests = {test.grade_id for test in lab.tests}
    out: dict[str, list[str]] = {}
    waiting: list[str] = []
    for cell in cells:
        if id(cell) in graded or cell.grade_id in tests:
            out.setdefault(graded.get(id(cell), cell.grade_id), []).extend(waiting)
            waiting = []
        elif cell.code and cell.source.strip() not in lab.texts:
            waiting.append(cell.source)
    out.setdefault("", []).extend(waiting)
    if sum(len(source) for sources in out.values() for source in sources) > LARGEST_CELL:
        notes.append(
            f"extra cells: together larger than {LARGEST_CELL >> 20} MB; they were not read"
        )
        return {}
    return {name: sources for name, sources in out.items() if sources}
