"""Right and wrong answers to the exercises of lab 5.1 that are functions in Python; its kernels:
tests/common/kernel_attacks.py.
"""

import math

import torch

# --- the layout ---


def in_loops(codes, columns, scale, zero, group):
    weight = torch.zeros(len(codes), columns, dtype=scale.dtype)
    for r, row in enumerate(codes.tolist()):
        for j in range(columns):
            q = row[j // 2] // 16 if j % 2 else row[j // 2] % 16
            weight[r, j] = float(scale[r, j // group]) * (q - int(zero[r, j // group]))
    return weight


def in_two_halves(codes, columns, scale, zero, group):
    q = torch.zeros(len(codes), 2 * codes.shape[1], dtype=scale.dtype)
    q[:, 0::2] = (codes % 16).to(scale.dtype)
    q[:, 1::2] = (codes // 16).to(scale.dtype)
    s, z = (t.repeat_interleave(group, 1)[:, :columns].to(scale.dtype) for t in (scale, zero))
    return (q[:, :columns] - z) * s


def by_group(codes, columns, scale, zero, group):
    shift = torch.tensor([0, 4], dtype=torch.uint8)
    q = ((codes[:, :, None] >> shift) & 15).reshape(len(codes), -1)[:, :columns]
    parts = [
        s * (part.double() - z)
        for part, s, z in zip(
            q.split(group, 1), scale.split(1, 1), zero.double().split(1, 1), strict=True
        )
    ]
    return torch.cat(parts, 1)


def laid(order=(0, 4), at=lambda z: z, signed=False):
    def answer(codes, columns, scale, zero, group):
        q = (
            torch.stack([codes >> by & 15 for by in order], 2)
            .reshape(len(codes), -1)[:, :columns]
            .double()
        )
        q = (q + 8) % 16 - 8 if signed else q
        s, z = (t.double().repeat_interleave(group, 1)[:, :columns] for t in (scale, zero))
        return s * q - s * at(z)

    return answer


def in_halves(codes, columns, scale, zero, group):
    q = torch.cat([codes & 15, codes >> 4], 1)[:, :columns].double()
    s, z = (t.double().repeat_interleave(group, 1)[:, :columns] for t in (scale, zero))
    return s * (q - z)


def unscaled_zero(codes, columns, scale, zero, group):
    q = torch.stack([codes & 15, codes >> 4], 2).reshape(len(codes), -1)[:, :columns].double()
    s, z = (t.double().repeat_interleave(group, 1)[:, :columns] for t in (scale, zero))
    return s * q - z


def without_last(codes, columns, scale, zero, group):
    weight = in_two_halves(codes, columns, scale, zero, group)
    weight[:, columns // group * group :] = 0
    return weight


def cut_evenly(codes, columns, scale, zero, group):
    """As many columns in every group."""
    weight, groups = (
        in_loops(codes, columns, torch.ones_like(scale), torch.zeros_like(zero), group),
        scale.shape[1],
    )
    for j in range(columns):
        g = int(j / columns * groups + 1e-9)
        weight[:, j] = scale[:, g] * (weight[:, j] - zero[:, g])
    return weight


# --- bytes ---


def row_by_row(rows, columns, group):
    return sum(
        (columns + 1) // 2 + 4 * math.ceil(columns / group) + math.ceil(columns / group)
        for _ in range(rows)
    )


def in_floats(rows, columns, group):
    groups = math.ceil(columns / group)
    return float(rows * math.ceil(columns / 2) + rows * groups * 4 + rows * groups)


def by_remainder(rows, columns, group):
    codes = columns // 2 + columns % 2
    groups = columns // group + (columns % group > 0)
    return rows * codes + 5 * rows * groups


RIGHT = {
    "lab_int4_kernel.unpack": [in_loops, in_two_halves, by_group, laid()],
    "lab_int4_kernel.product_bytes": [row_by_row, in_floats, by_remainder],
}
WRONG = {
    "lab_int4_kernel.unpack": [
        (laid(order=(4, 0)), "swapped"),
        (in_halves, "halves"),
        (laid(at=lambda z: 0 * z), "no_zero"),
        (laid(at=lambda z: torch.full_like(z, 8)), "zero_eight"),
        (laid(at=lambda z: -z), "zero_added"),
        (unscaled_zero, "zero_not_scaled"),
        (laid(signed=True), "signed"),
        (cut_evenly, "equal_groups"),
        (without_last, None),
        (
            lambda codes, columns, scale, zero, group: (
                in_two_halves(codes, columns, scale, zero, group).T
            ),
            None,
        ),
    ],
    "lab_int4_kernel.product_bytes": [
        (
            lambda rows, columns, group: rows * columns + 5 * rows * math.ceil(columns / group),
            "code_in_a_byte",
        ),
        (
            lambda rows, columns, group: (
                rows * (columns // 2) + 5 * rows * math.ceil(columns / group)
            ),
            "cut_off",
        ),
        (
            lambda rows, columns, group: rows * ((columns + 1) // 2 + columns // group * 5),
            "short_group",
        ),
        (lambda rows, columns, group: rows * (columns // 2 + columns // group * 5), "both_cut_off"),
        (lambda rows, columns, group: rows * ((columns + 1) // 2), "codes_only"),
        (
            lambda rows, columns, group: (
                rows * ((columns + 1) // 2 + 4 * math.ceil(columns / group))
            ),
            "no_zero",
        ),
        (
            lambda rows, columns, group: (
                rows * ((columns + 1) // 2 + 8 * math.ceil(columns / group))
            ),
            "zero_as_float",
        ),
        (lambda rows, columns, group: rows * columns * 4, None),
    ],
}
