"""Lab 1.1: scale and zero point, codes, and back."""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import turn


def rows_of_all_kinds(rng: torch.Generator) -> Tensor:
    """Ordinary rows after one that is positive, one negative, one constant, one of zeros; some are
    long, or many.
    """
    weight = torch.randn(
        *turn(rng, (6, 9), (6, 37), (137, 2), (6, 263)), generator=rng, dtype=torch.float64
    )
    weight[0], weight[1] = weight[0].abs() + 0.5, -weight[1].abs() - 0.5
    weight[2], weight[3] = weight[2, 0].abs() + 0.1, 0.0
    return weight


def grid_inputs(rng: torch.Generator) -> dict:
    return {"weight": rows_of_all_kinds(rng), "bits": turn(rng, 8, 3, 4, 5, 6, 2)}


def scale_zero(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """S = (max(w, 0) − min(w, 0)) / (2^b − 1), z = round(−min(w, 0) / s) for each row; s = 1 for a
    row of zeros.
    """
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, (-low / scale).round()


def unguarded(weight, bits):
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round()


def inverted(weight, bits):
    scale, zero = scale_zero(weight, bits)
    return 1 / scale, zero


def inverted_throughout(weight, bits):
    scale, _ = scale_zero(weight, bits)
    return 1 / scale, (-weight.amin(1).clamp(max=0) * scale).round()


def unrounded(weight, bits):
    scale, _ = scale_zero(weight, bits)
    return scale, -weight.amin(1).clamp(max=0) / scale


def one_step_more(weight, bits):
    scale = scale_zero(weight, bits)[0] * (2**bits - 1) / 2**bits
    scale[weight.eq(0).all(1)] = 1
    return scale, (-weight.amin(1).clamp(max=0) / scale).round()


def not_widened(weight, bits):
    scale = (weight.amax(1) - weight.amin(1)) / (2**bits - 1)
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, (-weight.amin(1) / scale).round()


def negative_zero_point(weight, bits):
    scale, zero = scale_zero(weight, bits)
    return scale, -zero


def whole_matrix(weight, bits):
    scale, zero = scale_zero(weight.reshape(1, -1), bits)
    return scale.expand(len(weight)), zero.expand(len(weight))


def symmetric(weight, bits):
    scale = weight.abs().amax(1) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, torch.full_like(scale, 2 ** (bits - 1))


def code_inputs(rng: torch.Generator) -> dict:
    """A grid that ends below the largest weights and above the smallest, so that some codes must be
    clamped.
    """
    weight, bits = rows_of_all_kinds(rng), turn(rng, 7, 8, 3, 2, 5, 4)
    weight = weight[(weight != weight[:, :1]).any(1)]  # a row of one number fills no grid
    scale, _ = scale_zero(weight, bits)
    scale = 0.8 * scale
    zero = (-weight.amin(1).clamp(max=0) / scale).round()
    return {"weight": weight, "scale": scale, "zero": (zero - 1).clamp(min=0), "bits": bits}


def codes(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Q = clamp(round(w / s) + z, 0, 2^b − 1), an integer tensor."""
    return unclamped(weight, scale, zero, bits).clamp(0, 2**bits - 1)


def unclamped(weight, scale, zero, bits):
    return ((weight / scale[:, None]).round() + zero[:, None]).long()


def signed(weight, scale, zero, bits):
    return unclamped(weight, scale, zero, bits).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def between(values: Tensor, bits: int) -> Tensor:
    return values.clamp(0, 2**bits - 1).long()


def back_inputs(rng: torch.Generator) -> dict:
    given = grid_inputs(rng)
    scale, zero = scale_zero(**given)
    return {
        "codes": codes(given["weight"], scale, zero, given["bits"]).to(torch.uint8),
        "scale": scale,
        "zero": zero,
    }


def weights(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """ŵ = s (q − z)."""
    return scale[:, None] * (codes.to(scale.dtype) - zero[:, None])


EXERCISES = [
    Exercise(
        id="lab_quantize.scale_zero",
        inputs=grid_inputs,
        spec=scale_zero,
        lesson="lab-1.1-first-compression",
        trials=6,
        mistakes={
            "scale_inverted": inverted_throughout,
            "scale_inverted_at_the_end": inverted,
            "zero_unrounded": unrounded,
            "one_step_more": one_step_more,
            "range_without_zero": not_widened,
            "zero_sign": negative_zero_point,
            "zero_is_minimum": lambda weight, bits: (
                scale_zero(weight, bits)[0],
                weight.amin(1).clamp(max=0),
            ),
            "zero_truncated": lambda weight, bits: (
                scale_zero(weight, bits)[0],
                unrounded(weight, bits)[1].floor(),
            ),
            "zero_rounded_up": lambda weight, bits: (
                scale_zero(weight, bits)[0],
                unrounded(weight, bits)[1].ceil(),
            ),
            "whole_matrix": whole_matrix,
            "symmetric": symmetric,
            "row_of_zeros": unguarded,
        },
    ),
    Exercise(
        id="lab_quantize.quantize",
        inputs=code_inputs,
        spec=codes,
        lesson="lab-1.1-first-compression",
        trials=6,
        mistakes={
            "multiplied": lambda weight, scale, zero, bits: between(
                (weight * scale[:, None]).round() + zero[:, None], bits
            ),
            "zero_subtracted": lambda weight, scale, zero, bits: between(
                (weight / scale[:, None]).round() - zero[:, None], bits
            ),
            "zero_forgotten": lambda weight, scale, zero, bits: between(
                (weight / scale[:, None]).round(), bits
            ),
            "truncated": lambda weight, scale, zero, bits: between(
                (weight / scale[:, None]).trunc() + zero[:, None], bits
            ),
            "floored": lambda weight, scale, zero, bits: between(
                (weight / scale[:, None]).floor() + zero[:, None], bits
            ),
            "signed_range": signed,
            "one_code_more": lambda weight, scale, zero, bits: unclamped(
                weight, scale, zero, bits
            ).clamp(0, 2**bits),
            "clamped_too_early": lambda weight, scale, zero, bits: (
                between((weight / scale[:, None]).round(), bits) + zero[:, None].long()
            ),
        },
        properties={
            "not_clamped": lambda inputs, result: bool(
                ((result.double() >= 0) & (result.double() < 2 ** inputs["bits"])).all()
            ),
        },
    ),
    Exercise(
        id="lab_quantize.dequantize",
        inputs=back_inputs,
        spec=weights,
        lesson="lab-1.1-first-compression",
        trials=4,
        mistakes={
            "zero_added": lambda codes, scale, zero: scale[:, None] * (codes + zero[:, None]),
            "zero_outside": lambda codes, scale, zero: scale[:, None] * codes - zero[:, None],
            "zero_point_as_offset": lambda codes, scale, zero: (
                scale[:, None] * codes + zero[:, None]
            ),
            "zero_forgotten": lambda codes, scale, zero: scale[:, None] * codes,
            "divided": lambda codes, scale, zero: (codes - zero[:, None]) / scale[:, None],
        },
    ),
]
