"""One request's values on their way to a worker and back: plain ones, objects that stay where they
are, folders.
"""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from . import objects, remote, wire
from .remote import Remote, RemoteFunction, WorkerLost

if TYPE_CHECKING:
    from .session import Session

LARGEST = 1 << 22  # elements of a tensor that a function of ours is called with by a learner's code
# by number of dimensions: its last one, which our functions may square
WIDEST = {1: 1 << 20, 2: 1 << 11}
FILES = 200


class Crossing:
    """`tensors`, `callbacks` and `folders` are what the request holds beside its JSON."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.tensors: dict[str, torch.Tensor] = {}
        self.callbacks: list[Callable[..., Any]] = []
        self.folders: list[Path] = []

    def encode(self, value: Any) -> Any:
        """A value as it crosses the channel; see `wire.encode`."""
        return wire.encode(value, self.tensors, self._special)

    def _special(self, value: Any) -> Any:
        session = self.session
        if isinstance(value, Remote):
            if value._incarnation not in (None, session.incarnation):
                raise WorkerLost("the object is gone with the worker that held it")
            return value._where
        if isinstance(value, Path):
            self.folders.append(value)
            return ["path", len(self.folders) - 1, value.name, self._files(value)]
        try:
            node = objects.encode(value, self.encode)
        except wire.NotPlain:
            for name, known in session.shared.items():
                if known is value:
                    return ["shared", name]
            if not callable(value):
                raise
            self.callbacks.append(value)
            return ["callback", len(self.callbacks) - 1]
        if node[0] == "model":
            session.templates.append(node[1])
        return node

    def _files(self, path: Path) -> list[list[str]]:
        found = []
        for file in sorted(path.rglob("*")) if path.is_dir() else []:
            if file.is_file() and file.stat().st_size:
                content = bytearray(file.read_bytes())
                self.tensors[place := f"file-{len(self.tensors)}"] = torch.frombuffer(
                    content, dtype=torch.uint8
                )
                found.append([file.relative_to(path).as_posix(), place])
        return found

    def decode(
        self, node: Any, tensors: dict[str, torch.Tensor], place: list[Any] | None = None
    ) -> Any:
        """The value that a worker sent; `place` is where any worker finds the object if it is none
        that can be sent.

        Raises WorkerLost if it cannot be read.
        """
        try:
            return _Reply(self, tensors, node, place).decode(node)
        except wire.WireError as error:
            raise WorkerLost(f"it sent something that cannot be read ({error})") from None

    def write_files(self, files: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Files that the learner's function wrote below a path that it was given, at that path
        here.
        """
        for number, listed in files.items() if isinstance(files, dict) else ():
            try:
                folder = self.folders[int(number)]
                for name, place, size in listed[:FILES]:
                    if (target := below(folder, name)) is None:
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tensors[place].numpy().tobytes()[:size])
            except (TypeError, ValueError, KeyError, IndexError, AttributeError, OSError):
                continue


class _Reply:
    """A value that a worker sent: `top` is the node of it, `place` where any worker finds it."""

    def __init__(
        self,
        crossing: Crossing,
        tensors: dict[str, torch.Tensor],
        top: Any,
        place: list[Any] | None,
    ) -> None:
        self.session, self.tensors, self.top, self.place = crossing.session, tensors, top, place
        self.paths: Mapping[str, str] = {
            str(inside(n, path)): str(path) for n, path in enumerate(crossing.folders)
        }

    def decode(self, node: Any) -> Any:
        return wire.decode(node, self.tensors, self._special)

    def _special(self, node: Any) -> Any:
        session, (kind, *rest) = self.session, node
        if kind in ("function", "object"):
            named = self.place is not None and node is self.top
            where: list[Any] = (self.place or []) if named else ["held", int(rest[0])]
            held_by = None if named else session.incarnation
            made = (RemoteFunction if kind == "function" else Remote)(
                session.call, where, held_by, remote.text(rest[1], 60)
            )
            if kind == "function":
                made.__signature__ = remote.signature(rest[2])  # type: ignore[attr-defined]
            return made
        if kind == "model":
            sent = remote.text(node[4], 500)
            node = [*node[:4], self.paths.get(sent, sent[:200]), *node[5:]]
        return objects.decode(node, self.decode, session.templates)


def below(folder: Path, name: Any) -> Path | None:
    """The path inside the folder, None if it is none or would leave it."""
    inside = PurePosixPath(name) if isinstance(name, str) and "\0" not in name else None
    if (
        inside is None
        or inside.is_absolute()
        or ".." in inside.parts
        or len(str(inside)) > 200
        or len(inside.parts) > 8
    ):
        return None
    return folder / inside


def inside(number: int, path: Path) -> PurePosixPath:
    """Where a worker has the folder that it was given."""
    from .sandbox import WORK

    return PurePosixPath(WORK, f"given-{number}", path.name)


def check_size(value: Any) -> None:
    """Raises ValueError for what a learner's code may not call a function of ours with: it would
    take our memory and time.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            check_size(item)
    elif isinstance(value, dict):
        for item in value.values():
            check_size(item)
    elif isinstance(value, torch.Tensor):
        widest = WIDEST.get(value.dim(), 1 << 16)
        if value.numel() > LARGEST or value.dim() > 6 or (value.dim() and value.shape[-1] > widest):
            raise ValueError(
                f"a tensor of shape {tuple(value.shape)} is larger than any of the tests"
            )
    elif type(value) is int and abs(value) > 10**12:
        raise ValueError("a number of more than 12 digits is larger than any of the tests")
