"""Every mutant of every exercise: nine in ten are rejected, and those that are not are known and
explained.

Here a mutant that the check rejects on the first seed is not tried on the others; `python
tests/common/mutants.py` tries all.
"""

import collections
import os
from pathlib import Path

import mutants as run
import pytest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "mutants.md").read_text(encoding="utf-8")
ROWS = {
    line.split(" | ")[0].removeprefix("| "): line
    for line in DOCUMENT.splitlines()
    if line.startswith("| ")
}


@pytest.mark.parametrize("name", run.exercises())
def test_mutants_are_rejected_or_explained(name):
    found = run.outcomes(name, every_seed=False)
    survived, reasons = run.survivors(found), run.explained().get(name, {})
    assert len(found) - len(survived) >= run.GOAL * len(found) > 0
    assert set(survived.values()) <= {"survived"}, "the verdict must not depend on the seed"
    assert survived.keys() == reasons.keys(), (
        "each survivor is explained in survivors.yaml, and nothing else is"
    )
    assert all(len(reason) > 15 for reason in reasons.values())
    assert ROWS[name] == run.row(name, run.counts(name, found, judge_planted=False)), (
        "docs/mutants.md is old"
    )


def test_nothing_else_is_explained_and_the_totals_are_those_of_the_rows():
    assert run.explained().keys() <= run.exercises().keys() >= run.ANOTHER.keys()
    rows = [
        [int(n) for n in row.replace("/", " ").replace("|", " ").split()[1:]]
        for name, row in ROWS.items()
        if name in run.exercises()
    ]
    assert len(rows) == len(run.exercises())
    assert ROWS[f"**all {len(rows)}**"] == run.row(
        f"**all {len(rows)}**", map(sum, zip(*rows, strict=True))
    )
    for reasons in run.explained().values():
        assert all(f"- `{key}`: {reason}" in DOCUMENT for key, reason in reasons.items())


def answer(weight, rows, flag=True):
    total = abs(weight) + 0.5
    if flag and rows > 2:
        total -= max(rows, 3) * 2
    return total


def test_what_a_mutant_is():
    made = run.mutate.mutants(answer, (__name__,))
    assert made[""](weight=-1.0, rows=4) == 1.5 - 8
    assert made["answer: abs(weight) → weight"](weight=-1.0, rows=4) == -0.5 - 8
    assert made["answer: max(rows, 3) → min(rows, 3)"](weight=-1.0, rows=4) == 1.5 - 6
    assert made["answer: max(rows, 3) * 2 → max(rows, 3) / 2"](weight=-1.0, rows=4) == 1.5 - 2
    assert made["answer: rows > 2 → rows >= 2"](weight=-1.0, rows=2) == 1.5 - 6
    assert made["answer: total -= max(rows, 3) * 2 → nothing"](weight=-1.0, rows=4) == 1.5
    assert made["answer: flag and rows > 2 → rows > 2"](weight=-1.0, rows=4, flag=False) == 1.5 - 8
    assert answer(-1.0, 4) == 1.5 - 8, "the function itself is not changed"


def test_a_check_that_sees_too_little_is_found(monkeypatch):
    """Of a check that only asks for enough bytes, some mutants survive; and one that rejects
    everything is no check.
    """
    verdict = collections.namedtuple("Verdict", "passed")
    monkeypatch.setattr(
        run.checking, "judge", lambda name, f, **_: verdict(f(count=8, bits=8) >= 8)
    )
    assert run.survivors(run.outcomes("start.bytes_needed"))
    monkeypatch.setattr(run.checking, "judge", lambda name, f, **_: verdict(False))
    with pytest.raises(AssertionError, match="does not pass"):
        run.outcomes("start.bytes_needed")


def test_a_mutant_that_ends_its_process_counts_as_an_error(monkeypatch):
    monkeypatch.setattr(
        run, "mutants", lambda name: {"": abs, "kill": lambda: os._exit(1), "good": abs}
    )
    monkeypatch.setattr(run, "outcome", lambda name, f, every: "survived" if f is abs else f())
    assert run.outcomes("any") == {"kill": "error", "good": "survived"}
