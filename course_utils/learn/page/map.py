"""The start page: what to open next, the map of five levels, the twelve days, the assessment.

HTML, and text beside it.
"""

from __future__ import annotations

import html
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import show, texts
from ..texts import ui
from . import catalogue
from .catalogue import Unit

if TYPE_CHECKING:
    from .events import Summary

BORDER = "1px solid #bbb"
QUIET = "opacity:.65"


class Page(NamedTuple):
    """The same content twice."""

    html: str
    text: str


def show_page(done: Summary) -> None:
    """Show the whole start page for this progress."""
    parts = [
        _next(done),
        _map(done),
        _intuition(done),
        _schedule(done),
        _assessment(done),
        _before(),
    ]
    parts = [part for part in parts if part.text]
    show.emit("".join(part.html for part in parts), "\n\n".join(part.text for part in parts))


def link(unit: Unit) -> Page:
    """A unit's title, as a link relative to the notebook that runs; one that is not on disk is in
    preparation.
    """
    if not catalogue.present(unit):
        note = f"({ui('in_preparation')})"
        shown = f"<span style='{QUIET}'>{html.escape(unit.title)} <small>{note}</small></span>"
        return Page(shown, f"{unit.title} {note}")
    target = Path(os.path.relpath(catalogue.root() / unit.path)).as_posix()
    return Page(
        f"<a href='{html.escape(target)}'>{html.escape(unit.title)}</a>", f"{unit.title} [{target}]"
    )


def counts(unit: Unit, done: Summary) -> Page:
    """How much of a unit is done: exercises passed and questions answered, or nothing when it has
    none.
    """
    exercises, questions = catalogue.tasks(unit)
    said = []
    if exercises:
        said.append(
            ui(
                "exercises_count",
                done=len(done.passed.intersection(exercises)),
                total=len(exercises),
            )
        )
    if questions:
        said.append(
            ui(
                "questions_count",
                done=len(done.right.intersection(questions)),
                total=len(questions),
            )
        )
    if read := len(done.solutions.intersection(exercises)):
        said.append(ui("solutions_read", count=read))
    text = " · ".join(said)
    if said and complete(unit, done):
        text += f" · {ui('done_mark')}"
        return Page(f"<b>{text}</b>", text)
    return Page(f"<span style='{QUIET}'>{text}</span>", text)


def complete(unit: Unit, done: Summary) -> bool:
    """True when every exercise and question of the notebook is done; a notebook without any is
    never complete.
    """
    exercises, questions = catalogue.tasks(unit)
    return (
        bool(exercises or questions)
        and done.passed >= set(exercises)
        and done.right >= set(questions)
    )


def _all_units() -> dict[str, Unit]:
    return {**catalogue.lessons(), **catalogue.labs()}


def _next(done: Summary) -> Page:
    """The first unit in the order of days that is on disk and not complete."""
    here = [
        unit
        for unit in sorted(_all_units().values(), key=lambda u: u.days[0])
        if catalogue.present(unit)
    ]
    open_ones = [unit for unit in here if any(catalogue.tasks(unit)) and not complete(unit, done)]
    open_ones = open_ones or [unit for unit in here if not any(catalogue.tasks(unit))][:1]
    if not open_ones:
        words = ui("next_nothing" if here else "next_no_lessons")
        return Page(show.box("note", ui("next_title"), words), f"{ui('next_title')}\n{words}")
    unit = open_ones[0]
    where, minutes = link(unit), ui("minutes", minutes=unit.minutes)
    day = ui("day", number=unit.days[0])
    shown = (
        show.box("question", ui("next_title")).removesuffix("</div>")
        + f"<p style='margin:.3em 0'>{where.html} · {day} · {minutes}</p></div>"
    )
    return Page(shown, f"{ui('next_title')}\n  {where.text} · {day} · {minutes}")


def _map(done: Summary) -> Page:
    words = texts.load("course")["levels"]
    first = _cell(catalogue.start(), done)
    rows, lines = (
        [f"<div style='max-width:15em;margin:.7em 0'>{first.html}</div>"],
        [ui("map_title"), first.text],
    )
    for number in catalogue.structure()["levels"]:
        title, aim = ui("level", number=number, title=words[number]["title"]), words[number]["aim"]
        cells, names = [], []
        for unit in _all_units().values():
            if unit.level == number:
                cell, line = _cell(unit, done)
                cells.append(cell)
                names.append(line)
        grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(15em,1fr));gap:.4em"
        head = (
            f"<div><b>{html.escape(title)}</b> "
            f"<span style='{QUIET}'>{html.escape(aim)}</span></div>"
        )
        rows.append(
            f"<div style='margin:.7em 0'>{head}<div style='{grid}'>{''.join(cells)}</div></div>"
        )
        lines += [f"{title} {aim}", *names]
    return Page(_heading("map_title") + "".join(rows), "\n".join(lines))


def _cell(unit: Unit, done: Summary) -> Page:
    where, said = link(unit), counts(unit, done)
    number = unit.id.split("-")[1 if unit.id.startswith("lab-") else 0]
    prefix = (
        f"{ui('lab')} {number}"
        if unit.id.startswith("lab-")
        else ""
        if unit.id == "start"
        else number
    )
    bar = show.COLOURS["right"] if complete(unit, done) else "#949494"
    style = (
        f"border:{BORDER};border-left:4px solid {bar};border-radius:4px;padding:.3em "
        ".6em;line-height:1.4"
    )
    second = f"<br><small>{said.html}</small>" if said.text else ""
    return Page(
        f"<div style='{style}'>{prefix} {where.html}{second}</div>",
        f"  {prefix:<8} {where.text}  {said.text}".rstrip(),
    )


def _schedule(done: Summary) -> Page:
    words = texts.load("course")["days"]
    rows, lines = [], [ui("schedule_title")]
    for day in catalogue.structure()["schedule"]:
        units = [unit for unit in _all_units().values() if day in unit.days]
        links = [link(unit) for unit in units]
        finished = all(complete(unit, done) for unit in units)
        mark = f"<br><small>{ui('done_mark')}</small>" if finished else ""
        cells = [
            f"<b>{day}</b>{mark}",
            html.escape(words[day]),
            "<br>".join(page.html for page in links),
            ui("minutes", minutes=sum(unit.minutes // len(unit.days) for unit in units)),
        ]
        rows.append(
            "".join(f"<td style='text-align:left;vertical-align:top'>{cell}</td>" for cell in cells)
        )
        lines.append(f"{ui('day', number=day)}: {words[day]}")
        lines += [f"  {page.text}" for page in links]
    columns = ("column_day", "column_topic", "column_open", "column_time")
    head = "".join(f"<th style='text-align:left'>{ui(key)}</th>" for key in columns)
    table = f"<table style='margin:0'><thead><tr>{head}</tr></thead><tbody>" + "".join(
        f"<tr>{r}</tr>" for r in rows
    )
    hours = ui("hours", **catalogue.structure()["hours"])
    note = f"<p style='{QUIET};margin:.3em 0'>{hours}</p>"
    return Page(
        _heading("schedule_title") + table + "</tbody></table>" + note, "\n".join([*lines, hours])
    )


def _assessment(done: Summary) -> Page:
    words, units = texts.load("course")["assessment"], _all_units()
    rows, lines = [], [ui("assessment_title")]
    for part, data in catalogue.structure()["assessment"].items():
        title = ui("assessment_part", title=words[part]["title"], weight=data["weight"])
        items = []
        lines.append(title)
        for item, proofs in data["items"].items():
            text = words[part]["items"][item]
            known = [units[name] for name in proofs]
            proved = [
                link(unit).html if catalogue.present(unit) else html.escape(unit.title)
                for unit in known
            ]
            box = "☑" if all(complete(unit, done) for unit in known) else "☐"
            by = f"<span style='{QUIET}'>{ui('shown_by', units=', '.join(proved))}</span>"
            items.append(
                f"<li style='list-style:none'>{box} {html.escape(text)} <small>{by}</small></li>"
            )
            lines.append(f"  {box} {text}")
        rows.append(
            f"<div style='margin:.4em 0'><b>{html.escape(title)}</b>"
            f"<ul style='margin:0;padding-left:1em'>{''.join(items)}</ul></div>"
        )
    return Page(_heading("assessment_title") + "".join(rows), "\n".join(lines))


def _intuition(done: Summary) -> Page:
    """How good the learner's guesses were, those before the first look at the result; nothing
    before the first one.
    """
    judged = {name: guess for name, guess in done.guesses.items() if guess.right is not None}
    if not judged:
        return Page("", "")
    lines = [
        ui("intuition_share", right=sum(bool(g.right) for g in judged.values()), total=len(judged))
    ]
    ratios = [abs(g.log_ratio) for g in judged.values() if g.log_ratio is not None]
    if ratios:
        lines.append(
            ui(
                "intuition_factor",
                factor=f"{math.exp(sum(ratios) / len(ratios)):.2g}",
                count=len(ratios),
            )
        )
    if missed := [name for name, guess in judged.items() if not guess.right]:
        lines.append(ui("intuition_list", names=", ".join(f"`{name}`" for name in missed)))
    shown = "".join(
        f"<p style='margin:.3em 0;{show.FONT}'>{show.inline(line)}</p>" for line in lines
    )
    return Page(
        _heading("intuition_title") + shown,
        "\n".join([ui("intuition_title"), *map(show.plain, lines)]),
    )


def _before() -> Page:
    """What to know first, what helps, and what the course prepares for."""
    words, data = texts.load("course"), catalogue.structure()

    def listed(names: list[str], key: str) -> str:
        return "; ".join(words[key][name] for name in names)

    lines = [
        ui("hard_prerequisites", items=listed(data["prerequisites"]["hard"], "prerequisites")),
        ui("soft_prerequisites", items=listed(data["prerequisites"]["soft"], "prerequisites")),
        ui(
            "enables",
            items=listed(data["enables"]["direct"] + data["enables"]["indirect"], "enables"),
        ),
    ]
    shown = "".join(
        f"<p style='margin:.3em 0;{show.FONT}'>{html.escape(line)}</p>" for line in lines
    )
    return Page(_heading("before_title") + shown, "\n".join([ui("before_title"), *lines]))


def _heading(key: str) -> str:
    return f"<h3 style='margin:1em 0 .3em'>{ui(key)}</h3>"
