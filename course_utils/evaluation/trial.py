"""A new idea on trial: what was planned before the first run, what was measured, and what may be
said of it.

    plan = Plan("Does … lower KL at equal …?", idea="half Wanda", control="Wanda",
                expected="better", equal={"sparsity": (0.5, 0.5),
                "calibration tokens": (2048, 2048), "settings tried": (1, 1)})
    table = compare(…)              # with a row for the idea and one for its control
    report(plan, table)             # Markdown: faults of the protocol, the verdict, the numbers

A plan with faults gets no verdict. The verdict is that of `Comparison.order`: paired differences
and their 95 % interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError
from course_utils.models.checkpointing import write_text

from .comparison import Comparison
from .comparison_page import as_text, plus_minus

SEEDS, WINDOWS = 3, 64
BETTER, WORSE, SAME, UNFAIR = "better", "worse", "no difference seen", "unfair"
OUTCOMES = (BETTER, WORSE, SAME)


@dataclass(frozen=True)
class Plan:
    """Written before the first run.

    `equal`: what both rows must share, as {name: (idea's, control's)}; it has to be counted, not
    believed.

    `expected`: the outcome you bet on. Raises CompressionError for a question without a question
    mark, an idea that is its own control, an unknown outcome, or nothing that is kept equal.
    """

    question: str
    idea: str
    control: str
    expected: str
    equal: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.question.strip().endswith("?"):
            raise CompressionError(
                "question: end it with a question mark, and ask what a number can deny."
            )
        if self.idea == self.control:
            raise CompressionError(
                f"control={self.control!r}: it is the idea itself; "
                "the control is the same without the idea."
            )
        if self.expected not in OUTCOMES:
            raise CompressionError(
                f"expected={self.expected!r}: choose one of {', '.join(OUTCOMES)}."
            )
        if not self.equal or any(
            not isinstance(pair, tuple | list) or len(pair) != 2 for pair in self.equal.values()
        ):
            raise CompressionError(
                "equal: name what both rows share, such as {'steps': "
                "(400, 400), 'settings tried': (4, 4)}."
            )


def faults(plan: Plan, table: Comparison) -> list[str]:
    """What is wrong with the comparison, in sentences; none where it is fair and can see something.

    Raises CompressionError where the table has no row of the idea or of its control.
    """
    for row in (plan.idea, plan.control):
        if row not in table.values:
            raise CompressionError(
                f"table: there is no row {row!r}; its rows are "
                f"{', '.join(map(repr, table.values))}."
            )
    found = [
        f"{name} is not equal: {a} for the idea, {b} for the control."
        for name, (a, b) in plan.equal.items()
        if a != b
    ]
    seeds, windows = table.values[plan.idea].shape
    varies = any(
        bool((table.values[row] != table.values[row][:1]).any())
        for row in (plan.idea, plan.control)
    )
    if seeds < SEEDS and (varies or windows == 1):
        found.append(f"{seeds} seeds are too few where chance plays a part: take {SEEDS} or more.")
    if 1 < windows < WINDOWS:
        found.append(f"{windows} windows are too few: take {WINDOWS} or more.")
    if windows == 1 and not varies:
        found.append(
            "One number for each row has no interval: give one for each window, "
            "or rows that depend on the seed."
        )
    return found


def verdict(plan: Plan, table: Comparison) -> str:
    """'unfair' where the comparison has faults; else 'better', 'worse' or 'no difference seen' of
    the idea against its control.
    """
    if faults(plan, table):
        return UNFAIR
    order = table.order(plan.idea, plan.control)
    return (
        SAME if order == "=" else BETTER if (order == "<") == (table.better == "lower") else WORSE
    )


def report(plan: Plan, table: Comparison, path: str | Path | None = None) -> str:
    """The trial as Markdown, written to `path` as well if there is one."""
    wrong, said = faults(plan, table), verdict(plan, table)
    lines = [
        "# Report of a trial",
        "",
        f"**Question.** {plan.question}",
        "",
        f"**Idea:** {plan.idea}. **Control:** {plan.control}.",
        "",
    ]
    lines += [
        "| kept equal | idea | control |",
        "|---|---|---|",
        *(f"| {name} | {a} | {b} |" for name, (a, b) in plan.equal.items()),
        "",
    ]
    if wrong:
        lines += [
            "**No verdict.** The comparison has faults:",
            "",
            *(f"- {each}" for each in wrong),
            "",
        ]
    else:
        mean, half = table.difference(plan.idea, plan.control)
        unit = f" {table.unit}" if table.unit else ""
        lines += [
            f"**Verdict: {said}.** Idea − control = {plus_minus(mean, half)}{unit} (95 %, paired).",
            "",
        ]
        lines += [
            f"Expected was: {plan.expected}. "
            + ("It came so." if plan.expected == said else "It came otherwise."),
            "",
        ]
    lines += ["```", as_text(table), "```", ""]
    text = "\n".join(lines)
    if path is not None:
        write_text(Path(path), text)
    return text
