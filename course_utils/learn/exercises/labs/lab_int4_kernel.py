"""Lab 5.1: the layout of 4-bit weights, and the bytes that a product reads.

The kernels are judged by `learn.native`.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

LAB = "lab-5.1-int4-kernel"


def layout_inputs(rng: torch.Generator) -> dict:
    """Odd and even numbers of columns, whole groups and short ones; many rows, many columns, many
    groups in turn.
    """
    rows, columns, group = turn(
        rng,
        (131, 33, 16),
        (3, 16 * 131 + 5, 16),
        (5, 96, 32),
        (2, 321, 64),
        (4, 64 + 17, 64),
        (7, 50, 16),
    )
    groups = -(-columns // group)
    return {
        "codes": torch.randint(256, (rows, -(-columns // 2)), generator=rng, dtype=torch.uint8),
        "columns": columns,
        "scale": torch.rand(rows, groups, generator=rng, dtype=torch.float64) + 0.1,
        "zero": torch.randint(16, (rows, groups), generator=rng, dtype=torch.uint8),
        "group": group,
    }


def unpack(codes: Tensor, columns: int, scale: Tensor, zero: Tensor, group: int) -> Tensor:
    """w[r, j] = scale[r, g] (q[r, j] − zero[r, g]) with g = j // group; of two columns the even one
    has the low four bits.
    """
    q = torch.stack((codes & 15, codes >> 4), -1).flatten(1)[:, :columns].to(scale.dtype)
    of = torch.arange(columns) // group
    return scale[:, of] * (q - zero[:, of].to(scale.dtype))


def unpack_with(change=lambda q: q, at=lambda z: z, places=None):
    """The weights with one thing wrong."""

    def answer(codes, columns, scale, zero, group):
        given = torch.stack((codes & 15, codes >> 4), -1)
        q = (given if places is None else places(given)).flatten(1)[:, :columns].to(scale.dtype)
        of = torch.arange(columns) // group
        return scale[:, of] * (change(q) - at(zero[:, of].to(scale.dtype)))

    return answer


def equal_groups(codes, columns, scale, zero, group):
    """All groups of one length."""
    q = torch.stack((codes & 15, codes >> 4), -1).flatten(1)[:, :columns].to(scale.dtype)
    of = torch.arange(columns) * scale.shape[1] // columns
    return scale[:, of] * (q - zero[:, of].to(scale.dtype))


def bytes_inputs(rng: torch.Generator) -> dict:
    """Odd columns with a short group, even ones with a short group, whole groups."""
    group = pick(rng, 16, 32, 64)
    whole = group * int(torch.randint(3, 40, (), generator=rng))
    columns = whole + turn(rng, 2 * pick(rng, 1, 3) + 1, 2 * pick(rng, 1, 3), 0)
    return {
        "rows": int(torch.randint(140, 5000, (), generator=rng)),
        "columns": columns,
        "group": group,
    }


def product_bytes(rows: int, columns: int, group: int) -> int:
    """Rows · (⌈columns / 2⌉ of codes + 5 ⌈columns / group⌉ of scales and zero points)."""
    return rows * (-(-columns // 2) + 5 * -(-columns // group))


def bytes_with(code=lambda n: -(-n // 2), groups=lambda n, group: -(-n // group), each=5):
    return lambda rows, columns, group: rows * (code(columns) + each * groups(columns, group))


EXERCISES = [
    Exercise(
        "lab_int4_kernel.unpack",
        layout_inputs,
        unpack,
        {
            "swapped": unpack_with(places=lambda pairs: pairs.flip(-1)),
            "halves": unpack_with(places=lambda pairs: pairs.transpose(1, 2)),
            "no_zero": unpack_with(at=lambda z: 0 * z),
            "zero_eight": unpack_with(at=lambda z: 0 * z + 8),
            "zero_added": unpack_with(at=lambda z: -z),
            "zero_not_scaled": lambda codes, columns, scale, zero, group: (
                unpack(codes, columns, scale, zero, group)
                + (scale - 1)[:, torch.arange(columns) // group]
                * zero[:, torch.arange(columns) // group].to(scale.dtype)
            ),
            "signed": unpack_with(change=lambda q: torch.where(q > 7, q - 16, q)),
            "equal_groups": equal_groups,
        },
        lesson=LAB,
        trials=6,
    ),
    Exercise(
        "lab_int4_kernel.product_bytes",
        bytes_inputs,
        product_bytes,
        {
            "code_in_a_byte": bytes_with(code=lambda n: n),
            "cut_off": bytes_with(code=lambda n: n // 2),
            "short_group": bytes_with(groups=lambda n, group: n // group),
            "both_cut_off": bytes_with(code=lambda n: n // 2, groups=lambda n, group: n // group),
            "codes_only": bytes_with(each=0),
            "no_zero": bytes_with(each=4),
            "zero_as_float": bytes_with(each=8),
        },
        lesson=LAB,
        trials=6,
    ),
]
