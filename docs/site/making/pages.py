"""The pages that no notebook is: the start, the glossary, the reference;
and each page as Markdown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from course_utils.learn import glossary, texts
from course_utils.learn.checks.exercise import find
from course_utils.learn.page import catalogue
from course_utils.learn.page.catalogue import ROOT, Unit
from course_utils.learn.texts import ui

from . import readmes
from .readmes import number, units

INSTRUCTORS = ("instructor", "fairness", "attacks", "mutants")
MEASURED = tuple(sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - set(INSTRUCTORS)))


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
            f"| [{number(unit)} {unit.title}]({unit.path}) | {', '.join(map(str, unit.days))} | "
            f"{facts(unit)} | {before} |"
        )
    return "\n".join(rows)


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
    """A page for each folder of the package, its README and then what its docstrings say; and their
    list.
    """
    target.mkdir(parents=True, exist_ok=True)
    rows = []
    for package in readmes.PACKAGES:
        home = ROOT / "course_utils" / package
        text = re.sub(r"\[([^\]]+)\]\(\.\./\.\./tests/[^)]*\)", r"\1", readmes.readme(package))
        out = [text.replace("](../../", "](../")]
        for name in readmes.modules(package):
            out += [
                f"## {name.removeprefix('course_utils.')}",
                f"```{{eval-rst}}\n.. automodule:: {name}\n```",
            ]
        (target / f"{package}.md").write_text("\n\n".join(out) + "\n", encoding="utf-8")
        doc = readmes.first_paragraph(home / "__init__.py")
        rows.append(f"- [course_utils.{package}]({package}.md): {doc.split('. ')[0].rstrip('.')}.")
    body = [
        f"# {ui('site_reference')}",
        ui("site_reference_how"),
        "\n".join(rows),
        tree("", list(readmes.PACKAGES)),
    ]
    (target / "index.md").write_text("\n\n".join(body) + "\n", encoding="utf-8")


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
    """llms.txt: what the site is, and each page's Markdown.

    `names`: address of the Markdown → title.
    """
    words = texts.load("course")
    listed = "\n".join(f"- [{title}]({address})" for address, title in names.items())
    return (
        f"# {words['title']}\n\n> {ui('site_welcome')}\n\n"
        f"{ui('site_for_machines')}\n\n## {ui('site_pages')}\n\n{listed}\n"
    )
