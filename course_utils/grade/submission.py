"""The answers in a learner's notebook: the source of known answer cells, and nothing else of it.

The file is read once. What is wrong with it becomes a note for the instructor, and what can be read is graded.
"""

import codecs
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .lab import Cell, Lab

LARGEST_FILE = 50 << 20
LARGEST_CELL = 1 << 20


@dataclass
class Submission:
    """`answers` by grade_id; a cell that is absent or as it was released is not among them."""

    answers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    digest: str = ""


def find(folder: Path, lab: Lab) -> tuple[Path | None, list[str]]:
    """The notebook to grade in a learner's folder, and notes. Links are not followed."""
    notebooks = [Path(e.path) for e in sorted(os.scandir(folder), key=lambda e: e.name) if e.name.endswith(".ipynb")]
    real = [p for p in notebooks if regular(p)]
    notes = [f"{p.name} is a link or no ordinary file; it was not read" for p in notebooks if p not in real]
    for path in real:
        if path.name == f"{lab.name}.ipynb":
            return path, notes
    if not real:
        return None, [*notes, "there is no notebook"]
    known = [f'"{a.grade_id}"'.encode() for a in lab.answers]
    best = max(real, key=lambda p: (sum(k in read_bytes(p) for k in known), p.name))
    return best, [*notes, f"{lab.name}.ipynb is missing; {best.name} was graded"]


def regular(path: Path) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def read_bytes(path: Path) -> bytes:
    """At most LARGEST_FILE + 1 bytes of an ordinary file."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path}: not an ordinary file")
        return file.read(LARGEST_FILE + 1)


def parse(content: bytes, lab: Lab) -> Submission:
    """The answers in the bytes of a notebook."""
    found = Submission(digest=hashlib.sha256(content).hexdigest())
    if len(content) > LARGEST_FILE:
        found.notes.append(f"the file is larger than {LARGEST_FILE >> 20} MB; it was not read")
        return found
    cells = _cells(_text(content, found.notes), found.notes)
    by_id: dict[str, list[str]] = {}
    by_cell: dict[str, str] = {}
    sources = []
    for cell in cells:
        source = _source(cell)
        if source is None:
            continue
        sources.append(source)
        by_id.setdefault(_grade_id(cell), []).append(source)
        if isinstance(cell.get("id"), str):
            by_cell.setdefault(cell["id"], source)
    for answer in lab.answers:
        source = _choose(answer, by_id.get(answer.grade_id, []), by_cell, sources, found.notes)
        if source is not None and source.strip() != answer.released.strip():
            found.answers[answer.grade_id] = source
    _note_extra(lab, sources, found)
    return found


def _text(content: bytes, notes: list[str]) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        notes.append("the file is UTF-16")
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        notes.append(f"the file is not UTF-8 (byte {error.start}); unreadable characters were replaced")
        return content.decode("utf-8-sig", errors="replace")


def _cells(text: str, notes: list[str]) -> list[dict[str, Any]]:
    """The cells of a notebook; of a damaged one, those that stand whole before the damage."""
    try:
        notebook = json.loads(text)
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        if not isinstance(cells, list):
            raise ValueError("cells are no list")
    except (ValueError, RecursionError, KeyError, TypeError, IndexError) as error:
        notes.append(f"the notebook is damaged ({type(error).__name__}); cells before the damage were graded")
        cells = list(_salvage(text))
    return [c for c in cells if isinstance(c, dict)]


def _salvage(text: str) -> list[Any]:
    found: list[Any] = []
    start = re.search(r'"cells"\s*:\s*\[', text)
    decoder, place = json.JSONDecoder(), start.end() if start else len(text)
    while place < len(text):
        if text[place] in " \t\r\n,":
            place += 1
            continue
        try:
            cell, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        found.append(cell)
    return found


def _source(cell: dict[str, Any]) -> str | None:
    source = cell.get("source", cell.get("input"))
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source if isinstance(source, str) else None


def _grade_id(cell: dict[str, Any]) -> str:
    meta = cell.get("metadata")
    meta = meta.get("nbgrader") if isinstance(meta, dict) else None
    name = meta.get("grade_id") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else ""


def defines(source: str, answer: Cell) -> bool:
    """True when a line of the source begins a definition of every name that the answer cell has to define."""
    return all(
        re.search(rf"^(?:async def|def|class)?\s*{re.escape(n)}\b\s*[(:=]", source, re.MULTILINE)
        for n in _required(answer)
    )


def _required(answer: Cell) -> list[str]:
    """The names that the released stub defines: what the learner was asked for."""
    return [n for n in answer.names if re.search(rf"\b{re.escape(n)}\b", answer.released)]


def _choose(
    answer: Cell, marked: list[str], by_cell: dict[str, str], sources: list[str], notes: list[str]
) -> str | None:
    """The source to grade for an answer: by grade_id, else by the cell's id, else by what it defines."""
    name = answer.grade_id
    chosen: str | None = None
    if len(marked) > 1:
        changed = [s for s in marked if s.strip() != answer.released.strip()]
        notes.append(f"{name}: {len(marked)} cells claim to be this one; the first that was worked on counts")
        chosen = (changed or marked)[0]
    elif marked:
        chosen = marked[0]
    if chosen is None and answer.cell_id in by_cell:
        chosen = by_cell[answer.cell_id]
        notes.append(f"{name}: found by its cell id, its metadata is gone")
    if answer.code and _required(answer) and (chosen is None or not defines(chosen, answer)):
        for source in sources:
            if defines(source, answer) and source.strip() != answer.released.strip():
                notes.append(
                    f"{name}: its cell does not define {', '.join(_required(answer))}; another cell that does was taken"
                )
                chosen = source
                break
    if chosen is None:
        notes.append(f"{name}: this cell is missing")
    elif len(chosen) > LARGEST_CELL:
        notes.append(f"{name}: this cell is larger than {LARGEST_CELL >> 20} MB; it was not read")
        chosen = None
    return chosen


def _note_extra(lab: Lab, sources: list[str], found: Submission) -> None:
    """Say which names an answer may miss because only an extra cell defines them."""
    known = {c.source.strip() for c in (*lab.answers, *lab.tests)} | {s.strip() for s in found.answers.values()}
    known |= {c.released.strip() for c in (*lab.answers, *lab.tests)} | {source.strip() for _, source in lab.prelude}
    known |= {"".join(cell["source"]).strip() for cell in json.loads(lab.released)["cells"]}
    graded = "\n".join(found.answers.values())
    helpers = set()
    for source in sources:
        if source.strip() not in known and len(source) < LARGEST_CELL:
            helpers |= set(re.findall(r"^(?:def|class)\s+(\w+)", source, re.MULTILINE))
    missing = sorted(
        h
        for h in helpers
        if re.search(rf"\b{h}\b", graded) and not re.search(rf"^(?:def|class)\s+{h}\b", graded, re.MULTILINE)
    )
    if missing:
        found.notes.append(
            f"{', '.join(missing)}: used by an answer but defined in an extra cell, and extra cells are not run"
        )
