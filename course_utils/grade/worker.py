"""Inside the sandbox: run answer cells, call the learner's functions, answer over the channel.

Code of the learner runs in this interpreter and may do with it as it likes. So nothing here is
trusted by the other side.
"""

import builtins
import contextlib
import inspect
import io
import random
import socket
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_utils.learn.checks import checkpoints, forms
from course_utils.learn.checks.gradients import called

from . import alone, cells, objects, wire
from .sandbox import WORK

SAID = 2000  # characters of an error or of output that are kept
MISSING = object()


class Tail(io.TextIOBase):
    """Takes any amount of output and keeps its beginning."""

    def __init__(self) -> None:
        self.kept = ""

    def write(self, text: str) -> int:
        """Keep the first letters and drop the rest."""
        if len(self.kept) < SAID:
            self.kept += str(text)[: SAID - len(self.kept)]
        return len(text)


class Quiet:
    """`get_ipython()` for magics in an answer cell: they do nothing, and a shell command says
    nothing (`files = !ls`).
    """

    def getoutput(self, *_arguments: Any, **_named: Any) -> Any:
        """Nothing: learners' cells start no programs."""
        from IPython.utils.text import SList

        return SList()

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_named: None


class Worker:
    """The side of the channel that runs a learner's cells and functions."""

    def __init__(self, channel: socket.socket, namespace: dict[str, Any], work: Path) -> None:
        self.channel, self.namespace, self.work = channel, namespace, work
        # (cell, name) → what that cell made of the name
        self.defined: dict[tuple[str, str], Any] = {}
        self.held: list[Any] = []  # objects that the other side has a number of
        self.folders: dict[int, Path] = {}
        # of the compiler: what `from __future__` in a cell asks for holds in later ones
        self.flags = 0
        self.given = set(namespace)  # the lab's own names
        namespace.update(
            __name__="__main__", get_ipython=Quiet, display=lambda *_objects, **_settings: None
        )

    def serve(self) -> None:
        """Answer requests until the channel ends."""
        while True:
            try:
                content, tensors = wire.receive(self.channel)
            except wire.WireError:
                return
            out = Tail()
            reply: dict[str, Any]
            given: dict[str, torch.Tensor] = {}
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                    reply = {"value": self._do(content, tensors, given)}
            except BaseException as error:
                given, reply = {}, {"error": explain(error)}
            if self.folders:
                reply["files"] = {
                    str(n): read_folder(path, given) for n, path in self.folders.items()
                }
                self.folders = {}
            known = {"asked": content.get("asked"), "out": out.kept}
            try:
                wire.send(self.channel, {**reply, **known}, given)
            except (TypeError, ValueError, RuntimeError) as error:  # before anything was sent
                wire.send(self.channel, {"error": explain(error), **known})

    def _do(
        self,
        content: dict[str, Any],
        tensors: dict[str, torch.Tensor],
        given: dict[str, torch.Tensor],
    ) -> Any:
        if content["do"] == "cell":
            return self._cell(content["cell"], content["source"], content["names"])
        if content["do"] == "extra":
            return cells.run_plain(content["source"], self.namespace, self.given)
        if content["do"] == "get":
            found = self.defined.get((content["cell"], content["name"]), MISSING)
            found = self.namespace.get(content["name"], MISSING) if found is MISSING else found
            return ["missing"] if found is MISSING else self._encode(found, given)
        if content["do"] == "substitute":
            return self._substitute(content["name"])
        seed(content["seed"])
        target = self._decode(content["function"], tensors)
        if content["do"] == "attribute":
            return self._encode(getattr(target, content["name"]), given)
        arguments = [self._decode(node, tensors) for node in content["arguments"]]
        named = {name: self._decode(node, tensors) for name, node in content["named"].items()}
        if content["do"] == "gradients":  # of a loss, with respect to some of the arguments
            result, slopes = called(target, named, content["name"].split())
            return self._encode([result, slopes], given)
        with checkpoints.other_on_disk() if self.folders else contextlib.nullcontext():
            return self._encode(target(*arguments, **named), given)

    def _cell(self, cell: str, source: str, names: list[str]) -> None:
        before = {name: self.namespace.get(name, MISSING) for name in names}
        file = f"<{cell}>"
        try:
            self.flags |= cells.run(source, file, self.namespace, self.flags)
        finally:
            for name in names:
                if self.namespace.get(name, MISSING) is not before[name]:
                    self.defined[cell, name] = self.namespace[name]

    def _substitute(self, name: str) -> None:
        """A function that failed is called on the other side from now on, so that what uses it can
        still be right.
        """

        def substituted(*arguments: Any, **named: Any) -> Any:
            return self._call_back(name, arguments, named)

        self.namespace[name] = substituted
        self.defined.update({key: substituted for key in self.defined if key[1] == name})

    def _encode(self, value: Any, tensors: dict[str, torch.Tensor]) -> Any:
        def special(value: Any) -> Any:
            if isinstance(value, forms.ONCE):
                return inner(forms.settled(value))
            if not inspect.isroutine(value):
                with contextlib.suppress(wire.NotPlain):
                    node = objects.encode(value, inner)
                    # a folder that was given is known to the other side by its place in WORK
                    if node[0] == "model":
                        node[4] = node[4].replace(str(self.work), WORK, 1)
                    return node
            self.held.append(value)
            kind = "function" if callable(value) else "object"
            return [
                kind,
                len(self.held) - 1,
                type(value).__name__,
                signature(value) if callable(value) else None,
            ]

        def inner(value: Any) -> Any:
            return wire.encode(value, tensors, special)

        return inner(value)

    def _decode(self, node: Any, tensors: dict[str, torch.Tensor]) -> Any:
        def special(node: Any) -> Any:
            kind, *rest = node
            if kind == "held":
                return self.held[rest[0]]
            if kind == "defined":
                return self.defined.get((rest[0], rest[1]), self.namespace.get(rest[1]))
            if kind == "shared":
                return self.namespace[rest[0]]
            if kind == "callback":
                return lambda *arguments, **named: self._call_back(rest[0], arguments, named)
            if kind == "path":
                self.folders[rest[0]] = path = self.work / f"given-{rest[0]}" / rest[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                for name, place in rest[2]:
                    (file := path / name).parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(tensors[place].numpy().tobytes())
                return path
            return objects.decode(node, inner)

        def inner(node: Any) -> Any:
            return wire.decode(node, tensors, special)

        return inner(node)

    def _call_back(self, number: int | str, arguments: Any, named: dict[str, Any]) -> Any:
        """Ask the other side to run a function that it passed as an argument."""
        given: dict[str, torch.Tensor] = {}
        nodes = [self._encode(value, given) for value in arguments]
        by_name = {name: self._encode(value, given) for name, value in named.items()}
        wire.send(self.channel, {"callback": number, "arguments": nodes, "named": by_name}, given)
        content, tensors = wire.receive(self.channel)
        if "error" in content:
            raise ValueError(content["error"])
        return self._decode(content["value"], tensors)


def seed(number: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def signature(function: Any) -> list[Any] | None:
    """A function's parameters as [name, kind, has a default], None if they cannot be read."""
    try:
        parameters = inspect.signature(function).parameters.values()
        return [[p.name, int(p.kind), p.default is not p.empty] for p in parameters]
    except (TypeError, ValueError):
        return None


def explain(error: BaseException) -> dict[str, Any]:
    """The error as plain text: its kind, what it says, and the learner's line."""
    with contextlib.suppress(Exception):
        said = str(error)[:SAID]
        if isinstance(error, PermissionError):
            said += f" ({alone.WHY})"
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("<")
        ]
        line = frames[-1].lineno if frames else None
        source = (frames[-1].line or "")[:SAID] if frames else ""
        if isinstance(error, SyntaxError):
            line, source = error.lineno, str(error.text or "").strip()[:SAID]
        builtin = next(
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"
        )
        return {
            "type": type(error).__name__,
            "builtin": builtin,
            "said": said,
            "line": line,
            "source": source,
        }
    return {"type": "Exception", "said": "", "line": None, "source": ""}


def read_folder(folder: Path, tensors: dict[str, torch.Tensor]) -> list[Any]:
    """[path inside, name of its bytes among `tensors`] of each file; links are passed over."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            tensors[place := f"file-{len(tensors)}"] = torch.frombuffer(
                bytearray(path.read_bytes() or b"\0"), dtype=torch.uint8
            )
            found.append([path.relative_to(folder).as_posix(), place, path.stat().st_size])
    return found


def prepare(lab: list[list[str]]) -> dict[str, Any]:
    """Run the lab's own cells before the first answer, once for all submissions; what talks to the
    learner is silenced.
    """
    # where pickle, dataclasses and typing look for what a cell defines
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    namespace = module.__dict__
    namespace.update(__builtins__=builtins, display=lambda *_: None)
    alone.install()
    for cell, source in lab:
        cells.run(source, f"[{cell}]", namespace)
    from course_utils import learn
    from course_utils.learn.checks import labs

    silent = lambda *_arguments, **_named: None  # noqa: E731
    for name in ("check", "hint", "ask", "explore", "predict", "solution"):
        if name in namespace and namespace[name] is getattr(learn, name, None):
            namespace[name] = silent
        setattr(learn, name, silent)
    labs.ready = silent  # type: ignore[assignment]
    sys.argv = [""]
    return namespace
