"""What the codecs of a file mean: from streams of bytes to a matrix (rows, columns), float32.

A tensor is described by a small object, {"codec": name, …, "streams": [lengths of its streams]}.
Leaves hold streams:

    bf16, f16   the numbers themselves, little-endian
    grid        w = s (q − z): codes of `bits` bits without gaps, a scale (float16) for each `group`
                of a row, and with
                `zeros` a zero point (one byte) for each; without, z = 2^(bits − 1)
    coded       w = Δ_j q: whole numbers under rANS (`theory.coding`); the tables of `classes` of
                columns (uint16, `symbols` entries from `lowest` on), each column's class (a byte,
                if there are several), one step (float32) or one for each column (float16)
    ternary     w = s t, t in {−1, 0, 1}: five to a byte (t + 1 as digits of base 3, the lowest
                first), a scale for each group
    table       `values` vectors of `dim` numbers (float16), and which of them stands at each place:
                indices of ⌈log₂ values⌉
                bits, or with `coded` under rANS

The others hold descriptions: `product` (`left` (rows, rank) times `right` (rank, columns)),
`masked` (a bit for each weight, row or column says where `inside` stands, zeros elsewhere), `sum`
(of 2 to 4 `terms`).

Every length follows from the shape and is compared with the one stated before memory is taken.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_utils.errors import CompressionError
from course_utils.theory import coding

DEPTH, PARTS = 3, 2000  # descriptions inside each other, and in one file
NUMBERS = 1 << 25  # decoded in all, with what is inside products and sums
ROUNDS = 400_000  # steps of the entropy decoder in all: each costs some 20 microseconds
PRODUCTS = 1 << 34  # multiplications in all
COMPARISONS = 1 << 32  # of the entropy decoder in all: symbols read times symbols of their table
ENTRIES = 1 << 21  # lanes times symbols of one stream: what one step holds
SYMBOLS, CLASSES = 1 << 12, 256


@dataclass
class Budget:
    """What is left for one file to spend on decoding."""

    numbers: int = NUMBERS
    rounds: int = ROUNDS
    products: int = PRODUCTS
    comparisons: int = COMPARISONS
    parts: int = PARTS

    def spend(self, **costs: int) -> None:
        """Take the costs. Raises CompressionError when one is used up."""
        for name, cost in costs.items():
            left = getattr(self, name) - cost
            if left < 0:
                raise CompressionError(
                    f"the file asks for too much work: over {getattr(Budget, name):,} {name}."
                )
            setattr(self, name, left)


class Streams:
    """The bytes behind the header, taken from the front."""

    def __init__(self, content: memoryview) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> memoryview:
        """The next `size` bytes. Raises CompressionError if there are not so many."""
        if size > len(self.content) - self.at:
            raise CompressionError("the file ends before its last stream does.")
        self.at += size
        return self.content[self.at - size : self.at]


def decode(
    part: Any, shape: tuple[int, int], streams: Streams, budget: Budget, depth: int = 0
) -> np.ndarray:
    """(rows, columns) float32.

    Raises CompressionError for whatever is not as the description says.
    """
    if (
        not isinstance(part, dict)
        or not isinstance(part.get("codec"), str)
        or part["codec"] not in DECODERS
    ):
        raise CompressionError(f"a tensor's codec must be one of {', '.join(DECODERS)}.")
    if depth > DEPTH:
        raise CompressionError(f"codecs lie inside each other more than {DEPTH} deep.")
    work, needed = DECODERS[part["codec"]]
    if set(part) - {"codec", *needed}:
        raise CompressionError(f"{part['codec']}: unknown keys; expected {', '.join(needed)}.")
    budget.spend(parts=1, numbers=shape[0] * shape[1])
    return work(part, shape, streams, budget, depth)


def whole(part: dict[str, Any], name: str, low: int, high: int) -> int:
    """A whole number of a description, from low to high. Raises CompressionError otherwise."""
    value = part.get(name)
    if type(value) is not int or not low <= value <= high:
        raise CompressionError(
            f"{part['codec']}: {name} must be a whole number from {low:,} to {high:,}."
        )
    return value


def flag(part: dict[str, Any], name: str) -> bool:
    """A description's true or false; false if it is left out."""
    value = part.get(name, False)
    if type(value) is not bool:
        raise CompressionError(f"{part['codec']}: {name} must be true or false.")
    return value


def lengths(part: dict[str, Any], *wanted: int | None) -> list[int]:
    """The stated lengths of the streams, each as wanted (None: any).

    Raises CompressionError otherwise.
    """
    found = part.get("streams")
    good = (
        isinstance(found, list)
        and len(found) == len(wanted)
        and all(type(n) is int and n >= 0 for n in found)
    )
    if not good or any(w is not None and n != w for n, w in zip(found or [], wanted, strict=True)):
        said = ", ".join("any" if w is None else f"{w:,}" for w in wanted)
        raise CompressionError(f"{part['codec']}: streams must be the lengths ({said}).")
    return list(found or [])


def unpack(data: memoryview, bits: int, count: int) -> np.ndarray:
    """`count` codes (int64) of `bits` bits, the lowest bit first, without gaps."""
    flat = np.unpackbits(
        np.frombuffer(data, np.uint8), count=count * bits, bitorder="little"
    ).reshape(count, bits)
    codes = np.zeros(count, np.int64)
    for place in range(bits):
        codes |= flat[:, place].astype(np.int64) << place
    return codes


def _half(data: memoryview) -> np.ndarray:
    return np.frombuffer(data, "<f2").astype(np.float32)


def _spread(values: np.ndarray, shape: tuple[int, int], group: int) -> np.ndarray:
    """One value for each group of a row → one for each column."""
    return np.repeat(values.reshape(shape[0], -1), group, axis=1)[:, : shape[1]]


def _bf16(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    (size,) = lengths(part, 2 * shape[0] * shape[1])
    return (
        (np.frombuffer(streams.take(size), "<u2").astype(np.uint32) << 16)
        .view(np.float32)
        .reshape(shape)
    )


def _f16(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    (size,) = lengths(part, 2 * shape[0] * shape[1])
    return _half(streams.take(size)).reshape(shape)


def _grid(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    bits, group, zeros = (
        whole(part, "bits", 1, 8),
        whole(part, "group", 1, shape[1]),
        flag(part, "zeros"),
    )
    count, groups = shape[0] * shape[1], shape[0] * -(-shape[1] // group)
    codes, scales, points = lengths(
        part, (count * bits + 7) // 8, 2 * groups, groups if zeros else 0
    )
    q = unpack(streams.take(codes), bits, count).reshape(shape).astype(np.float32)
    s = _spread(_half(streams.take(scales)), shape, group)
    z = np.frombuffer(streams.take(points), np.uint8).astype(np.float32)
    return s * (q - (_spread(z, shape, group) if zeros else np.float32(1 << (bits - 1))))


def _ternary(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    group, count = whole(part, "group", 1, shape[1]), shape[0] * shape[1]
    codes, scales = lengths(part, -(-count // 5), 2 * shape[0] * -(-shape[1] // group))
    packed = np.frombuffer(streams.take(codes), np.uint8)
    if (packed >= 3**5).any():
        raise CompressionError("ternary: a byte is 243 or more; it holds five digits of base 3.")
    t = (packed[:, None] // 3 ** np.arange(5) % 3).reshape(-1)[:count].reshape(shape).astype(
        np.float32
    ) - 1
    return t * _spread(_half(streams.take(scales)), shape, group)


def _symbols(
    data: memoryview, count: int, tables: np.ndarray, which: np.ndarray | None, budget: Budget
) -> np.ndarray:
    """`count` symbols of a rANS stream; what it asks for is looked at before it gets it."""
    if len(data) < struct.calcsize(coding.HEADER):
        raise CompressionError("a rANS stream is shorter than its header.")
    stated, _, lanes, _ = struct.unpack_from(coding.HEADER, data)
    if stated != count or not 1 <= lanes <= 65535 or lanes * tables.shape[1] > ENTRIES:
        raise CompressionError(
            f"a rANS stream must hold {count:,} symbols in 1 to {ENTRIES // tables.shape[1]:,} "
            "lanes."
        )
    budget.spend(rounds=-(-count // lanes), comparisons=count * tables.shape[1])
    return coding.decode(bytes(data), tables, which)


def _tables(data: memoryview, classes: int) -> np.ndarray:
    found = np.frombuffer(data, "<u2").astype(np.int64).reshape(classes, -1)
    if (found.sum(1) != 1 << coding.PRECISION).any():
        raise CompressionError(f"each table of frequencies must sum to {1 << coding.PRECISION:,}.")
    return found


def _coded(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    symbols, classes = whole(part, "symbols", 1, SYMBOLS), whole(part, "classes", 1, CLASSES)
    lowest, steps = whole(part, "lowest", -(1 << 15), 1 << 15), whole(part, "steps", 1, shape[1])
    if steps not in (1, shape[1]):
        raise CompressionError(f"coded: steps must be 1 or {shape[1]}.")
    sizes = lengths(
        part,
        None,
        2 * classes * symbols,
        shape[1] if classes > 1 else 0,
        4 if steps == 1 and shape[1] > 1 else 2 * steps,
    )
    data, tables, columns, step = (streams.take(size) for size in sizes)
    which = (
        np.frombuffer(columns, np.uint8).astype(np.int64)
        if classes > 1
        else np.zeros(shape[1], np.int64)
    )
    if which.max() >= classes:
        raise CompressionError(f"coded: a column's class must be 0 to {classes - 1}.")
    q = (
        _symbols(
            data,
            shape[0] * shape[1],
            _tables(tables, classes),
            np.broadcast_to(which, shape),
            budget,
        ).reshape(shape)
        + lowest
    )
    return q.astype(np.float32) * (
        np.frombuffer(step, "<f4") if len(step) == 4 and steps == 1 else _half(step)
    )


def _table(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    values, dim, coded = (
        whole(part, "values", 2, 1 << 16),
        whole(part, "dim", 1, min(shape[1], 64)),
        flag(part, "coded"),
    )
    if shape[1] % dim or (coded and values > SYMBOLS):
        raise CompressionError(
            f"table: dim must divide {shape[1]} columns, and under rANS values "
            f"are at most {SYMBOLS:,}."
        )
    count, bits = shape[0] * shape[1] // dim, (values - 1).bit_length()
    budget.spend(numbers=values * dim)
    first, second, third = lengths(
        part,
        2 * values * dim,
        None if coded else (count * bits + 7) // 8,
        2 * values if coded else 0,
    )
    vectors, places, tables = (
        _half(streams.take(first)).reshape(values, dim),
        streams.take(second),
        streams.take(third),
    )
    index = (
        _symbols(places, count, _tables(tables, 1), None, budget)
        if coded
        else unpack(places, bits, count)
    )
    if index.max(initial=0) >= values:
        raise CompressionError(f"table: an index is {values:,} or more.")
    return vectors[index].reshape(shape)


def _product(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    rank = whole(part, "rank", 1, min(shape))
    budget.spend(products=shape[0] * shape[1] * rank)
    left = decode(part.get("left"), (shape[0], rank), streams, budget, depth + 1)
    return left @ decode(part.get("right"), (rank, shape[1]), streams, budget, depth + 1)


def _masked(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    axis = part.get("axis")
    if axis not in ("all", "rows", "columns"):
        raise CompressionError("masked: axis must be all, rows or columns.")
    count = {"all": shape[0] * shape[1], "rows": shape[0], "columns": shape[1]}[axis]
    (size,) = lengths(part, (count + 7) // 8)
    mask = np.unpackbits(
        np.frombuffer(streams.take(size), np.uint8), count=count, bitorder="little"
    ).astype(bool)
    if not (kept := int(mask.sum())):
        raise CompressionError("masked: nothing is kept.")
    inner = {"all": (1, kept), "rows": (kept, shape[1]), "columns": (shape[0], kept)}[axis]
    inside, out = (
        decode(part.get("inside"), inner, streams, budget, depth + 1),
        np.zeros(shape, np.float32),
    )
    if axis == "all":
        out[mask.reshape(shape)] = inside[0]
    elif axis == "rows":
        out[mask] = inside
    else:
        out[:, mask] = inside
    return out


def _sum(
    part: dict[str, Any], shape: tuple[int, int], streams: Streams, budget: Budget, depth: int
) -> np.ndarray:
    terms = part.get("terms")
    if not isinstance(terms, list) or not 2 <= len(terms) <= 4:
        raise CompressionError("sum: terms must be a list of 2 to 4.")
    out = np.zeros(shape, np.float32)
    for term in terms:
        out += decode(term, shape, streams, budget, depth + 1)
    return out


DECODERS: dict[str, tuple[Callable[..., np.ndarray], tuple[str, ...]]] = {
    "bf16": (_bf16, ("streams",)),
    "f16": (_f16, ("streams",)),
    "grid": (_grid, ("streams", "bits", "group", "zeros")),
    "coded": (_coded, ("streams", "symbols", "classes", "lowest", "steps")),
    "ternary": (_ternary, ("streams", "group")),
    "table": (_table, ("streams", "values", "dim", "coded")),
    "product": (_product, ("rank", "left", "right")),
    "masked": (_masked, ("streams", "axis", "inside")),
    "sum": (_sum, ("terms",)),
}
