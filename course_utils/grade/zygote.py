"""The process that has torch and a lab's imports ready, and forks a sandboxed worker for each
submission.

`python -m course_utils.grade.zygote LISTENER_FD` reads its orders (JSON) from stdin. For each
connection it forks a keeper, which starts and kills one worker at a time. It holds no secrets: it
is given the released lab and nothing else.
A keeper ends with its connection and takes its worker with it; the zygote ends when stdin does.
"""

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import sandbox

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Import once, then fork a worker for each order that comes."""
    orders = json.loads(sys.stdin.buffer.readline())
    listener = socket.socket(fileno=int(sys.argv[1]))
    try:
        import torch

        from . import worker

        torch.set_num_threads(1)
        namespace = worker.prepare(orders["prelude"])
        warm(torch)
    except BaseException as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
        return
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(BaseException):
                Keeper(connection, orders, namespace).serve()
            os._exit(0)
        connection.close()


def warm(torch: Any) -> None:
    """Use once what sets itself up at its first use."""
    x = torch.eye(8, dtype=torch.float64)
    torch.linalg.cholesky(torch.linalg.inv(x @ x + x))
    torch.randn(4, generator=torch.Generator().manual_seed(0)).float() @ torch.ones(4)
    from IPython.core.inputtransformer2 import TransformerManager

    TransformerManager().transform_cell("%time 1")


class Keeper:
    """Starts worker n ("Sn" with the descriptor of its channel) and kills it ("Kn"); it answers
    with why none was started ("ready" if one was) or how the worker ended.

    No answer means that the keeper itself is gone.
    """

    def __init__(
        self, connection: socket.socket, orders: dict[str, Any], namespace: dict[str, Any]
    ) -> None:
        self.connection, self.orders, self.namespace = connection, orders, namespace
        self.limits = sandbox.Limits(**orders["limits"])
        self.workers: dict[int, list[int]] = {}  # by number: the process outside, the one inside
        sandbox.libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def serve(self) -> None:
        """Start and end workers, as the channel orders."""
        while True:
            order, descriptors, _, _ = socket.recv_fds(self.connection, 16, 1)
            number = int(order[1:] or 0)
            if order[:1] == b"S":
                self.kill(number)
                self.connection.send(self.start(number, descriptors[0]).encode())
                os.close(descriptors[0])
            elif order[:1] == b"K":
                self.connection.send(str(self.kill(number)).encode())
            else:
                for number in list(self.workers):
                    self.kill(number)
                return

    def start(self, number: int, channel: int) -> str:
        """Start a worker for the channel: "ready" when it serves, else why not."""
        reader, writer = os.pipe()
        outside = os.fork()
        if outside == 0:
            self._become_worker(channel, writer)
        os.close(writer)
        pids = self.workers[number] = [outside]
        said = b""
        while part := os.read(reader, 4096):
            said += part
        os.close(reader)
        inside, _, problem = said.decode(errors="replace").partition("\n")
        if inside.isdigit():
            pids.append(int(inside))
        return problem or ("ready" if inside else "the worker did not start")

    def _become_worker(self, channel: int, report: int) -> None:
        from . import worker

        again = os.dup(report)
        root, data = Path(self.orders["root"]), self.orders["data"] and Path(self.orders["data"])
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            if self.orders["unsafe"]:
                os.setsid()
                os.write(report, str(os.getpid()).encode())
                os.close(report)
                work = Path(tempfile.mkdtemp(dir=root))
                if data is not None:
                    shutil.copytree(data, work, dirs_exist_ok=True)
                os.chdir(work)
                sandbox.set_limits(self.limits)
            else:
                sandbox.enter(self.limits, root, report, [channel, again], data)
                work = Path(sandbox.WORK)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
        except BaseException as error:
            os.write(again, f"\n{type(error).__name__}: {error}".encode())
            os._exit(70)
        os.close(again)
        os.environ.clear()
        os.environ.update(
            HOME=str(work),
            TMPDIR=str(work),
            COURSE_HOME=str(work),
            LANG="C.UTF-8",
            HF_HUB_OFFLINE="1",
            OMP_NUM_THREADS="1",
            JOBLIB_MULTIPROCESSING="0",
        )
        sys.stdin = open(os.devnull)  # noqa: SIM115
        code = 0
        try:
            worker.Worker(socket.socket(fileno=channel), self.namespace, work).serve()
        except BaseException:
            code = 71
        os._exit(code)

    def kill(self, number: int) -> int:
        """End the worker and whatever is left of it; the exit status of the worker, 128 + n for
        signal n.
        """
        outside, *inside = self.workers.pop(number, [0])
        if not outside:
            return 0
        done, status = os.waitpid(outside, os.WNOHANG)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                # without a sandbox, this is the worker's own group
                os.killpg(outside, signal.SIGKILL)
            os.kill(outside, signal.SIGKILL)
            os.waitpid(outside, 0)
        for pid in inside:
            # it was waited for; else it is this process's child now
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status) if done else 128 + signal.SIGKILL


if __name__ == "__main__":
    main()
    # nothing is left to tidy up, and the lab's libraries may talk while they are torn down
    os._exit(0)
