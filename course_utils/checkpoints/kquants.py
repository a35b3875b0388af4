"""Two of llama.cpp's k-quants: blocks of 256 weights in which scales are quantized too.

Q4_K (4.5 bits a weight): 8 sub-blocks of 32, ŵ = d · sc · q − dmin · m with q in 4 bits, sc and m
in 6 bits, d and dmin in float16. Q6_K (6.5625 bits): 16 sub-blocks of 16, ŵ = d · sc · (q − 32)
with q in 6 bits, sc in 8 signed bits, d in float16.
llama.cpp searches scales with weights for each value; here each sub-block takes its min-max range.
The bytes mean the same.
"""

import numpy as np

from course_utils.errors import CompressionError

BLOCK = 256


def _blocks(weight: np.ndarray) -> np.ndarray:
    if weight.shape[-1] % BLOCK:
        raise CompressionError(
            f"weight: {weight.shape[-1]} inputs are no multiple of {BLOCK}, which k-quants need."
        )
    return weight.astype(np.float32).reshape(-1, BLOCK)


def _inverse(x: np.ndarray) -> np.ndarray:
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)


def _half(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X (blocks,) in float16: its two bytes, and its value."""
    half = x.astype(np.float16)
    return half.view(np.uint8).reshape(-1, 2), half.astype(np.float32)


def q4_k(weight: np.ndarray) -> np.ndarray:
    """Bytes (blocks, 144): d, dmin, twelve bytes of 6-bit scales and minima, 128 bytes of codes."""
    x = _blocks(weight).reshape(-1, 8, 32)
    low = np.minimum(x.min(-1), 0)
    scale, minimum = (x.max(-1).clip(min=0) - low) / 15, -low
    d_bytes, d = _half(scale.max(-1) / 63)
    m_bytes, dmin = _half(minimum.max(-1) / 63)
    sc = np.rint(scale * _inverse(d)[:, None]).clip(0, 63).astype(np.uint8)
    m = np.rint(minimum * _inverse(dmin)[:, None]).clip(0, 63).astype(np.uint8)
    step, offset = d[:, None] * sc, dmin[:, None] * m
    q = np.rint((x + offset[..., None]) * _inverse(step)[..., None]).clip(0, 15).astype(np.uint8)
    # bytes 0-3: low scales with the top two bits of the high ones; 4-7: minima likewise; 8-11: the
    # high ones' low nibbles
    packed = np.concatenate([
        sc[:, :4] | (sc[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6,
        (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4,
    ], axis=1)  # fmt: skip
    pairs = q.reshape(-1, 4, 2, 32)
    codes = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate([d_bytes, m_bytes, packed, codes], axis=1)


def q6_k(weight: np.ndarray) -> np.ndarray:
    """Bytes (blocks, 210): 128 of low nibbles, 64 of the codes' high two bits,
    sixteen scales, d.
    """
    x = _blocks(weight).reshape(-1, 16, 16)
    peak = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
    scale = peak / -32  # the largest magnitude becomes the code −32, which has no positive partner
    largest = np.take_along_axis(scale, np.abs(scale).argmax(-1)[:, None], -1)[:, 0]
    d_bytes, d = _half(largest / -128)
    sc = np.rint(scale * _inverse(d)[:, None]).clip(-128, 127)
    q = (
        (np.rint(x * _inverse(d[:, None] * sc)[..., None]).clip(-32, 31) + 32)
        .astype(np.uint8)
        .reshape(-1, 2, 4, 32)
    )
    low = (q[:, :, :2] & 15) | (q[:, :, 2:] & 15) << 4
    high = q >> 4
    top = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.concatenate([
        low.reshape(-1, 128), top.reshape(-1, 64), sc.astype(np.int8).view(np.uint8), d_bytes
    ], axis=1)  # fmt: skip


QUANTIZERS = {"Q4_K": q4_k, "Q6_K": q6_k}
