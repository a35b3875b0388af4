"""The grader's side of a worker: the learner's functions as functions that can be called here.

A call sends plain arguments and takes a plain result; whatever else the worker does ends as an exception of that call.
A worker that dies or is late is replaced by a new one, without the cell that killed it.
"""

import builtins
import contextlib
import inspect
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from . import objects, wire
from .sandbox import Limits

RESTARTS = 40


class WorkerLost(Exception):
    """The worker died, was late, or sent nonsense; the message says which."""


class LearnerError(Exception):
    """An exception of a kind that is not built in, raised by the learner's code."""


class Session:
    """One submission's worker. `shared` are objects that both sides have under a name, for arguments that cannot be sent."""

    def __init__(self, address: str, limits: Limits, *, seed: int = 0, shared: Mapping[str, Any] | None = None) -> None:
        self.limits, self.seed, self.shared = limits, seed, shared or {}
        self.templates = [
            objects.config_of(v) for v in self.shared.values() if hasattr(v, "config") and hasattr(v, "name_or_path")
        ]
        self.keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keeper.connect(address)
        self.keeper.settimeout(limits.total)
        self.channel: socket.socket | None = None
        self.cells: list[tuple[str, str, list[str]]] = []  # what a new worker has to run again
        self.references: dict[str, Callable[..., Any]] = {}
        self.referred: set[str] = set()  # references that were called
        self.over = time.monotonic() + self.limits.total
        self.incarnation = self.restarts = self.calls = 0
        self.output = ""
        self.broken = ""  # why no worker can be started: a fault of the machine, not of the learner

    def close(self) -> None:
        self._drop()
        self.keeper.close()

    def run(self, cell: str, source: str, names: list[str]) -> dict[str, Any] | None:
        """Run an answer cell; None, or what it raised. A cell that kills the worker is left out from then on."""
        try:
            self._ensure()
            self._request({"do": "cell", "cell": cell, "source": source, "names": names}, self.limits.cell)
        except WorkerLost as lost:
            return {"type": "WorkerLost", "said": str(lost), "line": None, "source": ""}
        except _Raised as raised:
            self.cells.append((cell, source, names))  # what it defined before it failed stays defined
            return raised.error
        self.cells.append((cell, source, names))
        return None

    def substitute(self, name: str, function: Callable[..., Any]) -> None:
        """From now on, code in the worker that calls `name` calls `function` here."""
        self.references[name] = function
        if self.channel is not None:
            with contextlib.suppress(WorkerLost, _Raised):
                self._request({"do": "substitute", "name": name}, self.limits.call)

    def get(self, cell: str, name: str) -> Any:
        """What the cell made of the name: a plain value or a `Remote`. Raises NameError if there is none."""
        self._ensure()
        try:
            node, tensors, _ = self._request({"do": "get", "cell": cell, "name": name}, self.limits.call)
        except _Raised as raised:
            raise self._error(raised.error) from None
        if node == ["missing"]:
            raise NameError(f"{name} is not defined")
        return self._decode(node, tensors, ["defined", cell, name])

    def call(
        self, where: list[Any], incarnation: int | None, do: str, arguments: Any = (), named: Any = None, name: str = ""
    ) -> Any:
        if incarnation not in (None, self.incarnation):
            raise WorkerLost("the object is gone with the worker that held it")
        self._ensure()
        tensors: dict[str, torch.Tensor] = {}
        callbacks: list[Callable[..., Any]] = []
        folders: list[Path] = []
        encode = lambda value: self._encode(value, tensors, callbacks, folders)  # noqa: E731
        self.calls += 1
        content = {
            "do": do, "function": where, "name": name, "seed": random.Random(f"{self.seed}/{self.calls}").getrandbits(31),
            "arguments": [encode(a) for a in arguments], "named": {k: encode(v) for k, v in (named or {}).items()},
        }  # fmt: skip
        try:
            node, found, files = self._request(content, self.limits.call, tensors, callbacks)
        except _Raised as raised:
            self._write_files(folders, *raised.files)
            raise self._error(raised.error) from None
        self._write_files(folders, files, found)
        return self._decode(
            node, found, None, {str(self._inside(n, path)): str(path) for n, path in enumerate(folders)}
        )

    def _request(
        self, content: dict[str, Any], seconds: float, tensors: dict[str, torch.Tensor] | None = None,
        callbacks: list[Callable[..., Any]] | None = None,
    ) -> tuple[Any, dict[str, torch.Tensor], Any]:  # fmt: skip
        assert self.channel
        asked = secrets.token_hex(8)  # an answer that was written before the question is known by it
        deadline = min(time.monotonic() + seconds, self.over)
        try:
            self.channel.settimeout(max(0.1, deadline - time.monotonic()))
            wire.send(self.channel, {**content, "asked": asked}, tensors)
            while True:
                reply, found = wire.receive(self.channel, deadline=deadline, largest=self.limits.reply)
                if "callback" in reply and (callbacks or self.references):
                    self._answer(callbacks or [], reply, found)
                    continue
                if reply.get("asked") != asked:
                    raise wire.WireError("an answer that was not asked for")
                break
        except (wire.WireError, OSError) as error:
            raise WorkerLost(self._why(str(error))) from None
        except BaseException:  # also a check's own limit on time: the channel is in the middle of something
            self._drop()
            raise
        self.output = str(reply.get("out", ""))[:2000]
        if "error" in reply:
            raise _Raised(reply["error"] if isinstance(reply["error"], dict) else {}, (reply.get("files"), found))
        return reply.get("value"), found, reply.get("files")

    def _answer(
        self, callbacks: list[Callable[..., Any]], reply: dict[str, Any], found: dict[str, torch.Tensor]
    ) -> None:
        assert self.channel
        given: dict[str, torch.Tensor] = {}
        try:
            asked = reply["callback"]
            if isinstance(asked, str):
                self.referred.add(asked)
            function = self.references[asked] if isinstance(asked, str) else callbacks[asked]
            arguments = [self._decode(node, found) for node in reply["arguments"]]
            result = function(*arguments, **{str(k): self._decode(node, found) for k, node in reply["named"].items()})
            content = {"value": self._encode(result, given, [], [])}
        except Exception as error:
            given, content = {}, {"error": f"{type(error).__name__}: {error}"[:2000]}
        wire.send(self.channel, content, given)

    def _encode(
        self, value: Any, tensors: dict[str, torch.Tensor], callbacks: list[Callable[..., Any]], folders: list[Path]
    ) -> Any:
        def special(value: Any) -> Any:
            if isinstance(value, Remote):
                if value._incarnation not in (None, self.incarnation):
                    raise WorkerLost("the object is gone with the worker that held it")
                return value._where
            if isinstance(value, Path):
                folders.append(value)
                return ["path", len(folders) - 1, value.name, _files(value, tensors)]
            try:
                node = objects.encode(value, inner)
            except wire.NotPlain:
                for name, known in self.shared.items():
                    if known is value:
                        return ["shared", name]
                if not callable(value):
                    raise
                callbacks.append(value)
                return ["callback", len(callbacks) - 1]
            if node[0] == "model":
                self.templates.append(node[1])
            return node

        def inner(value: Any) -> Any:
            return wire.encode(value, tensors, special)

        return inner(value)

    def _decode(
        self,
        node: Any,
        tensors: dict[str, torch.Tensor],
        place: list[Any] | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> Any:
        top = node

        def special(node: Any) -> Any:
            kind, *rest = node
            if kind in ("function", "object"):
                named = place is not None and node is top
                where: list[Any] = (place or []) if named else ["held", int(rest[0])]
                made = (RemoteFunction if kind == "function" else Remote)(
                    self, where, None if named else self.incarnation, str(rest[1])[:60]
                )
                if kind == "function":
                    made.__signature__ = _signature(rest[2])  # type: ignore[attr-defined]
                return made
            if kind == "model" and paths:
                node = [*node[:4], paths.get(node[4], str(node[4])[:200]), *node[5:]]
            return objects.decode(node, inner, self.templates)

        def inner(node: Any) -> Any:
            return wire.decode(node, tensors, special)

        try:
            return inner(node)
        except wire.WireError as error:
            raise WorkerLost(f"sent something that cannot be read ({error})") from None

    def _inside(self, number: int, path: Path) -> PurePosixPath:
        from .sandbox import WORK

        return PurePosixPath(WORK, f"given-{number}", path.name)

    def _write_files(self, folders: list[Path], files: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Files that the learner's function wrote below a path that it was given, at that path here."""
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError, OSError):
            for number, listed in files.items():
                for name, place, size in listed[:200]:
                    inside = PurePosixPath(name)
                    if inside.is_absolute() or ".." in inside.parts or len(name) > 200 or len(inside.parts) > 8:
                        continue
                    target = folders[int(number)] / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tensors[place].numpy().tobytes()[:size])

    def _error(self, error: dict[str, Any]) -> Exception:
        """The learner's exception as one of the same name here; never one that would stop the grader."""
        name = str(error.get("type", ""))[:60]
        said, line, source = (str(error.get(key) or "")[:2000] for key in ("said", "line", "source"))
        if line:
            said = f"{said} (line {line}: {source})"
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = type(name, (LearnerError,), {}) if name.isidentifier() else LearnerError
        try:
            return kind(said)
        except TypeError:  # a kind whose constructor wants more
            return LearnerError(f"{name}: {said}")

    def _ensure(self) -> None:
        """A worker that has run every cell that did not kill it."""
        while self.channel is None:
            if time.monotonic() > self.over:
                raise WorkerLost("the time for this submission is over")
            if self.restarts >= RESTARTS:
                raise WorkerLost("the worker died too often")
            self.restarts += 1
            self.incarnation += 1
            ours, theirs = socket.socketpair()
            answer = self._ask(b"S", theirs)
            theirs.close()
            if answer != "ready":
                ours.close()
                self.broken = self.broken or answer
                raise WorkerLost("no worker could be started")
            self.channel = ours
            for entry in list(self.cells):
                try:
                    self._request(
                        {"do": "cell", "cell": entry[0], "source": entry[1], "names": entry[2]}, self.limits.cell
                    )
                except _Raised:
                    pass
                except WorkerLost:
                    self.cells.remove(entry)
                    break
            for name, function in list(self.references.items()):
                self.substitute(name, function)

    def _why(self, said: str) -> str:
        code = self._drop()
        if said == "out of time" or "timed out" in said:
            return "it took too long"
        if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return "it used too much processor time"
        if said.startswith(("gone", "[Errno")):
            return "it ended the process that ran it"
        return f"it disturbed the channel of the grader ({said})"

    def _drop(self) -> int:
        if self.channel is None:
            return 0
        self.channel.close()
        self.channel = None
        code = self._ask(b"K")
        return int(code) if code.lstrip("-").isdigit() else 0

    def _ask(self, order: bytes, *channel: socket.socket) -> str:
        """What the keeper answers; '' if it is gone or does not answer, and then nothing is known about the submission."""
        answer = b""
        with contextlib.suppress(OSError):
            socket.send_fds(self.keeper, [order], [one.fileno() for one in channel])
            answer = self.keeper.recv(4096)
        if not answer:
            self.broken = "the process that starts the workers is gone"
        return answer.decode(errors="replace")


class _Raised(Exception):
    def __init__(self, error: dict[str, Any], files: tuple[Any, dict[str, torch.Tensor]]) -> None:
        self.error, self.files = error, files


class Remote:
    """An object that stays in the worker; it can be handed back, and its public attributes can be asked for."""

    def __init__(self, session: Session, where: list[Any], incarnation: int | None, kind: str) -> None:
        self._session, self._where, self._incarnation, self._kind = session, where, incarnation, kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._session.call(self._where, self._incarnation, "attribute", name=name)

    def __bool__(self) -> bool:
        raise TypeError(f"the learner's {self._kind} is neither true nor false; a plain value was expected")

    def __repr__(self) -> str:
        return f"<the learner's {self._kind}>"


class RemoteFunction(Remote):
    """A function (or class) of the learner; calling it calls the one in the worker."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._session.call(self._where, self._incarnation, "call", arguments, named)

    def with_gradients(self, asked: list[str], given: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The result, and its gradients with respect to the arguments `asked`: they are taken where the function is."""
        answer = self._session.call(self._where, self._incarnation, "gradients", (), given, " ".join(asked))
        if not (isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], dict)):
            return answer, [None] * len(asked)
        slopes = [answer[1].get(name) for name in asked]
        return answer[0], [g if type(g) is torch.Tensor else None for g in slopes]


def _signature(listed: Any) -> inspect.Signature | None:
    with contextlib.suppress(TypeError, ValueError):
        parameters = [
            inspect.Parameter(
                str(name), inspect._ParameterKind(kind), default=None if has_default else inspect.Parameter.empty
            )
            for name, kind, has_default in listed[:50]
        ]
        return inspect.Signature(parameters)
    return None


def _files(path: Path, tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else []:
        if file.is_file() and file.stat().st_size:
            tensors[place := f"file-{len(tensors)}"] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
            found.append([file.relative_to(path).as_posix(), place])
    return found
