"""The cells in a notebook's file as a learner handed it in: damaged, in another encoding, or mostly
outputs.

Everything takes time in proportion to the file, and the file is read only up to a limit.
"""

import codecs
import hashlib
import json
import mmap
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 50 << 20  # bytes without outputs
LARGEST_FILE = 1 << 30
# brackets and texts that are looked at in a larger file; values of one that is read whole
PARTS = 5_000_000
MARK = re.compile(rb'["\[\]{}]')


def regular(path: Path) -> bool:
    """Whether the path is a plain file and no link."""
    return stat.S_ISREG(os.lstat(path).st_mode)


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """At most `most` + 1 bytes of an ordinary file."""
    with _opened(path) as file:
        return file.read(most + 1)


def _opened(path: Path) -> Any:
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    )
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: not an ordinary file")
    return os.fdopen(descriptor, "rb")


def read(path: Path) -> tuple[bytes | None, str, str]:
    """(content, its SHA-256, a note): the notebook, without its outputs if it is large; None if it
    is too large all the same.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LARGEST:
            content = file.read(LARGEST + 1)
            digest = hashlib.sha256(content).hexdigest()
            if _values(content) <= PARTS:
                return content, digest, ""
            slim = without_outputs(content)
            if slim is None or _values(slim) > PARTS:
                return None, digest, f"the file holds more than {PARTS:,} values; it was not read"
            return slim, digest, "the file holds very many values; its outputs were not read"
        if size > LARGEST_FILE:
            return (
                None,
                f"{size} bytes",
                f"the file is larger than {LARGEST_FILE >> 20} MB; it was not read",
            )
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            digest = hashlib.sha256(data).hexdigest()
            slim = without_outputs(data)
    if slim is None:
        return (
            None,
            digest,
            f"the file is larger than {LARGEST >> 20} MB also without its outputs; it was not read",
        )
    return slim, digest, f"the file has {size >> 20} MB; its outputs were not read"


def _values(content: bytes) -> int:
    """At most as many values are in JSON: each takes up to a hundred bytes of memory, and two of
    the file.
    """
    return sum(map(content.count, (b",", b"[", b"{")))


def without_outputs(data: Any) -> bytes | None:
    """JSON of a notebook with "outputs": [] in every cell; None if more than LARGEST bytes are
    left, or PARTS parts.
    """
    out: list[bytes] = []
    place = kept = depth = total = 0
    skipping = False
    for _ in range(PARTS):
        found = MARK.search(data, place)
        if found is None:
            break
        mark, place = found[0], found.end()
        if mark == b'"':
            end = _end_of_text(data, place)
            if (
                depth == 3
                and not skipping
                and data[place:end] == b"outputs"
                and (colon := re.compile(rb"\s*:").match(data, end + 1))
            ):
                out.append(data[kept : colon.end()])
                total += len(out[-1])
                skipping, kept = True, colon.end()
            place = end + 1
        elif mark in b"[{":
            depth += 1
        else:
            depth -= 1
            if depth == 3 and skipping:
                out.append(b"[]")
                skipping, kept = False, place
            elif depth < 3 and skipping:  # no list stood there
                skipping = False
        if total > LARGEST:
            return None
    else:
        return None
    if len(data) - kept + total > LARGEST:
        return None
    return b"".join([*out, data[kept:]])


def _end_of_text(data: Any, place: int) -> int:
    """Where the quotation mark that ends a JSON text stands,
    the end of the data if there is none.
    """
    begin = place
    while (end := data.find(b'"', place)) >= 0:
        before = end
        while before > begin and data[before - 1] == 0x5C:
            before -= 1
        if (end - before) % 2 == 0:
            return int(end)
        place = end + 1
    return len(data)


def cells(content: bytes, notes: list[str]) -> list[dict[str, Any]]:
    """The cells of a notebook; of a damaged one, those that stand whole before the damage."""
    text = _text(content, notes)
    try:
        notebook = json.loads(text)
        found = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        if not isinstance(found, list):
            raise ValueError("cells are no list")
    except (ValueError, RecursionError, KeyError, TypeError, IndexError) as error:
        notes.append(
            f"the notebook is damaged ({type(error).__name__}); cells before the damage were graded"
        )
        found = list(_salvage(text))
    return [c for c in found if isinstance(c, dict)]


def _text(content: bytes, notes: list[str]) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        notes.append("the file is UTF-16")
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        notes.append(
            f"the file is not UTF-8 (byte {error.start}); unreadable characters were replaced"
        )
        return content.decode("utf-8-sig", errors="replace")


def _salvage(text: str) -> Iterator[Any]:
    start = re.search(r'"cells"\s*:\s*\[', text)
    decoder, place = json.JSONDecoder(), start.end() if start else len(text)
    while place < len(text):
        if text[place] in " \t\r\n,":
            place += 1
            continue
        try:
            cell, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return
        yield cell


def source(cell: dict[str, Any]) -> str | None:
    """The text of a cell, without a byte order mark and without halves of characters; None if it
    has none.
    """
    found = cell.get("source", cell.get("input"))
    if isinstance(found, list) and all(isinstance(line, str) for line in found):
        found = "".join(found)
    if not isinstance(found, str):
        return None
    return found.removeprefix("\ufeff").encode("utf-8", errors="replace").decode()


def grade_id(cell: dict[str, Any]) -> str:
    """Nbgrader's name of a cell, "" if it has none."""
    meta = cell.get("metadata")
    meta = meta.get("nbgrader") if isinstance(meta, dict) else None
    name = meta.get("grade_id") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else ""
