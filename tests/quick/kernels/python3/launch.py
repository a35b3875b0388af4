"""Start a kernel as a copy of a process that has imported torch and transformers already
(`tests/quick/copies.py`).

This process stands for the kernel: interrupts go on to it, it ends when the kernel ends, and the
kernel when it is killed.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

COPIES = Path(__file__).parents[2] / "copies.py"


def connected(address: str) -> "socket.socket | None":
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.connect(address)
    except OSError:
        channel.close()
        return None
    return channel


def server(address: str) -> "socket.socket | None":
    """A connection to the process that is copied; the first kernel of a test run starts it.

    None if it does not start.
    """
    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (channel := connected(address)):
            ready, busy = os.pipe()
            command = [sys.executable, str(COPIES), address, str(busy)]
            subprocess.run(
                command,
                pass_fds=[busy],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.close(busy)
            os.read(ready, 1)  # ends when the other side is closed: it listens, or it is dead
            channel = connected(address)
    return channel


def main() -> int:
    channel = server(os.environ["COURSE_TEST_COPIES"])
    if not channel:
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *sys.argv[1:]])
    signal.signal(signal.SIGINT, lambda *_: channel.send(b"i"))
    request = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    data = json.dumps(request).encode()
    socket.send_fds(channel, [len(data).to_bytes(8, "big")], [1, 2])
    channel.sendall(data)
    return int.from_bytes(channel.recv(1) or b"\1", "big")


if __name__ == "__main__":
    sys.exit(main())
