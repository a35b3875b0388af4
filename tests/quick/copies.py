"""A process that has imported what every notebook imports, and a copy of it for each kernel that is
asked for.

python copies.py SOCKET READY     READY: a file that is closed once kernels can be asked for

The imports take four seconds of every kernel; nothing of the course is among them. The
socket's name is the number of the process that runs the tests; this one ends with it.
"""

import contextlib
import fcntl
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

IMPORTED = (  # ipykernel first: tqdm looks whether it is there
    "ipykernel.kernelapp", "torch", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
    "scipy.optimize", "matplotlib.figure", "ipywidgets",
)  # fmt: skip


def read(channel: socket.socket) -> tuple[dict, list[int]]:
    """What a kernel starts with (arguments, environment, folder), and where its output goes."""
    size, files, *_ = socket.recv_fds(channel, 8, 2)
    data = b""
    while len(data) < int.from_bytes(size, "big"):
        data += channel.recv(1 << 16)
    return json.loads(data), files


def become_kernel(request: dict, files: list[int]) -> None:
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for target, file in enumerate(files, 1):
        os.dup2(file, target)
    # copies must not draw the same numbers; Python's own `random` starts anew
    importlib.import_module("numpy").random.seed()
    sys.argv = ["ipykernel_launcher", *request["arguments"]]
    importlib.import_module("ipykernel.kernelapp").launch_new_instance()


def keep(channel: socket.socket) -> None:
    """Start a kernel, hand on interrupts, kill it when who asked is gone, and note its peak of
    memory when it has ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = read(channel)
    with open(request["environment"].get("COURSE_TEST_PEAKS", os.devnull), "a") as peaks:
        fcntl.flock(peaks, fcntl.LOCK_SH)  # held until the peak is written
        if not (kernel := os.fork()):
            channel.close()
            become_kernel(request, files)
            os._exit(0)
        ended = os.pidfd_open(kernel)
        while ended not in select.select([channel, ended], [], [])[0]:
            if not channel.recv(1):  # who asked was killed
                os.kill(kernel, signal.SIGKILL)
                break
            os.kill(kernel, signal.SIGINT)
        _, status, usage = os.wait4(kernel, 0)
        print(usage.ru_maxrss, file=peaks)
    with contextlib.suppress(OSError):
        channel.send(bytes([os.waitstatus_to_exitcode(status) & 255]))


def main(address: str, ready: int) -> None:
    # a child of nobody: who asks for the first kernel may end, and all that it has started be
    # killed
    if os.fork():
        return
    os.setsid()
    # as ipykernel sets it before the first cell
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    del sys.path[0]
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    Path(address).unlink(missing_ok=True)  # of one that was killed
    listening.bind(address)
    listening.listen(16)
    os.close(ready)
    listening.settimeout(5)
    while Path("/proc", Path(address).name).exists():
        try:
            channel, _ = listening.accept()
        except TimeoutError:
            continue
        if not os.fork():
            listening.close()
            keep(channel)
            os._exit(0)
        channel.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
