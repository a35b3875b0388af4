"""Lab 4.1: water-filling for a covariance, a walk with fixed steps and no limits, an encoder and a
decoder of rANS.
"""

import itertools
import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.theory import coding

from ..draws import pick, turn, until

LAB = "lab-4.1-rate-distortion"

# --- water-filling ---


def covariance_inputs(rng: torch.Generator) -> dict:
    """Correlated numbers; in some draws they follow from fewer than there are, so that some
    directions have no variance.
    """
    n = turn(rng, pick(rng, 3, 4, 6), pick(rng, 3, 5, 9), 137)
    known = turn(rng, 3 * n, n - 1, 3 * n)
    x = torch.randn(known, n, generator=rng, dtype=torch.float64)
    x = x * 10 ** (torch.rand(n, generator=rng, dtype=torch.float64) - 0.5)
    x = x + 2 * torch.randn(known, 1, generator=rng, dtype=torch.float64)
    return {"covariance": x.T @ x / known, "bits": turn(rng, 0.3, 1.5, 0.8)}


def water_fill(covariance: Tensor, bits: float) -> float:
    """(1/n) Σ min(θ, λ_i) over the eigenvalues, θ such that Σ max(0, ½ log₂ λ_i/θ) = n · bits."""
    parts = torch.linalg.eigvalsh(covariance).tolist()
    low, high = 0.0, max(parts)
    for _ in range(100):
        level = (low + high) / 2
        rate = sum(0.5 * math.log2(v / level) for v in parts if v > level)
        low, high = (level, high) if rate > bits * len(parts) else (low, level)
    return sum(min(high, v) for v in parts) / len(parts)


def of_values(values, bits_of=lambda bits, n: bits):
    """Water-filling of other values than the eigenvalues, or at another rate."""
    return lambda covariance, bits: water_fill(
        torch.diag(values(covariance)), bits_of(bits, len(covariance))
    )


def _eigenvalues(covariance: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(covariance).clamp(min=0)


def level_only(covariance, bits):
    """θ itself: the distortion of the largest eigenvalue, which lies above the water."""
    values = _eigenvalues(covariance)
    low, high = 0.0, float(values.max())
    for _ in range(100):
        level = (low + high) / 2
        rate = float((0.5 * torch.log2(values.clamp(min=1e-300) / level)).clamp(min=0).sum())
        low, high = (level, high) if rate > bits * len(values) else (low, level)
    return high


def geometric(covariance, bits):
    return float(_eigenvalues(covariance).clamp(min=1e-300).log().mean().exp() * 4**-bits)


# --- the walk ---


def walk_inputs(rng: torch.Generator) -> dict:
    """Inputs that go together, steps that differ, a few weights far outside."""
    rows, columns = turn(rng, (4, 6), (5, 9), (7, 12), (131, 139))
    x = torch.randn(4 * columns, columns, generator=rng, dtype=torch.float64)
    x = x + torch.randn(4 * columns, 1, generator=rng, dtype=torch.float64)
    H = 2 / len(x) * x.T @ x
    weight = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    far = int(torch.randint(rows, (), generator=rng)), pick(rng, 0, 2, columns - 1)
    weight[far] = (200 + 200 * torch.rand((), generator=rng, dtype=torch.float64)) * weight[
        far
    ].sign()
    steps = 0.2 + torch.rand(columns, generator=rng, dtype=torch.float64)
    return {
        "weight": weight,
        "H": H + 0.02 * torch.eye(columns, dtype=torch.float64),
        "steps": steps,
    }


def walk(weight: Tensor, H: Tensor, steps: Tensor) -> Tensor:
    """q_i = round(w_i / Δ_i), e = (w_i − Δ_i q_i) / U_ii, w_j ← w_j − e U_ij for j > i, with H⁻¹ =
    UᵀU.
    """
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    left, codes = weight.clone(), []
    for i in range(weight.shape[1]):
        code = torch.round(left[:, i] / steps[i])
        error = (left[:, i] - steps[i] * code) / U[i, i]
        left = left - torch.outer(error, U[i])
        codes.append(code)
    return torch.stack(codes, 1).to(torch.int64)


def _factor(H: Tensor) -> Tensor:
    return torch.linalg.cholesky(torch.linalg.inv(H), upper=True)


def walk_with(
    factor=_factor, of=lambda steps: steps, whole=torch.round, divide=True, sign=1.0, in_steps=False
):
    """The walk with another factor, other steps or rounding, another divisor, direction or unit of
    the error.
    """

    def answer(weight, H, steps):
        U, left, codes, steps = factor(H), weight.clone(), [], of(steps)
        for i in range(weight.shape[1]):
            q = whole(left[:, i] / steps[i])
            error = left[:, i] / steps[i] - q if in_steps else left[:, i] - steps[i] * q
            left[:, i + 1 :] -= sign * torch.outer(
                error / U[i, i] if divide else error, U[i, i + 1 :]
            )
            codes.append(q)
        return torch.stack(codes, 1).to(torch.int64)

    return answer


# --- encoder and decoder ---


def symbols_inputs(rng: torch.Generator) -> dict:
    """Frequent and rare symbols, some that never occur; in one draw of three a single symbol has
    nearly everything.
    """
    kinds, count = turn(rng, (pick(rng, 2, 5), 90), (pick(rng, 9, 17), 40), (149, 301))
    weights = torch.rand(kinds, generator=rng) ** 3 + 0.01
    weights[int(torch.randint(kinds, (), generator=rng))] += turn(rng, 0.5, 30.0, 1.0)
    symbols = torch.multinomial(weights, count, replacement=True, generator=rng)
    symbols[-1] = kinds - 1  # the order can be seen at its end
    counts = torch.bincount(symbols, minlength=kinds + pick(rng, 0, 1)).numpy()
    return {"symbols": symbols, "frequencies": torch.from_numpy(coding.frequencies(counts))}


def encode(symbols: Tensor, frequencies: Tensor) -> Tensor:
    """The stream (uint8): the last symbol is pushed first; 4 bytes of the state, then the words in
    reading order.
    """
    f = frequencies.tolist()
    starts = [0, *itertools.accumulate(f)]
    x, words = 2**16, []
    for s in reversed(symbols.tolist()):
        if x >= f[s] << 18:
            words.append(x & 0xFFFF)
            x >>= 16
        x = x // f[s] * 2**14 + x % f[s] + starts[s]
    return as_bytes([x & 0xFFFF, x >> 16, *reversed(words)])


def as_bytes(words: list[int]) -> Tensor:
    return torch.tensor(
        [byte for word in words for byte in (word & 255, word >> 8)], dtype=torch.uint8
    )


def encode_with(forward=False, start=True, state=True, turned=True, big=False, precision=14):
    """The encoder with one thing wrong."""

    def answer(symbols, frequencies):
        f = frequencies.tolist()
        starts = [0, *itertools.accumulate(f)] if start else [0] * (len(f) + 1)
        x, words, listed = 2**16, [], symbols.tolist()
        for s in listed if forward else reversed(listed):
            if x >= f[s] << 18:
                words.append(x & 0xFFFF)
                x >>= 16
            x = x // f[s] * 2**precision + x % f[s] + starts[s]
        head = [x & 0xFFFF, x >> 16 & 0xFFFF] if state else []
        stream = as_bytes([*head, *(reversed(words) if turned else words)])
        return stream.view(-1, 2).flip(1).flatten() if big else stream

    return answer


def stream_of(symbols: Tensor, frequencies: Tensor) -> dict:
    return {
        "stream": encode(symbols, frequencies),
        "frequencies": frequencies,
        "count": len(symbols),
    }


def stream_inputs(rng: torch.Generator) -> dict:
    """One in which some slot is the first of its symbol."""
    edge = decode_with(next_symbol=True)
    return until(
        rng,
        lambda rng: stream_of(**symbols_inputs(rng)),
        lambda given: not torch.equal(edge(**given), decode(**given)),
    )


def decode(stream: Tensor, frequencies: Tensor, count: int) -> Tensor:
    """S is where x mod M falls, x ← f_s ⌊x/M⌋ + (x mod M) − c_s;
    below 2^16 the next word is read.
    """
    f, data = frequencies.tolist(), stream.tolist()
    starts = [0, *itertools.accumulate(f)]
    words = [data[i] + 256 * data[i + 1] for i in range(0, len(data), 2)]
    x, at, found = words[0] + 2**16 * words[1], 2, []
    for _ in range(count):
        slot = x % 2**14
        s = max(k for k in range(len(f)) if starts[k] <= slot)
        x = f[s] * (x // 2**14) + slot - starts[s]
        if x < 2**16:
            x = x * 2**16 + words[at]
            at += 1
        found.append(s)
    return torch.tensor(found)


def decode_with(
    refill=True,
    subtract=True,
    multiply=True,
    big=False,
    backwards=False,
    high_first=False,
    next_symbol=False,
):
    """The decoder with one thing wrong; past the end it reads zeros."""

    def answer(stream, frequencies, count):
        f, data = frequencies.tolist(), stream.tolist()
        ends = list(itertools.accumulate(f))
        words = [
            data[i] * (256 if big else 1) + data[i + 1] * (1 if big else 256)
            for i in range(0, len(data), 2)
        ]
        words += [0] * count
        x = words[0] << 16 | words[1] if high_first else words[1] << 16 | words[0]
        at, found = 2, []
        for _ in range(count):
            slot = x & 0x3FFF
            s = next(
                (k for k, end in enumerate(ends) if (end >= slot if next_symbol else end > slot)),
                len(f) - 1,
            )
            x = (f[s] if multiply else 1) * (x >> 14) + slot - (ends[s] - f[s] if subtract else 0)
            if refill and x < 1 << 16:
                x, at = x << 16 | words[at], at + 1
            found.append(s)
        return torch.tensor(found[::-1] if backwards else found)

    return answer


EXERCISES = [
    Exercise(
        id="lab_rate.water_fill",
        inputs=covariance_inputs,
        spec=water_fill,
        lesson=LAB,
        tolerance=1e-5,
        trials=6,
        mistakes={
            "diagonal": of_values(lambda C: C.diagonal()),
            "deviations": of_values(lambda C: _eigenvalues(C).sqrt()),
            "negative_rates": geometric,
            "nats": of_values(_eigenvalues, lambda bits, n: bits / math.log(2)),
            "half_forgotten": of_values(_eigenvalues, lambda bits, n: bits / 2),
            "total_bits": of_values(_eigenvalues, lambda bits, n: bits / n),
            "sum_of_errors": lambda covariance, bits: (
                len(covariance) * water_fill(covariance, bits)
            ),
            "level": level_only,
            "equal_rates": lambda covariance, bits: float(covariance.diagonal().mean() * 4**-bits),
        },
    ),
    Exercise(
        id="lab_rate.walk",
        inputs=walk_inputs,
        spec=walk,
        lesson=LAB,
        trials=4,
        mistakes={
            "rounding": lambda weight, H, steps: torch.round(weight / steps).to(torch.int64),
            "one_step": walk_with(of=lambda steps: steps[:1].expand(len(steps))),
            "limited": walk_with(whole=lambda r: r.round().clamp(-8, 7)),
            "hessian": walk_with(factor=lambda H: torch.linalg.cholesky(H, upper=True)),
            "not_divided": walk_with(divide=False),
            "wrong_way": walk_with(sign=-1.0),
            "whole_inverse": walk_with(factor=torch.linalg.inv),
            "cut_off": walk_with(whole=torch.trunc),
            "error_in_steps": walk_with(in_steps=True),
        },
    ),
    Exercise(
        id="lab_rate.encode",
        inputs=symbols_inputs,
        spec=encode,
        lesson=LAB,
        tolerance=0,
        trials=6,
        mistakes={
            "forward": encode_with(forward=True),
            "words_not_turned": encode_with(turned=False),
            "start_forgotten": encode_with(start=False),
            "state_missing": encode_with(state=False),
            "big_endian": encode_with(big=True),
            "other_precision": encode_with(precision=15),
        },
    ),
    Exercise(
        id="lab_rate.decode",
        inputs=stream_inputs,
        spec=decode,
        lesson=LAB,
        tolerance=0,
        trials=6,
        mistakes={
            "backwards": decode_with(backwards=True),
            "no_words": decode_with(refill=False),
            "start_not_taken": decode_with(subtract=False),
            "frequency_forgotten": decode_with(multiply=False),
            "big_endian": decode_with(big=True),
            "high_word_first": decode_with(high_first=True),
            "next_symbol": decode_with(next_symbol=True),
        },
    ),
]
