"""Questions: choice, numeric, ordering. Each wrong answer says why it is wrong.

`ask(id)` shows the question; `ask(id).answer(value)` answers it without a mouse.
"""

from __future__ import annotations

import math
import random
import re
import string
import unicodedata
import zlib
from typing import Any

from course_utils.errors import CompressionError

from .. import show, texts
from ..checks.exercise import Verdict
from ..page import events
from ..texts import ui

TOLERANCE = 0.02  # of a numeric answer, relative
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
# after NFKC, which makes a comma of ， and a semicolon of ；
SEPARATORS = re.compile(r"[\s,;、>]+")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(,\d{3})+(?![\d,])")


class Question:
    """A question with its texts.

    `shown` is what the learner sees, in order: options, or the items to put in order.
    """

    def __init__(self, name: str, expected: float | None = None) -> None:
        self.id = name
        self.text = texts.question(name)
        self.kind: str = self.text["kind"]
        self.expected = self._expected(expected)
        self.shown = self._shown()

    def _expected(self, given: float | None) -> float | None:
        if self.kind != "numeric":
            if given is not None:
                raise CompressionError(
                    f"expected: question {self.id!r} is {self.kind}; "
                    "only a numeric question takes it."
                )
            return None
        value = self.text.get("expected") if given is None else given
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise CompressionError(
                f"expected: question {self.id!r} needs a finite number; "
                f"give it in the texts or as ask({self.id!r}, expected=...)."
            )
        return number

    def _shown(self) -> list[str]:
        order = random.Random(zlib.crc32(self.id.encode()))
        if self.kind == "choice":
            shown = [option["text"] for option in self.text["options"]]
            if self.text.get("shuffle"):
                order.shuffle(shown)
            return shown
        if self.kind == "ordering":
            shown = list(self.text["items"])
            while shown == self.text["items"]:
                order.shuffle(shown)
            return shown
        return []

    def answer(self, value: Any, *, show: bool = True) -> Verdict:
        """Judge an answer, keep it in the progress, say what is wrong with it.

        choice: an option's text or its letter ("B"). numeric: a number, or a text such as "3.5 GB".
        ordering: the items in order, as texts or as the letters they are shown with ("B", "A",
        "C").
        """
        judge = {"choice": self._choice, "numeric": self._numeric, "ordering": self._ordering}[
            self.kind
        ]
        verdict = judge(value)
        if verdict.attempted:
            events.record("question", self.id, passed=verdict.passed)
        if show:
            say(verdict)
        return verdict

    def _named(self, value: Any) -> str | None:
        return named(value, self.shown)

    def _choice(self, value: Any) -> Verdict:
        chosen = self._named(value)
        if chosen is None:
            return unattempted(ui("no_such_option"))
        option = next(o for o in self.text["options"] if o["text"] == chosen)
        return _verdict(bool(option.get("right")), option["why"])

    def _numeric(self, value: Any) -> Verdict:
        assert self.expected is not None
        number, problem = parse_number(value, self.text.get("unit", ""))
        if number is None:
            return unattempted(problem)
        tolerance = float(self.text.get("tolerance", TOLERANCE))
        if _near(number, self.expected, tolerance):
            return _verdict(True, self.text["why"])
        for near in self.text["near"]:
            target = (
                float(near["value"]) if "value" in near else float(near["factor"]) * self.expected
            )
            if _near(number, target, float(near.get("tolerance", tolerance))):
                return _verdict(False, near["why"])
        return _verdict(False, _how_far(number, self.expected, tolerance))

    def _ordering(self, value: Any) -> Verdict:
        if isinstance(value, str):
            value = [
                part for part in SEPARATORS.split(unicodedata.normalize("NFKC", value)) if part
            ]
        given = [self._named(item) for item in value] if isinstance(value, (list, tuple)) else []
        items = self.text["items"]
        if len(given) != len(items) or set(given) != set(items):
            return unattempted(ui("each_once"))
        if given == items:
            return _verdict(True, self.text["why"])
        count = next(i for i, (a, b) in enumerate(zip(given, items, strict=True)) if a != b)
        return _verdict(
            False, ui("look_at_place", place=count + 1) if count else ui("look_at_first")
        )

    def _ipython_display_(self) -> None:
        """Nothing: ask() has shown the question."""


def named(value: Any, shown: list[str]) -> str | None:
    """The shown text that a letter, or the text itself, stands for; full-width letters and digits
    are understood.
    """
    if not isinstance(value, str):
        return None
    if value in shown:
        return value
    plain = unicodedata.normalize("NFKC", value).strip()
    known = {unicodedata.normalize("NFKC", text).strip(): text for text in shown}
    letters = dict(zip(string.ascii_uppercase, shown, strict=False))
    return known.get(plain, letters.get(plain.strip("().:、。 ").upper()))


def say(verdict: Verdict) -> None:
    """Show a verdict below the question."""
    title, _, body = verdict.message.partition("\n\n")
    show.message(
        "right" if verdict.passed else "wrong" if verdict.attempted else "note", title, body
    )


def unattempted(message: str) -> Verdict:
    """The verdict on an empty answer."""
    return Verdict(False, False, None, message)


def _verdict(passed: bool, why: str) -> Verdict:
    return Verdict(
        passed, True, None, ui("question_right" if passed else "question_wrong") + "\n\n" + why
    )


def _near(number: float, target: float, tolerance: float) -> bool:
    return abs(number - target) <= tolerance * (abs(target) or 1.0) * (1 + 1e-12)


def _how_far(number: float, expected: float, tolerance: float) -> str:
    if _near(number, -expected, tolerance):
        return ui("wrong_sign")
    if number * expected > 0:
        power = (
            round(math.log10(number / expected))
            if math.isfinite(number / expected) and number / expected
            else 0
        )
        if power and _near(number / 10.0**power, expected, tolerance):
            return ui("power_of_ten")
    return ui("too_large" if number > expected else "too_small")


def parse_number(value: Any, unit: str) -> tuple[float | None, str]:
    """The number in an answer, or None and what to say.

    The unit may follow it; 1,000 and 1/3 are understood.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return (float(value), "") if math.isfinite(value) else (None, ui("no_number"))
        except OverflowError:
            return None, ui("no_number")
    if not isinstance(value, str):
        return None, ui("no_number")
    text = unicodedata.normalize("NFKC", value).replace("−", "-").replace("×10^", "e").strip()
    text = THOUSANDS.sub(lambda found: found.group().replace(",", ""), text)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    found = NUMBER.match(text)
    if not found:
        return None, ui("no_number")
    number, rest = float(found.group()), text[found.end() :].strip()
    if fraction := re.match(r"/\s*(\d+\.?\d*)", rest):
        if not float(fraction[1]):
            return None, ui("no_number")
        number, rest = number / float(fraction[1]), rest[fraction.end() :].strip()
    if rest and rest.lower() != unicodedata.normalize("NFKC", unit).lower():
        return None, ui("wrong_unit", unit=unit) if unit else ui("no_number")
    return (number, "") if math.isfinite(number) else (None, ui("no_number"))


def as_html(question: Question) -> str:
    """The question on a page where it cannot be answered."""
    return form_html(ui("question"), question.text, question.shown, ui("run_to_answer"))


def as_text(question: Question) -> str:
    """The question where no page shows it."""
    return form_text(ui("question"), question.text, question.shown)


def form_html(title: str, text: dict[str, Any], shown: list[str], note: str) -> str:
    """A prompt with its options, or with a place for a number, where nothing can be pressed."""
    items = "".join(f"<li>{show.inline(item)}</li>" for item in shown)
    listed = f"<ol type='A' style='margin:.2em 0'>{items}</ol>" if items else ""
    unit = f" {ui('give_unit', unit=text['unit'])}" if text.get("unit") else ""
    field = "" if items else f"<p style='margin:.3em 0'>____{show.inline(unit)}</p>"
    return (
        show.box("question", title, text["prompt"]).removesuffix("</div>")
        + f"{listed}{field}<i>{note}</i></div>"
    )


def form_text(title: str, text: dict[str, Any], shown: list[str]) -> str:
    """A title, the prompt, and the choices by letters."""
    lines = [title, show.plain(text["prompt"])]
    lines += [
        f"  {letter}. {show.plain(item)}"
        for letter, item in zip(string.ascii_uppercase, shown, strict=False)
    ]
    if text.get("unit"):
        lines.append(f"  ({ui('give_unit', unit=text['unit'])})")
    return "\n".join(lines)
