"""Twelve kills of the grader at random moments: nothing is lost, nothing runs on, and the next run
ends what was begun, with the seed that it had drawn.
"""

import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import grading
import psutil
import pytest

from course_utils.grade import lab, run, sandbox, scratch

LIMITS = sandbox.Limits(cell=60, call=60, total=300)
KILLS, CLASS = 12, 8
ANSWERS = [
    {},
    {"double": "def double(x):\n    return x"},
    {"hessian": "def hessian(x):\n    return x"},
    {"written": "mine"},
]


def scores(results):
    return {
        s: (r["score"], [(c["grade_id"], c["score"], c["mistake"]) for c in r["cells"]])
        for s, r in results.items()
    }


def said(results):
    """All of each result but how long it took."""
    return {
        s: {key: value for key, value in r.items() if key not in ("seconds", "used")}
        for s, r in results.items()
    }


@pytest.fixture
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


@pytest.fixture
def scratches(monkeypatch):
    """A folder of its own for temporary ones, with a name short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="k-") as folder:
        monkeypatch.setattr(scratch.tempfile, "tempdir", folder)
        yield Path(folder)


def test_nothing_is_lost_by_kills(tmp_path, opened, scratches):
    root, out = opened.folder.parents[1], tmp_path / "grades" / grading.LAB
    for n in range(CLASS):
        grading.hand_in(
            tmp_path, opened, f"learner-{n}", grading.submit(opened, ANSWERS[n % len(ANSWERS)])
        )

    def graded(**more):
        return run.run(root, tmp_path, opened, jobs=2, limits=LIMITS, progress=False, **more)

    def on_disk():
        return {path.stem: json.loads(path.read_bytes()) for path in out.glob("*.json")}

    began = time.monotonic()
    wanted = scores(graded())
    whole, rng = time.monotonic() - began, random.Random(7)
    handed_in = {
        path: path.read_bytes() for path in (tmp_path / "submitted").rglob("*") if path.is_file()
    }
    early = 0
    for kill in range(KILLS):
        child = os.fork()
        if child == 0:
            try:
                graded(again=True)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.05, 1.0) * whole)
        with_it = [process.pid for process in psutil.Process(child).children(recursive=True)]
        os.kill(child, signal.SIGKILL)
        early += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert grading.ended(with_it), f"kill {kill}: something runs on"
        assert {path: path.read_bytes() for path in handed_in} == handed_in
        assert scores(on_disk()) == wanted, f"kill {kill}: a result of before or of now, whole"
        if kill % 4 == 3:  # what a killed run leaves is taken up, with the inputs that it had drawn
            seed, resumed = (out / "seed").read_text(), graded()
            assert scores(resumed) == wanted and (out / "seed").read_text() == seed
            assert {result["seed"] for result in resumed.values()} == {int(seed)}
    assert early >= KILLS // 2, "most of them end a run that works"
    assert said(graded(again=True, seed=int(seed))) == said(resumed), (
        "as one run that nobody disturbs"
    )
    assert not list(scratches.glob(f"{scratch.PREFIX}*")) and not list(out.glob(".*.unfinished-*"))

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        for student, (score, _) in wanted.items():
            assert book.find_submission(grading.LAB, student).code_score == score
