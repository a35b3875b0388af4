"""Lab 2.1, first part: grids for a tensor, a row and a group, and wrong ones.

The exercises are in `lab_quantizer`.
"""

import torch
from torch import Tensor

from ..draws import turn, until

# --- one grid for a tensor ---


def tensor_inputs(rng: torch.Generator) -> dict:
    """Numbers on both sides of 0, more of them on the positive side.

    Now and then the largest code must be clamped.

    That is where −min/s and max/s are both halfway between an odd and an even number: both are
    rounded up. Elsewhere −min/s lies below the half, so that it is rounded down.
    """
    bits = turn(rng, 3, 4, 5, 8, every=2)
    x = (
        torch.randn(*turn(rng, (4, 7), (5, 263), (137, 3)), generator=rng, dtype=torch.float64)
        + 0.4
    )
    least, most = torch.randperm(x.numel(), generator=rng)[:2].tolist()
    if turn(rng, True, False):
        x = x.clamp(-1.6, 3.0)
        x.view(-1)[least] = -1.7
        x.view(-1)[most] = until(
            rng,
            lambda rng: 3.1 + float(torch.rand((), generator=rng)),
            lambda top: 0.05 < 1.7 * (2**bits - 1) / (1.7 + top) % 1 < 0.45,
        )
    else:
        x = x.clamp(-1.3, 2**bits - 2.8)
        x.view(-1)[least], x.view(-1)[most] = -1.5, 2**bits - 2.5
        x = x / 4
    return {"x": x, "bits": bits}


def affine(x: Tensor, bits: int) -> tuple[Tensor, float, int]:
    """Q = clamp(round(x/s) + z, 0, 2^b − 1), s = (max − min) / (2^b − 1), z = round(−min/s)."""
    low, high = min(x.flatten().tolist()), max(x.flatten().tolist())
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    codes = [min(max(round(v / scale) + zero, 0), 2**bits - 1) for v in x.flatten().tolist()]
    return torch.tensor(codes, dtype=torch.uint8).view_as(x), scale, zero


def mapped(formula, clamp=True):
    """A wrong map: `formula(x, low, high, top)` gives codes, scale, zero."""

    def answer(x, bits):
        top = 2**bits - 1
        codes, scale, zero = formula(x, x.min(), x.max(), top)
        codes = codes.round()
        return (
            (codes.clamp(0, top).to(torch.uint8) if clamp else codes.to(torch.int16)),
            scale,
            zero,
        )

    return answer


def even(low: Tensor, high: Tensor, steps: float) -> tuple[Tensor, Tensor]:
    scale = (high - low) / steps
    return scale, (-low / scale).round()


def zero_is_minimum(x, low, high, top):
    scale, _ = even(low, high, top)
    return (x - low) / scale, scale, low


def unrounded_zero(x, low, high, top):
    scale, _ = even(low, high, top)
    return (x / scale).round() - low / scale, scale, -low / scale


def negative_zero(x, low, high, top):
    scale, zero = even(low, high, top)
    return (x / scale).round() - zero, scale, -zero


def zero_forgotten(x, low, high, top):
    scale, zero = even(low, high, top)
    return x / scale, scale, zero


def from_minimum(x, low, high, top):
    scale, zero = even(low, high, top)
    return (x - low) / scale, scale, zero


def one_step_more(x, low, high, top):
    scale, zero = even(low, high, top + 1)
    return (x / scale).round() + zero, scale, zero


def truncated(x, low, high, top):
    scale, zero = even(low, high, top)
    return (x / scale).trunc() + zero, scale, zero


def unclamped(x, low, high, top):
    scale, zero = even(low, high, top)
    return (x / scale).round() + zero, scale, zero


def with_zero_by(rounding):
    def formula(x, low, high, top):
        scale, zero = even(low, high, top)[0], rounding(-low / even(low, high, top)[0])
        return (x / scale).round() + zero, scale, zero

    return formula


def inverted(x, low, high, top):
    scale, zero = even(low, high, top)
    return (x / scale).round() + zero, 1 / scale, zero


# --- a scale for each row, signed codes ---


def row_inputs(rng: torch.Generator) -> dict:
    """Rows of different sizes, one of them zero, a zero in the others too; the largest magnitudes
    are negative.
    """
    rows, columns = turn(rng, (5, 9), (7, 263), (137, 5))
    weight = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    weight = weight * (torch.rand(rows, 1, generator=rng, dtype=torch.float64) + 0.2)
    for row, order in zip(weight, torch.rand(rows, columns, generator=rng).argsort(1), strict=True):
        row[order[0]], row[order[1]] = -row.abs().max() - 0.3, 0
    weight[int(torch.randint(rows, (), generator=rng))] = 0
    return {"weight": weight, "bits": turn(rng, 8, 3, 4, 5)}


def per_channel(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Q = round(w/s) from −(2^(b−1) − 1) to 2^(b−1) − 1, s = max|w| / (2^(b−1) − 1) of each row; 1
    for a row of zeros.
    """
    top = 2 ** (bits - 1) - 1
    codes, scale = (
        torch.zeros(weight.shape, dtype=torch.int8),
        torch.ones(len(weight), 1, dtype=weight.dtype),
    )
    for r, row in enumerate(weight.tolist()):
        if any(row):
            scale[r] = max(abs(w) for w in row) / top
        codes[r] = torch.tensor([min(max(round(w / float(scale[r])), -top), top) for w in row])
    return codes, scale


def signed(scale_of, shift=lambda bits: 0):
    """Codes of the scale that `scale_of(weight, bits)` gives; a scale of 0 becomes 1."""

    def answer(weight, bits):
        scale, top = scale_of(weight, bits), 2 ** (bits - 1) - 1
        scale = torch.where(scale == 0, 1.0, scale)
        return (weight / scale).round().clamp(-top, top).add(shift(bits)).to(torch.int16), scale

    return answer


def largest(weight: Tensor) -> Tensor:
    return weight.abs().amax(1, keepdim=True)


def of_zeros(weight, bits):
    codes, scale = per_channel(weight, bits)
    return codes, largest(weight) / (2 ** (bits - 1) - 1)


# --- a grid for each group ---


def group_inputs(rng: torch.Generator) -> dict:
    """Groups on both sides of 0, above it, below it, one of zeros, and one whose largest code must
    be clamped.
    """
    (rows, groups, size), bits = (
        turn(rng, (3, 4, 4), (137, 4, 2), (3, 4, 263), (3, 137, 3)),
        turn(rng, 3, 4, 5),
    )
    weight = torch.randn(rows, groups, size, generator=rng, dtype=torch.float64)
    weight[0, 1], weight[1, 2] = weight[0, 1].abs() + 0.5, -weight[1, 2].abs() - 0.5
    weight[2, 3], weight[2, 2] = 0, 0.1
    weight[2, 2, :2] = torch.tensor([-1.5, 2**bits - 2.5])
    return {"weight": weight.flatten(1), "bits": bits, "group_size": size}


def per_group(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `affine`, for each run of group_size columns of a row, the range widened to contain 0; s =
    1 if it is only 0.
    """
    rows, columns = weight.shape
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    scale = torch.ones(rows, columns // group_size, dtype=weight.dtype)
    zero = torch.zeros_like(scale)
    for r in range(rows):
        for g in range(columns // group_size):
            place = slice(g * group_size, (g + 1) * group_size)
            group = weight[r, place].tolist()
            low, high = min(*group, 0.0), max(*group, 0.0)
            s = (high - low) / (2**bits - 1) or 1.0
            z = round(-low / s)
            codes[r, place] = torch.tensor(
                [min(max(round(w / s) + z, 0), 2**bits - 1) for w in group]
            )
            scale[r, g], zero[r, g] = s, z
    return codes, scale, zero


def grouped(formula, *, strided=False, whole_rows=False, guard=True, clamp=True):
    """A wrong answer: `formula(low, high, bits)` gives scale and zero point of each group."""

    def answer(weight, bits, group_size):
        rows, columns = weight.shape
        groups = columns // group_size
        index = torch.arange(columns) % groups if strided else torch.arange(columns) // group_size
        cut = torch.stack([weight[:, index == g] for g in range(groups)], 1)
        region = weight[:, None].expand(rows, groups, columns) if whole_rows else cut
        scale, zero = formula(region.amin(-1), region.amax(-1), bits)
        if guard:
            flat = (scale == 0) | scale.isnan()
            scale, zero = torch.where(flat, 1.0, scale), torch.where(flat, 0.0, zero)
        codes = ((weight / scale[:, index]).round() + zero[:, index]).nan_to_num().round()
        return (
            (codes.clamp(0, 2**bits - 1).to(torch.uint8) if clamp else codes.to(torch.int16)),
            scale,
            zero,
        )

    return answer


def with_zero(low, high, bits):
    return even(low.clamp(max=0), high.clamp(min=0), 2**bits - 1)


def without_zero(low, high, bits):
    return even(low, high, 2**bits - 1)


def zero_kept_real(low, high, bits):
    scale, _ = with_zero(low, high, bits)
    return scale, -low.clamp(max=0) / scale


def zero_cut_off(low, high, bits):
    scale, _ = with_zero(low, high, bits)
    return scale, (-low.clamp(max=0) / scale).floor()


def middle(low, high, bits):
    scale = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
    return scale, torch.full_like(scale, 2 ** (bits - 1))


def wide(low, high, bits):
    return even(low.clamp(max=0), high.clamp(min=0), 2**bits)
