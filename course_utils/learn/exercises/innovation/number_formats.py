"""Lesson 5.2: the values of a small float format, posits, streams of bits, a block of MXFP4, the
cheapest format.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.quantization import value_tables

from ..draws import pick, turn
from ._own_format import OWN

LESSON = "5.2-number-formats"

# --- the values of a small float format ---


def sizes(rng: torch.Generator) -> dict:
    exponent, mantissa = turn(rng, (2, 1), (3, 2), (2, 3), (4, 3), (3, 0))
    return {"exponent": exponent, "mantissa": mantissa}


def grid(exponent: int, mantissa: int) -> list[float]:
    """0 and every positive number of a sign, `exponent` and `mantissa` bits, ascending; no
    infinity, no NaN, bias 2^(e−1) − 1.
    """
    bias, found = 2 ** (exponent - 1) - 1, []
    for E in range(2**exponent):
        for M in range(2**mantissa):
            fraction = M / 2**mantissa
            found.append(
                2.0 ** (E - bias) * (1 + fraction) if E > 0 else 2.0 ** (1 - bias) * fraction
            )
    return found  # patterns are in the order of their numbers


def grid_with(
    bias=lambda e: 2 ** (e - 1) - 1,
    last=0,
    hidden_at_zero=False,
    subnormal_power=1,
    with_zero=True,
    signed=False,
):
    def answer(exponent, mantissa):
        b, found = bias(exponent), []
        for E in range(2**exponent - last):
            for M in range(2**mantissa):
                f = M / 2**mantissa
                value = (
                    2.0 ** (E - b) * (1 + f)
                    if E > 0 or hidden_at_zero
                    else 2.0 ** (subnormal_power - b) * f
                )
                found += [value, -value] if signed and value else [value]
        return sorted(v for v in found if v or with_zero)

    return answer


# --- one posit ---


def pattern(rng: torch.Generator) -> dict:
    """Runs of every length, patterns that end within the regime or the exponent, both signs; never
    zero or NaR.
    """
    bits = pick(rng, 6, 8, 8, 11, 16)
    run, ones = int(torch.randint(1, min(bits - 1, 6), (), generator=rng)), turn(rng, 1, 0)
    body = (
        f"{ones}" * run
        + f"{1 - ones}"
        + "".join(str(int(torch.randint(2, (), generator=rng))) for _ in range(bits))
    )[: bits - 1]
    body = body if "1" in body else body[:-1] + "1"
    code = int(body, 2)
    return {
        "pattern": format((1 << bits) - code if turn(rng, 0, 1, every=2) else code, f"0{bits}b")
    }


def posit_value(pattern: str) -> float:
    """(−1)^s 16^r 2^e (1 + f), the standard of 2022; a negative pattern is first negated as a two's
    complement number.
    """
    bits, code, sign = len(pattern), int(pattern, 2), 1
    if pattern[0] == "1":
        code, sign = 2**bits - code, -1
    body = format(code, f"0{bits}b")[1:]
    run = len(body) - len(body.lstrip(body[0]))
    regime = run - 1 if body[0] == "1" else -run
    rest = body[run + 1 :]
    exponent = int((rest + "00")[:2], 2)
    fraction = int(rest[2:] or "0", 2) / 2 ** len(rest[2:])
    return sign * 16.0**regime * 2.0**exponent * (1 + fraction)


def posit_with(
    negate=True,
    ones=lambda run: run - 1,
    padded=True,
    base=16.0,
    hidden=1.0,
    exponent_bits=2,
    zeros=lambda run: -run,
):
    def answer(pattern):
        bits, code = len(pattern), int(pattern, 2)
        sign = -1 if pattern[0] == "1" else 1
        code = 2**bits - code if sign < 0 and negate else code
        body = format(code, f"0{bits}b")[1:]
        run = len(body) - len(body.lstrip(body[0]))
        regime = ones(run) if body[0] == "1" else zeros(run)
        rest, e = body[run + 1 :], exponent_bits
        exponent = int((rest + "0" * e)[:e] or "0", 2) if padded else int(rest[:e] or "0", 2)
        fraction = int(rest[e:] or "0", 2) / 2 ** len(rest[e:])
        return sign * base**regime * 2.0**exponent * (hidden + fraction)

    return answer


# --- the length of a stream ---


def products(rng: torch.Generator) -> dict:
    bipolar = turn(rng, False, True)
    x, y = (0.1 + 0.85 * float(torch.rand((), generator=rng)) for _ in range(2))
    if bipolar:
        x, y = x * pick(rng, 1, -1), y * pick(rng, 1, -1)
    return {"x": x, "y": y, "error": pick(rng, 0.05, 0.01, 1 / 128, 0.003), "bipolar": bipolar}


def stream_length(x: float, y: float, error: float, bipolar: bool) -> int:
    """The fewest bits whose product has a standard deviation of at most `error`."""
    product = x * y
    variance = 1 - product**2 if bipolar else product * (1 - product)
    return math.ceil(variance / error**2 - 1e-9)


def length_with(variance, up=math.ceil, power=2):
    return lambda x, y, error, bipolar: int(up(variance(x * y, x, y, bipolar) / error**power))


def right_variance(p, x, y, bipolar):
    return 1 - p * p if bipolar else p * (1 - p)


# --- a block of MXFP4 ---

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def block(rng: torch.Generator) -> dict:
    """Numbers of any size, no ties; the largest is sometimes above 6 scales, and sometimes a power
    of two.
    """
    x = torch.randn(32, generator=rng, dtype=torch.float64)
    top = turn(rng, 1.9, 1.2, 1.0, 1.6)
    place = int(torch.randint(32, (), generator=rng))
    x = x / x.abs().max() * 0.9 * top
    x[place] = -top if turn(rng, 0, 1, every=2) else top
    return {"block": x * 2.0 ** int(torch.randint(-6, 7, (), generator=rng))}


def mxfp4(block: Tensor) -> tuple[float, Tensor]:
    """(X, X · E2M1(block / X)), X = 2^(⌊log2 max|x|⌋ − 2); what is above 6 becomes 6."""
    scale = 2.0 ** (math.floor(math.log2(float(block.abs().max()))) - 2)
    values = [
        math.copysign(min(E2M1, key=lambda v: abs(v - min(abs(x) / scale, 6.0))), x)
        for x in block.tolist()
    ]  # noqa: B023
    return scale, scale * torch.tensor(values, dtype=torch.float64)


def mxfp4_with(
    power=lambda peak: math.floor(math.log2(peak)) - 2,
    table=E2M1,
    back=True,
    peak=lambda x: float(x.abs().max()),
):
    def answer(block):
        scale, levels = 2.0 ** power(peak(block)), torch.tensor(table, dtype=torch.float64)
        size = levels[((block / scale).abs()[:, None] - levels).abs().argmin(1)]
        return scale, block.sign() * size * (scale if back else 1.0)

    return answer


# --- the cheapest format that is good enough ---


def candidates(rng: torch.Generator) -> dict:
    """Five formats with errors of unlike sizes, in any order; neither the most nor the fewest bits
    need be best.

    One just reaches the target.
    """
    x = torch.randn(12, 20, generator=rng, dtype=torch.float64)
    x[0] *= 8.0
    names = [("A", "B", "C", "D", "E")[i] for i in torch.randperm(5, generator=rng).tolist()]
    bits = dict(zip(names, (8.25, 6.25, 4.5, 4.25, 3.25), strict=True))
    noise = {}
    for i, name in enumerate(names):
        goal = (
            30.0
            - 5.0 * i
            - 1.5 * float(torch.rand((), generator=rng))
            + 8.0 * (i == 1)
            + turn(rng, 0.0, 0.0, 8.0) * (i == 3)
        )
        e = torch.randn(12, 20, generator=rng, dtype=torch.float64)
        e[1:] *= turn(rng, 1.0, 3.0, 0.4)
        noise[name] = x + e * (x.square().sum() / e.square().sum()).sqrt() * 10 ** (-goal / 20)
    reached = value_tables.sqnr(x, noise[names[turn(rng, 1, 2, 3, 0)]])
    return {"x": x, "rounded": noise, "bits": bits, "target": reached - 1e-3}


def cheapest(x: Tensor, rounded: dict, bits: dict, target: float) -> tuple[str, float]:
    """The format of the fewest bits whose 10 log10(Σ x² / Σ (x − x̂)²) reaches the target, and its
    decibels.
    """
    db = {
        name: 10 * math.log10(float(x.square().sum() / (x - found).square().sum()))
        for name, found in rounded.items()
    }
    name = min((name for name in db if db[name] >= target), key=bits.__getitem__)
    return name, db[name]


def cheapest_with(decibels, choose=lambda good, bits, db: min(good, key=bits.__getitem__)):
    def answer(x, rounded, bits, target):
        db = {name: decibels(x, found) for name, found in rounded.items()}
        name = choose(
            [name for name in db if db[name] >= target] or [max(db, key=db.__getitem__)], bits, db
        )
        return name, db[name]

    return answer


def _db(x, found):
    return 10 * math.log10(float(x.square().sum() / (x - found).square().sum()))


EXERCISES = [
    Exercise(
        "number_formats.grid", sizes, grid,
        {
            "no_subnormals": grid_with(hidden_at_zero=True),
            "subnormal_power": grid_with(subnormal_power=0),
            "bias": grid_with(bias=lambda e: 2 ** (e - 1)),
            "reserved": grid_with(last=1),
            "no_zero": grid_with(with_zero=False),
            "signed": grid_with(signed=True),
        },
        lesson=LESSON, kind="formula", difficulty=1, minutes=4,
    ),
    Exercise(
        "number_formats.posit_value", pattern, posit_value,
        {
            "not_negated": posit_with(negate=False),
            "run_of_ones": posit_with(ones=lambda run: run),
            "run_of_zeros": posit_with(zeros=lambda run: 1 - run),
            "not_padded": posit_with(padded=False),
            "regime_of_two": posit_with(base=2.0),
            "no_hidden_one": posit_with(hidden=0.0),
            "other_es": posit_with(base=2.0, exponent_bits=0),
        },
        lesson=LESSON, kind="step", difficulty=3, minutes=9, trials=12, tolerance=0,
    ),
    Exercise(
        "number_formats.stream_length", products, stream_length,
        {
            "variance_for_deviation": length_with(right_variance, power=1),
            "unipolar_for_both": length_with(lambda p, x, y, bipolar: abs(p) * (1 - abs(p))),
            "bipolar_share": length_with(lambda p, x, y, bipolar:
                (1 - p * p) / 4 if bipolar else p * (1 - p)),
            "rounded_down": length_with(right_variance, up=math.floor),
            "of_one_stream": length_with(lambda p, x, y, bipolar:
                1 - x * x if bipolar else x * (1 - x)),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=5, trials=6,
    ),
    Exercise(
        "number_formats.mxfp4", block, mxfp4,
        {
            "no_e_max": mxfp4_with(power=lambda peak: math.floor(math.log2(peak))),
            "rounded_up": mxfp4_with(power=lambda peak: math.ceil(math.log2(peak)) - 2),
            "largest_without_sign": mxfp4_with(peak=lambda x: float(x.max())),
            "not_scaled_back": mxfp4_with(back=False),
            "even_steps": mxfp4_with(table=tuple(float(v) for v in range(8))),
            "as_given": mxfp4_with(power=lambda peak: math.ceil(math.log2(peak)), peak=lambda x:
                float(x.max()), back=False),
        },
        lesson=LESSON, kind="debug", difficulty=2, minutes=6, trials=8,
    ),
    Exercise(
        "number_formats.cheapest", candidates, cheapest,
        {
            "twenty": cheapest_with(lambda x, f: 2 * _db(x, f)),
            "ratio_of_norms": cheapest_with(lambda x, f: _db(x, f) / 2),
            "mean_of_rows": cheapest_with(lambda x, f: sum(map(_db, x, f)) / len(x)),
            "best_of_all": cheapest_with(_db, lambda good, bits, db: max(db, key=db.__getitem__)),
            "most_bits": cheapest_with(_db, lambda good, bits, db: max(good, key=bits.__getitem__)),
        },
        lesson=LESSON, kind="decide", difficulty=2, minutes=4, trials=12,
    ),
    OWN,
]  # fmt: skip
