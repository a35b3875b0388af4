"""One table of forms of right answers: accepted by the check in the notebook, and by the grader."""

import collections
import copy
import decimal
import fractions
import types
from pathlib import Path

import forms
import grading
import numpy as np
import pytest
import torch
from grading import by_id
from IPython.core.interactiveshell import InteractiveShell

from course_utils.grade import lab, run, sandbox, wire
from course_utils.learn.checks import compare

LIMITS = sandbox.Limits(cell=30, call=30, total=120)
WANTED = {"a": [1, 2], "b": 0.5}
MADE = {
    "new": "import math\nFACTOR = float(2)\nOTHER = float(3)\nTWO = 2",
    "hessian": "def hessian(x):\n    assert TWO and math\n    return FACTOR / len(x) * (x.T @ x)",
}
NEW = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


def notebook(opened, form):
    """The lab's notebook with the answers in this form."""
    made = grading.submit(
        opened,
        {
            "hessian": by_id_released(opened)["hessian"],
            **{k: v for k, v in form.items() if k in grading.ANSWERS},
        },
    )
    cells = by_id(made)
    if "first" in form:
        cells["imports"]["source"] = form["first"].format(cells["imports"]["source"])
    place = next(i for i, cell in enumerate(made["cells"]) if cell["id"] == "hessian")
    if "below" in form:
        made["cells"].insert(
            place + 1, {**copy.deepcopy(NEW), "id": "new", "source": form["below"]}
        )
    if "new" in form:
        made["cells"].insert(place, {**copy.deepcopy(NEW), "id": "new", "source": form["new"]})
    return made


def by_id_released(opened):
    return {answer.grade_id: answer.released for answer in opened.answers}


@pytest.fixture(scope="module")
def results(tmp_path_factory, opened):
    course = tmp_path_factory.mktemp("class")
    for name, form in forms.FORMS.items():
        grading.hand_in(course, opened, name, notebook(opened, form))
    grading.hand_in(course, opened, "made by a call", notebook(opened, MADE))
    return run.run(
        opened.folder.parents[1],
        course,
        opened,
        jobs=2,
        seed=3,
        limits=LIMITS,
        book=False,
        progress=False,
    )


def test_the_table_is_in_the_docs():
    """Every row of it is tested below."""
    text = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert f"\n{forms.section()}\n## " in text


@pytest.mark.parametrize("name", forms.FORMS)
def test_the_grader_takes_it(results, name):
    result = results[name]
    assert result["score"] == 12, (
        result["notes"],
        [(c["grade_id"], c["score"], c["message"]) for c in result["cells"]],
    )


def test_what_an_extra_cell_makes_by_a_call_is_named(results):
    """An import and a plain constant beside it are there."""
    result = results["made by a call"]
    assert result["score"] == 7 and result["notes"] == [
        (
            "FACTOR: made by an extra cell, of which only imports, plain "
            "constants and functions are run"
        )
    ]


@pytest.mark.parametrize("name", [name for name in forms.FORMS if name not in forms.ONLY_GRADED])
def test_the_notebook_takes_it(opened, name):
    """Every cell in order in a kernel's own shell, the tests with their checks too."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    try:
        for cell in notebook(opened, forms.FORMS[name])["cells"]:
            stub_first = cell["id"] == "hessian-test" and "below" in forms.FORMS[name]
            if cell["cell_type"] == "code":
                done = shell.run_cell(cell["source"].encode(errors="replace").decode())
                assert done.success or stub_first, done.error_in_exec or done.error_before_exec
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.parametrize("name", forms.RESULTS)
def test_a_result_may_have_this_form(name):
    """In the notebook it is compared as it is, in the grader after it has crossed."""
    modules = {
        "collections": collections,
        "decimal": decimal,
        "fractions": fractions,
        "np": np,
        "torch": torch,
        "types": types,
    }
    value = eval(forms.RESULTS[name], modules)
    assert compare.difference(value, WANTED, 1e-6) is None
    tensors = {}
    node = wire.encode(value, tensors, lambda _: pytest.fail("it cannot be sent"))
    assert compare.difference(wire.decode(node, tensors, None), WANTED, 1e-6) is None
