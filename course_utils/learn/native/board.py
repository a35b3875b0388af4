"""Memory that is shared with the process of a kernel: each buffer ends, or begins, where a page
begins that nobody may touch.

Two files without a name. The inputs begin with the table that `runner.cpp` reads, and are open
there for reading only.
The outputs begin with a page in which it leaves what went wrong. Nobody can change the size of
either.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Sequence

import numpy as np

from .problems import BUFFERS, Problem, sizes

PAGE = mmap.PAGESIZE
CANARY = 0xA5
SEALS = 0x1 | 0x2 | 0x4  # no other seals, no shrinking, no growing
STATUS = struct.Struct("=qqq")


class Board:
    """Room for trials of these shapes (rows, columns, group, batch); where `at_end`, a buffer ends
    with its last page.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int, int]], at_end: Sequence[bool]) -> None:
        self.shapes = list(shapes)
        head = 8 + len(shapes) * (4 + 4 * len(BUFFERS)) * 8
        ends = {"inputs": _pages(head), "outputs": PAGE}
        table, self.places = [len(shapes)], []
        for shape, last in zip(shapes, at_end, strict=True):
            table += shape
            where: dict[str, tuple[int, int, int, int]] = {}
            for name, size in sizes(*shape).items():
                file, length = ("outputs" if name == "y" else "inputs"), _pages(size)
                where[name] = (ends[file], length, length - size if last else 0, size)
                ends[file] += length
                table += where[name]
            self.places.append(where)
        self.files = {name: _file(name, size) for name, size in ends.items()}
        self.memory = {name: mmap.mmap(self.files[name], size) for name, size in ends.items()}
        self.memory["inputs"][: 8 * len(table)] = struct.pack(f"={len(table)}q", *table)
        self.read_only = _again(self.files["inputs"])

    @classmethod
    def beside(cls, other: Board) -> Board:
        """The same inputs, and outputs of its own."""
        board = cls.__new__(cls)
        board.shapes, board.places = other.shapes, other.places
        size = len(other.memory["outputs"])
        board.files = {"inputs": os.dup(other.files["inputs"]), "outputs": _file("outputs", size)}
        board.memory = {"outputs": mmap.mmap(board.files["outputs"], size)}
        board.read_only = os.dup(other.read_only)
        return board

    def close(self) -> None:
        """Give the shared memory back."""
        for memory in self.memory.values():
            memory.close()
        for file in (*self.files.values(), self.read_only):
            os.close(file)

    def _bytes(self, trial: int, name: str) -> np.ndarray:
        offset, _, start, size = self.places[trial][name]
        return np.frombuffer(
            self.memory["outputs" if name == "y" else "inputs"], np.uint8, size, offset + start
        )

    def write(self, trial: int, problem: Problem) -> None:
        """The inputs of a problem, and NaN for what is not written yet."""
        for name in BUFFERS[:-1]:
            np.copyto(
                self._bytes(trial, name),
                np.ascontiguousarray(getattr(problem, name)).reshape(-1).view(np.uint8),
            )
        self.clear(trial)

    def clear(self, trial: int) -> None:
        """Fill a trial's output and its surroundings with what no kernel writes."""
        offset, length, _, _ = self.places[trial]["y"]
        np.frombuffer(self.memory["outputs"], np.uint8, length, offset)[:] = CANARY
        self._bytes(trial, "y")[:] = np.full(
            self._bytes(trial, "y").size // 4, np.nan, np.float32
        ).view(np.uint8)

    def answer(self, trial: int) -> tuple[np.ndarray, bool]:
        """A copy of y (batch, rows), and whether the bytes around it are untouched."""
        rows, _, _, batch = self.shapes[trial]
        offset, length, start, size = self.places[trial]["y"]
        around = np.frombuffer(self.memory["outputs"], np.uint8, length, offset).copy()
        y = around[start : start + size].view(np.uint8).copy().view(np.float32).reshape(batch, rows)
        around[start : start + size] = CANARY
        return y, bool((around == CANARY).all())

    def status(self) -> tuple[int, int, int]:
        """state, buffer, place: what the runner wrote last.

        The kernel can forge it, to its own loss.
        """
        state, buffer, place = STATUS.unpack_from(self.memory["outputs"])
        return state, buffer, place


def _pages(size: int) -> int:
    return -(-max(size, 1) // PAGE) * PAGE


def _file(name: str, size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
        return file
    file, path = tempfile.mkstemp()
    os.unlink(path)
    os.ftruncate(file, size)
    return file


def _again(file: int) -> int:
    """The same file for reading only, where the system has a name for it."""
    try:
        return os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.dup(file)
