"""The lessons, labs and days of the course (course.yaml), with their titles, and which of them are
on this disk.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from course_utils.errors import CompressionError

from .. import texts

HERE = Path(__file__).parents[1]
ROOT = HERE.parents[1]
CALL = re.compile(r"\b(check|ask)\(\s*\\?[\"']([A-Za-z_]\w*\.[\w.\-]+)\\?[\"']")


@dataclass(frozen=True)
class Unit:
    """A lesson or a lab. `days` are days of the schedule; `path` is relative to the checkout."""

    id: str
    title: str
    level: int
    days: tuple[int, ...]
    minutes: int
    path: str
    requires: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()


def checkout() -> Path | None:
    """The folder of the course when it runs from one,
    or None when only the package is installed.
    """
    return (
        ROOT if (ROOT / "pyproject.toml").is_file() and (ROOT / "course_utils").is_dir() else None
    )


def root() -> Path:
    """The folder that holds notebooks/: the learner's own copy when they work in one, else the
    checkout.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir():
            return folder
    return ROOT


@functools.cache
def structure() -> dict[str, Any]:
    """course.yaml as it is."""
    return yaml.safe_load((HERE / "course.yaml").read_text(encoding="utf-8"))


def _units(section: str, folder: str) -> dict[str, Unit]:
    words = texts.load("course")[section]
    found = {}
    for name, data in structure()[section].items():
        days = data["day"] if isinstance(data["day"], list) else [data["day"]]
        found[name] = Unit(
            name,
            words[name]["title"],
            data["level"],
            tuple(days),
            data["minutes"],
            folder.format(name=name, level=structure()["levels"][data["level"]]["folder"]),
            tuple(data.get("requires", ())),
            tuple(words[name].get("outcomes", ())),
        )
    return found


def lessons() -> dict[str, Unit]:
    """Every lesson of the course by id, in order, whether it is on disk or not."""
    return _units("lessons", "notebooks/{level}/{name}.ipynb")


def labs() -> dict[str, Unit]:
    """Every graded lab by id, in order."""
    return _units("labs", "labs/{name}/{name}.ipynb")


def start() -> Unit:
    """The start page, whose own exercise and question are counted too."""
    return Unit("start", texts.ui("start_page"), 0, (1,), 2, "notebooks/start.ipynb")


def lesson(name: str) -> Unit:
    """A lesson by its name. Raises CompressionError with the names that there are."""
    known = lessons()
    if name not in known:
        raise CompressionError(
            f"lesson {name!r} is not in course.yaml; lessons are {', '.join(known)}."
        )
    return known[name]


def present(unit: Unit) -> bool:
    """Whether the notebook of a lesson or lab exists."""
    return (root() / unit.path).is_file()


def tasks(unit: Unit) -> tuple[list[str], list[str]]:
    """The exercises and the questions of a notebook: the ids that its cells check and ask, in
    order.
    """
    file = root() / unit.path
    try:
        source = _source(file, file.stat().st_mtime_ns)
    except OSError:
        return [], []
    found = CALL.findall(source)
    exercises = dict.fromkeys(name for verb, name in found if verb == "check")
    questions = dict.fromkeys(name for verb, name in found if verb == "ask")
    return list(exercises), list(questions)


@functools.lru_cache(maxsize=256)
def _source(file: Path, _changed: int) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
