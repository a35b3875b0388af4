"""The kernels that tests start (`tests/quick`) are copies of one process, and behave like any other
kernel.
"""

import contextlib
import fcntl
import os
import queue
import time

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.skipif(
    "COURSE_TEST_COPIES" not in os.environ,
    reason="copies need Linux's pidfd; elsewhere kernels start as usual",
)
DRAWS = (
    "import os, random, numpy, torch; print(os.getpid(), random.random(), numpy.random.rand(), "
    "torch.initial_seed(), os.getcwd())"
)


def said(client, code):
    texts = []
    reply = client.execute_interactive(
        code,
        timeout=60,
        output_hook=lambda m: m["msg_type"] == "stream" and texts.append(m["content"]["text"]),
    )
    return reply["content"], "".join(texts)


def interrupted(manager, client, waiting):
    """The reply to a cell that is interrupted: again after 15 s, as a person would."""
    for _ in range(3):
        manager.interrupt_kernel()
        with contextlib.suppress(queue.Empty):
            while (reply := client.get_shell_msg(timeout=15))["parent_header"]["msg_id"] != waiting:
                pass
            return reply
    raise TimeoutError("the cell went on after three interrupts")


@pytest.fixture
def kernels(tmp_path):
    peaks = tmp_path / "peaks"
    peaks.touch()
    started = [
        start_new_kernel(cwd=str(tmp_path), env={**os.environ, "COURSE_TEST_PEAKS": str(peaks)})
        for _ in range(2)
    ]
    yield started, peaks
    for manager, client in started:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_copy_is_a_kernel_of_its_own(kernels, tmp_path):
    (one, other), peaks = kernels
    drawn = [said(client, DRAWS)[1].split() for _, client in (one, other)]
    pids = {int(words[0]) for words in drawn}
    assert len(pids) == 2 and all(a != b for a, b in zip(drawn[0][1:3], drawn[1][1:3], strict=True))
    assert drawn[0][3] == drawn[1][3] and drawn[0][4] == str(tmp_path)

    manager, client = one
    waiting = client.execute(
        "import time; print(1, flush=True); time.sleep(60)", stop_on_error=False
    )
    while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass  # until it runs
    reply = interrupted(manager, client, waiting)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert said(client, "print('alive', len(bytearray(300_000_000)))")[1] == "alive 300000000\n"

    for manager, client in (one, other):
        client.stop_channels()
        manager.shutdown_kernel(now=True)  # killed, not asked
    with peaks.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        kilobytes = sorted(map(int, file))
    assert len(kilobytes) == 2 and 250_000 < kilobytes[1] - kilobytes[0] < 350_000
    last = time.monotonic() + 30
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < last, "a killed kernel goes on"
        time.sleep(0.05)


def test_one_that_was_killed_is_started_again(tmp_path):
    mine = os.environ["COURSE_TEST_COPIES"]

    def copied():
        found = psutil.process_iter(["cmdline"])
        return [p for p in found if mine in (p.info["cmdline"] or [])]

    for _ in range(2):
        manager, client = start_new_kernel(cwd=str(tmp_path))
        assert said(client, "print(1)")[1] == "1\n"
        there = copied()
        started = [p for p in there if p.ppid() not in {other.pid for other in there}]
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        assert len(started) == 1, "one process is copied"
        assert manager.provisioner.pid not in {p.ppid() for p in started}, (
            "it lives on when the first kernel is killed"
        )
        started[0].kill()
        psutil.wait_procs(started, 30)
