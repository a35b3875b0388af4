"""Lesson 2.1: who shares a scale, a static range, the product of integers, the straight-through
gradient.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick

# --- scales of three granularities ---


def matrix_inputs(rng: torch.Generator) -> dict:
    """Rows and columns of different sizes; the largest magnitude is negative, and the matrix is not
    square.
    """
    x = torch.randn(5, 12, generator=rng, dtype=torch.float64)
    x = (
        x
        * torch.rand(5, 1, generator=rng, dtype=torch.float64).add(0.3)
        * torch.rand(12, generator=rng).add(0.3)
    )
    x[int(torch.randint(5, (), generator=rng)), int(torch.randint(12, (), generator=rng))] = -4.0
    return {"x": x, "bits": pick(rng, 3, 4, 5, 8), "group_size": pick(rng, 3, 4, 6)}


def scales(x: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """S = max|x| / (2^(b−1) − 1) over the matrix (1, 1), each row (rows, 1), each group of a row
    (rows, groups).
    """
    rows, columns = x.shape
    levels = 2 ** (bits - 1) - 1
    groups = torch.zeros(rows, columns // group_size, dtype=x.dtype)
    for r in range(rows):
        for g in range(columns // group_size):
            groups[r, g] = (
                max(abs(v) for v in x[r, g * group_size : (g + 1) * group_size].tolist()) / levels
            )
    row = groups.amax(1, keepdim=True)
    return row.amax(0, keepdim=True), row, groups


def scaled(formula, spread=lambda x, rows, size: x.reshape(rows, -1, size)):
    """A wrong answer: `formula(low, high, bits)` of each region's extremes; `spread` cuts rows into
    groups.
    """

    def answer(x, bits, group_size):
        regions = x.reshape(1, 1, -1), x.reshape(len(x), 1, -1), spread(x, len(x), group_size)
        return tuple(formula(r.amin(-1), r.amax(-1), bits) for r in regions)

    return answer


def symmetric(low: Tensor, high: Tensor, bits: int) -> Tensor:
    return torch.maximum(-low, high) / (2 ** (bits - 1) - 1)


def of_columns(x, bits, group_size):
    return (
        *scales(x, bits, group_size)[:1],
        scales(x.T, bits, len(x))[1].T,
        scales(x, bits, group_size)[2],
    )


def one_for_all(x, bits, group_size):
    whole, row, groups = scales(x, bits, group_size)
    return whole, whole.expand_as(row), whole.expand_as(groups)


# --- a static range ---


def batch_inputs(rng: torch.Generator) -> dict:
    """Batches of unlike ranges, all around 0; the widest is neither the first nor the last.

    Some are all below 1.
    """
    batches = [
        torch.randn(pick(rng, 3, 4, 6), 7, generator=rng, dtype=torch.float64) + 0.2
        for _ in range(4)
    ]
    for i, factor in enumerate((0.8, 2.5, 1.6, 0.5)):
        batches[i] = batches[i] * factor
        batches[i][0, :2] = torch.tensor([-1.1, 2.2], dtype=torch.float64) * factor
    size = pick(rng, 0.05, 1.0)
    return {"batches": [size * batch for batch in batches], "bits": pick(rng, 4, 6, 8)}


def static_grid(batches: list[Tensor], bits: int) -> tuple[float, float]:
    """S = (max − min) / (2^b − 1), z = round(−min / s) with the extremes of all batches."""
    low, high = 0.0, 0.0
    for batch in batches:
        for value in batch.flatten().tolist():
            low, high = min(low, value), max(high, value)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-low / scale)


def averaged(batches, bits):
    low = torch.stack([b.min() for b in batches]).mean()
    high = torch.stack([b.max() for b in batches]).mean()
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round()


def of_all(formula):
    """A wrong answer from the right range."""
    return lambda batches, bits: formula(
        min(float(b.min()) for b in batches), max(float(b.max()) for b in batches), bits
    )


def unrounded(low, high, bits):
    scale = (high - low) / (2**bits - 1)
    return scale, -low / scale


def one_step_more(low, high, bits):
    scale = (high - low) / 2**bits
    return scale, round(-low / scale)


def around_zero(low, high, bits):
    return max(-low, high) / (2 ** (bits - 1) - 1), 2 ** (bits - 1)


# --- a product of integers ---


def product_inputs(rng: torch.Generator) -> dict:
    """Token i with output i: the sum of integers is 0, and that of real numbers is 0 but for
    rounding, for i = 0, 1, 2.
    """
    tokens, columns, rows = pick(rng, 3, 5), pick(rng, 6, 9), 4
    given = drawn_product(rng, tokens, columns, rows)
    for i in range(3):
        a, b, x, y = torch.randint(2, 8, (4, columns // 3), generator=rng)
        for k, (inputs, weights) in enumerate(
            ((a, x), (-b, y), (-torch.ones_like(a), a * x - b * y))
        ):
            given["x_codes"][i, k::3], given["w_codes"][i, k::3] = (
                given["x_zero"][i] + inputs,
                weights,
            )
    return given


def drawn_product(rng: torch.Generator, tokens: int, columns: int, rows: int) -> dict:
    return {
        "x_codes": torch.randint(0, 256, (tokens, columns), generator=rng),
        "x_scale": torch.rand(tokens, 1, generator=rng, dtype=torch.float64) + 0.05,
        "x_zero": torch.randint(90, 170, (tokens, 1), generator=rng),
        "w_codes": torch.randint(-127, 128, (rows, columns), generator=rng),
        "w_scale": torch.rand(rows, 1, generator=rng, dtype=torch.float64) + 0.01,
    }  # fmt: skip


def integer_linear(
    x_codes: Tensor, x_scale: Tensor, x_zero: Tensor, w_codes: Tensor, w_scale: Tensor
) -> Tensor:
    """y_to = s_t s_o (Σ_i q_ti q_oi − z_t Σ_i q_oi)."""
    tokens, rows = len(x_codes), len(w_codes)
    y = torch.zeros(tokens, rows, dtype=x_scale.dtype)
    for t in range(tokens):
        for o in range(rows):
            total = int((x_codes[t] * w_codes[o]).sum()) - int(x_zero[t]) * int(w_codes[o].sum())
            y[t, o] = float(x_scale[t]) * float(w_scale[o]) * total
    return y


def with_sum(correction, scale=lambda x_scale, w_scale: x_scale * w_scale.T):
    """A wrong product: `correction(x_codes, x_zero, w_codes)` is added to the sum of integer
    products.
    """

    def product(x_codes, x_scale, x_zero, w_codes, w_scale):
        return scale(x_scale, w_scale) * (
            x_codes @ w_codes.T + correction(x_codes, x_zero, w_codes)
        )

    return product


def zero_where_the_integers_are(given: dict, result: Tensor) -> bool:
    """A sum of integers is exactly 0 or not; real numbers leave what rounding has left."""
    total = (given["x_codes"] - given["x_zero"]) @ given["w_codes"].T
    return bool((result[total == 0] == 0).all())


def right_sum(x_codes, x_zero, w_codes):
    return -x_zero * w_codes.sum(1)


# --- the straight-through gradient ---


def gradient_inputs(rng: torch.Generator) -> dict:
    """Weights inside the range and well outside of it:
    none within 0.6 of a step beyond either end.
    """
    bits = pick(rng, 2, 3, 4)
    zero = int(torch.randint(1, 2**bits - 1, (), generator=rng))
    top = 2**bits - 1 - zero
    place = torch.rand(4, 9, generator=rng, dtype=torch.float64) * (2**bits + 5) - zero - 3
    place = torch.where(place > top, place + 0.6, torch.where(place < -zero, place - 0.6, place))
    scale = float(torch.rand((), generator=rng)) * 0.4 + 0.1
    upstream = torch.randn(4, 9, generator=rng, dtype=torch.float64)
    return {"w": place * scale, "scale": scale, "zero": zero, "bits": bits, "upstream": upstream}


def ste_gradient(w: Tensor, scale: float, zero: int, bits: int, upstream: Tensor) -> Tensor:
    """dL/dw = dL/dŵ where 0 ≤ round(w/s) + z ≤ 2^b − 1, and 0 elsewhere."""
    gradient = torch.zeros_like(w)
    for r in range(w.shape[0]):
        for c in range(w.shape[1]):
            if 0 <= round(float(w[r, c]) / scale) + zero <= 2**bits - 1:
                gradient[r, c] = upstream[r, c]
    return gradient


def masked(keep, factor=lambda scale: 1.0):
    """A wrong gradient: passed where `keep(steps, zero, bits)` holds, steps = w / s, times a
    factor.
    """

    def gradient(w, scale, zero, bits, upstream):
        return torch.where(keep(w / scale, zero, bits), upstream, 0.0) * factor(scale)

    return gradient


def inside(steps: Tensor, zero: int, bits: int) -> Tensor:
    codes = steps.round() + zero
    return (codes >= 0) & (codes <= 2**bits - 1)


EXERCISES = [
    Exercise(
        id="granularity.scales", inputs=matrix_inputs, spec=scales, lesson="2.1-quantization",
        trials=6, kind="formula", difficulty=1, minutes=8,
        mistakes={
            "one_step_more": scaled(lambda low, high, bits:
                torch.maximum(-low, high) / 2 ** (bits - 1)),
            "all_levels": scaled(lambda low, high, bits: torch.maximum(-low, high) / (2**bits - 1)),
            "from_min_to_max": scaled(lambda low, high, bits: (high - low) / (2**bits - 1)),
            "sign_kept": scaled(lambda low, high, bits: high / (2 ** (bits - 1) - 1)),
            "inverted": scaled(lambda low, high, bits: 1 / symmetric(low, high, bits)),
            "of_columns": of_columns,
            "groups_strided": scaled(symmetric, lambda x, rows, size:
                x.reshape(rows, size, -1).transpose(1, 2)),
            "one_for_all": one_for_all,
        },
    ),
    Exercise(
        id="granularity.static_grid", inputs=batch_inputs, spec=static_grid,
        lesson="2.1-quantization", trials=12, kind="step", difficulty=1, minutes=8,
        mistakes={
            "last_batch": lambda batches, bits: static_grid(batches[-1:], bits),
            "first_batch": lambda batches, bits: static_grid(batches[:1], bits),
            "averaged": averaged,
            "zero_unrounded": of_all(unrounded),
            "zero_sign": of_all(lambda low, high, bits:
                (unrounded(low, high, bits)[0], -round(unrounded(low, high, bits)[1]))),
            "zero_is_minimum": of_all(lambda low, high, bits: (unrounded(low, high, bits)[0], low)),
            "zero_truncated": of_all(lambda low, high, bits:
                (unrounded(low, high, bits)[0], int(unrounded(low, high, bits)[1]))),
            "inverted": of_all(lambda low, high, bits:
                (1 / unrounded(low, high, bits)[0], round(unrounded(low, high, bits)[1]))),
            "one_step_more": of_all(one_step_more),
            "around_zero": of_all(around_zero),
        },
    ),
    Exercise(
        id="granularity.integer_linear", inputs=product_inputs, spec=integer_linear,
        lesson="2.1-quantization", kind="step", difficulty=2, minutes=12, trials=6,
        properties={"real_numbers": zero_where_the_integers_are},
        mistakes={
            "zero_forgotten": with_sum(lambda x, z, w: 0),
            "zero_added": with_sum(lambda x, z, w: z * w.sum(1)),
            "inputs_summed": with_sum(lambda x, z, w: -z * x.sum(1, keepdim=True)),
            "all_summed": with_sum(lambda x, z, w: -z * w.sum()),
            "zero_once": with_sum(lambda x, z, w: -z),
            "weight_scale_forgotten": with_sum(right_sum, lambda x_scale, w_scale: x_scale),
            "input_scale_forgotten": with_sum(right_sum, lambda x_scale, w_scale: w_scale.T),
            "divided": with_sum(right_sum, lambda x_scale, w_scale: 1 / (x_scale * w_scale.T)),
        },
    ),
    Exercise(
        id="granularity.ste_gradient", inputs=gradient_inputs, spec=ste_gradient,
        lesson="2.1-quantization", trials=6, kind="debug", difficulty=2, minutes=10,
        mistakes={
            "true_derivative": masked(lambda steps, zero, bits: torch.zeros_like(steps).bool()),
            "passed_everywhere": masked(lambda steps, zero, bits: torch.ones_like(steps).bool()),
            "outside": masked(lambda steps, zero, bits: ~inside(steps, zero, bits)),
            "zero_forgotten": masked(lambda steps, zero, bits: inside(steps, 0, bits)),
            "signed_range": masked(lambda steps, zero, bits: inside(steps, 2 ** (bits - 1), bits)),
            "upper_end_only": masked(lambda steps, zero, bits: steps.round() + zero <= 2**bits - 1),
            "times_scale": masked(inside, lambda scale: scale),
            "over_scale": masked(inside, lambda scale: 1 / scale),
        },
    ),
]  # fmt: skip
