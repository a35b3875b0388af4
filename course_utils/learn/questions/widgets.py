"""Questions and predictions with a mouse: radio buttons, a field for a number, a row of lists to
put items in order.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import ipywidgets as w

from .. import show
from ..texts import ui
from ..widgets import show_widget
from .prediction import Prediction
from .question import Question, as_html, unattempted

STYLE = """<style>
.course-question .widget-radio-box { height: auto; max-width: 52em }
.course-question .widget-radio-box label {
  display: flex; flex-direction: row-reverse; justify-content: flex-end; align-items: flex-start; gap: .5em;
  width: auto; max-width: 52em; height: auto; padding: .15em 0; line-height: 1.45; white-space: normal;
}
.course-question .widget-radio-box input { flex-shrink: 0; margin: .1em 0 0 }
</style>"""  # a long option takes several lines, its button beside the first  # noqa: E501


def show_question(question: Question) -> None:
    """Show the question as a widget; every press of its button is answered below it."""
    field, read = field_of(question.kind, question.shown, str(question.text.get("unit") or ""))
    prompt = question.text["prompt"] + (
        letters_of(question.shown) if question.kind == "choice" else ""
    )

    def press() -> str:
        value = read()
        verdict = (
            unattempted(ui("choose_first")) if value is None else question.answer(value, show=False)
        )
        title, _, body = verdict.message.partition("\n\n")
        return show.box(
            "right" if verdict.passed else "wrong" if verdict.attempted else "note", title, body
        )

    show_form(
        show.box("question", ui("question"), prompt),
        field,
        press,
        ui("check_button"),
        as_html(question),
        fades=True,
    )


def show_form(
    head: str,
    field: Any,
    press: Callable[[], str],
    label: str,
    fallback: str,
    said: str = "",
    *,
    fades: bool = False,
) -> None:
    """A prompt, a field, a button, and below it what `press` says; `fallback` is for readers
    without a kernel.

    What is said of one value never stands beside another if it `fades` as the field changes. The
    press of a button may also overtake the value that was chosen just before it.
    """
    button = w.Button(description=label, button_style="primary", layout={"width": "auto"})
    below = w.HTMLMath(said)

    def pressed(_button: object = None) -> None:
        below.value = press()

    button.on_click(pressed)
    if fades:
        for part in (field, *getattr(field, "children", ())):
            if part.has_trait("value"):
                part.observe(lambda _change: setattr(below, "value", ""), names="value")
    box = w.VBox([w.HTMLMath(STYLE + head), field, button, below])
    box.add_class("course-question")
    show_widget(box, fallback)


def field_of(kind: str, shown: list[str], unit: str) -> tuple[Any, Callable[[], Any]]:
    """The field of a question or a prediction, and a function that reads it (None: nothing is
    chosen yet).
    """
    if kind == "choice":
        return _choice(shown)
    return _ordering(shown) if kind in ("order", "ordering") else _numeric(unit)


def letters_of(shown: list[str]) -> str:
    """Options with formulas, in markup: a label of a button shows none."""
    if not _formulas(shown):
        return ""
    return "\n\n" + "\n\n".join(
        f"**{a}** {text}" for a, text in zip(string.ascii_uppercase, shown, strict=False)
    )


def _formulas(shown: list[str]) -> bool:
    return any("$" in text for text in shown)


def _choice(shown: list[str]) -> tuple[Any, Callable[[], Any]]:
    """Radio buttons; with formulas in the options only the letters, since a label shows none."""
    labels = [
        (letter if _formulas(shown) else f"{letter}.  {show.plain(text)}", text)
        for letter, text in zip(string.ascii_uppercase, shown, strict=False)
    ]
    field = w.RadioButtons(
        options=labels, value=None, layout={"width": "auto", "margin": "0 0 0 1em"}
    )
    return field, lambda: field.value


def _numeric(unit: str) -> tuple[Any, Callable[[], Any]]:
    field = w.Text(placeholder=ui("your_number"), layout={"width": "12em", "margin": "0 0 0 1em"})
    return w.HBox([field, w.Label(unit)]), lambda: field.value.strip() or None


def _ordering(shown: list[str]) -> tuple[Any, Callable[[], Any]]:
    options = [(ui("choose_item"), ""), *((show.plain(text), text) for text in shown)]
    fields = [
        w.Dropdown(
            options=options,
            value="",
            description=ui("place", number=i + 1),
            layout={"width": "auto", "max_width": "40em"},
        )
        for i in range(len(shown))
    ]

    def read() -> list[str] | None:
        values = [field.value for field in fields]
        return None if "" in values else values

    return w.VBox(fields), read


def show_prediction(prediction: Prediction, fallback: str) -> None:
    """Show a prediction as a widget; its button keeps the guess and lets the result appear."""
    text, kind, guess = prediction.text, prediction.kind, prediction.guess
    kept = (
        ""
        if guess is None
        else show.box("question", ui("prediction_kept", guess=prediction.words(guess)))
    )
    field, read = field_of(kind, prediction.shown, str(text.get("unit") or ""))
    more = (
        letters_of(prediction.shown)
        if kind == "choice"
        else f"\n\n{ui('prediction_in_order')}"
        if kind == "order"
        else ""
    )
    head = show.box("question", ui("prediction"), text["prompt"] + more)
    show_form(
        head, field, lambda: prediction.press(read()), ui("prediction_button"), fallback, kept
    )
