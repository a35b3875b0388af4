"""Questions with a mouse: radio buttons, a field for a number, a row of lists to put items in order."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import ipywidgets as w

from .. import show
from ..texts import ui
from ..widgets import show_widget
from .question import Question, as_html, unattempted

STYLE = """<style>
.course-question .widget-radio-box { height: auto; max-width: 52em }
.course-question .widget-radio-box label {
  display: flex; flex-direction: row-reverse; justify-content: flex-end; align-items: flex-start; gap: .5em;
  width: auto; max-width: 52em; height: auto; padding: .15em 0; line-height: 1.45; white-space: normal;
}
.course-question .widget-radio-box input { flex-shrink: 0; margin: .1em 0 0 }
</style>"""  # a long option takes several lines, its button beside the first


def show_question(question: Question) -> None:
    """Show the question as a widget; every press of its button is answered below it."""
    field, read = {"choice": _choice, "numeric": _numeric, "ordering": _ordering}[question.kind](question)
    prompt = question.text["prompt"]
    if question.kind == "choice" and _formulas(question):
        prompt += "\n\n" + "\n\n".join(
            f"**{a}** {text}" for a, text in zip(string.ascii_uppercase, question.shown, strict=False)
        )
    button = w.Button(description=ui("check_button"), button_style="primary")
    said = w.HTMLMath()

    def press(_button: object = None) -> None:
        value = read()
        verdict = unattempted(ui("choose_first")) if value is None else question.answer(value, show=False)
        title, _, body = verdict.message.partition("\n\n")
        kind = "right" if verdict.passed else "wrong" if verdict.attempted else "note"
        said.value = show.box(kind, title, body)

    button.on_click(press)
    head = w.HTMLMath(STYLE + show.box("question", ui("question"), prompt))
    box = w.VBox([head, field, button, said])
    box.add_class("course-question")
    show_widget(box, as_html(question))


def _formulas(question: Question) -> bool:
    return any("$" in text for text in question.shown)


def _choice(question: Question) -> tuple[Any, Callable[[], Any]]:
    """Radio buttons; with formulas in the options only the letters, since a label shows none."""
    labels = [
        (letter if _formulas(question) else f"{letter}.  {show.plain(text)}", text)
        for letter, text in zip(string.ascii_uppercase, question.shown, strict=False)
    ]
    field = w.RadioButtons(options=labels, value=None, layout={"width": "auto", "margin": "0 0 0 1em"})
    return field, lambda: field.value


def _numeric(question: Question) -> tuple[Any, Callable[[], Any]]:
    field = w.Text(placeholder=ui("your_number"), layout={"width": "12em", "margin": "0 0 0 1em"})
    unit = w.Label(str(question.text.get("unit") or ""))
    return w.HBox([field, unit]), lambda: field.value.strip() or None


def _ordering(question: Question) -> tuple[Any, Callable[[], Any]]:
    options = [(ui("choose_item"), ""), *((show.plain(text), text) for text in question.shown)]
    fields = [
        w.Dropdown(
            options=options,
            value="",
            description=ui("place", number=i + 1),
            layout={"width": "auto", "max_width": "40em"},
        )
        for i in range(len(question.shown))
    ]

    def read() -> list[str] | None:
        values = [field.value for field in fields]
        return None if "" in values else values

    return w.VBox(fields), read
