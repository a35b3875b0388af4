"""Parts of a file: each function returns a `Part`, a description and its streams, for the codec of
the same name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_utils.errors import CompressionError
from course_utils.theory import coding

from . import codecs


@dataclass(frozen=True)
class Part:
    """`said` stands in the header; `streams` in the order in which they are read."""

    said: dict[str, Any]
    streams: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of the streams; the header is not counted."""
        return sum(map(len, self.streams))


def _leaf(codec: str, streams: list[bytes], **said: Any) -> Part:
    return Part({"codec": codec, "streams": [len(s) for s in streams], **said}, streams)


def _matrix(values: Any, kind: Any = np.float32) -> np.ndarray:
    found = np.atleast_2d(
        np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    ).astype(kind)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise CompressionError("values: expected a vector or a matrix of finite numbers.")
    return found


def _halves(values: Any) -> bytes:
    with np.errstate(over="ignore"):
        found = _matrix(values).astype("<f2")
    if not np.isfinite(found).all():
        raise CompressionError(
            "values: one is too large for float16; scale the tensor down, or use bf16."
        )
    return found.tobytes()


def bf16(weight: Any) -> Part:
    """The numbers in BF16, rounded to the nearest, ties to even."""
    bits = _matrix(weight).view(np.uint32).astype(np.uint64)
    return _leaf("bf16", [((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()])


def f16(weight: Any) -> Part:
    """The numbers in float16."""
    return _leaf("f16", [_halves(weight)])


def _pack(codes: np.ndarray, bits: int) -> bytes:
    return np.packbits(codes.reshape(-1, 1) >> np.arange(bits) & 1, bitorder="little").tobytes()


def grid(codes: Any, scales: Any, zeros: Any = None, *, bits: int, group: int) -> Part:
    """Codes 0 … 2^bits − 1 (rows, columns), scales and zero points (rows, groups): w = s (q − z); z
    = 2^(bits − 1) if left out.
    """
    q = _matrix(codes, np.int64)
    if q.min() < 0 or q.max() >= 1 << bits:
        raise CompressionError(f"codes: expected 0 to {(1 << bits) - 1}.")
    points = b"" if zeros is None else _matrix(zeros, np.uint8).tobytes()
    return _leaf(
        "grid",
        [_pack(q, bits), _halves(scales), points],
        bits=bits,
        group=group,
        zeros=zeros is not None,
    )


def coded(codes: Any, steps: Any, *, classes: int = 1) -> Part:
    """Whole numbers q (rows, columns) under rANS, w = Δ_j q; one step or one for each column (kept
    in float16).

    Columns are sorted into `classes` by their mean |q|, each with its own table of frequencies.
    """
    q, step = _matrix(codes, np.int64), _matrix(steps).reshape(-1)
    order = np.abs(q).mean(0).argsort(kind="stable").argsort()
    which = order * min(classes, q.shape[1]) // q.shape[1]
    lowest, classes = int(q.min()), int(which.max()) + 1
    symbols, kinds = q - lowest, int(q.max()) - lowest + 1
    if kinds > codecs.SYMBOLS:
        raise CompressionError(
            f"codes: {kinds:,} different values, more than {codecs.SYMBOLS:,}; use a larger step."
        )
    tables = np.stack(
        [
            coding.frequencies(np.bincount(symbols[:, which == k].reshape(-1), minlength=kinds))
            for k in range(classes)
        ]
    )
    stream = coding.encode(
        symbols, tables, np.broadcast_to(which, q.shape), lanes=max(8, min(128, q.size // 2048))
    )
    steps_bytes = (
        step.astype("<f4").tobytes() if len(step) == 1 and q.shape[1] > 1 else _halves(step)
    )
    columns = which.astype(np.uint8).tobytes() if classes > 1 else b""
    said = {"symbols": kinds, "classes": classes, "lowest": lowest, "steps": len(step)}
    return _leaf("coded", [stream, tables.astype("<u2").tobytes(), columns, steps_bytes], **said)


def ternary(signs: Any, scales: Any, *, group: int) -> Part:
    """Signs −1, 0, 1 (rows, columns), scales (rows, groups)."""
    t = _matrix(signs, np.int64)
    if not np.isin(t, (-1, 0, 1)).all():
        raise CompressionError("signs: expected −1, 0 and 1.")
    digits = np.concatenate([t.reshape(-1) + 1, np.zeros(-t.size % 5, np.int64)]).reshape(-1, 5)
    return _leaf(
        "ternary",
        [(digits * 3 ** np.arange(5)).sum(1).astype(np.uint8).tobytes(), _halves(scales)],
        group=group,
    )


def table(vectors: Any, index: Any, *, coded: bool = False) -> Part:
    """`vectors` (values, dim), or (values,) numbers, and at each place of a row (rows, columns /
    dim) the number of one.
    """
    values = np.asarray(
        vectors.detach().cpu() if hasattr(vectors, "detach") else vectors, np.float32
    )
    values, places = values.reshape(len(values), -1), _matrix(index, np.int64)
    if not len(values) >= 2 or places.min() < 0 or places.max() >= len(values):
        raise CompressionError(f"index: expected 0 to {len(values) - 1}, and at least two vectors.")
    streams, said = (
        [_pack(places, (len(values) - 1).bit_length()), b""],
        {"values": len(values), "dim": values.shape[1], "coded": coded},
    )
    if coded:
        frequencies = coding.frequencies(np.bincount(places.reshape(-1), minlength=len(values)))
        streams = [
            coding.encode(places, frequencies, lanes=max(8, min(128, places.size // 2048))),
            frequencies.astype("<u2").tobytes(),
        ]
    return _leaf("table", [_halves(values), *streams], **said)


def product(left: Part, right: Part, *, rank: int) -> Part:
    """Left (rows, rank) · right (rank, columns)."""
    return Part(
        {"codec": "product", "rank": rank, "left": left.said, "right": right.said},
        left.streams + right.streams,
    )


def masked(mask: Any, inside: Part, *, axis: str = "all") -> Part:
    """`inside` where the mask is true, zeros elsewhere: for `axis` rows or columns those kept, for
    all the kept numbers in one row.
    """
    bits = np.packbits(
        np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask, bool).reshape(-1),
        bitorder="little",
    ).tobytes()
    return Part(
        {"codec": "masked", "axis": axis, "streams": [len(bits)], "inside": inside.said},
        [bits, *inside.streams],
    )


def total(terms: Sequence[Part]) -> Part:
    """The sum of 2 to 4 parts of one shape (codec `sum`)."""
    return Part(
        {"codec": "sum", "terms": [term.said for term in terms]},
        [stream for term in terms for stream in term.streams],
    )
