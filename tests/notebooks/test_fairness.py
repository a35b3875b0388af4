"""Every comparison of the lessons is listed with its control, and its sentences hold in the
committed outputs.
"""

import json

import fairness
import pytest
import torch

from course_utils.evaluation.comparison import MIME, compare
from notebooks import LESSONS, name

FILES = fairness.files()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_is_said_of_a_comparison_holds_in_the_notebook(file):
    found = fairness.cells(fairness.notebook_of(file.stem))
    wrong = {
        entry["cell"]: said
        for entry in fairness.entries(file)
        if (said := fairness.problems(entry, found))
    }
    assert not wrong


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_every_comparison_of_a_lesson_is_listed(path):
    found = fairness.cells(path)
    assert not fairness.unlisted(path.stem, found)


def test_the_document_is_that_of_the_notebooks():
    """Make it anew: python tests/common/fairness.py --write docs/fairness.md"""
    assert fairness.DOCUMENT.read_text(encoding="utf-8") == fairness.document()


def page(*tables, text="GPTQ is **lower** than [rounding](#r)."):
    outputs = [{"data": {MIME: json.loads(json.dumps(table.to_json()))}} for table in tables]
    code = {"cell_type": "code", "id": "measure", "source": ["compare()"], "outputs": outputs}
    return [{"cell_type": "markdown", "id": "read", "source": [text[:10], text[10:]]}, code]


BASE = torch.arange(64.0).sin()
TABLE = compare(
    "Three bits", {"rounding": BASE, "GPTQ": BASE - 0.1, "a < b": BASE - 0.1}, progress=False
)
ENTRY = {
    "cell": "measure", "rows": ["rounding", "GPTQ", "a < b"], "control": "rounding",
    "seeds": "none", "windows": 64, "sentence": "GPTQ is lower than rounding.",
    "claims": ["GPTQ < rounding", "a < b = GPTQ", "rounding > a < b"],
}  # fmt: skip


def test_a_true_entry():
    assert fairness.problems(ENTRY, page(TABLE)) == []


@pytest.mark.parametrize(
    "change, said",
    [
        ({"cell": "other"}, "holds no comparison"),
        ({"rows": ["rounding", "GPTQ"]}, "stand in a claim"),
        ({"rows": ["AWQ"]}, "rows: "),
        ({"rows": "all"}, "rows: "),
        ({"seeds": 5}, "seeds: 5 is stated"),
        ({"windows": 32}, "windows: 32 is stated"),
        ({"control": "nothing"}, "is no row"),
        ({"claims": []}, "names an order"),
        ({"claims": ["GPTQ > rounding"]}, "the output shows <"),
        ({"claims": ["GPTQ = rounding"]}, "the output shows <"),
        ({"claims": ["GPTQ below rounding"]}, "with rows"),
        ({"sentence": "GPTQ is higher."}, "does not say"),
        ({"note": 1}, "unknown"),
        ({"table": "Four bits"}, "tables are"),
    ],
)
def test_an_untrue_entry_is_told(change, said):
    assert any(said in problem for problem in fairness.problems({**ENTRY, **change}, page(TABLE)))


def test_few_windows_need_a_reason():
    few = compare("t", {"a": BASE[:16], "b": BASE[:16] + 1}, progress=False)
    entry = {**ENTRY, "rows": ["a", "b"], "control": "a", "windows": 16, "claims": ["a < b"]}
    assert any("fewer than" in problem for problem in fairness.problems(entry, page(few)))
    assert not fairness.problems({**entry, "fewer": "a whole model each"}, page(few))


def test_several_tables_of_a_cell_are_told_apart():
    other = compare("Four bits", {"a": BASE, "b": BASE}, progress=False)
    assert any("name one as `table`" in p for p in fairness.problems(ENTRY, page(TABLE, TABLE)))
    assert any("name one as `table`" in p for p in fairness.problems(ENTRY, page(other, TABLE)))
    assert not fairness.problems({**ENTRY, "table": "Three bits"}, page(other, TABLE))
    assert fairness.unlisted("no such lesson", page(other)) == ["measure: Four bits"]
