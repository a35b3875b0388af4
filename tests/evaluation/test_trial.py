"""Verdicts on planted comparisons, faults of the protocol by name, and the report."""

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.evaluation import trial
from course_utils.evaluation.comparison import compare

EQUAL = {"steps": (400, 400), "settings tried": (4, 4)}


def plan(**changes):
    settings = {
        "question": "Is a below b?",
        "idea": "a",
        "control": "b",
        "expected": trial.BETTER,
        "equal": EQUAL,
    }
    return trial.Plan(**(settings | changes))


def table(gap=0.0, seeds=3, windows=64, better="lower", spread=0.01):
    base = torch.randn(seeds, windows, generator=torch.Generator().manual_seed(0)).double()
    noise = (
        spread * torch.randn(seeds, windows, generator=torch.Generator().manual_seed(1)).double()
    )
    return compare(
        "t",
        {"a": lambda s: base[s] + gap + noise[s], "b": lambda s: base[s]},
        seeds=range(seeds),
        better=better,
        progress=False,
    )


@pytest.mark.parametrize("gap, better, said", [
    (-0.1, "lower", "better"), (0.1, "lower", "worse"), (0.1, "higher", "better"),
    (-0.1, "higher", "worse"), (0.0, "lower", "no difference seen"),
])  # fmt: skip
def test_verdicts(gap, better, said):
    assert trial.verdict(plan(), table(gap, better=better)) == said


@pytest.mark.parametrize("changes, made, word", [
    ({"equal": {"steps": (800, 400)}}, table(-1.0), "steps is not equal: 800"),
    ({}, table(-1.0, seeds=2), "2 seeds"),
    ({}, table(-1.0, windows=16), "16 windows"),
])  # fmt: skip
def test_faults_leave_no_verdict(changes, made, word):
    assert (
        word in " ".join(trial.faults(plan(**changes), made))
        and trial.verdict(plan(**changes), made) == "unfair"
    )
    assert "No verdict" in trial.report(plan(**changes), made)


def test_single_numbers_and_rows_without_chance():
    one = compare("t", {"a": 1.0, "b": 2.0}, progress=False)
    assert "no interval" in trial.faults(plan(), one)[0]
    fixed = compare(
        "t",
        {"a": torch.arange(64.0) + torch.rand(64) / 9, "b": torch.arange(64.0) + 1},
        seeds=(0,),
        progress=False,
    )
    assert trial.verdict(plan(), fixed) == "better", "rows without chance need no seeds"


def test_the_report(tmp_path):
    text = trial.report(plan(), table(-0.1), tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    assert (
        "**Verdict: better.**" in text
        and "It came so." in text
        and "| steps | 400 | 400 |" in text
        and "Is a below b?" in text
    )
    assert "It came otherwise." in trial.report(plan(expected="worse"), table(-0.1))


@pytest.mark.parametrize("changes, word", [
    ({"question": "It is better."}, "question mark"), ({"control": "a"}, "without the idea"),
    ({"expected": "good"}, "choose one of"), ({"equal": {}}, "equal"),
    ({"equal": {"steps": 400}}, "equal"),
])  # fmt: skip
def test_plans_that_are_none(changes, word):
    with pytest.raises(CompressionError, match=word):
        plan(**changes)


def test_a_row_that_is_not_there():
    with pytest.raises(CompressionError, match="no row 'c'"):
        trial.verdict(plan(control="c"), table())
