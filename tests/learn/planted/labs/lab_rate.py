"""Right and wrong answers to the exercises of lab 4.1."""

import bisect
import math
import struct

import numpy as np
import torch

from course_utils.quantization import entropy_coded
from course_utils.theory import coding, rate_distortion

# --- water-filling ---


def fill_by_sorting(covariance, bits):
    """The number of directions above the water, tried from all down to one."""
    values = sorted(torch.linalg.eigvalsh(covariance).clamp(min=1e-300).tolist(), reverse=True)
    n = len(values)
    for k in range(n, 0, -1):
        level = math.exp(sum(map(math.log, values[:k])) / k) * 4 ** (-bits * n / k)
        if level <= values[k - 1]:
            break
    return (k * level + sum(values[k:])) / n


def fill_by_course(covariance, bits):
    """The course's water-filling asks for the distortion; halved until the rate is right."""
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    low, high = 0.0, float(values.sum())
    for _ in range(80):
        middle = (low + high) / 2
        rates, _ = rate_distortion.water_filling(values, middle)
        low, high = (middle, high) if float(rates.sum()) > bits * len(values) else (low, middle)
    return torch.tensor(high / len(values))


def fill_by_brent(covariance, bits):
    from scipy.optimize import brentq

    values = np.maximum(np.linalg.eigvalsh(covariance.numpy()), 1e-300)
    short = lambda t: np.maximum(0, 0.5 * np.log2(values / t)).sum() - bits * len(values)  # noqa: E731
    return float(
        np.minimum(brentq(short, 1e-200, values.max(), xtol=1e-15, rtol=1e-14), values).mean()
    )


def filled(values, rate):
    """Water-filling of given variances at a whole rate."""
    return fill_by_sorting(torch.diag(values), rate / len(values))


def spectrum(covariance):
    return torch.linalg.eigvalsh(covariance).clamp(min=0)


def water_level(covariance, bits):
    """The error of one more direction, which lies above the water."""
    values, n = spectrum(covariance), len(covariance)
    low, high = 0.0, float(values.max())
    for _ in range(90):
        level = 0.5 * (low + high)
        short = float(torch.log2(values[values > level] / level).sum()) > 2 * n * bits
        low, high = (level, high) if short else (low, level)
    return low


# --- the walk ---


def walk_by_course(weight, H, steps):
    return entropy_coded.walk_columns(weight, H, steps, damping=0.0)


def walk_by_remaining(weight, H, steps):
    """The inverse of what is left, made anew at every column."""
    left, codes = weight.clone(), torch.zeros_like(weight)
    for i in range(len(H)):
        inverse = torch.linalg.inv(H[i:, i:])
        codes[:, i] = (left[:, i] / steps[i]).round()
        error = (left[:, i] - codes[:, i] * steps[i]) / inverse[0, 0]
        left[:, i:] -= error[:, None] * inverse[0]
    return codes.long()


def walk_by_rows(weight, H, steps):
    """Row by row, in NumPy."""
    U = np.linalg.cholesky(np.linalg.inv(H.numpy())).T
    found = []
    for row in weight.numpy():
        row, codes = row.copy(), []
        for i, step in enumerate(steps.tolist()):
            codes.append(int(np.rint(row[i] / step)))
            row[i + 1 :] -= (row[i] - step * codes[-1]) / U[i, i] * U[i, i + 1 :]
        found.append(codes)
    return torch.tensor(found)


def walks(weight, H, steps, U=None, limit=1e9, unit=None, way=1, whole=torch.round, scaled=False):
    U = torch.linalg.cholesky(torch.linalg.inv(H)).T if U is None else U
    W, Q = weight.T.clone(), []
    for i, step in enumerate(steps):
        Q.append(whole(W[i] / step).clamp(-limit, limit - 1))
        e = (W[i] - step * Q[-1]) / (U[i, i] if unit is None else unit(i)) / (step if scaled else 1)
        W[i + 1 :] -= way * torch.outer(U[i, i + 1 :], e)
    return torch.stack(Q).T.long()


# --- encoder and decoder ---


def encode_by_course(symbols, frequencies):
    data = coding.encode(symbols.numpy(), frequencies.numpy(), lanes=1)
    return torch.tensor(list(data[struct.calcsize(coding.HEADER) :]), dtype=torch.uint8)


def encode_with_bits(symbols, frequencies):
    """Shifts and masks, bytes put before what is there."""
    ends = torch.cumsum(frequencies, 0)
    x, stream = 1 << 16, b""
    for s in symbols.flip(0).tolist():
        f, end = int(frequencies[s]), int(ends[s])
        if x >> 18 >= f:
            stream = struct.pack("<H", x & 0xFFFF) + stream
            x >>= 16
        whole, rest = divmod(x, f)
        x = (whole << 14) + rest + end - f
    return torch.frombuffer(bytearray(struct.pack("<I", x) + stream), dtype=torch.uint8)


def encode_in_numpy(symbols, frequencies):
    f = frequencies.numpy()
    starts = np.cumsum(f) - f
    x, words = 65536, []
    for s in symbols.numpy()[::-1]:
        while x >= int(f[s]) * 262144:
            words.insert(0, x % 65536)
            x //= 65536
        x = x // int(f[s]) * 16384 + x % int(f[s]) + int(starts[s])
    data = np.array([x % 65536, x // 65536, *words], dtype="<u2").tobytes()
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def streams(
    symbols, frequencies, order=-1, words_order=-1, shift=14, head=True, form="<H", starts=True
):
    f = [int(n) for n in frequencies]
    first = [sum(f[:k]) if starts else 0 for k in range(len(f))]
    x, words = 1 << 16, []
    for s in symbols.tolist()[::order]:
        if x >= f[s] << 18:
            words.append(x & 0xFFFF)
            x >>= 16
        x = (x // f[s] << shift) + x % f[s] + first[s]
    words = ([x & 0xFFFF, x >> 16 & 0xFFFF] if head else []) + words[::words_order]
    return torch.tensor([b for w in words for b in struct.pack(form, w)], dtype=torch.uint8)


def decode_by_course(stream, frequencies, count):
    """The header that `theory.coding` wants, with a checksum of what comes out."""
    first = decode_by_table(stream, frequencies, count)
    body = bytes(stream.tolist())
    head = struct.pack(coding.HEADER, count, len(body) // 2 - 2, 1, coding._checksum(first.numpy()))
    return torch.from_numpy(coding.decode(head + body, frequencies.numpy()))


def decode_by_table(stream, frequencies, count):
    symbol_of = torch.repeat_interleave(torch.arange(len(frequencies)), frequencies).tolist()
    ends = frequencies.cumsum(0).tolist()
    data = bytes(stream.tolist())
    (x,), words = (
        struct.unpack("<I", data[:4]),
        iter(struct.unpack(f"<{len(data) // 2 - 2}H", data[4:])),
    )
    found = []
    while len(found) < count:
        s = symbol_of[x & 16383]
        x = int(frequencies[s]) * (x >> 14) + (x & 16383) - ends[s] + int(frequencies[s])
        if x >> 16 == 0:
            x = x << 16 | next(words)
        found.append(s)
    return torch.tensor(found)


def decode_by_bisection(stream, frequencies, count):
    pairs = stream.long().view(-1, 2)
    words = (pairs[:, 0] + 256 * pairs[:, 1]).tolist()
    ends, f = np.cumsum(frequencies.numpy()).tolist(), frequencies.tolist()
    x, at, found = words[0] + 65536 * words[1], 2, torch.zeros(count, dtype=torch.long)
    for i in range(count):
        slot = x % 16384
        found[i] = s = bisect.bisect_right(ends, slot)
        x = f[s] * (x // 16384) + slot - (ends[s] - f[s])
        if x < 65536:
            x, at = x * 65536 + words[at], at + 1
    return found


def decodes(
    stream,
    frequencies,
    count,
    fill=True,
    low=0,
    times=True,
    order=1,
    head=1,
    find=bisect.bisect_right,
):
    """`low`: which byte of a pair is the low one; `head`: which of the first two words is the high
    one.
    """
    pairs = stream.long().view(-1, 2).tolist()
    words = [p[low] + 256 * p[1 - low] for p in pairs] + [0] * count
    ends, f = np.cumsum(frequencies.numpy()).tolist(), frequencies.tolist()
    x, at, found = words[1 - head] + 65536 * words[head], 2, []
    for _ in range(count):
        slot = x % 16384
        s = min(find(ends, slot), len(f) - 1)
        x = (f[s] if times else 1) * (x // 16384) + slot - (ends[s] - f[s])
        if fill and x < 65536:
            x, at = x * 65536 + words[at], at + 1
        found.append(s)
    return torch.tensor(found[::order])


def keeps_the_start(stream, frequencies, count):
    pairs = stream.long().view(-1, 2).tolist()
    words = [low + 256 * high for low, high in pairs] + [0] * count
    ends, x, at, found = np.cumsum(frequencies.numpy()).tolist(), words[0] + 65536 * words[1], 2, []
    for _ in range(count):
        found.append(bisect.bisect_right(ends, x % 16384))
        x = int(frequencies[found[-1]]) * (x // 16384) + x % 16384
        if x < 65536:
            x, at = x * 65536 + words[at], at + 1
    return torch.tensor(found)


RIGHT = {
    "lab_rate.water_fill": [fill_by_sorting, fill_by_course, fill_by_brent],
    "lab_rate.walk": [walk_by_course, walk_by_remaining, walk_by_rows, walks],
    "lab_rate.encode": [encode_by_course, encode_with_bits, encode_in_numpy, streams],
    "lab_rate.decode": [decode_by_table, decode_by_bisection, decode_by_course, decodes],
}
WRONG = {
    "lab_rate.water_fill": [
        (lambda covariance, bits: filled(covariance.diagonal(), bits * len(covariance)),
         "diagonal"),
        (lambda covariance, bits: filled(spectrum(covariance).sqrt(), bits * len(covariance)),
         "deviations"),
        (lambda covariance, bits:
            float(torch.exp(spectrum(covariance).clamp(min=1e-300).log().mean())) / 4**bits,
            "negative_rates"),
        (lambda covariance, bits:
            filled(spectrum(covariance), bits * len(covariance) / math.log(2)), "nats"),
        (lambda covariance, bits: filled(spectrum(covariance), bits * len(covariance) / 2),
         "half_forgotten"),
        (lambda covariance, bits: filled(spectrum(covariance), bits), "total_bits"),
        (lambda covariance, bits: fill_by_sorting(covariance, bits) * len(covariance),
         "sum_of_errors"),
        (lambda covariance, bits: float(covariance.trace()) / len(covariance) / 4**bits,
         "equal_rates"),
        (water_level, "level"),
        (lambda covariance, bits: 4**-bits, None),
        (lambda covariance, bits: float(spectrum(covariance).max()) / 4**bits, None),
    ],
    "lab_rate.walk": [
        (lambda weight, H, steps: (weight / steps).round().long(), "rounding"),
        (lambda weight, H, steps: walks(weight, H, [steps[0]] * len(steps)), "one_step"),
        (lambda weight, H, steps: walks(weight, H, steps, U=torch.linalg.cholesky(H).T), "hessian"),
        (lambda weight, H, steps: walks(weight, H, steps, unit=lambda i: 1), "not_divided"),
        (lambda weight, H, steps: walks(weight, H, steps, way=-1), "wrong_way"),
        (lambda weight, H, steps: walks(weight, H, steps, U=torch.linalg.inv(H)), "whole_inverse"),
        (lambda weight, H, steps: walks(weight, H, steps, limit=8), "limited"),
        (lambda weight, H, steps: walks(weight, H, steps, whole=torch.fix), "cut_off"),
        (lambda weight, H, steps: walks(weight, H, steps, scaled=True), "error_in_steps"),
        (lambda weight, H, steps: walks(weight, H, steps, limit=3), None),
        (lambda weight, H, steps: walks(weight, H, steps.flip(0)), None),
        (lambda weight, H, steps: walk_by_course(weight, H, steps) + 1, None),
        (lambda weight, H, steps: walk_by_course(weight, H, steps).clamp(-128, 127), None),
    ],
    "lab_rate.encode": [
        (lambda symbols, frequencies: streams(symbols, frequencies, order=1), "forward"),
        (lambda symbols, frequencies: streams(symbols, frequencies, words_order=1),
         "words_not_turned"),
        (lambda symbols, frequencies: streams(symbols, frequencies, starts=False),
         "start_forgotten"),
        (lambda symbols, frequencies: streams(symbols, frequencies, head=False), "state_missing"),
        (lambda symbols, frequencies: streams(symbols, frequencies, form=">H"), "big_endian"),
        (lambda symbols, frequencies: streams(symbols, frequencies, shift=15), "other_precision"),
        (lambda symbols, frequencies: symbols.to(torch.uint8), None),
        (lambda symbols, frequencies: streams(symbols, frequencies)[:-2], None),
    ],
    "lab_rate.decode": [
        (lambda stream, frequencies, count: decodes(stream, frequencies, count, order=-1),
         "backwards"),
        (lambda stream, frequencies, count: decodes(stream, frequencies, count, fill=False),
         "no_words"),
        (keeps_the_start, "start_not_taken"),
        (lambda stream, frequencies, count: decodes(stream, frequencies, count, times=False),
         "frequency_forgotten"),
        (lambda stream, frequencies, count: decodes(stream, frequencies, count, low=1),
         "big_endian"),
        (lambda stream, frequencies, count: decodes(stream, frequencies, count, head=0),
         "high_word_first"),
        (lambda stream, frequencies, count:
            decodes(stream, frequencies, count, find=bisect.bisect_left), "next_symbol"),
        (lambda stream, frequencies, count: torch.zeros(count, dtype=torch.int64), None),
        (lambda stream, frequencies, count: decodes(stream, frequencies, count - 1), None),
    ],
}  # fmt: skip
