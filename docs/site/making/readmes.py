"""One README.md for each folder of the package: method, paper, function, lesson, test; it is also
the head of its reference page.

    python docs/site/build.py --readmes

The rows are read from what is there: the first sentence of a module, the papers that its docstrings
name, its public functions, the lessons and labs that use them, the tests that import it.
tests/site/test_readmes.py tries that what a README names exists.
"""

from __future__ import annotations

import ast
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from course_utils.learn.page import catalogue
from course_utils.learn.page.catalogue import ROOT, Unit
from course_utils.learn.texts import ui

PACKAGE = ROOT / "course_utils"
PACKAGES = tuple(sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
# of `learn` only its machinery, not each exercise
DEEP = {"learn": ("learn", "questions", "page", "checks", "plots")}
MOST = 3  # functions, and tests, that a row names
COLUMNS = ("method", "paper", "function", "lesson", "test")
PAPER = re.compile(
    r"((?:van |den |der |von |de )*[A-Z][\w’'\-]+(?:(?:, [A-Z][\w\-]+)*,? (?:and|&) "
    r"[A-Z][\w\-]+| et al\.)?)"
    r"(?:, | \()((?:18|19|20)\d\d)(?=[a-z]?[,;:). ])"
)


def units() -> list[Unit]:
    """The lessons and labs that are on disk, in order."""
    found = (*catalogue.lessons().values(), *catalogue.labs().values())
    return [unit for unit in found if catalogue.present(unit)]


def number(unit: Unit) -> str:
    """What a unit is called in short: "3.2", "Lab 3.1"."""
    first = unit.id.split("-")
    return f"{ui('lab')} {first[1]}" if unit.id.startswith("lab-") else first[0]


def modules(package: str) -> list[str]:
    """The public modules of a folder, those of its folders too."""
    found = []
    for file in sorted((PACKAGE / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        inside = len(parts) < 4 or package not in DEEP or parts[2] in DEEP[package]
        if inside and not any(part.startswith("_") for part in parts) and "exercises" not in parts:
            found.append(".".join(parts))
    return found


def readme(package: str) -> str:
    """The text of a folder's README."""
    doc = first_paragraph(PACKAGE / package / "__init__.py")
    return f"# course_utils.{package}\n\n{doc}\n\n{table(package)}\n"


def table(package: str) -> str:
    """A row for each public module; links lead from the folder to notebooks and tests."""
    rows = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    home = PACKAGE / package
    for name in modules(package):
        file = ROOT / f"{name.replace('.', '/')}.py"
        does = first_paragraph(file).split(". ")[0].rstrip(".:").replace("|", "\\|")
        used = [unit for unit in units() if name in imported(ROOT / unit.path)]
        tests = sorted((t for t in _tests() if name in imported(t)), key=lambda t: _near(t, name))
        cells = (
            f"`{name.removeprefix(f'course_utils.{package}.')}`: {does}",
            "; ".join(papers(file)),
            ", ".join(f"`{function}`" for function in functions(file)),
            ", ".join(_link(number(unit), ROOT / unit.path, home) for unit in used),
            ", ".join(_link(t.stem.removeprefix("test_"), t, home) for t in tests[:MOST]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _link(text: str, file: Path, home: Path) -> str:
    shown = text.replace("_", "\\_")
    return f"[{shown}]({Path(os.path.relpath(file, home)).as_posix()})"


def _near(test: Path, module: str) -> tuple[bool, bool, str]:
    """Tests that carry the module's name first, then those of its folder."""
    _, package, *_, short = module.split(".")
    return short not in test.stem, test.parent.name != package, test.as_posix()


def first_paragraph(file: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(_tree(file)) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def papers(file: Path) -> list[str]:
    """The papers that the docstrings of a module name, in order."""
    kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
    said = [ast.get_docstring(n) or "" for n in ast.walk(_tree(file)) if isinstance(n, kinds)]
    text = re.sub(r"\s+", " ", " \n ".join(said))
    found = [
        f"{one[1]}, {one[2]}"
        for one in PAPER.finditer(text)
        if not re.search(r"[A-Z]\w+ $", text[: one.start()]) and not re.search("['’]s$", one[1])
    ]
    return list(dict.fromkeys(found))


def functions(file: Path) -> list[str]:
    """The public functions of a module that lessons, labs, examples and tests name most often, in
    the module's order; else its classes.
    """
    for kind in (ast.FunctionDef, ast.ClassDef):
        public = [
            n.name for n in _tree(file).body if isinstance(n, kind) and not n.name.startswith("_")
        ]
        if public:
            most = sorted(public, key=lambda name: -_named().get(name, 0))[:MOST]
            return [name for name in public if name in most]
    return []


@functools.cache
def _named() -> dict[str, int]:
    """How often each name stands before a bracket in lessons, labs, examples and tests."""
    count: dict[str, int] = {}
    files = [ROOT / unit.path for unit in units()] + [*(ROOT / "examples").glob("*.py"), *_tests()]
    for file in files:
        for name in re.findall(r"\b([A-Za-z]\w*)\(", file.read_text(encoding="utf-8")):
            count[name] = count.get(name, 0) + 1
    return count


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def _tests() -> tuple[Path, ...]:
    return tuple(sorted((ROOT / "tests").rglob("test_*.py")))


@functools.cache
def _handed_on() -> dict[str, str]:
    """course_utils.folder.name → the module that it comes from, for what folders hand on."""
    found = {}
    for package in PACKAGES:
        for part in _tree(PACKAGE / package / "__init__.py").body:
            if isinstance(part, ast.ImportFrom) and part.level == 1 and part.module:
                for alias in part.names:
                    found[f"course_utils.{package}.{alias.asname or alias.name}"] = (
                        f"course_utils.{package}.{part.module}"
                    )
    return found


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """The modules of the course that a file imports, or names by their folder
    (`quantization.gptq.`).
    """
    text = file.read_text(encoding="utf-8").replace("\\n", "\n").replace('\\"', '"')
    flat = re.sub(r"\(\s*([^)]*?)\s*\)", lambda found: found[1].replace("\n", " "), text)
    names = set(re.findall(r"^\W*import (course_utils[\w.]+)", flat, re.MULTILINE))
    for start, rest in re.findall(r"from (course_utils[\w.]*) import ([^\n#]+)", flat):
        parts = [part.split()[0] for part in rest.strip('",').split(",") if part.split()]
        names |= {start, *(f"{start}.{part}" for part in parts)}
    for package in PACKAGES:
        if f"course_utils.{package}" in names:
            inside = re.findall(rf"\b{package}\.(\w+)", text)
            names |= {f"course_utils.{package}.{part}" for part in inside}
    return frozenset(names | {_handed_on()[name] for name in names if name in _handed_on()})


def write(packages: Iterable[str] = PACKAGES) -> None:
    """Write the READMEs into their folders."""
    for package in packages:
        (PACKAGE / package / "README.md").write_text(readme(package), encoding="utf-8")
