"""Entropy of integer symbols, and a lossless code that nearly reaches it.

    H = −Σ p(q) log₂ p(q)  bits per symbol

is the least that any code for independent symbols can spend on average (Shannon, 1948). A Huffman
code spends less than one bit more. BF16 weights are coded as DFloat11 does (Zhang et al., 2025):
the eight exponent bits, of which only a few values occur often, by Huffman; the sign and mantissa
bits, which look random, as they are.
"""

import heapq
import lzma
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.errors import CompressionError

LONGEST = 15  # bits of the longest code word: its length fits half a byte
BLOCK = 4096  # symbols; each block's start is stored, so that all blocks are decoded side by side
HEADER = "<QI"  # number of symbols, bytes of code


def entropy(symbols: Tensor) -> float:
    """Empirical entropy in bits per symbol of integers of any shape.

    Raises CompressionError if there are none.
    """
    if symbols.is_floating_point() or symbols.numel() == 0:
        raise CompressionError(
            "symbols: expected at least one integer; quantize real numbers first."
        )
    p = torch.unique(symbols, return_counts=True)[1].double() / symbols.numel()
    return float(-(p * p.log2()).sum()) + 0.0


def code_lengths(counts: Any) -> np.ndarray:
    """Bits of each symbol's Huffman code word (int64, same length as `counts`; 0 for a count of 0).

    Repeatedly the two rarest groups are joined, and each of their symbols gets one bit more. If a
    word gets longer than 15 bits the counts are halved (rounding up) and the code is made anew: a
    little longer, never wrong.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 1 or (counts < 0).any() or not (counts > 0).any():
        raise CompressionError(
            "counts: expected a list of counts, none negative and at least one above 0."
        )
    while True:
        lengths = np.zeros(len(counts), dtype=np.int64)
        heap = [(int(c), i, [i]) for i, c in enumerate(counts) if c > 0]
        if len(heap) == 1:
            lengths[heap[0][1]] = 1
            return lengths
        heapq.heapify(heap)
        while len(heap) > 1:
            a, b = heapq.heappop(heap), heapq.heappop(heap)
            members = a[2] + b[2]
            lengths[members] += 1
            heapq.heappush(heap, (a[0] + b[0], a[1], members))
        if lengths.max() <= LONGEST:
            return lengths
        counts = (counts + 1) // 2


def code_words(lengths: np.ndarray) -> np.ndarray:
    """The canonical code: words of one length count upwards in the order of their symbols, shorter
    words first.
    """
    words, word, previous = np.zeros(len(lengths), dtype=np.int64), 0, 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda s: (lengths[s], s)):
        word <<= int(lengths[symbol]) - previous
        previous = int(lengths[symbol])
        words[symbol] = word
        word += 1
    return words


def huffman_encode(symbols: Tensor) -> bytes:
    """Symbols 0 … 255 of any shape as bytes: header, 256 code lengths (half a byte each), block
    starts, code words.

    Raises CompressionError if there are no symbols or one does not fit a byte.
    """
    if (
        symbols.is_floating_point()
        or symbols.numel() == 0
        or int(symbols.min()) < 0
        or int(symbols.max()) > 255
    ):
        raise CompressionError("symbols: expected at least one integer, all from 0 to 255.")
    flat = symbols.reshape(-1).cpu().to(torch.uint8).numpy()
    lengths = code_lengths(np.bincount(flat, minlength=256))
    words = code_words(lengths)
    each = lengths[flat]
    ends = np.cumsum(each)
    starts = ends - each
    stream = np.zeros(int(ends[-1]), dtype=np.uint8)
    for bit in range(LONGEST):  # bit 0 is the first of each word
        has = each > bit
        stream[starts[has] + bit] = words[flat[has]] >> (each[has] - 1 - bit) & 1
    code = np.packbits(stream).tobytes()
    halves = lengths.astype(np.uint8)
    table = (halves[0::2] << 4 | halves[1::2]).tobytes()
    return (
        struct.pack(HEADER, len(flat), len(code))
        + table
        + starts[::BLOCK].astype("<u4").tobytes()
        + code
    )


def huffman_decode(data: bytes) -> Tensor:
    """The symbols (uint8, flat) that `huffman_encode` was given.

    Raises CompressionError if `data` is damaged.
    """
    try:
        count, size = struct.unpack_from(HEADER, data)
        place = struct.calcsize(HEADER)
        blocks = -(-count // BLOCK)
        table = np.frombuffer(data, np.uint8, 128, place)
        starts = np.frombuffer(data, "<u4", blocks, place + 128).astype(np.int64)
        code = np.frombuffer(data, np.uint8, size, place + 128 + 4 * blocks)
    except (struct.error, ValueError) as error:
        raise CompressionError(f"data: truncated or not a Huffman stream ({error}).") from error
    lengths = np.stack([table >> 4, table & 15], 1).reshape(-1).astype(np.int64)
    used = np.flatnonzero(lengths)
    if (2.0 ** -lengths[used]).sum() > 1 or (blocks and int(starts.max()) > 8 * size):
        raise CompressionError(
            "data: its code lengths or block starts are impossible; the bytes are damaged."
        )
    # every way in which 15 bits can begin -> the symbol they begin with
    symbol_of = np.zeros(2**LONGEST, dtype=np.uint8)
    for symbol, word in zip(used, code_words(lengths)[used], strict=True):
        rest = LONGEST - int(lengths[symbol])
        symbol_of[word << rest : (word + 1) << rest] = symbol
    code = np.concatenate([code, np.zeros(BLOCK * LONGEST // 8 + 3, np.uint8)]).astype(np.int64)
    at = starts.copy()
    out = np.zeros((BLOCK, blocks), dtype=np.uint8)
    for i in range(min(BLOCK, count)):  # the i-th symbol of every block at once
        byte, offset = at >> 3, at & 7
        window = (code[byte] << 16 | code[byte + 1] << 8 | code[byte + 2]) >> (
            24 - LONGEST - offset
        ) & (2**LONGEST - 1)
        out[i] = symbol_of[window]
        at += lengths[out[i]]
    return torch.from_numpy(out.T.reshape(-1)[:count].copy())


def split_bfloat16(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The two bytes of each BF16 number, uint8: the exponent, and the sign above the seven mantissa
    bits.
    """
    if weight.dtype != torch.bfloat16:
        raise CompressionError(f"weight: expected torch.bfloat16, got {weight.dtype}.")
    bits = weight.contiguous().view(torch.int16).int() & 0xFFFF
    return (bits >> 7 & 0xFF).to(torch.uint8), (bits >> 8 & 0x80 | bits & 0x7F).to(torch.uint8)


def join_bfloat16(exponent: Tensor, rest: Tensor) -> Tensor:
    """The inverse of `split_bfloat16`."""
    e, r = exponent.int(), rest.int()
    bits = (r & 0x80) << 8 | e << 7 | r & 0x7F
    return torch.where(bits >= 2**15, bits - 2**16, bits).to(torch.int16).view(torch.bfloat16)


def encode_bfloat16(weight: Tensor) -> bytes:
    """BF16 numbers, losslessly: Huffman-coded exponents, then one raw byte of sign and mantissa for
    each number.
    """
    exponent, rest = split_bfloat16(weight)
    coded = huffman_encode(exponent)
    return struct.pack("<Q", len(coded)) + coded + rest.cpu().numpy().tobytes()


def decode_bfloat16(data: bytes, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `encode_bfloat16`, bit for bit.

    Raises CompressionError if the bytes do not fit the shape.
    """
    if len(data) < 8:
        raise CompressionError("data: truncated; encode the weights again.")
    size = struct.unpack_from("<Q", data)[0]
    exponent = huffman_decode(data[8 : 8 + size])
    rest = (
        torch.frombuffer(bytearray(data[8 + size :]), dtype=torch.uint8)
        if len(data) > 8 + size
        else torch.empty(0)
    )
    if not len(exponent) == len(rest) == int(np.prod(shape)):
        raise CompressionError(
            f"data: holds {len(exponent)} exponents and {len(rest)} mantissas, "
            f"not the shape {shape}."
        )
    return join_bfloat16(exponent, rest).reshape(shape)


def general_purpose(data: bytes, coder: str = "lzma") -> bytes:
    """`data` packed by a coder that knows nothing of numbers: 'zlib' (as in zip) or 'lzma' (as in
    xz).
    """
    if coder == "zlib":
        return zlib.compress(data, 9)
    if coder == "lzma":
        return lzma.compress(data, preset=6)
    raise CompressionError(f"coder={coder!r}: choose 'zlib' or 'lzma'.")
