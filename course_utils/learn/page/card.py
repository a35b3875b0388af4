"""The first output of a lesson: what it gives, what comes before it, when, how long."""

from __future__ import annotations

import html

from .. import show, texts
from ..texts import ui
from . import catalogue
from .map import link


def overview(lesson: str) -> None:
    """First output of a lesson: what you will be able to do, what comes before, minutes, day. Raises CompressionError for a lesson that course.yaml does not know."""
    unit = catalogue.lesson(lesson)
    known = catalogue.lessons()
    before = [link(known[name]) for name in unit.requires]
    level = texts.load("course")["levels"][unit.level]["title"]
    when = ui("when", day=unit.days[0], minutes=unit.minutes, level=unit.level, level_title=level)
    nothing = ui("none_before")
    items = "".join(f"<li>{show.inline(outcome)}</li>" for outcome in unit.outcomes)
    as_html = (
        show.box("question", ui("you_will")).removesuffix("</div>")
        + f"<ul style='margin:.2em 0'>{items}</ul>"
        + f"{ui('before_this', lessons=', '.join(page.html for page in before) or nothing)}<br>{html.escape(when)}</div>"
    )
    lines = [ui("you_will"), *(f"  - {show.plain(outcome)}" for outcome in unit.outcomes)]
    lines += [ui("before_this", lessons=", ".join(page.text for page in before) or nothing), when]
    show.emit(as_html, "\n".join(lines))
