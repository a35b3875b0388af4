"""The kinds of sandbox: bubblewrap around namespaces, namespaces, none.

The same scores; none only if told so.
"""

import ctypes
import shutil

import attacks
import grading
import pytest

from course_utils.errors import CompressionError
from course_utils.grade import bubblewrap, kinds, lab, run, sandbox
from course_utils.grade.__main__ import main
from course_utils.grade.keeper import Keeper
from course_utils.grade.session import Session
from course_utils.grade.warm import Zygote

pytestmark = pytest.mark.usefixtures("one_zygote")
LIMITS = sandbox.Limits(cell=15, call=15, total=120, cpu=100)
no_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed"
)
TRIED = (
    "right", "right, prints to stderr", "right, leaves a thread running",
    "forges an execute_result", "kills everything it can", "reads hidden tests from the disk",
    "reads the right answers of the course", "fork bomb", "memory bomb",
)  # fmt: skip
HARMLESS = {
    "right": grading.ANSWERS["hessian"],
    "wrong": attacks.WRONG,
    "ends the worker": "import os\nos._exit(0)",
    "reads the lab's data": (
        "given = open('data.txt').read()\n"
        "def hessian(x):\n    return float(given) / len(x) * (x.T @ x)"
    ),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = grading.make_root(tmp_path_factory.mktemp("root"))
    (root / "solutions" / grading.LAB / "data.txt").write_text("2")
    return lab.load(root, grading.LAB)


def graded(opened, course, answers, **settings):
    for student, source in answers.items():
        grading.hand_in(course, opened, student, grading.submit(opened, {"hessian": source}))
    found = run.run(
        opened.folder.parents[1],
        course,
        opened,
        jobs=2,
        limits=LIMITS,
        book=False,
        progress=False,
        **settings,
    )
    return found, {student: result["score"] for student, result in found.items()}


@no_bubblewrap
def test_attacks_inside_bubblewrap(tmp_path, opened):
    assert bubblewrap.problem() == "" and kinds.best() == "bwrap"
    found, scores = graded(
        opened, tmp_path, {name: attacks.ANSWERS[name][0] for name in TRIED}, kind="bwrap"
    )
    assert scores == {name: attacks.ANSWERS[name][1] for name in TRIED}
    assert all(
        result["sandbox"].startswith("bubblewrap around namespaces") for result in found.values()
    )


LOOK = """
import os, torch
seen = [os.path.exists(path) for path in ({solution!r}, {exercise!r}, {package!r})]
devices = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
processes = [name for name in os.listdir("/proc") if name.isdigit()]
"""


@no_bubblewrap
def test_the_process_that_forks_the_workers_is_behind_the_wall(opened):
    """Cells before the first answer run in it: it sees no solution, no answer of the course, no
    network, no other process.
    """
    exercise, package = next(sandbox.HIDDEN.glob("*/gptq.py")), sandbox.HIDDEN / "__init__.py"
    assert opened.folder.exists() and exercise.exists() and package.exists()
    look = LOOK.format(solution=str(opened.folder), exercise=str(exercise), package=str(package))
    with Zygote([("look", look)], LIMITS, kind="bwrap") as zygote:
        session = Session(Keeper(zygote.address, 300), LIMITS)
        try:
            assert session.run("cell", "told = seen, devices, len(processes)", ["told"]) is None
            seen, devices, processes = session.get("cell", "told")
        finally:
            session.close()
    assert seen == [False, False, True] and devices == ["lo"] and processes <= 2


def test_unprotected_only_if_told_so(tmp_path, opened, monkeypatch, capsys):
    class Refuses:
        @staticmethod
        def unshare(_flags):
            ctypes.set_errno(1)
            return -1

        @staticmethod
        def prctl(*_):
            return 0

    monkeypatch.setattr(
        bubblewrap, "problem", lambda: "bubblewrap (the command bwrap) is not installed."
    )
    with monkeypatch.context() as patched:
        patched.setattr(sandbox, "libc", Refuses)
        refused = (
            r"no sandbox: this machine refuses a step of it \(.*unshare: "
            r"Operation not permitted\).*--unsafe-no-sandbox"
        )
        with pytest.raises(CompressionError, match=refused):
            graded(opened, tmp_path / "class", HARMLESS)
        with pytest.raises(
            CompressionError,
            match="no sandbox: bubblewrap .* is not installed. Without it: --sandbox namesp",
        ):
            run.run(
                opened.folder.parents[1], tmp_path / "class", opened, kind="bwrap", progress=False
            )
    command = [
        "run",
        grading.LAB,
        "--root",
        str(opened.folder.parents[1]),
        "--course",
        str(tmp_path / "class"),
    ]
    assert main([*command, "--unsafe-no-sandbox", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.startswith(
        "Sandbox: none, learners can do here what you can do."
    )
    found = run.run(
        opened.folder.parents[1], tmp_path / "class", opened, kind="none", progress=False
    )
    assert {student: (result["score"],
                      result["sandbox"][:5]) for student, result in found.items()} == {
        "right": (12, "none,"), "wrong": (7, "none,"), "ends the worker": (7, "none,"),
        "reads the lab's data": (12, "none,")
    }  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param("bwrap", marks=no_bubblewrap), "namespaces"])
def test_the_same_scores_and_data_in_every_kind(tmp_path, opened, kind):
    _, scores = graded(opened, tmp_path, HARMLESS, kind=kind)
    assert scores == {"right": 12, "wrong": 7, "ends the worker": 7, "reads the lab's data": 12}
