"""The file itself: MAGIC, the length of the packed header (uint32, little-endian), the header under
zlib, the streams.

The header is JSON: {"config": {sizes}, "tensors": {name: description}}. Streams follow in the
header's order, a description's own before those of what it holds; they fill the file to its last
byte, so that none overlap and nothing is left over.
"""

import json
import math
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.errors import CompressionError

from . import codecs, layout

MAGIC = b"SMOL1\n"
SUFFIX = ".smol"
LENGTH = struct.Struct("<I")


def write(config: dict[str, Any], parts: dict[str, Any], path: Path | str | None = None) -> bytes:
    """The bytes of a file with these parts (`encoders`), one for each name of
    `layout.shapes(config)`; written to `path` if given.

    Raises CompressionError if `read` would refuse it.
    """
    order = list(layout.shapes(layout.check_config(config)))
    if set(parts) != set(order):
        raise CompressionError(
            f"parts: missing or unknown {', '.join(sorted(set(order) ^ set(parts))[:5])}."
        )
    header = json.dumps(
        {"config": config, "tensors": {name: parts[name].said for name in order}},
        separators=(",", ":"),
    )
    packed = zlib.compress(header.encode(), 9)
    content = b"".join(
        [
            MAGIC,
            LENGTH.pack(len(packed)),
            packed,
            *(stream for name in order for stream in parts[name].streams),
        ]
    )
    read(content)
    if path is not None:
        Path(path).write_bytes(content)
    return content


def plain(path: Path | str, most: int) -> bytes | None:
    """The first `most` + 1 bytes of a plain file, opened once; None for a folder, a pipe or a
    device.

    Raises OSError for a link, too.
    """
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    )
    with os.fdopen(handle, "rb") as file:
        return file.read(most + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else None


def content(path: Path | str) -> bytes:
    """A file's bytes, read once.

    Raises CompressionError for a link, for what is no plain file, and for one that is too large.
    """
    try:
        data = plain(path, layout.LARGEST)
    except OSError as error:
        raise CompressionError(
            f"the file cannot be read ({error.strerror or type(error).__name__}); "
            "links are not followed."
        ) from error
    if data is None:
        raise CompressionError("the file is no plain file.")
    if len(data) > layout.LARGEST:
        raise CompressionError(f"the file is larger than {layout.LARGEST:,} bytes.")
    return data


def read(data: bytes | Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config, {name: tensor, float32}) of a file or its bytes.

    Raises CompressionError, with the reason, for whatever is no such file.
    """
    data = data if isinstance(data, bytes) else content(data)
    header, streams = _header(data)
    if (
        not isinstance(header, dict)
        or set(header) != {"config", "tensors"}
        or not isinstance(header["tensors"], dict)
    ):
        raise CompressionError("the header must hold config and tensors.")
    config, found = layout.check_config(header["config"]), {}
    wanted = layout.shapes(config)
    if set(header["tensors"]) != set(wanted):
        raise CompressionError(
            f"tensors: {len(set(wanted) - set(header['tensors']))} are missing, "
            f"{len(set(header['tensors']) - set(wanted))} are unknown."
        )
    budget = codecs.Budget()
    for name, part in header["tensors"].items():
        shape = wanted[name]
        rows = shape[0] if len(shape) == 2 else 1
        try:
            with np.errstate(all="ignore"):
                made = codecs.decode(part, (rows, math.prod(shape) // rows), streams, budget)
        except CompressionError as error:
            raise CompressionError(f"{name}: {error}") from error
        if not np.isfinite(made).all():
            raise CompressionError(f"{name}: holds a value that is not finite.")
        found[name] = made.reshape(shape)
    if streams.at != len(streams.content):
        raise CompressionError(
            f"{len(streams.content) - streams.at:,} bytes are left over behind the last stream."
        )
    return config, found


def _header(data: bytes) -> tuple[Any, codecs.Streams]:
    if len(data) > layout.LARGEST:
        raise CompressionError(f"the file is larger than {layout.LARGEST:,} bytes.")
    start = len(MAGIC) + LENGTH.size
    if len(data) < start or not data.startswith(MAGIC):
        raise CompressionError("this is no file of the challenge: it does not begin with its mark.")
    (size,) = LENGTH.unpack_from(data, len(MAGIC))
    if size > len(data) - start:
        raise CompressionError("the file ends within its header.")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data[start : start + size], layout.HEADER + 1)
        if len(text) > layout.HEADER or not unpacker.eof or unpacker.unused_data:
            raise CompressionError(f"the header is damaged or larger than {layout.HEADER:,} bytes.")
        header = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_int=_short)
    except CompressionError:
        raise
    except (zlib.error, ValueError, RecursionError) as error:
        raise CompressionError(f"the header cannot be read ({type(error).__name__}).") from error
    return header, codecs.Streams(memoryview(data)[start + size :])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise CompressionError("the header says a name twice.")
    return dict(pairs)


def _refuse(_text: str) -> Any:
    raise CompressionError("the header holds a number that is not finite.")


def _short(text: str) -> int:
    if len(text) > 20:
        raise CompressionError("the header holds a number of more than 20 digits.")
    return int(text)
