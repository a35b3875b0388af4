"""Terms with one definition and the place where they are taught: text/<language>/glossary.yaml.

`python -m course_utils.learn.glossary --write` links the first use of each term in each lesson's
markdown to that place, with the definition as its title, which a page shows when the pointer rests
on it. A second run changes nothing.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from course_utils.errors import CompressionError

from . import texts

# what --write has made
LINKED = re.compile(r"\[([^\]]+)\]\((?:[^\s)]*\.ipynb)?(?:#[^\s)]*)? \"[^\"]*\"\)")
# what is not prose: fences, formulas, code, headings, links, tags, the details of rubrics
ASIDE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`]+`|^#[^\n]*$"
    r"|!?\[[^\]]*\]\([^)\"]*(?:\"[^\"]*\")?[^)]*\)|<details>.*?</details>|<[^>]+>",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Term:
    """A term with its definition, the lesson and the cell that teach it, a pattern of its forms,
    and one of the phrases in which they mean something else.
    """

    name: str
    means: str
    lesson: str
    cell: str
    forms: re.Pattern[str]
    others: re.Pattern[str]


@functools.cache
def terms() -> tuple[Term, ...]:
    """All terms, the longest first: "inverse Hessian" is not a use of "Hessian"."""
    found = []
    for name, entry in texts.load("glossary")["terms"].items():
        if any(mark in entry["means"] for mark in '"[]()\n'):
            raise CompressionError(
                f"glossary: {name!r} is explained with quotes, brackets or lines; "
                "they break its link."
            )
        forms, others = _any_of([name, *entry.get("also", ())]), _any_of(entry.get("unless", ()))
        found.append(Term(name, entry["means"], str(entry["lesson"]), entry["cell"], forms, others))
    return tuple(sorted(found, key=lambda term: -len(term.name)))


def _any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """A pattern of whole words; without phrases, one that is found nowhere."""
    longest_first = sorted(map(re.escape, phrases), key=len, reverse=True)
    inside = "|".join(longest_first) or "(?!)"
    return re.compile(rf"(?<![\w-])(?:{inside})(?![\w-])", re.IGNORECASE)


@functools.cache
def _taught(path: Path, _changed: int) -> dict[str, tuple[int, str]]:
    """For each cell: its place in the notebook, and the anchor of the heading in it or above it."""
    anchor, found = "", {}
    for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        heads = (
            re.findall(r"^#+\s+(.+?)\s*$", _source(cell), re.MULTILINE)
            if cell["cell_type"] == "markdown"
            else []
        )
        anchor = quote(heads[0].replace(" ", "-"), safe="-_.:?!,'/–") if heads else anchor
        found[cell["id"]] = (i, anchor)
    return found


def place(term: Term, lessons: dict[str, Path]) -> tuple[Path, int, str]:
    """(notebook, place of the cell, anchor) where a term is taught.

    Raises CompressionError where there is no such cell.
    """
    path = lessons.get(term.lesson)
    cells = _taught(path, path.stat().st_mtime_ns) if path else {}
    if path is None or term.cell not in cells:
        raise CompressionError(
            f"glossary: {term.name!r} is taught in cell {term.cell!r} of {term.lesson!r}, "
            "which is not there."
        )
    return path, *cells[term.cell]


def first_uses(cells: list[dict[str, Any]]) -> Iterator[tuple[Term, int, int, int]]:
    """(term, cell, start, end) of each term's first use in the prose of a notebook; longer terms
    take their words first.
    """
    taken: dict[int, list[tuple[int, int]]] = {}
    for term in terms():
        here: tuple[Term, int, int, int] | None = None
        for i, cell in enumerate(cells):
            if cell["cell_type"] != "markdown":
                continue
            prose = _prose(_source(cell))
            others = [match.span() for match in term.others.finditer(prose)]
            for match in term.forms.finditer(prose):
                if any(
                    match.start() < end and start < match.end()
                    for start, end in [*taken.get(i, ()), *others]
                ):
                    continue
                here = here or (term, i, *match.span())
                taken.setdefault(i, []).append(match.span())
        if here:
            yield here


def link_notebook(path: Path, lessons: dict[str, Path]) -> str:
    """The text of a notebook with its glossary links made anew."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            _write(cell, lambda source: LINKED.sub(r"\1", source))
    edits: dict[int, list[tuple[int, int, str]]] = {}
    for term, i, start, end in first_uses(cells):
        target, taught, anchor = place(term, lessons)
        if target == path and i >= taught:
            continue
        where = "" if target == path else Path(os.path.relpath(target, path.parent)).as_posix()
        edits.setdefault(i, []).append((start, end, f'{where}#{anchor} "{term.means}"'))
    for i, changes in edits.items():

        def linked(source: str, changes: list[tuple[int, int, str]] = changes) -> str:
            for start, end, target in sorted(changes, reverse=True):
                source = f"{source[:start]}[{source[start:end]}]({target}){source[end:]}"
            return source

        _write(cells[i], linked)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _prose(source: str) -> str:
    """The same text with everything that is not prose blanked, so that places stay."""
    return ASIDE.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), source)


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _write(cell: dict[str, Any], change: Callable[[str], str]) -> None:
    """Change the source of a cell, in the form (a text, or a list of lines) in which it is."""
    after = change(_source(cell))
    if after != _source(cell):
        cell["source"] = (
            after.splitlines(keepends=True) if isinstance(cell["source"], list) else after
        )


def main(arguments: list[str]) -> int:
    """The command line; returns its exit code."""
    from .page.catalogue import ROOT

    lessons = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*/*.ipynb"))}
    chosen = [path for name, path in lessons.items() if not arguments[1:] or name in arguments[1:]]
    stale = 0
    for path in chosen:
        before, after = path.read_text(encoding="utf-8"), link_notebook(path, lessons)
        if before != after:
            stale += 1
            print(path.name)
            if "--write" in arguments:
                path.write_text(after, encoding="utf-8")
    return 0 if "--write" in arguments else int(stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
