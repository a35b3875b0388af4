"""Processes of the grader that die, wait or are slow: nobody waits for them,
and no learner pays.
"""

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, wait

import grading
import psutil
import pytest
from tqdm import tqdm

from course_utils.errors import CompressionError
from course_utils.grade import bubblewrap, judge, judging, kinds, lab, run, sandbox
from course_utils.grade.keeper import Keeper
from course_utils.grade.session import Session
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote

LIMITS = sandbox.Limits(cell=60, call=60, total=300)
FORK = """
import torch
from course_utils.grade import judging
torch.set_num_threads(2)
x = torch.rand(600, 600)
x @ x
with judging._pool(1) as pool:
    product = "__import__('torch').ones(600, 600) @ __import__('torch').ones(600, 1)"
    print(pool.submit(eval, f"float(({product}).sum())").result())
"""


def test_a_judge_computes_after_the_grader_has_used_threads():
    """The threads of OpenMP are not in a fork, which would wait for them for ever; OMP_NUM_THREADS
    is not set everywhere.
    """
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "360000.0\n", done.stderr


def test_a_judge_that_dies_keeps_no_lock_of_the_progress_bar():
    tqdm.get_lock()  # made at the first use, before the fork
    with judging._pool(1) as pool:
        pool.submit(eval, "__import__('tqdm').tqdm.get_lock().acquire()").result()
    writer = threading.Thread(
        target=tqdm.write, args=("",), kwargs={"file": io.StringIO()}, daemon=True
    )
    writer.start()
    writer.join(60)
    assert not writer.is_alive()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


def test_a_judge_that_dies_while_work_is_handed_out_costs_nobody_else_anything(
    tmp_path, opened, monkeypatch
):
    for n in range(3):
        answer = f"def double(x):\n    return x * 2  # {n}"
        grading.hand_in(
            tmp_path, opened, f"learner-{n}", grading.submit(opened, {"double": answer})
        )
    real_grade, real_submit, first = judge.grade, ProcessPoolExecutor.submit, {}

    def grade(lab_, submission, *arguments, **named):
        if "# 0" in submission.answers.get("double", ""):
            os._exit(9)
        return real_grade(lab_, submission, *arguments, **named)

    def submit(pool, *arguments):
        if pool in first:
            wait([first[pool]], timeout=120)  # until the judge has died
        first[pool] = real_submit(pool, *arguments)
        return first[pool]

    monkeypatch.setattr(judge, "grade", grade)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    found = run.run(
        opened.folder.parents[1],
        tmp_path,
        opened,
        limits=LIMITS,
        kind="none",
        book=False,
        progress=False,
    )
    assert [found[f"learner-{n}"]["score"] for n in range(3)] == [None, 12, 12]


def children(zygote):
    """Its keepers, once there are any."""
    while not (found := psutil.Process(zygote.process.pid).children()):
        time.sleep(0.01)
    return found


def test_what_starts_the_workers_is_gone_and_no_learner_pays(opened, monkeypatch):
    """The keeper is killed during the last test: a fault, and no score of 0."""
    real = judge.Bench.test

    def test(bench, cell, *others):
        if cell is opened.tests[-1]:
            for keeper in children(zygote):
                keeper.kill()
                keeper.wait(60)
        return real(bench, cell, *others)

    monkeypatch.setattr(judge.Bench, "test", test)
    with (
        Zygote(opened.prelude, LIMITS, kind="none") as zygote,
        pytest.raises(judge.MachineFault, match="is gone"),
    ):
        judge.grade(
            opened, Submission(answers=grading.ANSWERS), zygote.address, LIMITS, seed=1, kind="none"
        )


def test_a_submission_has_one_limit_on_time_whatever_is_tried_again(opened, monkeypatch):
    sessions = []

    class Recorded(Session):
        def close(self):
            sessions.append(self)
            super().close()

    monkeypatch.setattr(judge, "Session", Recorded)
    answers = {
        name: f"def {'pack_int4' if name == 'pack' else name}(x):\n    raise ValueError"
        for name in grading.ANSWERS
    }
    with Zygote(opened.prelude, LIMITS, kind="none") as zygote:
        result = judge.grade(
            opened, Submission(answers=answers), zygote.address, LIMITS, seed=1, kind="none"
        )
    assert (
        result["score"] == 0
        and len(sessions) == 3
        and len({session.over for session in sessions}) == 1
    )


def test_what_starts_the_workers_hangs_and_nobody_waits_for_ever():
    with Zygote([], LIMITS, kind="none") as zygote:
        session = Session(Keeper(zygote.address, 3), sandbox.Limits(total=3))
        (keeper,) = children(zygote)
        keeper.suspend()
        try:
            assert session.run("cell", "x = 1", ["x"])["said"] == "no worker could be started"
            assert session.keeper.broken
        finally:
            keeper.kill()
            session.close()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_named(tmp_path, monkeypatch):
    (long := tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(CompressionError, match="too long a path for a socket; set TMPDIR"):
        Zygote([], LIMITS)
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("kind", ["namespaces", "none"])
def test_what_is_written_past_python_fills_no_pipe(kind):
    """A pipe that nobody reads holds 64 KB; who writes more waits."""
    with Zygote([("imports", "import os")], LIMITS, kind=kind) as zygote:
        session = Session(Keeper(zygote.address, 300), sandbox.Limits(cell=30, call=30))
        try:
            assert (
                session.run("cell", "for _ in range(1000): os.write(1, bytes(1000))\nx = 5", ["x"])
                is None
            )
            assert session.get("cell", "x") == 5
        finally:
            session.close()


def test_a_later_step_of_the_sandbox_that_is_refused_is_named_before_anybody_is_graded(monkeypatch):
    """Some systems give namespaces and then forbid to mount in them."""

    def done(result, what):
        if what.startswith("mount"):
            raise PermissionError(13, f"sandbox: {what}: Permission denied")

    monkeypatch.setattr(sandbox, "_done", done)
    assert kinds.missing("namespaces").startswith(
        "this machine refuses a step of it ([Errno 13] sandbox: mount"
    )
    monkeypatch.undo()
    assert kinds.missing("namespaces") == ""


def test_bubblewrap_that_does_not_answer_is_not_used(monkeypatch):
    monkeypatch.setattr(bubblewrap, "WAIT", 0.2)
    monkeypatch.setattr(bubblewrap, "command", lambda root: ["sh", "-c", "exec sleep 60"])
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "timed out after 0.2 seconds" in bubblewrap.problem.__wrapped__()
