"""Questions, predictions, exercises and moving figures as HTML that works without Python.

The judging is in static/site.js.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from course_utils.learn import show, texts
from course_utils.learn.checks.exercise import find
from course_utils.learn.questions.prediction import TOLERANCE as GUESS_TOLERANCE
from course_utils.learn.questions.prediction import Prediction
from course_utils.learn.questions.question import TOLERANCE, Question
from course_utils.learn.texts import ui

SPOKEN = (  # what site.js says
    "question_right", "question_wrong", "choose_first", "no_number", "wrong_unit", "wrong_sign",
    "power_of_ten", "too_large", "too_small", "each_once", "look_at_place", "look_at_first",
    "prediction_kept", "guess_right", "guess_wrong", "guess_near", "guess_factor", "guess_apart",
)  # fmt: skip
KINDS = {colour: kind for kind, colour in show.COLOURS.items()}
BOX = re.compile(r"<div style='border-left:4px solid (#\w{6})[^']*'><b>")
MEASURED = re.compile(rf">{re.escape(ui('measured'))}</td><td[^>]*><b>(.*?)</b></td>", re.DOTALL)


def sentences() -> dict[str, str]:
    """The sentences of site.js, with their {fields}."""
    words = texts.load("ui")
    return {key: words[key] for key in SPOKEN}


def anchor(title: str) -> str:
    """The anchor that Jupyter gives a heading,
    so that links of the notebooks lead to it here too.
    """
    return title.strip().replace(" ", "-")


def themed(text: str) -> str:
    """HTML of the engine with classes in the place of its colours, so that it can be read in the
    dark too.
    """
    return BOX.sub(lambda found: f"<div class='course-box course-{KINDS[found[1]]}'><b>", text)


def formulas(text: str) -> str:
    """`$x$` for MathJax."""
    return re.sub(
        r"\$([^$\n]+)\$", r"<span class='math notranslate nohighlight'>\\(\1\\)</span>", text
    )


def rich(text: str) -> str:
    return formulas(show.markup(text))


def line(text: str) -> str:
    return formulas(show.inline(text))


def box(kind: str, title: str, body: str) -> str:
    """A message; `body` is HTML."""
    return f"<div class='course-box course-{kind}'><b>{line(title)}</b>{body}</div>"


def question(name: str, place: str, expected: float | None = None) -> str:
    """A question with a form.

    `place` makes its ids unique; `expected` where the lesson computes it.
    """
    words = texts.question(name)
    if words["kind"] == "numeric" and "expected" not in words and expected is None:
        return _unanswered(ui("question"), words["prompt"], [])
    asked = Question(name, expected)
    text, data = asked.text, {"kind": asked.kind}
    if asked.kind == "choice":
        options = {option["text"]: option for option in text["options"]}
        data["options"] = [
            {"right": bool(options[s].get("right")), "why": rich(options[s]["why"])}
            for s in asked.shown
        ]
    elif asked.kind == "numeric":
        tolerance = float(text.get("tolerance", TOLERANCE))
        near = [
            {
                "value": float(n["value"]) if "value" in n else float(n["factor"]) * asked.expected,
                "tolerance": float(n.get("tolerance", tolerance)),
                "why": rich(n["why"]),
            }
            for n in text["near"]
        ]
        data |= {
            "expected": asked.expected,
            "tolerance": tolerance,
            "near": near,
            "unit": text.get("unit", ""),
            "why": rich(text["why"]),
        }
    else:
        data |= {
            "order": [asked.shown.index(item) for item in text["items"]],
            "why": rich(text["why"]),
        }
    return _form(ui("question"), text, asked.kind, asked.shown, ui("check_button"), data, place)


def prediction(name: str, place: str, result: str, output: str) -> str:
    """A prediction.

    `result` is the class of the cell that shows its result; `output` that cell's HTML, which has
    the measurement.
    """
    made = Prediction(name)
    data: dict[str, Any] = {
        "kind": made.kind,
        "prediction": name,
        "result": result,
        "unit": made.text.get("unit", ""),
    }
    truth = measured(made, output)
    if truth is None:
        return _unanswered(ui("prediction"), made.text["prompt"], made.shown)
    data["truth"] = truth
    if made.kind == "number":
        data["tolerance"] = float(made.text.get("tolerance", GUESS_TOLERANCE))
        if "within" in made.text:
            data["within"] = float(made.text["within"])
    kind = {"number": "numeric", "order": "ordering"}.get(made.kind, made.kind)
    return _form(
        ui("prediction"), made.text, kind, made.shown, ui("prediction_button"), data, place
    )


def measured(made: Prediction, output: str) -> Any:
    """The measurement that a committed result shows: a number, the place of an option, or groups of
    places in order; None if it shows none.
    """
    found = MEASURED.search(output)
    if not found:
        return None
    said = found[1]
    if made.kind == "number":
        number = re.match(r"[-+0-9.e]+", said)
        return float(number[0]) if number else None
    shown = [show.inline(text) for text in made.shown]
    if made.kind == "choice":
        return shown.index(said) if said in shown else None
    groups: list[list[int]] = [[]]
    while said:
        place = max(
            (i for i, text in enumerate(shown) if said.startswith(text)),
            key=lambda i: len(shown[i]),
            default=None,
        )
        if place is None:
            return None
        groups[-1].append(place)
        said = said[len(shown[place]) :]
        if said.startswith(", "):
            groups.append([])
        said = said.removeprefix(", ").removeprefix(" = ")
    return groups


def _unanswered(title: str, prompt: str, shown: list[str]) -> str:
    """A question whose answer this page does not know: a lab's, or one that a changed lesson
    computes.
    """
    items = "".join(f"<li>{line(item)}</li>" for item in shown)
    return box(
        "question",
        title,
        rich(prompt) + (f"<ul>{items}</ul>" if items else "") + f"<p>{ui('site_no_answer')}</p>",
    )


def _form(
    title: str,
    text: dict[str, Any],
    kind: str,
    shown: list[str],
    button: str,
    data: dict[str, Any],
    place: str,
) -> str:
    unit = text.get("unit", "")
    if kind == "choice":
        field = "".join(
            (
                f"<label class='course-option'><input type='radio' name='{place}' "
                f"value='{i}'><span>{chr(65 + i)}. {line(option)}</span></label>"
            )
            for i, option in enumerate(shown)
        )
    elif kind == "numeric":
        field = (
            f"<label>{ui('your_number')} <input type='text' name='{place}' autocomplete='off' "
            f"size='12'></label> {line(unit)}"
        )
    else:
        options = f"<option value=''>{ui('choose_item')}</option>" + "".join(
            f"<option value='{i}'>{html.escape(show.plain(item))}</option>"
            for i, item in enumerate(shown)
        )
        rows = (
            f"<li><select aria-label='{ui('place', number=i + 1)}'>{options}</select></li>"
            for i in range(len(shown))
        )
        field = f"<p>{ui('prediction_in_order')}</p><ol>{''.join(rows)}</ol>"
    return (
        f"<form class='course-form' id='{place}'><fieldset class='course-box "
        f"course-question'><legend>{title}</legend>"
        f"{rich(text['prompt'])}<div class='course-field'>{field}</div>"
        f"<button type='submit'>{button}</button></fieldset><div class='course-said' "
        "role='status'></div>"
        f"<script type='application/json'>{_json(data)}</script></form>"
    )


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def exercise(name: str, *, solved: bool) -> str:
    """An exercise on a page that runs nothing: what it asks, its hints, and its solution where
    `solved`, each folded.
    """
    known = find(name)
    text = texts.load(texts.topic_of(name))["exercises"][name]
    parts = [rich(known.facts())] if known.facts() else []
    parts.append(f"<p>{ui('site_exercise')}</p>")
    for i, hint in enumerate(text["hints"]):
        head = ui("hint_title", rung=i + 1, rungs=len(text["hints"]), title=ui(f"hint_{i + 1}"))
        parts.append(_folded(head, rich(hint)))
    if solved and text.get("solution"):
        parts.append(_folded(ui("solution_title", title=""), rich(text["solution"])))
    return box("note", text["title"], "".join(parts))


def _folded(title: str, body: str) -> str:
    return f"<details class='course-fold'><summary>{line(title)}</summary>{body}</details>"


def missing() -> str:
    """In the place of a widget that is not drawn."""
    return f"<p class='course-quiet'>{ui('site_no_frames')}</p>"


def _without_still_controls(drawn: dict[str, Any]) -> dict[str, Any]:
    """The widget without the controls that change nothing where one moves at a time."""
    if drawn["together"]:
        return drawn
    left: dict[str, Any] = {**drawn, "controls": {}, "frames": [], "alts": []}
    end = 0
    for name, control in drawn["controls"].items():
        begin, end = end, end + len(control["values"])
        if len(set(drawn["frames"][begin:end])) > 1:
            left["controls"][name] = control
            left["frames"] += drawn["frames"][begin:end]
            left["alts"] += drawn["alts"][begin:end]
    return left


def widget(drawn: dict[str, Any], folder: str, place: str) -> str:
    """A figure with controls that choose one of its frames;
    `folder` is the address of the frames.
    """
    drawn = _without_still_controls(drawn)
    rows, first = [], _first(drawn)
    for number, control in enumerate(drawn["controls"].values()):
        values, at, ident = (
            control["values"],
            control["values"].index(control["first"]),
            f"{place}-{number}",
        )
        label, said = line(control["label"]), [_value(value) for value in values]
        if control["kind"] == "slider":
            field = (
                f"<input type='range' id='{ident}' min='0' max='{len(values) - 1}' value='{at}' "
                f"data-values='{html.escape(json.dumps(said), quote=True)}'"
                f" aria-valuetext='{said[at]}'><output for='{ident}'>{said[at]}</output>"
            )
        elif control["kind"] == "checkbox":
            field = f"<input type='checkbox' id='{ident}'{' checked' if at else ''}>"
        else:
            options = (
                f"<option value='{i}'{' selected' if i == at else ''}>{html.escape(v)}</option>"
                for i, v in enumerate(said)
            )
            field = f"<select id='{ident}'>{''.join(options)}</select>"
        rows.append(
            f"<div class='course-control'><label for='{ident}'>{label}</label>{field}</div>"
        )
    note = "" if drawn["together"] else f"<p class='course-quiet'>{ui('site_one_at_a_time')}</p>"
    data = {
        "counts": [len(c["values"]) for c in drawn["controls"].values()],
        "first": [c["values"].index(c["first"]) for c in drawn["controls"].values()],
        "together": drawn["together"],
        "frames": [f"{folder}/{frame}" for frame in drawn["frames"]],
        "alts": drawn["alts"],
    }
    alt, shown = html.escape(drawn["alts"][first], quote=True), f"{folder}/{drawn['frames'][first]}"
    return (
        f"<div class='course-widget' id='{place}'>{''.join(rows)}{note}"
        f"<a class='course-figure-link' href='{shown}'>"
        f"<img src='{shown}' alt='{alt}' class='course-figure'></a>"
        f"<script type='application/json'>{_json(data)}</script></div>"
    )


def _first(drawn: dict[str, Any]) -> int:
    """The place among the frames of the first values."""
    place, controls = 0, list(drawn["controls"].values())
    if not drawn["together"]:
        return controls[0]["values"].index(controls[0]["first"])
    for control in controls:
        place = place * len(control["values"]) + control["values"].index(control["first"])
    return place


def _value(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else str(value)
    )


def exercises_of(names: Iterable[str], *, solved: bool) -> str:
    return "".join(exercise(name, solved=solved) for name in names)
