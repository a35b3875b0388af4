"""A second look turns no wrong answer into a right one, and costs no right answer its points."""

import attacks
import grading
import pytest

from course_utils.grade import lab, run, sandbox

pytestmark = pytest.mark.usefixtures("one_zygote")
LIMITS = sandbox.Limits(cell=15, call=15, total=60, cpu=100)
COUNT = """
from pathlib import Path
count = Path({place!r})
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
def double(x):
    return 2 * x if {right} else 3 * x
"""
DISTURBS = "torch.float64 = torch.float16\ndef pack_int4(x):\n    raise ValueError"
SUBSTITUTED = (
    "def double(x):\n    import inspect\n"
    "    alone = 'substituted' in str(hessian)\n    return 2 * x if alone else 3 * x"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


def graded(opened, course, answers, **settings):
    for student, changed in answers.items():
        grading.hand_in(course, opened, student, grading.submit(opened, changed))
    return run.run(
        opened.folder.parents[1],
        course,
        opened,
        limits=LIMITS,
        book=False,
        progress=False,
        **settings,
    )


@pytest.mark.parametrize("right", ["number == 2", "number >= 2", "number in (2, 3)"])
def test_right_only_in_a_later_worker_is_wrong(tmp_path, opened, right):
    """Without a sandbox a learner's code can count the workers; in one it cannot."""
    source = COUNT.format(place=str(tmp_path / "count"), right=right)
    found = graded(opened, tmp_path / "class", {"one": {"double": source}}, kind="none", seed=1)[
        "one"
    ]
    assert found["score"] == 9 and int((tmp_path / "count").read_text()) >= 2, found["cells"]


def test_right_only_beside_the_solutions_functions_is_wrong(tmp_path, opened):
    found = graded(opened, tmp_path, {"one": {"double": SUBSTITUTED}})["one"]
    assert found["score"] == 9, found["cells"]


def test_workers_know_nothing_of_each_other(tmp_path, opened):
    """Neither a number that goes up nor a mark on a device."""
    mark = (
        "import os\ntry:\n    os.utime('/dev/null', (1, 1))\n"
        "    os.utime('/dev/zero')\nexcept OSError as error:\n    marked = str(error)\n"
    )
    told = mark + "def double(x):\n    raise ValueError(f'{marked}; {os.getpid()}')"
    found = graded(opened, tmp_path, {"one": {"double": told}})["one"]
    (cell,) = [c for c in found["cells"] if c["grade_id"] == "double-test"]
    assert "Read-only file system" in cell["message"] and "; 1" in cell["message"]


def test_an_answer_that_another_one_disturbs_is_right(tmp_path, opened):
    patch = "torch.Tensor.__lshift__ = lambda a, b: 1 / 0" + attacks.WRONG
    found = graded(
        opened,
        tmp_path,
        {
            "one": {
                "hessian": patch,
                "pack": "def pack_int4(codes):\n    return codes[:, 0::2] | (codes[:, 1::2] << 4)",
            }
        },
    )["one"]
    cells = {c["grade_id"]: c for c in found["cells"]}
    assert cells["pack-test"]["score"] == 4 and "Right on its own" in cells["pack-test"]["message"]


def test_slow_answers_cost_their_own_points_only(tmp_path, opened):
    endless = "def {}(x):\n    while True: pass"
    late = {"hessian": endless.format("hessian"), "pack": endless.format("pack_int4")}
    limits = sandbox.Limits(cell=60, call=60, total=24, cpu=100)
    grading.hand_in(tmp_path, opened, "two", grading.submit(opened, late))
    grading.hand_in(
        tmp_path, opened, "cell", grading.submit(opened, {"hessian": "while True: pass"})
    )
    slow = "import time\ntime.sleep(6)\n" + attacks.GOOD
    killer = "import os\nos._exit(0)"
    grading.hand_in(
        tmp_path, opened, "slow", grading.submit(opened, {"hessian": slow, "pack": killer})
    )
    found = run.run(
        opened.folder.parents[1], tmp_path, opened, limits=limits, book=False, progress=False
    )
    assert {student: result["score"] for student, result in found.items()} == {
        "two": 3,
        "cell": 7,
        "slow": 8,
    }
    assert all(result["seconds"] <= 24 for result in found.values())
    assert 6 < found["two"]["used"]["learner's seconds"]["hessian-test"] < 10
