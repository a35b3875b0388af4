"""The grader's side of a worker: the learner's functions as functions that can be called here.

A call sends plain arguments and takes a plain result; whatever else the worker does ends as an
exception of that call.
A worker that dies or is late is replaced by a new one, without the cell that killed it.
"""

import contextlib
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import crossing, objects, remote, wire
from .crossing import Crossing
from .keeper import Keeper
from .remote import WorkerLost
from .sandbox import Limits

RESTARTS = 40
SLOW = 5.0  # seconds; a cell that took longer is not run again for the answers after it
TOO_LONG = "it took too long"


@dataclass
class Ran:
    """A cell that a new worker has to run again."""

    content: dict[str, Any]
    seconds: float


class Session:
    """One submission's worker.

    `shared` are objects that both sides have under a name, for arguments that cannot be sent.

    `over` is the time (time.monotonic) when the submission ends, `until` that of the answer that is
    looked at. `learner` counts the seconds spent waiting for the learner's code, `lost` says why
    the last worker was lost.
    """

    def __init__(
        self, keeper: Keeper, limits: Limits, *, seed: int = 0,
        shared: Mapping[str, Any] | None = None, over: float | None = None,
    ) -> None:  # fmt: skip
        self.keeper, self.limits, self.seed, self.shared = keeper, limits, seed, shared or {}
        self.number = keeper.workers
        keeper.workers += 1
        self.templates = [
            objects.config_of(v)
            for v in self.shared.values()
            if hasattr(v, "config") and hasattr(v, "name_or_path")
        ]
        self.channel: socket.socket | None = None
        self.cells: list[Ran] = []
        self.references: dict[str, Callable[..., Any]] = {}
        self.referred: set[str] = set()  # references that were called
        self.over = self.until = time.monotonic() + limits.total if over is None else over
        # while a function of ours runs for the learner's code
        self.serving_until: float | None = None
        self.incarnation = self.restarts = self.calls = 0
        self.learner, self.lost, self.output = 0.0, "", ""

    def close(self) -> None:
        """End the worker."""
        self._drop()

    def run(self, cell: str, source: str, names: list[str]) -> dict[str, Any] | None:
        """Run an answer cell; None, or what it raised.

        A cell that kills the worker is left out from then on.
        """
        return self._run({"do": "cell", "cell": cell, "source": source, "names": names})[1]

    def run_extra(self, source: str) -> set[str]:
        """Run the imports, plain constants and functions of another cell; the names that the rest
        of it would make.
        """
        left_out, _ = self._run({"do": "extra", "source": source})
        return (
            {remote.text(name, 100) for name in left_out[:100]}
            if isinstance(left_out, list)
            else set()
        )

    def _run(self, content: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
        value, error, began = None, None, self.learner
        try:
            self._ensure()
            value = self._request(content, self.limits.cell)[0]
        except WorkerLost as lost:
            return None, remote.explained({"type": "WorkerLost", "said": str(lost)})
        except _Raised as raised:  # what it defined before it failed stays defined
            error = raised.error
        self.cells.append(Ran(content, self.learner - began))
        return value, error

    def substitute(self, name: str, function: Callable[..., Any]) -> None:
        """From now on, code in the worker that calls `name` calls `function` here."""
        self.references[name] = function
        if self.channel is not None:
            with contextlib.suppress(WorkerLost, _Raised):
                self._request({"do": "substitute", "name": name}, self.limits.call)

    def get(self, cell: str, name: str) -> Any:
        """What the cell made of the name: a plain value or a `Remote`.

        Raises NameError if there is none.
        """
        self._ensure()
        try:
            node, tensors, _ = self._request(
                {"do": "get", "cell": cell, "name": name}, self.limits.call
            )
        except _Raised as raised:
            raise remote.exception(raised.error) from None
        if node == ["missing"]:
            raise NameError(f"{name} is not defined")
        return Crossing(self).decode(node, tensors, ["defined", cell, name])

    def call(
        self,
        where: list[Any],
        incarnation: int | None,
        do: str,
        arguments: Any = (),
        named: Any = None,
        name: str = "",
    ) -> Any:
        """Let the worker do something with one of its objects, and return the answer.

        Raises WorkerLost if it ended since.
        """
        if incarnation not in (None, self.incarnation):
            raise WorkerLost("the object is gone with the worker that held it")
        self._ensure()
        given = Crossing(self)
        self.calls += 1
        content = {
            "do": do,
            "function": where,
            "name": name,
            "seed": random.Random(f"{self.seed}/{self.calls}").getrandbits(31),
            "arguments": [given.encode(a) for a in arguments],
            "named": {k: given.encode(v) for k, v in (named or {}).items()},
        }
        try:
            node, found, files = self._request(
                content, self.limits.call, given.tensors, given.callbacks
            )
        except _Raised as raised:
            given.write_files(*raised.files)
            raise remote.exception(raised.error) from None
        given.write_files(files, found)
        return given.decode(node, found)

    def _request(
        self, content: dict[str, Any], seconds: float,
        tensors: dict[str, torch.Tensor] | None = None,
        callbacks: list[Callable[..., Any]] | None = None,
    ) -> tuple[Any, dict[str, torch.Tensor], Any]:  # fmt: skip
        assert self.channel
        # an answer that was written before the question is known by it
        asked = secrets.token_hex(8)
        began = time.monotonic()
        deadline = min(began + seconds, self.until, self.over)
        try:
            self.channel.settimeout(max(0.1, deadline - began))
            wire.send(self.channel, {**content, "asked": asked}, tensors)
            while True:
                reply, found = wire.receive(
                    self.channel, deadline=deadline, largest=self.limits.reply
                )
                if "callback" in reply and (callbacks or self.references):
                    self._answer(callbacks or [], reply, found, deadline)
                    continue
                if reply.get("asked") != asked:
                    raise wire.WireError("an answer that was not asked for")
                break
        except (wire.WireError, OSError) as error:
            raise WorkerLost(self._why(str(error))) from None
        except MemoryError:
            self._drop()
            raise WorkerLost("it sent more than fits into memory") from None
        except (
            BaseException
        ):  # also a check's own limit on time: the channel is in the middle of something
            self._drop()
            raise
        finally:
            self.serving_until = None
            self.learner += time.monotonic() - began
        self.output = remote.text(reply.get("out"))
        if "error" in reply:
            raise _Raised(remote.explained(reply["error"]), (reply.get("files"), found))
        return reply.get("value"), found, reply.get("files")

    def _answer(
        self,
        callbacks: list[Callable[..., Any]],
        reply: dict[str, Any],
        found: dict[str, torch.Tensor],
        deadline: float,
    ) -> None:
        """Call one of our functions for the learner's code, within the time of the request, and
        send what it returns.
        """
        assert self.channel
        given = Crossing(self)
        self.serving_until = deadline
        try:
            asked = reply["callback"]
            function = self.references[asked] if isinstance(asked, str) else callbacks[asked]
            if isinstance(asked, str):
                self.referred.add(asked)
            arguments = [given.decode(node, found) for node in reply["arguments"]]
            named = {
                remote.text(k, 200): given.decode(node, found) for k, node in reply["named"].items()
            }
            crossing.check_size([arguments, named])
            content = {"value": given.encode(function(*arguments, **named))}
        except Exception as error:
            given, content = (
                Crossing(self),
                {"error": f"{type(error).__name__}: {error}"[: remote.SAID]},
            )
        finally:
            self.serving_until = None
        wire.send(self.channel, content, given.tensors)

    def _ensure(self) -> None:
        """A worker that has run every cell that did not kill it."""
        while self.channel is None:
            if time.monotonic() > min(self.until, self.over):
                raise WorkerLost("the time for it is over")
            if self.restarts >= RESTARTS:
                raise WorkerLost("the worker died too often")
            self.restarts += 1
            self.incarnation += 1
            ours, theirs = socket.socketpair()
            started = self.keeper.start(self.number, theirs)
            theirs.close()
            if not started:
                ours.close()
                raise WorkerLost("no worker could be started")
            self.channel = ours
            for entry in list(self.cells):
                try:
                    self._request(entry.content, self.limits.cell)
                except _Raised:
                    pass
                except WorkerLost:
                    self.cells.remove(entry)
                    break
            for name, function in list(self.references.items()):
                self.substitute(name, function)

    def forget_slow(self, references: Mapping[str, Callable[..., Any]]) -> None:
        """Cells that took long are not run again by a new worker: the solution's functions take
        their places there.
        """
        for entry in [entry for entry in self.cells if entry.seconds > SLOW]:
            self.cells.remove(entry)
            self.references.update(
                {
                    name: references[name]
                    for name in entry.content.get("names", [])
                    if name in references
                }
            )

    def _why(self, said: str) -> str:
        code = self._drop()
        if said == "out of time" or "timed out" in said:
            self.lost = TOO_LONG
        elif code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            self.lost = "it used too much processor time"
        elif said.startswith(("gone", "[Errno")):
            self.lost = "it ended the process that ran it"
        else:
            self.lost = f"it disturbed the channel of the grader ({said})"
        return self.lost

    def _drop(self) -> int:
        if self.channel is None:
            return 0
        self.channel.close()
        self.channel = None
        return self.keeper.kill(self.number)


class _Raised(Exception):
    def __init__(self, error: dict[str, Any], files: tuple[Any, dict[str, torch.Tensor]]) -> None:
        self.error, self.files = error, files
