"""Grading on Dask's workers: the same scores, nothing lost when one dies, other versions of the
course are refused.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import grading
import psutil
import pytest
from attacks import WRONG
from browsing import stop
from distributed import LocalCluster
from distributed.security import Security

from course_utils.errors import CompressionError
from course_utils.grade import cluster, lab, run, sandbox

LIMITS = sandbox.Limits(cell=60, call=60, total=300)
SOURCES = [
    {},
    {"hessian": WRONG},
    {"double": "def double(x):\n    return 3 * x"},
    {"pack": "1 / 0"},
    {"hessian": "import os\nos._exit(0)"},
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


@pytest.fixture
def course(tmp_path, opened):
    for n, answers in enumerate(SOURCES):
        grading.hand_in(tmp_path, opened, f"學生-{n}", grading.submit(opened, answers))
    return tmp_path


def scores(results):
    return {
        student: [(c["grade_id"], c["score"], c["message"]) for c in r["cells"]]
        for student, r in results.items()
    }


def descendants(word):
    """Processes that this one started, directly or not, with the word in their command."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if any(word in part for part in process.cmdline()) else []
        except psutil.Error:
            continue
    return found


def graders():
    """The graders of the Dask workers; a judge is a fork of its grader,
    and may end while we look.
    """
    started, found = descendants("course_utils.grade.cluster"), []
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [] if process.ppid() in {other.pid for other in started} else [process]
    return found


def test_a_worker_and_a_grader_that_die_cost_nobody_anything(course, opened, monkeypatch):
    """When the first result is written, one Dask worker and the grader of the other are killed."""
    settings = {"jobs": 2, "seed": 3, "limits": LIMITS, "progress": False}
    killed, real = [], run.write

    def write_and_kill(path, content):
        real(path, content)
        if path.suffix == ".json" and not killed:
            one, other = graders()
            killed.extend([one.parent(), other])
            for process in killed:
                process.kill()

    monkeypatch.setattr(run, "write", write_and_kill)
    found = run.run(opened.folder.parents[1], course, opened, dask="local", **settings)
    monkeypatch.undo()
    assert len(killed) == 2 and len(list((course / "grades" / grading.LAB).glob("*.json"))) == len(
        SOURCES
    )
    alone = run.run(opened.folder.parents[1], course, opened, again=True, **settings)
    assert scores(found) == scores(alone)
    assert [r["score"] for r in found.values()] == [12, 7, 9, 8, 7]
    assert (course / "gradebook.db").is_file() and descendants("course_utils.grade") == []


def test_a_grader_that_dies_while_it_checks_the_solution_is_noticed(opened):
    """Its judge is a fork of it, which has the pipe of the results too."""
    order, killed = cluster.order(opened.folder.parents[1], opened, LIMITS, 1, None), []

    def kill():
        while not killed:
            time.sleep(0.001)
            if descendants("course_utils.grade.zygote"):  # before it, the grader has other children
                found = graders()  # none for a moment, while processes are listed that come and go
                judges = [
                    p.pid
                    for p in descendants("course_utils.grade.cluster")
                    if p.pid not in [g.pid for g in found]
                ]
                killed.extend([found[0].pid, *judges] if len(found) == 1 and judges else [])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        with pytest.raises(cluster.GraderDied):
            cluster.graded(order, {"answers": {}, "notes": [], "digest": ""})
    finally:
        cluster.stop()
    killer.join(30)
    assert len(killed) >= 2 and grading.ended(killed)


@pytest.fixture
def scheduler(tmp_path_factory, monkeypatch):
    """`dask scheduler` and `dask worker` with TLS files, as docs/instructor.md has them; their
    address.
    """
    folder, safe = tmp_path_factory.mktemp("tls"), Security.temporary()
    words, started = [], []
    for name, content in {
        "ca-file": safe.tls_ca_file,
        "cert": safe.tls_client_cert,
        "key": safe.tls_client_key,
    }.items():
        (folder / f"{name}.pem").write_text(content)
        words += [f"--tls-{name}", f"{folder}/{name}.pem"]
    place, dask = folder / "scheduler.json", [sys.executable, "-m", "dask"]
    try:
        serve = [
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--dashboard-address",
            ":0",
            "--scheduler-file",
        ]
        started.append(subprocess.Popen([*dask, *serve, place, "--protocol", "tls", *words]))
        while not (place.exists() and place.read_text().endswith("}")):
            assert started[0].poll() is None
            time.sleep(0.1)
        address = json.loads(place.read_text())["address"]
        work = [
            "worker",
            address,
            "--nworkers",
            "1",
            "--nthreads",
            "1",
            "--memory-limit",
            "0",
            "--no-dashboard",
        ]
        started.append(subprocess.Popen([*dask, *work, *words], cwd=folder))
        yield address, folder
    finally:
        for process in reversed(started):
            stop(process)


def test_the_commands_of_the_manual(course, opened, scheduler):
    address, folder = scheduler
    tls = {"CA_FILE": "ca-file", "CLIENT__CERT": "cert", "CLIENT__KEY": "key"}
    settings = {
        f"DASK_DISTRIBUTED__COMM__TLS__{name}": f"{folder}/{file}.pem" for name, file in tls.items()
    }
    command = [
        sys.executable,
        "-m",
        "course_utils.cli",
        "grade",
        grading.LAB,
        "--root",
        str(opened.folder.parents[1]),
    ]
    command += ["--course", str(course), "--dask", address]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert refused.returncode != 0 and not list((course / "grades" / grading.LAB).glob("*.json")), (
        "without the files"
    )
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, **settings}
    )
    assert done.returncode == 0, done.stderr
    assert (
        address.startswith("tls://")
        and "學生-0: 12 of 14" in done.stdout
        and "學生-1: 7 of 14" in done.stdout
    )
    assert descendants("course_utils.grade") == [], "the workers are left as they were"


def test_a_grader_that_always_dies_is_a_fault(course, opened, monkeypatch):
    monkeypatch.setattr(cluster, "COMMAND", [sys.executable, "-c", "input(); input()"])
    with LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0"
    ) as workers:
        place = workers.scheduler_address
        found = run.run(
            opened.folder.parents[1], course, opened, dask=place, limits=LIMITS, progress=False
        )
    assert {r["fault"] for r in found.values()} == {
        "GraderDied: the grader's own process died over this submission"
    }
    assert [r["score"] for r in found.values()] == [None] * len(SOURCES)


@pytest.mark.parametrize("name", ["digest", "course"])
def test_another_version_of_the_course_is_refused(opened, name):
    order = cluster.order(opened.folder.parents[1], opened, LIMITS, 1, None)
    try:
        said = cluster.graded({**order, name: "other"}, {"answers": {}, "notes": [], "digest": ""})
    finally:
        cluster.stop()
    assert (
        list(said) == ["refused"]
        and "is not the same; give it the same version of the course" in said["refused"]
    )


def test_a_refusal_stops_the_run(course, opened, monkeypatch):
    monkeypatch.setattr(
        cluster,
        "graded",
        lambda order, submission: {"refused": "far-away does not grade: no sandbox"},
    )
    root, settings = (
        opened.folder.parents[1],
        {"dashboard_address": ":0", "processes": False, "n_workers": 1},
    )
    refused = pytest.raises(CompressionError, match="--dask: far-away does not grade: no sandbox")
    with LocalCluster(threads_per_worker=1, **settings) as workers, refused:
        run.run(root, course, opened, dask=workers.scheduler_address, progress=False)
    assert not list((course / "grades" / grading.LAB).glob("*.json"))


def test_no_worker_no_grading(course, opened, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT", 1)
    with LocalCluster(host="127.0.0.1", n_workers=0, dashboard_address=":0") as workers:
        for place in (workers.scheduler_address, "tcp://127.0.0.1:9"):
            with pytest.raises(
                CompressionError, match=f"--dask {place}: no worker was found in 1 seconds"
            ):
                run.run(opened.folder.parents[1], course, opened, dask=place, progress=False)
