"""GPTQ step by step: Hessian, inverse factor, column update, a bound, the whole layer, packing, the
packed product.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.quantization.grids import scale_and_zero

from ..draws import pick, turn
from ..packed import (
    code_inputs,
    halves,
    neighbours,
    pack_int4,
    packed_linear,
    product_inputs,
    tiled,
    with_grid,
)


def correlated(rng: torch.Generator, tokens: int, inputs: int) -> Tensor:
    """Inputs (tokens, inputs) that depend strongly on each other, and are not centred on 0."""
    mix = torch.randn(inputs, inputs, generator=rng, dtype=torch.float64)
    return torch.randn(tokens, inputs, generator=rng, dtype=torch.float64) @ mix + 0.5


def damped_hessian(rng: torch.Generator, inputs: int) -> Tensor:
    x = correlated(rng, 6 * inputs, inputs)
    H = 2 / len(x) * x.T @ x
    return H + 0.05 * H.diagonal().mean() * torch.eye(inputs, dtype=H.dtype)


# --- the Hessian ---


def hessian(x: Tensor) -> Tensor:
    """H = (2/N) Σ_n x_n x_nᵀ."""
    H = x.new_zeros(x.shape[1], x.shape[1])
    for row in x:
        H += 2 / len(x) * torch.outer(row, row)
    return H


# --- the factor of its inverse ---


def inverse_cholesky(H: Tensor) -> Tensor:
    """U upper triangular with H⁻¹ = UᵀU."""
    return torch.linalg.cholesky(torch.linalg.inv(H), upper=True)


def positive_rows(given: dict, U: Tensor) -> Tensor:
    """What of a factor counts: −U and a row of −U are factors of the same product."""
    return U * torch.where(U.diagonal() < 0, -1.0, 1.0)[:, None]


def lower_factor(H: Tensor) -> Tensor:
    return inverse_cholesky(H).T.contiguous()


def factor_of_hessian(H: Tensor) -> Tensor:
    return torch.linalg.cholesky(H, upper=True)


def wrong_product(H: Tensor) -> Tensor:
    """U upper triangular with H⁻¹ = UUᵀ."""
    return torch.linalg.inv(torch.linalg.cholesky(H)).T.contiguous()


# --- one column ---


def column_inputs(rng: torch.Generator) -> dict:
    """Columns in the middle, the first and the last one; layers that are wide."""
    columns = turn(rng, 7, 19, 67, 8)
    weight = torch.randn(4, columns, generator=rng, dtype=torch.float64)
    i = turn(
        rng, int(torch.randint(1, columns - 2, (), generator=rng)), 0, columns // 2, columns - 1
    )
    quantized = (weight[:, i] / 0.6).round() * 0.6
    return {
        "weight": weight,
        "U": inverse_cholesky(damped_hessian(rng, columns)),
        "i": i,
        "quantized": quantized,
    }


def column_update(weight: Tensor, U: Tensor, i: int, quantized: Tensor) -> Tensor:
    """w_j ← w_j − (w_i − ŵ_i) / U_ii · U_ij for j > i; column i becomes ŵ_i."""
    moved = weight.clone()
    for row in range(weight.shape[0]):
        error = (weight[row, i] - quantized[row]) / U[i, i]
        for j in range(i + 1, weight.shape[1]):
            moved[row, j] = weight[row, j] - error * U[i, j]
        moved[row, i] = quantized[row]
    return moved


def moved_by(direction, *, start: int = 1, store: bool = True):
    """A wrong update: `direction(U, i)` is the row that the bare error is multiplied with."""

    def update(weight, U, i, quantized):
        moved = weight.clone()
        error = weight[:, i] - quantized
        moved[:, i + start :] -= torch.outer(error, direction(U, i)[i + start :])
        if store:
            moved[:, i] = quantized
        return moved

    return update


def all_columns(weight, U, i, quantized):
    inverse = U.T @ U
    return weight - torch.outer((weight[:, i] - quantized) / inverse[i, i], inverse[i])


def hessian_update(weight, U, i, quantized):
    H = torch.linalg.inv(U.T @ U)
    return moved_by(lambda U, i: H[i] / H[i, i])(weight, U, i, quantized)


def only_rounded(weight, U, i, quantized):
    moved = weight.clone()
    moved[:, i] = quantized
    return moved


# --- the whole layer ---


def quick_update(weight: Tensor, U: Tensor, i: int, quantized: Tensor) -> Tensor:
    """`column_update` for all rows at once."""
    return moved_by(lambda U, i: U[i] / U[i, i])(weight, U, i, quantized)


def layer_inputs(rng: torch.Generator) -> dict:
    """More columns than any block that an answer may contain, in every third trial."""
    columns, size = turn(rng, (16, 4), (40, 8), (133, 19), (16, 8), (15, 5), (132, 44))
    weight = torch.randn(6, columns, generator=rng, dtype=torch.float64)
    weight[0] = weight[0].abs() + 0.2
    return {
        "weight": weight,
        "H": damped_hessian(rng, columns),
        "bits": turn(rng, 3, 4, 2, 5, 4),
        "group_size": size,
    }


def quantize_layer(
    weight,
    H,
    bits,
    group_size,
    *,
    U=None,
    update=quick_update,
    fixed_scales=False,
    scales_once=False,
):
    """Walk the columns: a new grid where a group begins, round, let the later columns absorb the
    error.

    Returns codes (out, in), scale (out, groups), zero point (out, groups).
    """
    U = inverse_cholesky(H) if U is None else U
    W, codes = weight.clone(), torch.zeros(weight.shape, dtype=torch.uint8)
    scales, zeros = [], []
    for i in range(weight.shape[1]):
        if i % group_size == 0:
            group = (weight if fixed_scales else W)[:, i : i + group_size]
            if scales_once:
                group = weight
            scale, zero = scale_and_zero(group.amin(1), group.amax(1), bits, False)
            scales.append(scale)
            zeros.append(zero)
        q = ((W[:, i] / scale).round() + zero).clamp(0, 2**bits - 1)
        codes[:, i] = q.to(torch.uint8)
        W = update(W, U, i, scale * (q - zero))
    return codes, torch.stack(scales, 1), torch.stack(zeros, 1)


def with_update(update):
    return lambda **given: quantize_layer(**given, update=update)


def within(width: int | None):
    """Errors reach the columns of the same group, or of the same batch of `width` columns, and no
    others.
    """

    def layer(weight, H, bits, group_size):
        def update(W, U, i, quantized):
            end = (i // (width or group_size) + 1) * (width or group_size)
            return torch.cat([quick_update(W, U, i, quantized)[:, :end], W[:, end:]], 1)

        return quantize_layer(weight, H, bits, group_size, update=update)

    return layer


def across_groups(weight, H, bits, group_size):
    """Errors reach the columns of later groups only."""

    def update(W, U, i, quantized):
        end = (i // group_size + 1) * group_size
        moved = quick_update(W, U, i, quantized)
        moved[:, i + 1 : end] = W[:, i + 1 : end]
        return moved

    return quantize_layer(weight, H, bits, group_size, update=update)


# --- what can be promised ---


def promise_inputs(rng: torch.Generator) -> dict:
    return {"H": damped_hessian(rng, pick(rng, 3, 5, 7)), "step": pick(rng, 0.05, 0.3, 1.0, 1.5)}


def worst_case(H: Tensor, step: float) -> Tensor:
    """Σ_i (s/2)² / [H_F⁻¹]_ii with F = {i, i + 1, …}: no column is farther than half a step from
    its point.
    """
    total = H.new_zeros(())
    for i in range(len(H)):
        total += (step / 2) ** 2 / torch.linalg.inv(H[i:, i:])[0, 0]
    return total


EXERCISES = [
    Exercise(
        id="gptq.hessian",
        inputs=lambda rng: {"x": correlated(rng, turn(rng, 11, 37, 140), turn(rng, 5, 5, 17))},
        spec=hessian,
        lesson="3.2-gptq",
        kind="step",
        difficulty=1,
        minutes=5,
        mistakes={
            "not_divided": lambda x: 2 * x.T @ x,
            "two_forgotten": lambda x: x.T @ x / len(x),
            "factor_forgotten": lambda x: x.T @ x,
            "divided_by_inputs": lambda x: 2 * x.T @ x / x.shape[1],
            "divided_by_all": lambda x: 2 * x.T @ x / x.numel(),
            "tokens_by_tokens": lambda x: 2 * x @ x.T / len(x),
            "centred": lambda x: 2 * torch.cov(x.T, correction=0),
            "centred_unbiased": lambda x: 2 * torch.cov(x.T),
            "diagonal_only": lambda x: torch.diag(2 * x.square().mean(0)),
        },
    ),
    Exercise(
        id="gptq.inverse_cholesky",
        inputs=lambda rng: {"H": damped_hessian(rng, turn(rng, 6, 37, 13))},
        spec=inverse_cholesky,
        counts=positive_rows,
        lesson="3.2-gptq",
        kind="formula",
        difficulty=2,
        minutes=5,
        mistakes={
            "lower_factor": lower_factor,
            "hessian_not_inverse": factor_of_hessian,
            "lower_hessian_factor": lambda H: torch.linalg.cholesky(H),
            "product_reversed": wrong_product,
            "inverse_of_lower": lambda H: torch.linalg.inv(torch.linalg.cholesky(H)),
            "not_factored": lambda H: torch.linalg.inv(H),
        },
    ),
    Exercise(
        id="gptq.column_update",
        inputs=column_inputs,
        spec=column_update,
        lesson="3.2-gptq",
        trials=4,
        kind="debug",
        difficulty=2,
        minutes=8,
        mistakes={
            "not_divided": moved_by(lambda U, i: U[i]),
            "divided_twice": moved_by(lambda U, i: U[i] / U[i, i] ** 2),
            "divided_by_inverse": moved_by(lambda U, i: U[i] / (U.T @ U)[i, i]),
            "sign": moved_by(lambda U, i: -U[i] / U[i, i]),
            "hessian_not_inverse": hessian_update,
            "full_inverse_row": moved_by(lambda U, i: (U.T @ U)[i] / (U.T @ U)[i, i]),
            "earlier_columns_moved": all_columns,
            "only_rounded": only_rounded,
            "column_not_stored": moved_by(lambda U, i: U[i] / U[i, i], store=False),
            "one_column_late": moved_by(lambda U, i: U[i] / U[i, i], start=2),
        },
    ),
    Exercise(
        id="gptq.worst_case",
        inputs=promise_inputs,
        spec=worst_case,
        lesson="3.2-gptq",
        trials=5,
        kind="step",
        difficulty=3,
        minutes=10,
        mistakes={
            "whole_step": lambda H, step: worst_case(H, 2 * step),
            "mean": lambda H, step: worst_case(H, step) / 3,
            "half_of_it": lambda H, step: worst_case(H, step) / 2,
            "nobody_moves": lambda H, step: (step / 2) ** 2 * H.trace(),
            "whole_inverse": lambda H, step: (
                (step / 2) ** 2 / torch.linalg.inv(H).diagonal()
            ).sum(),
            "multiplied": lambda H, step: (
                (step / 2) ** 2 * inverse_cholesky(H).diagonal().square().sum()
            ),
            "factor_not_squared": lambda H, step: (
                (step / 2) ** 2 / inverse_cholesky(H).diagonal()
            ).sum(),
            "step_not_squared": lambda H, step: worst_case(H, step) / (step / 2),
            "root": lambda H, step: worst_case(H, step).sqrt(),
            "one_column": lambda H, step: (
                (step / 2) ** 2 / inverse_cholesky(H).diagonal().square()
            ).max(),
        },
    ),
    Exercise(
        id="gptq.quantize_layer",
        inputs=layer_inputs,
        spec=quantize_layer,
        lesson="lab-3.1-gptq",
        trials=6,
        mistakes={
            "no_update": with_update(only_rounded),
            "scales_from_the_start": lambda **given: quantize_layer(**given, fixed_scales=True),
            "one_scale_a_row": lambda **given: quantize_layer(**given, scales_once=True),
            "hessian_not_inverse": lambda **given: quantize_layer(
                **given, U=factor_of_hessian(given["H"])
            ),
            "not_divided": with_update(moved_by(lambda U, i: U[i])),
            "sign": with_update(moved_by(lambda U, i: -U[i] / U[i, i])),
            "within_groups": within(None),
            "across_groups": across_groups,
            "lazy_batch": within(32),
        },
    ),
    Exercise(
        id="gptq.pack_int4",
        inputs=code_inputs,
        spec=pack_int4,
        lesson="lab-3.1-gptq",
        mistakes={
            "nibbles_swapped": lambda codes: (codes[:, ::2] << 4) | codes[:, 1::2],
            "halves": halves,
            "not_shifted": lambda codes: codes[:, ::2] | codes[:, 1::2],
            "three_bits": lambda codes: codes[:, ::2] | (codes[:, 1::2] << 3),
            "not_packed": lambda codes: codes,
            "as_int8": lambda codes: pack_int4(codes).to(torch.int8),
            "rows_paired": lambda codes: codes[:-1:2] | (codes[1::2] << 4),
        },
        properties={"bytes": lambda inputs, result: result.dtype == torch.uint8},
    ),
    Exercise(
        id="gptq.packed_linear",
        inputs=product_inputs,
        spec=packed_linear,
        lesson="lab-3.1-gptq",
        mistakes={
            "nibbles_swapped": lambda **given: packed_linear(**given, high_first=True),
            "groups_tiled": with_grid(tiled, lambda q, s, z: s * (q - z)),
            "zero_forgotten": with_grid(neighbours, lambda q, s, z: s * q),
            "zero_added": with_grid(neighbours, lambda q, s, z: s * (q + z)),
            "zero_outside": with_grid(neighbours, lambda q, s, z: s * q - z),
            "divided": with_grid(neighbours, lambda q, s, z: (q - z) / s),
        },
    ),
]
