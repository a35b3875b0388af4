"""Lesson 5.5: intensity, where bytes stop to count, times from turns, a latency table, weights as
conductances.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn
from ._to_target import TO_TARGET

LESSON = "5.5-hardware-aware"

# --- intensity ---


def layers(rng: torch.Generator) -> dict:
    """Layers of unlike sides, groups that do not divide the columns, several tokens."""
    return {
        "rows": pick(rng, 24, 40, 96), "columns": pick(rng, 50, 70, 130),
        "tokens": turn(rng, 3, 8, 17), "bits": pick(rng, 3, 4, 8),
        "group_size": pick(rng, 16, 32, 64),
    }  # fmt: skip


def intensity(rows: int, columns: int, tokens: int, bits: int, group_size: int) -> float:
    """2 · rows · columns · tokens over bytes: codes, 2 for the scale of each group (the last of a
    row may be short), float32 in and out.
    """
    codes, scales = rows * columns * bits / 8, 2 * rows * math.ceil(columns / group_size)
    return 2 * rows * columns * tokens / (codes + scales + 4 * tokens * (rows + columns))


def intensity_with(ops=lambda r, c, t: 2 * r * c * t, codes=lambda r, c, t, b: r * c * b / 8,
                   scales=lambda r, c, g: 2 * r * math.ceil(c / g),
                   moved=lambda r, c, t: 4 * t * (r + c)):  # fmt: skip
    def answer(rows, columns, tokens, bits, group_size):
        return ops(rows, columns, tokens) / (
            codes(rows, columns, tokens, bits)
            + scales(rows, columns, group_size)
            + moved(rows, columns, tokens)
        )

    return answer


# --- where bytes stop to count ---


def machines(rng: torch.Generator) -> dict:
    """Every third machine is so poor in bandwidth that inputs and outputs alone hold it up."""
    rows, columns = pick(rng, 64, 96, 256), pick(rng, 64, 160, 512)
    bandwidth = 1e9 * pick(rng, 20, 30, 50)
    # the intensity of a layer that has no weights to read
    most = rows * columns / (2 * (rows + columns))
    share = turn(rng, 0.13, 0.61, 1.4) * (1 + 0.2 * float(torch.rand((), generator=rng)))
    return {
        "rows": rows,
        "columns": columns,
        "bits": pick(rng, 3, 4, 8),
        "peak": bandwidth * most * share,
        "bandwidth": bandwidth,
    }


def enough_tokens(rows: int, columns: int, bits: int, peak: float, bandwidth: float) -> int:
    """The fewest tokens with operations / peak ≥ bytes / bandwidth, codes and float32 inputs and
    outputs counted; 0 where there are none.
    """
    gain = 2 * rows * columns / peak - 4 * (rows + columns) / bandwidth  # seconds a token
    return 0 if gain <= 0 else math.ceil(rows * columns * bits / 8 / bandwidth / gain)


def tokens_with(ops=2.0, moved=4.0, width=lambda b: b / 8, up=math.ceil, never=0):
    def answer(rows, columns, bits, peak, bandwidth):
        gain = ops * rows * columns / peak - moved * (rows + columns) / bandwidth
        if gain <= 0 and never is not None:
            return never
        return up(rows * columns * width(bits) / bandwidth / gain) if gain else 0

    return answer


# --- times from turns ---


def turns(rng: torch.Generator) -> dict:
    """Jobs measured in turns of many calls, some of them disturbed; and a call of nothing, measured
    alike.
    """
    names = ("wide", "narrow", "head")[: turn(rng, 2, 3)]
    empty = [
        2e-7 * (1 + float(torch.rand((), generator=rng)) + 3 * pick(rng, 0, 0, 1)) for _ in range(4)
    ]
    times, calls = {}, {}
    for name in names:
        true, calls[name] = (
            1e-6 * (2 + 5 * float(torch.rand((), generator=rng))),
            pick(rng, 20, 50, 300),
        )
        slow = [
            1 + 0.3 * float(torch.rand((), generator=rng)) + pick(rng, 0, 0, 2.5) for _ in range(5)
        ]
        slow[0] += 1.5
        times[name] = [calls[name] * true * s for s in slow]
    return {"turns": times, "calls": calls, "empty": empty}


def times(turns: dict, calls: dict, empty: list) -> dict:
    """{name: seconds of one call}: the best turn, divided by its calls, less the best call of
    nothing.
    """
    return {name: min(found) / calls[name] - min(empty) for name, found in turns.items()}


def times_with(best=min, each=True, less=min, whole=False):
    def answer(turns, calls, empty):
        found = {}
        for name, taken in turns.items():
            off = less(empty) if less else 0.0
            n = calls[name] if each else len(taken)
            found[name] = (best(taken) - off) / n if whole else best(taken) / n - off
        return found

    return answer


def mean(values) -> float:
    return sum(values) / len(values)


def median(values) -> float:
    return sorted(values)[len(values) // 2]


# --- a latency table ---


def tables(rng: torch.Generator) -> dict:
    """Times that climb in steps; widths of a model between the measured ones, on them, and some of
    them several times.
    """
    measured = sorted({pick(rng, 64, 80, 96), pick(rng, 128, 160), pick(rng, 256, 288), 384, 512})
    seconds, now = {}, 1.0
    for width in measured:
        now += 0.2 + 2 * float(torch.rand((), generator=rng))
        seconds[width] = round(now, 3)
    low = measured[0] - 10
    between = [int(torch.randint(low, 512, (), generator=rng)) for _ in range(4)]
    widths = [*between, pick(rng, *measured), between[0]]
    return {
        "widths": widths,
        "measured": dict(reversed(seconds.items())),
        "rest": round(0.5 + float(torch.rand((), generator=rng)), 3),
    }


def forecast(widths: list[int], measured: dict[int, float], rest: float) -> float:
    """Rest + Σ over layers of the time of the smallest measured width that is at least as large."""
    return rest + sum(measured[min(m for m in measured if m >= w)] for w in widths)


def between(w: int, measured: dict) -> float:
    low, high = (
        max((m for m in measured if m <= w), default=None),
        min(m for m in measured if m >= w),
    )
    if low is None or low == high:
        return measured[high]
    return measured[low] + (measured[high] - measured[low]) * (w - low) / (high - low)


def forecast_with(of, every=list, share=1.0):
    return lambda widths, measured, rest: sum(of(w, measured) for w in every(widths)) + share * rest


def upward(w: int, measured: dict) -> float:
    return measured[min(m for m in measured if m >= w)]


FORECAST_MISTAKES = {
    "interpolated": forecast_with(between),
    "nearest": forecast_with(lambda w, m: m[min(m, key=lambda x: abs(x - w))]),
    "next_smaller": forecast_with(lambda w, m: m[max((x for x in m if x <= w), default=min(m))]),
    "in_proportion": forecast_with(lambda w, m: m[max(m)] * w / max(m)),
    "strictly_larger": forecast_with(lambda w, m: m[min((x for x in m if x > w), default=max(m))]),
    "each_once": forecast_with(upward, set),
    "rest_forgotten": forecast_with(upward, share=0.0),
}

# --- weights as conductances ---


def cells(rng: torch.Generator) -> dict:
    """Outputs of unlike size and sign; in some the largest weight is negative, one is all zeros
    every third time.
    """
    rows, columns = pick(rng, 3, 4), pick(rng, 5, 6, 7)
    weight = (
        torch.randn(rows, columns, generator=rng, dtype=torch.float64)
        * torch.tensor([0.1, 1.0, 8.0, 2.0], dtype=torch.float64)[:rows, None]
    )
    weight[1, 0] = -1.3 * weight[1].abs().max()
    if turn(rng, 0, 1, 0):
        weight[2] = 0
    return {"weight": weight, "levels": turn(rng, 4, 8, 16)}


def read_back(weight: Tensor, levels: int) -> Tensor:
    """ŵ = (g₊ − g₋) · top / (levels − 1) with whole g = 0 … levels − 1 and top = max|w| of the
    output; one of the two g is 0.
    """
    top = weight.abs().amax(1, keepdim=True)
    step = torch.where(top > 0, top, 1.0) / (levels - 1)
    return (weight.clamp(min=0) / step).round() * step - (
        weight.clamp(max=0).neg() / step
    ).round() * step


def cells_with(
    top=lambda w: w.abs().amax(1, keepdim=True),
    steps=lambda n: n - 1,
    near=torch.round,
    negative=True,
    scaled=True,
):
    def answer(weight, levels):
        high = torch.as_tensor(top(weight), dtype=weight.dtype)
        step = torch.where(high > 0, high, 1.0) / steps(levels)
        g = near(weight.abs() / step).clamp(max=levels - 1)
        sign = weight.sign() if negative else (weight > 0).to(weight.dtype)
        return sign * g * (step if scaled else 1.0)

    return answer


EXERCISES = [
    Exercise(
        "hardware.intensity", layers, intensity,
        {
            "one_operation": intensity_with(ops=lambda r, c, t: r * c * t),
            "one_token": intensity_with(ops=lambda r, c, t: 2 * r * c),
            "no_inputs": intensity_with(moved=lambda r, c, t: 0),
            "no_scales": intensity_with(scales=lambda r, c, g: 0),
            "bits_as_bytes": intensity_with(codes=lambda r, c, t, b: r * c * b),
            "weights_each_token": intensity_with(codes=lambda r, c, t, b: r * c * b / 8 * t),
            "one_input": intensity_with(moved=lambda r, c, t: 4 * (r + c)),
            "whole_groups": intensity_with(scales=lambda r, c, g: 2 * r * (c // g)),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=5, trials=6,
    ),
    Exercise(
        "hardware.enough_tokens", machines, enough_tokens,
        {
            "no_inputs": tokens_with(moved=0.0),
            "one_operation": tokens_with(ops=1.0),
            "always_32": tokens_with(width=lambda b: 4),
            "bits_as_bytes": tokens_with(width=lambda b: b),
            "rounded_down": tokens_with(up=math.floor),
            "not_never": tokens_with(never=None),
        },
        lesson=LESSON, kind="decide", difficulty=3, minutes=7, trials=9,
    ),
    Exercise(
        "hardware.times", turns, times,
        {
            "mean": times_with(best=mean), "median": times_with(best=median),
            "slowest": times_with(best=max),
            "first": times_with(best=lambda v: v[0]),
            "by_turns": times_with(each=False), "nothing_taken_off": times_with(less=None),
            "taken_off_once": times_with(whole=True), "mean_of_nothing": times_with(less=mean),
            "as_given": times_with(best=mean, each=False, less=None),
        },
        lesson=LESSON, kind="debug", difficulty=1, minutes=5, trials=6,
    ),
    Exercise("hardware.forecast", tables, forecast, FORECAST_MISTAKES, lesson=LESSON, kind="decide",
             difficulty=2, minutes=5, trials=9),
    TO_TARGET,
    Exercise(
        "hardware.read_back", cells, read_back,
        {
            "one_range": cells_with(top=lambda w: w.abs().max().expand(len(w), 1)),
            "range_of_inputs": cells_with(top=lambda w: w.abs().amax(0, keepdim=True).expand_as(w)),
            "range_without_sign": cells_with(top=lambda w: w.amax(1, keepdim=True).clamp(min=0)),
            "levels_as_steps": cells_with(steps=lambda n: n),
            "both_signs_share": cells_with(steps=lambda n: (n - 1) / 2),
            "rounded_down": cells_with(near=torch.floor),
            "one_conductance": cells_with(negative=False),
            "not_scaled_back": cells_with(scaled=False),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=6, trials=6,
    ),
]  # fmt: skip
