"""rANS (Duda, 2013): an entropy coder that spends within a percent of the entropy, also below one
bit a symbol.

A state x stands for all symbols so far. With frequencies f_s that sum to M = 2^PRECISION and starts
c_s = Σ_{t<s} f_t:

    push s:   x ← ⌊x / f_s⌋ · M + (x mod f_s) + c_s
              (x grows by the factor M / f_s, that is −log₂ p_s bits)
    pop:      s is where x mod M falls, then x ← f_s ⌊x / M⌋ + (x mod M) − c_s

x stays in [2^16, 2^32): before a push that would leave it, its low 16 bits are written; after a pop
that falls below 2^16, they are read back. What is pushed last is popped first, so the encoder walks
backwards. `lanes` states take turns, symbol i belongs to lane i mod lanes, so that numpy does one
step of all of them at once.

A Huffman code spends at least one bit a symbol; this does not. That is why it is needed below about
1.5 bits.
"""

import struct
import zlib

import numpy as np

from course_utils.errors import CompressionError

PRECISION = 14  # frequencies sum to 2^14
LOW = 1 << 16  # the state's least value
HEADER = "<QIHI"  # symbols, words, lanes, checksum of the symbols


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Whole frequencies (int64) that sum to 2^PRECISION, at least 1 for every symbol that occurs, 0
    for the others.

    From the proportional shares rounded down, what is left goes one by one to the symbol that it
    helps most, and what was too much comes from the one that it hurts least. Raises
    CompressionError without counts or with more symbols than 2^PRECISION.
    """
    counts = np.asarray(counts, dtype=np.int64)
    used = np.flatnonzero(counts)
    if counts.ndim != 1 or (counts < 0).any() or not 0 < len(used) <= 1 << PRECISION:
        raise CompressionError(
            f"counts: expected a list, none negative, 1 to {1 << PRECISION} of them above 0."
        )
    share = counts[used] * float(1 << PRECISION) / counts.sum()
    found = np.maximum(1, np.floor(share)).astype(np.int64)
    while (rest := (1 << PRECISION) - int(found.sum())) != 0:
        if rest > 0:
            found[np.argmax(counts[used] * np.log2(1 + 1 / found))] += 1
        else:
            cost = np.where(
                found > 1, counts[used] * np.log2(found / np.maximum(found - 1, 1)), np.inf
            )
            found[np.argmin(cost)] -= 1
    result = np.zeros(len(counts), dtype=np.int64)
    result[used] = found
    return result


def ideal_bits(counts: np.ndarray) -> float:
    """−Σ n_s log₂(n_s / N): what symbols with these counts cost at their entropy, in bits."""
    n = np.asarray(counts, dtype=np.float64)
    n = n[n > 0]
    return float(-(n * np.log2(n / n.sum())).sum())


def _checked(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table = np.atleast_2d(np.asarray(table, dtype=np.int64))
    if (table < 0).any() or (table.sum(1) != 1 << PRECISION).any():
        raise CompressionError(
            f"table: each row must hold frequencies that sum to {1 << PRECISION}; "
            "use `frequencies`."
        )
    return table, np.concatenate([np.zeros((len(table), 1), np.int64), table.cumsum(1)], 1)


def _checksum(symbols: np.ndarray) -> int:
    return zlib.crc32(symbols.astype("<u4").tobytes())


def encode(
    symbols: np.ndarray, table: np.ndarray, which: np.ndarray | None = None, lanes: int = 64
) -> bytes:
    """Symbols 0 … K−1 as bytes.

    `table` (T, K) or (K,): frequencies; `which` (same size as symbols): the row of each.

    Raises CompressionError for a symbol whose frequency is 0.
    """
    symbols = np.asarray(symbols, dtype=np.int64).reshape(-1)
    table, starts = _checked(table)
    which = (
        np.zeros(len(symbols), np.int64)
        if which is None
        else np.asarray(which, np.int64).reshape(-1)
    )
    inside = len(symbols) == 0 or (symbols.min() >= 0 and symbols.max() < table.shape[1])
    if not inside or len(which) != len(symbols) or not table[which, symbols].all():
        raise CompressionError(
            "symbols: one of them has no frequency in its table; count the symbols that you encode."
        )
    lanes = max(1, min(lanes, len(symbols), (1 << 16) - 1))
    frequency, start = table[which, symbols], starts[which, symbols]
    state, written = np.full(lanes, LOW, np.int64), []
    for first in reversed(range(0, len(symbols), lanes)):
        f, c = frequency[first : first + lanes], start[first : first + lanes]
        x = state[: len(f)]
        full = x >= f << (32 - PRECISION)
        written.append((x[full] & 0xFFFF).astype("<u2"))
        x = np.where(full, x >> 16, x)
        state[: len(f)] = (x // f << PRECISION) + x % f + c
    words = np.concatenate(written[::-1]) if written else np.zeros(0, "<u2")
    head = struct.pack(HEADER, len(symbols), len(words), lanes, _checksum(symbols))
    return head + state.astype("<u4").tobytes() + words.tobytes()


def decode(data: bytes, table: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
    """The symbols (int64, flat) that `encode` was given with the same `table` and `which`.

    Raises CompressionError if `data` is truncated or damaged, or the tables are others.
    """
    table, starts = _checked(table)
    try:
        count, size, lanes, checksum = struct.unpack_from(HEADER, data)
        place = struct.calcsize(HEADER)
        if (
            lanes < 1
            or len(data) != place + 4 * lanes + 2 * size
            or count > (1 << PRECISION) * 16 * (size + 2 * lanes)
        ):
            raise ValueError("its length is not the one that it states")
        state = np.frombuffer(data, "<u4", lanes, place).astype(np.int64)
        words = np.frombuffer(data, "<u2", size, place + 4 * lanes).astype(np.int64)
    except (struct.error, ValueError) as error:
        raise CompressionError(f"data: truncated or not a rANS stream ({error}).") from error
    which = np.zeros(count, np.int64) if which is None else np.asarray(which, np.int64).reshape(-1)
    if len(which) != count:
        raise CompressionError(
            f"which: {len(which)} rows for {count} symbols; give the same as for `encode`."
        )
    symbols, at = np.zeros(count, np.int64), 0
    for first in range(0, count, lanes):
        rows = which[first : first + lanes]
        x = state[: len(rows)]
        slot = x & ((1 << PRECISION) - 1)
        s = (starts[rows, 1:] <= slot[:, None]).sum(1)
        x = table[rows, s] * (x >> PRECISION) + slot - starts[rows, s]
        low = x < LOW
        need = int(low.sum())
        if at + need > size:
            raise CompressionError(
                "data: ends too early; the stream is damaged or its tables are others."
            )
        x[low] = x[low] << 16 | words[at : at + need]
        at += need
        state[: len(rows)] = x
        symbols[first : first + lanes] = s
    if at != size or (state != LOW).any() or _checksum(symbols) != checksum:
        raise CompressionError(
            "data: checksum differs; the stream is damaged or its tables are others."
        )
    return symbols
