"""Where kernels of learners are compiled and called: beside those who judge, who may start nothing.

`python -m course_utils.grade.workshop CHANNEL ROOT LOCK [unsafe]` answers orders of
`learn.native.service` until its channel ends. It is new for each submission and holds nothing that
is secret. The compiler runs in a sandbox of its own that shows a compiler and its headers; a kernel
runs in another that shows the C library, and there it may make no system call that a product has no
use for. Inputs are shared with it for reading, answers are compared here, and time is the operating
system's account of its process, read here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import sandbox
from .sandbox import Limits

LENGTH = struct.Struct(">Q")
LARGEST = 8 << 20  # bytes of an order or an answer
REFUSED = 70  # exit status where the sandbox could not be entered
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")
TOOLS = ("/usr/bin", "/bin", "/usr/include", "/usr/libexec", "/usr/local/include")
COMPILING = Limits(cpu=40, memory=3 << 29, folder=128 << 20, file=64 << 20)
RUNNING = Limits(cpu=120, memory=512 << 20, folder=64 << 20, file=1 << 20, tasks=64)
SAID = 1 << 16
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": sandbox.WORK, "TMPDIR": sandbox.WORK, "LANG": "C"}


class Workshop:
    """A connection to a workshop of its own. A context manager; the process ends with it.

    `root` is an empty folder, `lock` a file: of all processes that know it, one measures at a time.
    """

    def __init__(self, root: Path, lock: Path, unsafe: bool = False) -> None:
        self.channel, theirs = socket.socketpair()
        words = [
            sys.executable,
            "-m",
            __name__,
            str(theirs.fileno()),
            str(root),
            str(lock),
            *["unsafe"][: int(unsafe)],
        ]
        self.process = subprocess.Popen(
            words,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """The answer to an order.

        Raises OSError if the workshop is gone or could not do its work.
        """
        send(self.channel, order)
        answer = receive(self.channel)
        if answer is None:
            raise OSError("the process that compiles and runs kernels is gone")
        if "fault" in answer:
            raise OSError(str(answer["fault"]))
        return answer

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def send(channel: socket.socket, content: dict[str, Any]) -> None:
    """Send JSON with its length before it."""
    text = json.dumps(content).encode()
    channel.sendall(LENGTH.pack(len(text)) + text)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message, None at the end."""
    head = _exactly(channel, LENGTH.size)
    size = LENGTH.unpack(head)[0] if head else LARGEST + 1
    text = _exactly(channel, size) if size <= LARGEST else b""
    found = json.loads(text) if text else None
    return found if isinstance(found, dict) else None


def _exactly(channel: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = channel.recv(min(size - len(content), 1 << 20))
        if not part:
            return b""
        content += part
    return content


class Confined:
    """A runner in a sandbox: what `process.Plain` is without one."""

    def __init__(self, root: Path, runner: Path, library: Path, files: Sequence[int]) -> None:
        with tempfile.TemporaryDirectory(prefix="kernel-") as given:
            for source, name in ((runner, "runner"), (library, "kernel.so")):
                shutil.copyfile(source, f"{given}/{name}")
                os.chmod(f"{given}/{name}", 0o755)
            self.outside, self.pid = _entered(
                RUNNING, root, files, Path(given), LIBRARIES, lambda: _become(files)
            )

    def kill(self) -> int:
        """See `process.Started`; the process outside has the status of the one inside."""
        until = time.monotonic() + 0.5
        while (ended := os.waitpid(self.outside, os.WNOHANG)) == (
            0,
            0,
        ) and time.monotonic() < until:
            time.sleep(0.002)
        if ended == (0, 0):
            os.kill(self.pid, signal.SIGKILL)
            ended = os.waitpid(self.outside, 0)
        code = os.waitstatus_to_exitcode(ended[1])
        if code == REFUSED:
            raise OSError("the sandbox for a kernel could not be entered")
        return code if code >= 0 else 128 - code


def _entered(
    limits: Limits, root: Path, keep: Sequence[int], data: Path, show: Sequence[str | Path],
    work: Any
) -> tuple[int, int]:  # fmt: skip
    """Do `work()` in a sandbox; the process outside, and the one inside, which has read `data` when
    this returns.
    """
    reader, writer = os.pipe()
    ready, told = os.pipe()
    outside = os.fork()
    if outside == 0:
        try:
            paths = [Path(path) for path in show if Path(path).exists()]
            sandbox.enter(limits, root, writer, [*keep, told], data, show=paths)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.close(told)
            work()
        except BaseException:
            pass
        finally:
            os._exit(REFUSED)
    os.close(writer)
    os.close(told)
    said = os.read(reader, 32)
    os.read(ready, 1)  # its end: `data` has been copied, or the process is gone
    os.close(reader)
    os.close(ready)
    if not said:
        os.waitpid(outside, 0)
        raise OSError("the sandbox for a kernel could not be entered")
    return outside, int(said)


def _become(files: Sequence[int]) -> None:
    for file in files:
        os.set_inheritable(file, True)
    os.execve("./runner", ["runner", "./kernel.so", *map(str, files)], {})


def compiler_paths(compiler: str) -> list[Path]:
    """What a compilation may read."""
    prefix = Path(os.path.realpath(compiler)).parents[1]
    paths = [Path(path) for path in (*LIBRARIES, *TOOLS)]
    if prefix != Path("/usr"):
        paths += [
            path
            for path in prefix.iterdir()
            if path.name in ("bin", "lib", "lib64", "include", "libexec") or "linux" in path.name
        ]
    return [path for path in paths if path.exists()]


def compiled(root: Path, command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a compiler in a sandbox: `compiling.Run`."""
    from course_utils.learn.native.compiling import SECONDS

    command = [os.path.realpath(command[0]), *command[1:]]
    reader, writer = os.pipe()

    def work() -> None:
        with open("said", "wb") as said:
            done = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=ENVIRONMENT,
            )
            try:
                code = done.wait(SECONDS)
            except subprocess.TimeoutExpired:
                code = -1  # what still runs ends with this process
        words = Path("said").read_bytes()[:SAID].decode(errors="replace")
        made = Path("kernel.so").read_bytes() if code == 0 and Path("kernel.so").is_file() else b""
        with os.fdopen(writer, "wb") as file:
            file.write(json.dumps([code if code >= -1 else 1, words]).encode() + b"\n" + made)
        os._exit(0)

    try:
        outside, inside = _entered(
            COMPILING, root, [writer], folder, compiler_paths(command[0]), work
        )
    finally:
        os.close(writer)
    content = _read(reader, SECONDS + 10.0)
    for process in (inside, outside):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(outside, 0)[1])
    head, _, made = content.partition(b"\n")
    if not head:
        if status == REFUSED:
            raise OSError("the sandbox for the compiler could not be entered")
        return -1, ""
    code, said = json.loads(head)
    if made:
        (folder / "kernel.so").write_bytes(made)
    return code, said


def _read(reader: int, seconds: float) -> bytes:
    content, until = b"", time.monotonic() + seconds
    with os.fdopen(reader, "rb", buffering=0) as file:
        while (
            len(content) < COMPILING.file + SAID
            and select.select([file], [], [], max(0.0, until - time.monotonic()))[0]
        ):
            part = file.read(1 << 20)
            if not part:
                break
            content += part
    return content


@contextlib.contextmanager
def measuring(lock: Path) -> Iterator[None]:
    """One at a time, so that what one measures does not slow another."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def serve(channel: socket.socket, root: Path, lock: Path, unsafe: bool) -> None:
    """Answer until the channel ends; the same order gets the same answer."""
    from course_utils.learn.native import compiling, service
    from course_utils.learn.native.process import Plain

    known: dict[str, dict[str, Any]] = {}
    while (order := receive(channel)) is not None:
        asked = json.dumps(order, sort_keys=True)
        if asked not in known:
            try:
                if unsafe:
                    known[asked] = service.answer(
                        order, Plain, compiling.here, lambda: measuring(lock)
                    )
                else:
                    known[asked] = service.answer(
                        order,
                        lambda runner, library, files: Confined(root, runner, library, files),
                        lambda command, folder: compiled(root, command, folder),
                        lambda: measuring(lock),
                    )
            except Exception as error:
                send(channel, {"fault": f"{type(error).__name__}: {error}"[:500]})
                continue
        send(channel, known[asked])


if __name__ == "__main__":
    sandbox.libc().prctl(sandbox.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    serve(
        socket.socket(fileno=int(sys.argv[1])),
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        sys.argv[4:] == ["unsafe"],
    )
