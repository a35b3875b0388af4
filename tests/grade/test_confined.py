"""Our own functions that see a learner's values: they write nowhere, and have limits on memory and
time.
"""

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import grading
import hostile
import nbformat
import pytest
import torch
from grading import cell
from hostile import FORGED, HOSTILE, LIMITS, MOST
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.grade import confined, crossing, judging, kinds, lab, run, sandbox
from course_utils.grade.remote import LearnerError, exception, explained

pytestmark = pytest.mark.usefixtures("one_zygote")
ROOT = Path(__file__).resolve().parents[2]
QUICK = replace(LIMITS, call=5, total=40)
ANSWERS = {
    "save": (
        "def save(folder):\n    folder = __import__('pathlib').Path(folder)\n"
        "    folder.mkdir(parents=True)\n    (folder / 'x').write_text('1')\n    return 1"
    ),
    "second": "def second(x):\n    return 2 * x",
}
TESTS = {
    "save": (
        "import tempfile, pathlib\nwith tempfile.TemporaryDirectory() as place:\n"
        "    assert save(pathlib.Path(place, 'new')) == 1"
    ),
    "second": "assert second(2) == 4",
}
ESCAPE = (
    "def second(x):\n    try:\n        save({target!r})\n"
    "    except Exception as error:\n        kept = error\n    return 2 * x"
)


def lab_that_saves(folder):
    cells = [cell(new_code_cell, "imports", "import math", locked=True)]
    for name, source in ANSWERS.items():
        head, _, body = source.partition("\n")
        cells.append(
            cell(
                new_code_cell,
                name,
                f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION",
                solution=True,
            )
        )
        cells.append(
            cell(new_code_cell, f"{name}-test", TESTS[name], grade=True, locked=True, points=4)
        )
    path = folder / "solutions" / grading.LAB / f"{grading.LAB}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), path)
    return lab.load(folder, grading.LAB)


@pytest.mark.parametrize("kind", ["namespaces", "bwrap"])
def test_a_function_of_the_solution_writes_nowhere_for_a_learner(tmp_path, kind):
    """The first answer raises, so that the second one calls the solution's `save`, with a path of
    its own choice.
    """
    if why := kinds.missing(kind):
        pytest.skip(why)
    opened, target = lab_that_saves(tmp_path / "root"), str(tmp_path / "class" / "escaped")
    tmp_path.chmod(0o777)
    escapes = {
        "save": "def save(folder):\n    raise ValueError",
        "second": ESCAPE.format(target=target),
    }
    grading.hand_in(tmp_path / "class", opened, "one", grading.submit(opened, escapes))
    grading.hand_in(
        tmp_path / "class",
        opened,
        "two",
        grading.submit(opened, {**escapes, "save": "raise ValueError"}),
    )
    grading.hand_in(tmp_path / "class", opened, "right", grading.submit(opened, ANSWERS))
    found = run.run(
        tmp_path / "root",
        tmp_path / "class",
        opened,
        kind=kind,
        limits=LIMITS,
        book=False,
        progress=False,
    )
    assert {student: result["score"] for student, result in found.items()} == {
        "one": 4,
        "two": 4,
        "right": 8,
    }
    assert not os.path.exists(target) and not list(tmp_path.rglob("escaped"))


def child(work, **settings):
    (root := Path(settings.pop("root")) / "empty").mkdir(exist_ok=True)
    return confined.call(work, LIMITS, root, keep=[], **{"seconds": 30, **settings})


def test_what_is_returned_comes_back(tmp_path):
    assert child(lambda: {"a": [1, None, "ü"]}, root=tmp_path) == {"a": [1, None, "ü"]}


def writes(path):
    def tried():
        try:
            Path(path).write_text("1")
        except OSError as error:
            return type(error).__name__
        return "written"

    return tried


@pytest.mark.parametrize(
    "place", ["{tmp}/x", "/usr/lib/x", str(sandbox.PACKAGE / "x"), "/x", "/etc/x"]
)
def test_nothing_can_be_written(tmp_path, place):
    tmp_path.chmod(0o777)
    path = place.format(tmp=tmp_path)
    assert child(writes(path), root=tmp_path) != "written" and not Path(path).exists()
    assert child(writes("mine"), root=tmp_path) == "written", "but in a folder of its own in memory"


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: os._exit(7), "it ended with status 7"),
        (lambda: time.sleep(60), "it did not answer in 1 seconds"),
        (lambda: bytearray(1 << 30), "MemoryError"),
        (os.fork, "PermissionError"),
        (lambda: subprocess.run(["true"]), "Error"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: "x" * (20 << 20), "it answered with more than 16 MB"),
    ],
)
def test_an_end_without_an_answer_is_named(tmp_path, work, said):
    with pytest.raises(confined.Died, match=said):
        child(work, root=tmp_path, seconds=1 if "1 second" in said else 30)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


@pytest.fixture(scope="module")
def results(tmp_path_factory, opened):
    course = tmp_path_factory.mktemp("class")
    hostile.hand_in(course, opened)
    found, megabytes, _ = hostile.grade(course, opened, QUICK)
    assert megabytes <= MOST
    return found


@pytest.mark.parametrize("name", [*HOSTILE, *FORGED])
def test_a_hostile_reply_costs_that_answer_and_little_memory_and_time(results, name):
    result = results[name]
    late = 4 if "storm" in name or "many" in name.split() else 7  # double itself takes too long
    assert "fault" not in result and result["score"] == late, (result.get("fault"), result["cells"])
    assert result["used"]["megabytes of the grader"] <= MOST
    assert result["seconds"] <= QUICK.total
    assert (
        all(len(c["message"]) <= 2000 for c in result["cells"]) and len(json.dumps(result)) < 20_000
    ), "nothing large is kept"


def test_what_was_received_is_freed_at_once():
    """Also where no collector of rings runs: a hundred large arguments would fill the memory of the
    process.
    """
    import gc
    import weakref
    from types import SimpleNamespace

    session = SimpleNamespace(call=None, incarnation=1, templates=[], shared={})
    gc.disable()
    try:
        tensor = torch.ones(3)
        gone = weakref.ref(tensor)
        value = crossing.Crossing(session).decode(
            ["list", [["tensor", ["0", False, False]], 1]], {"0": tensor}
        )
        assert value[0] is tensor
        del value, tensor
        assert gone() is None
    finally:
        gc.enable()


def test_an_error_has_all_its_parts_whatever_was_sent():
    for sent in (None, {}, [], {"said": 3}, {"type": None, "line": True}):
        assert explained(sent) == {
            "type": "an error without a name",
            "said": "",
            "line": None,
            "source": "",
            "builtin": "",
        }


@pytest.mark.parametrize(
    "name",
    ["StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit"],
)
def test_no_error_of_a_learner_ends_a_loop_of_ours(name):
    """`all(map(...))` would be true where the first call raises StopIteration."""
    raised = exception(explained({"type": name, "said": "x"}))
    assert type(raised).__name__ == name and isinstance(raised, LearnerError)


def test_an_answer_that_ends_our_process_by_a_function_of_ours_costs_that_answer(tmp_path, opened):
    """The solution's `hessian` dies whenever it is lent; without it, the other answers are graded
    as they are.
    """
    broken = lab.load(opened.folder.parents[1], grading.LAB)
    own = broken.reference["hessian"]
    broken.reference["hessian"] = lambda x: os._exit(9) if len(x) == 77 else own(x)
    kill = (
        "def double(x):\n    try:\n"
        "        hessian(torch.ones(77, 2))\n    except Exception:\n        pass\n    return 2 * x"
    )
    wrong = {"hessian": "def hessian(x):\n    return x", "double": kill}
    grading.hand_in(tmp_path, broken, "one", grading.submit(broken, wrong))
    found = run.run(
        opened.folder.parents[1], tmp_path, broken, limits=LIMITS, book=False, progress=False
    )["one"]
    assert found["score"] == 7 and judging.NOT_LENT in found["notes"]
