"""The grader's side of a keeper: the process that starts and kills one submission's workers
(`zygote`).
"""

import contextlib
import socket


class Keeper:
    """A connection to a keeper; `broken` says why no worker can be started, '' while one can."""

    def __init__(self, address: str, seconds: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(address)
        self.socket.settimeout(seconds)
        self.broken = ""
        self.workers = 0  # numbers given to sessions

    def start(self, number: int, channel: socket.socket) -> bool:
        """Start worker `number` at the other end of its channel."""
        answer = self._ask(f"S{number}", channel)
        if answer != "ready":
            self.broken = self.broken or answer
        return answer == "ready"

    def kill(self, number: int) -> int:
        """End the worker; its exit status, 128 + n for signal n, 0 where nothing is known."""
        code = self._ask(f"K{number}")
        return int(code) if code.lstrip("-").isdigit() else 0

    def _ask(self, order: str, *channel: socket.socket) -> str:
        """What the keeper answers; '' if it is gone or does not answer, and then nothing is known
        about the submission.
        """
        answer = b""
        with contextlib.suppress(OSError):
            socket.send_fds(self.socket, [order.encode()], [one.fileno() for one in channel])
            answer = self.socket.recv(4096)
        if not answer:
            self.broken = "the process that starts the workers is gone"
        return answer.decode(errors="replace")

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
