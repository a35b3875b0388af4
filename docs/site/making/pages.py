"""The pages that no notebook is: the start, the glossary, the reference; and each page as Markdown."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course_utils.learn import glossary, texts
from course_utils.learn.checks.exercise import find
from course_utils.learn.page import catalogue
from course_utils.learn.page.catalogue import ROOT, Unit
from course_utils.learn.texts import ui

INSTRUCTORS = ("instructor", "fairness", "attacks", "mutants")
MEASURED = tuple(sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - set(INSTRUCTORS)))
PACKAGES = tuple(sorted(path.parent.name for path in (ROOT / "course_utils").glob("*/__init__.py")))
# of `learn` only its machinery, not each exercise
DEEP = {"learn": ("learn", "questions", "page", "checks", "plots")}


def units() -> list[Unit]:
    """The lessons and labs that are on disk, in order."""
    return [
        unit
        for unit in (*catalogue.lessons().values(), *catalogue.labs().values())
        if catalogue.present(unit)
    ]


def page_of(unit: Unit) -> str:
    """The page's name without an ending."""
    return unit.path.removesuffix(".ipynb")


def facts(unit: Unit) -> str:
    """Minutes and difficulty of the exercises."""
    known = [find(name).difficulty for name in catalogue.tasks(unit)[0]]
    marks = sorted({difficulty for difficulty in known if difficulty})
    said = ["●" * d + "○" * (3 - d) for d in (marks[:1] + marks[-1:] if len(marks) > 1 else marks)]
    return f"{ui('minutes', minutes=unit.minutes)} | {' – '.join(said)}"


def table(chosen: list[Unit]) -> str:
    """Units with day, minutes, difficulty, and what comes before."""
    known = {unit.id: unit for unit in units()}
    heads = [
        ui(key)
        for key in ("column_open", "column_day", "column_time", "site_difficulty", "site_before")
    ]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for unit in chosen:
        before = ", ".join(
            f"[{known[name].title}]({known[name].path})" for name in unit.requires if name in known
        )
        rows.append(
            f"| [{number(unit)} {unit.title}]({unit.path}) | {', '.join(map(str, unit.days))} | {facts(unit)} | {before} |"
        )
    return "\n".join(rows)


def number(unit: Unit) -> str:
    return (
        f"{ui('lab')} {unit.id.split('-')[1]}"
        if unit.id.startswith("lab-")
        else unit.id.split("-")[0]
    )


def start(links: str = "") -> str:
    """The first page: the map, the days, and the tree of all pages."""
    words, out = texts.load("course"), []
    out += [
        f"# {words['title']}",
        ui("site_welcome"),
        ui("site_how"),
        ui("site_install"),
        links,
        f"## {ui('map_title')}",
    ]
    for level, text in words["levels"].items():
        chosen = [unit for unit in units() if unit.level == level]
        if chosen:
            out += [
                f"### {ui('level', number=level, title=text['title'])}",
                text["aim"],
                table(chosen),
            ]
    out += [
        f"## {ui('schedule_title')}",
        _days(words["days"]),
        ui("hours", **catalogue.structure()["hours"]),
    ]
    out += [
        f"## {ui('site_more')}",
        "\n".join(f"- [{ui(key)}]({name}.md)" for name, key in _more()),
    ]
    for level, text in words["levels"].items():
        lessons = [unit for unit in units() if unit.level == level]
        out.append(
            tree(
                ui("level", number=level, title=text["title"]),
                [f"{number(u)} {u.title} </{page_of(u)}>" for u in lessons],
            )
        )
    out.append(tree(ui("site_look_up"), ["/glossary", "/reference/index"]))
    out.append(tree(ui("site_instructors"), [f"/docs/{name}" for name in INSTRUCTORS]))
    out.append(tree(ui("site_measured"), [f"/docs/{name}" for name in MEASURED]))
    return "\n\n".join(part for part in out if part) + "\n"


def _more() -> list[tuple[str, str]]:
    return [
        ("glossary", "site_glossary"),
        ("reference/index", "site_reference"),
        ("docs/instructor", "site_instructors"),
        ("docs/benchmarks", "site_benchmarks"),
    ]


def _days(words: dict[int, str]) -> str:
    rows = [f"| {ui('column_day')} | {ui('column_topic')} | {ui('column_open')} |", "|---|---|---|"]
    for day in catalogue.structure()["schedule"]:
        chosen = ", ".join(
            f"[{number(unit)} {unit.title}]({unit.path})" for unit in units() if day in unit.days
        )
        rows.append(f"| {day} | {words[day]} | {chosen} |")
    return "\n".join(rows)


def tree(caption: str, entries: list[str], hidden: bool = True) -> str:
    lines = [
        "```{toctree}",
        *([":hidden:"] if hidden else []),
        ":maxdepth: 1",
        f":caption: {caption}" if caption else "",
        "",
        *entries,
        "```",
    ]
    return "\n".join(lines)


def terms() -> str:
    """The glossary, each term with the place where it is taught."""
    paths = {unit.id: ROOT / unit.path for unit in units() if not unit.id.startswith("lab-")}
    out = [f"# {ui('site_glossary')}"]
    for term in sorted(glossary.terms(), key=lambda term: term.name.casefold()):
        path, _, anchor = glossary.place(term, paths)
        title = catalogue.lessons()[path.stem].title
        out.append(
            f"**{term.name}**. {term.means} [{title}]({path.relative_to(ROOT).as_posix()}#{anchor})"
        )
    return "\n\n".join(out) + "\n"


def reference(target: Path) -> None:
    """A page for each folder of the package, and their list."""
    target.mkdir(parents=True, exist_ok=True)
    rows = []
    for package in PACKAGES:
        modules = sorted(_modules(package))
        doc = _doc(ROOT / "course_utils" / package / "__init__.py")
        out = [f"# course_utils.{package}", doc, _used_in(modules)]
        for name in modules:
            out += [
                f"## {name.removeprefix('course_utils.')}",
                f"```{{eval-rst}}\n.. automodule:: {name}\n```",
            ]
        (target / f"{package}.md").write_text("\n\n".join(out) + "\n", encoding="utf-8")
        rows.append(f"- [course_utils.{package}]({package}.md): {doc.split('. ')[0].rstrip('.')}.")
    body = [
        f"# {ui('site_reference')}",
        ui("site_reference_how"),
        "\n".join(rows),
        tree("", list(PACKAGES)),
    ]
    (target / "index.md").write_text("\n\n".join(body) + "\n", encoding="utf-8")


def _modules(package: str) -> Iterable[str]:
    for file in sorted((ROOT / "course_utils" / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        inside = len(parts) < 4 or package not in DEEP or parts[2] in DEEP[package]
        if inside and not any(part.startswith("_") for part in parts) and "exercises" not in parts:
            yield ".".join(parts)


def _doc(file: Path) -> str:
    return (
        (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
        .split("\n\n")[0]
        .replace("\n", " ")
    )


def _used_in(modules: list[str]) -> str:
    """For each module what it does, the lessons and labs that use it, and the tests that import it."""
    heads = [ui(key) for key in ("site_module", "site_does", "site_used_in", "site_tested_by")]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in modules:
        file, short = ROOT / f"{name.replace('.', '/')}.py", name.rsplit(".", 1)[1]
        does = _doc(file).split(". ")[0].rstrip(".").replace("|", "\\|")
        taught = [
            f"[{number(unit)}]({Path('..', unit.path).as_posix()})"
            for unit in units()
            if name in _imported(ROOT / unit.path)
        ]
        tests = [
            path.relative_to(ROOT / "tests").as_posix().removesuffix(".py").replace("_", "\\_")
            for path in _tests()
            if name in _imported(path)
        ]
        rows.append(f"| `{short}` | {does} | {', '.join(taught)} | {', '.join(tests[:3])} |")
    return "\n".join(rows)


@functools.cache
def _tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


@functools.cache
def _imported(file: Path) -> frozenset[str]:
    """The modules of the course that a file imports."""
    text = file.read_text(encoding="utf-8").replace("\\n", "\n").replace('\\"', '"')
    text = re.sub(r"\(\s*([^)]*?)\s*\)", lambda found: found[1].replace("\n", " "), text)
    names = set(re.findall(r"^\W*import (course_utils[\w.]+)", text, re.MULTILINE))
    for start, rest in re.findall(r"from (course_utils[\w.]*) import ([^\n#]+)", text):
        names |= {
            start,
            *(f"{start}.{part.split()[0]}" for part in rest.strip('",').split(",") if part.split()),
        }
    return frozenset(names)


def markdown(page: dict[str, Any]) -> str:
    """A notebook as Markdown: its text, its code, and what the code said."""
    out = []
    for cell in page["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            out.append(source)
            continue
        if "parameters" not in cell["metadata"].get("tags", []):
            out.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            said = "".join(output.get("text", "") or data.get("text/plain", "")).rstrip()
            if said and not said.startswith("<Figure"):
                out.append(f"```text\n{said}\n```" if "image/png" not in data else f"*{said}*")
    return "\n\n".join(out) + "\n"


def index_for_machines(names: dict[str, str]) -> str:
    """llms.txt: what the site is, and each page's Markdown. `names`: address of the Markdown → title."""
    words = texts.load("course")
    listed = "\n".join(f"- [{title}]({address})" for address, title in names.items())
    return f"# {words['title']}\n\n> {ui('site_welcome')}\n\n{ui('site_for_machines')}\n\n## {ui('site_pages')}\n\n{listed}\n"
