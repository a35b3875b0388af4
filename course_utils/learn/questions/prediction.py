"""Guess first, then look: `guess = predict("topic.name")`, and where the result is,
`guess.result(measured, shown=figure)`.

Live, the result waits for the guess and then shows both side by side; where nobody can answer it is
shown at once.
Guesses are kept in the progress.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils.errors import CompressionError

from .. import show, texts
from ..page import events
from ..texts import ui
from . import question

if TYPE_CHECKING:
    from course_utils.evaluation.comparison import Comparison

TOLERANCE = 0.25  # a guessed number is right within this ratio of the measured one
# for each prediction the result that waits for a guess
_waiting: dict[str, Callable[[], None]] = {}


class Outcome(NamedTuple):
    """How a guess compares with the measurement;
    `log_ratio` is ln(guess / measured) of a number.
    """

    right: bool
    log_ratio: float | None
    said: str


class Prediction:
    """A prediction with its texts.

    `shown` is what the learner sees: the options, or the items to put in order.
    """

    def __init__(self, name: str) -> None:
        self.id = name
        self.text = texts.prediction(name)
        self.kind: str = self.text["kind"]
        self.names: dict[str, str] = self.text["shown"]  # key in the code → text
        self.shown = list(self.names.values())
        if self.kind == "order":
            random.Random(zlib.crc32(name.encode())).shuffle(self.shown)

    @property
    def guess(self) -> Any:
        """The learner's guess: a number, a key, or a list of keys; None before it is given."""
        for event in reversed(list(events.events())):
            if event["kind"] == "prediction" and event["id"] == self.id:
                return self._read(event.get("guess"))[0]
        return None

    def give(self, value: Any) -> None:
        """Guess without a mouse: a number, an option (its letter, text or key), or the items in
        order.
        """
        found, problem = self._read(value)
        show.message(
            "note" if found is None else "question", ui("prediction"), problem or self._kept(found)
        )
        if found is not None:
            self._keep(found)

    def _keep(self, guess: Any) -> None:
        events.record("prediction", self.id, guess=guess)
        if reveal := _waiting.pop(self.id, None):
            reveal()

    def press(self, value: Any) -> str:
        """What is said below the button when it is pressed; the result that waits appears."""
        found, problem = (None, ui("choose_first")) if value is None else self._read(value)
        if found is None:
            return show.box("note", problem)
        self._keep(found)
        return show.box("question", self._kept(found))

    def _kept(self, guess: Any) -> str:
        return ui("prediction_kept", guess=self.words(guess))

    def _read(self, value: Any) -> tuple[Any, str]:
        """The guess in a value as it is kept, or None and what is wrong with it."""
        if self.kind == "number":
            return question.parse_number(value, self.text.get("unit", ""))
        if self.kind == "choice":
            key = self._key(value)
            return (key, "") if key else (None, ui("no_such_option"))
        parts = value.replace(",", " ").split() if isinstance(value, str) else value
        keys = [self._key(part) for part in parts] if isinstance(parts, (list, tuple)) else []
        complete = len(keys) == len(self.names) and set(keys) == set(self.names)
        return (keys, "") if complete else (None, ui("each_once"))

    def _key(self, value: Any) -> str | None:
        if isinstance(value, str) and value in self.names:
            return value
        text = question.named(value, self.shown)
        return next((key for key, shown in self.names.items() if shown == text), None)

    def words(self, value: Any) -> str:
        """A guess or a measurement in words; groups of equal ones are joined by "="."""
        if self.kind == "number":
            return f"{value:.4g} {self.text.get('unit', '')}".strip()
        if self.kind == "choice":
            return self.names[value]
        groups = [[part] if isinstance(part, str) else part for part in value]
        return ", ".join(" = ".join(self.names[key] for key in group) for group in groups)

    def result(self, measured: Any, shown: Any = None) -> None:
        """Show the measurement beside the guess, then `shown`; where somebody can answer, only
        after the guess.

        `measured`: a number; the key of an option; or the keys in order, equal ones in a tuple, or
        a Comparison whose rows are the keys (the lowest mean first). `shown`: a figure, a table, a
        text, anything a notebook can show, a list of these, or a function that draws. Raises
        CompressionError if `measured` does not fit the question.
        """
        truth = self._measured(measured)
        parts = () if shown is None else shown if callable(shown) else show.bundles(shown)
        if not show.live() or self.guess is not None:
            for bundle in (
                self._beside(truth, measured),
                *(show.bundles(parts) if callable(parts) else parts),
            ):
                show.emit_bundle(bundle)
            return
        from IPython.display import display

        wait = show.box("note", ui("result"), ui("prediction_waits"))
        head = display(
            {"text/html": wait, "text/plain": ui("prediction_waits")}, raw=True, display_id=True
        )
        body = display({"text/html": "", "text/plain": ""}, raw=True, display_id=True)

        def reveal() -> None:
            head.update(self._beside(truth, measured), raw=True)
            if drawn := show.bundles(parts) if callable(parts) else list(parts):
                body.update(show.join(drawn), raw=True)

        _waiting[self.id] = reveal

    def _measured(self, measured: Any) -> Any:
        """The measurement as `words` takes it."""
        if self.kind == "number":
            try:
                number = float(measured)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise CompressionError(
                    f"measured: prediction {self.id!r} asks for a number; got {measured!r}."
                )
            return number
        if self.kind == "choice":
            if measured not in self.names:
                raise CompressionError(
                    f"measured: {measured!r} is no option of {self.id!r}; "
                    f"options are {list(self.names)}."
                )
            return measured
        groups = _ranked(measured, list(self.names)) if hasattr(measured, "order") else measured
        parts = [(part,) if isinstance(part, str) else tuple(part) for part in groups]
        if sorted(key for part in parts for key in part) != sorted(self.names):
            raise CompressionError(
                f"measured: prediction {self.id!r} asks for the order of {list(self.names)}; "
                f"got {groups!r}."
            )
        return parts

    def judge(self, guess: Any, truth: Any, measured: Any = None) -> Outcome:
        """Compare a guess with the measurement: a number by its ratio (or `within`, if the texts
        say so).
        """
        if self.kind == "number":
            return _number(guess, truth, self.text)
        if self.kind == "choice":
            return Outcome(
                guess == truth, None, ui("guess_right" if guess == truth else "guess_wrong")
            )
        place = {key: i for i, part in enumerate(truth) for key in part}
        worse = (
            measured.order
            if hasattr(measured, "order")
            else lambda a, b: ">" if place[a] > place[b] else "<"
        )
        right = not any(worse(a, b) == ">" for i, a in enumerate(guess) for b in guess[i + 1 :])
        return Outcome(right, None, ui("guess_right" if right else "guess_wrong"))

    def _beside(self, truth: Any, measured: Any) -> dict[str, Any]:
        """Guess and measurement side by side; the first time, this is kept."""
        guess, why = self.guess, self.text["why"]
        lines, said, kind = [(ui("measured"), self.words(truth))], "", "note"
        if guess is not None:
            outcome = self.judge(guess, truth, measured)
            if events.summary().guesses[self.id].right is None:
                events.record(
                    "measurement",
                    self.id,
                    measured=truth,
                    right=outcome.right,
                    log_ratio=outcome.log_ratio,
                )
            lines.insert(0, (ui("your_guess"), self.words(guess)))
            said, kind = outcome.said, "right" if outcome.right else "hint"
        cell = "<td style='text-align:left;padding:.1em 1em .1em 0'>"
        rows = "".join(
            f"<tr>{cell}{name}</td>{cell}<b>{show.inline(value)}</b></td></tr>"
            for name, value in lines
        )
        table = f"<table style='margin:.2em 0'>{rows}</table>"
        body = show.box(kind, said, "").removesuffix("</div>") + f"{table}{show.markup(why)}</div>"
        text = "\n".join(
            [
                ui("result"),
                *(f"{name}: {show.plain(value)}" for name, value in lines),
                said,
                show.plain(why),
            ]
        )
        # JupyterLab shows the first line of a folded output: it must not hold the answer
        return {"text/html": f"{ui('result')}\n{body}", "text/plain": text}

    def _ipython_display_(self) -> None:
        """Nothing: predict() has shown the question."""


def predict(name: str) -> Prediction:
    """Show a prediction and return it. Raises CompressionError when one of its texts is missing."""
    made = Prediction(name)
    fallback = question.form_html(ui("prediction"), made.text, made.shown, ui("prediction_static"))
    if show.live():
        from . import widgets

        widgets.show_prediction(made, fallback)
    else:
        show.emit(fallback, question.form_text(ui("prediction"), made.text, made.shown))
    return made


def _number(guess: float, truth: float, text: dict[str, Any]) -> Outcome:
    if "within" in text or guess * truth <= 0:
        right = abs(guess - truth) <= float(text.get("within", 0))
        apart = f"{abs(guess - truth):.2g} {text.get('unit', '')}".strip()
        return Outcome(
            right, None, ui("guess_right") if right else ui("guess_apart", difference=apart)
        )
    ratio, tolerance = math.log(guess / truth), float(text.get("tolerance", TOLERANCE))
    if abs(ratio) <= math.log1p(tolerance) * (1 + 1e-12):
        return Outcome(True, ratio, ui("guess_near", percent=f"{100 * tolerance:.3g}"))
    return Outcome(False, ratio, ui("guess_factor", factor=f"{math.exp(abs(ratio)):.3g}"))


def _ranked(table: Comparison, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows by their mean, the lowest first; neighbours without a difference stand together."""
    ordered = sorted(keys, key=table.mean)
    groups = [[ordered[0]]]
    for before, key in zip(ordered, ordered[1:], strict=False):
        if table.order(before, key) == "=":
            groups[-1].append(key)
        else:
            groups.append([key])
    return [tuple(group) for group in groups]
