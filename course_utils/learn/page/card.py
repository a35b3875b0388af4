"""The first output of a lesson: what it gives, what comes before it, when, how long."""

from __future__ import annotations

import html

from .. import show, texts
from ..checks.exercise import find
from ..texts import ui
from . import catalogue
from .map import link


def overview(lesson: str) -> None:
    """First output of a lesson: what you will be able to do, what comes before, minutes, day.

    Raises CompressionError for a lesson that course.yaml does not know.
    """
    unit = catalogue.lesson(lesson)
    known = catalogue.lessons()
    before = [link(known[name]) for name in unit.requires]
    level = texts.load("course")["levels"][unit.level]["title"]
    when = ui("when", day=unit.days[0], minutes=unit.minutes, level=unit.level, level_title=level)
    nothing = ui("none_before")
    asked = _exercises(unit)
    last = f"<br>{show.inline(asked)}" if asked else ""
    items = "".join(f"<li>{show.inline(outcome)}</li>" for outcome in unit.outcomes)
    as_html = (
        show.box("question", ui("you_will")).removesuffix("</div>")
        + f"<ul style='margin:.2em 0'>{items}</ul>"
        + (
            f"{ui('before_this', lessons=', '.join(page.html for page in before) or nothing)}<br>"
            f"{html.escape(when)}{last}</div>"
        )
    )
    lines = [ui("you_will"), *(f"  - {show.plain(outcome)}" for outcome in unit.outcomes)]
    lines += [
        ui("before_this", lessons=", ".join(page.text for page in before) or nothing),
        when,
        *([show.plain(asked)] if asked else []),
    ]
    show.emit(as_html, "\n".join(lines))


def _exercises(unit: catalogue.Unit) -> str:
    """The exercises of a lesson with difficulty and minutes, those that state them, in one line."""
    known = [find(name) for name in catalogue.tasks(unit)[0]]
    items = [
        ui(
            "exercise_item",
            title=texts.load(texts.topic_of(e.id))["exercises"][e.id]["title"],
            difficulty=e.difficulty,
            minutes=e.minutes,
        )
        for e in known
        if e.facts()
    ]
    return ui("exercises_title", list="; ".join(items)) if items else ""
