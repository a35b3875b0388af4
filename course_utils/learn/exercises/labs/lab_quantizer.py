"""Lab 2.1: grids for a tensor, a row and a group; NF4; signed codes two in a byte."""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.quantization.formats import normal_float_values

from ..draws import turn
from ._quantizer_grids import (
    affine,
    from_minimum,
    group_inputs,
    grouped,
    inverted,
    largest,
    mapped,
    middle,
    negative_zero,
    of_zeros,
    one_step_more,
    per_channel,
    per_group,
    row_inputs,
    signed,
    tensor_inputs,
    truncated,
    unclamped,
    unrounded_zero,
    wide,
    with_zero,
    with_zero_by,
    without_zero,
    zero_cut_off,
    zero_forgotten,
    zero_is_minimum,
    zero_kept_real,
)

# --- NF4 ---


def block_inputs(rng: torch.Generator) -> dict:
    """Blocks of different sizes that do not end with the rows; one of zeros; largest magnitudes are
    negative.
    """
    block, blocks, rows = turn(rng, (8, 6, 4), (263, 4, 2), (4, 207, 138))
    x = torch.randn(blocks, block, generator=rng, dtype=torch.float64) * (
        torch.rand(blocks, 1, generator=rng, dtype=torch.float64) + 0.2
    )
    x[torch.arange(blocks), torch.randint(block, (blocks,), generator=rng)] = -x.abs().amax(1) - 0.1
    x[int(torch.randint(blocks, (), generator=rng))] = 0
    return {"weight": x.reshape(rows, -1), "table": normal_float_values(), "block_size": block}


def nf4_encode(weight: Tensor, table: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Row by row as one list: a = max|x| of a block, code = argmin_k |x/a − t_k|;
    (codes, absmax).
    """
    values, entries = weight.flatten().tolist(), table.tolist()
    codes, absmax = [], []
    for start in range(0, len(values), block_size):
        block = values[start : start + block_size]
        a = max(abs(v) for v in block)
        absmax.append(a)
        for v in block:
            unit = v / a if a else 0.0
            codes.append(min(range(len(entries)), key=lambda k: abs(unit - entries[k])))
    return torch.tensor(codes, dtype=torch.uint8), torch.tensor(absmax, dtype=weight.dtype)


def closest(unit: Tensor, table: Tensor) -> Tensor:
    return (unit.reshape(-1, 1) - table).abs().argmin(1).to(torch.uint8)


def blocked(scale_of, code=closest, cut=lambda w, size: w.reshape(-1, size)):
    """A wrong encoding: `scale_of(blocks, weight)` divides the blocks, `code(unit, table)` looks
    up.
    """

    def answer(weight, table, block_size):
        blocks = cut(weight, block_size)
        scale = scale_of(blocks, weight)
        unit = blocks / torch.where(scale == 0, 1.0, scale)
        return code(unit, table), scale.expand(len(blocks), 1)[:, 0]

    return answer


def block_max(blocks: Tensor, weight: Tensor) -> Tensor:
    return blocks.abs().amax(1, keepdim=True)


def not_scaled(weight, table, block_size):
    return closest(weight, table), nf4_encode(weight, table, block_size)[1]


def even_steps(unit: Tensor, table: Tensor) -> Tensor:
    return ((unit + 1) * 7.5).round().clamp(0, 15).flatten().to(torch.uint8)


def next_below(unit: Tensor, table: Tensor) -> Tensor:
    return (
        (torch.searchsorted(table, unit.flatten().contiguous(), right=True) - 1)
        .clamp(0, 15)
        .to(torch.uint8)
    )


def of_zero_blocks(weight, table, block_size):
    codes, absmax = nf4_encode(weight, table, block_size)
    return torch.where(absmax.repeat_interleave(block_size) == 0, 0, codes), absmax


def one_for_zeros(weight, table, block_size):
    codes, absmax = nf4_encode(weight, table, block_size)
    return codes, torch.where(absmax == 0, 1.0, absmax)


def decode_inputs(rng: torch.Generator) -> dict:
    given = block_inputs(rng)
    codes, absmax = nf4_encode(**given)
    return {
        "codes": codes, "absmax": absmax, "table": given["table"],
        "block_size": given["block_size"],
        "shape": tuple(given["weight"].shape),
    }  # fmt: skip


def nf4_decode(
    codes: Tensor, absmax: Tensor, table: Tensor, block_size: int, shape: tuple[int, int]
) -> Tensor:
    """x̂_i = absmax[⌊i / block⌋] · table[code_i], in the weight's shape."""
    values = [
        float(absmax[i // block_size]) * float(table[int(code)]) for i, code in enumerate(codes)
    ]
    return torch.tensor(values, dtype=absmax.dtype).view(shape)


def decoded(formula):
    def answer(codes, absmax, table, block_size, shape):
        return formula(table[codes.long()], absmax.repeat_interleave(block_size), codes).reshape(
            shape
        )

    return answer


# --- signed codes, two in a byte ---


def code_inputs(rng: torch.Generator) -> dict:
    shape = turn(rng, (3, 8), (2, 274), (137, 6))
    codes = torch.randint(-8, 8, shape, generator=rng, dtype=torch.int8)
    codes[0, :4] = torch.tensor([-1, 5, 3, -8])
    return {"codes": codes}


def pack(codes: Tensor) -> Tensor:
    """Byte k = (code 2k mod 16) + 16 · (code 2k + 1 mod 16)."""
    packed = torch.zeros(codes.shape[0], codes.shape[1] // 2, dtype=torch.uint8)
    for r in range(codes.shape[0]):
        for k in range(packed.shape[1]):
            packed[r, k] = int(codes[r, 2 * k]) % 16 + 16 * (int(codes[r, 2 * k + 1]) % 16)
    return packed


def joined(low: Tensor, high: Tensor) -> Tensor:
    return ((low & 15) | ((high & 15) << 4)).to(torch.uint8)


def packed_inputs(rng: torch.Generator) -> dict:
    return {"packed": pack(**code_inputs(rng))}


def unpack(packed: Tensor) -> Tensor:
    """Codes −8 … 7 (rows, 2 · bytes): a nibble above 7 stands for its value less 16."""
    codes = torch.zeros(packed.shape[0], 2 * packed.shape[1], dtype=torch.int8)
    for r in range(packed.shape[0]):
        for j in range(codes.shape[1]):
            nibble = int(packed[r, j // 2]) >> 4 * (j % 2) & 15
            codes[r, j] = nibble - 16 if nibble > 7 else nibble
    return codes


def nibbles(packed: Tensor) -> tuple[Tensor, Tensor]:
    return (packed & 15).to(torch.int8), (packed >> 4).to(torch.int8)


def with_sign(nibble: Tensor) -> Tensor:
    return torch.where(nibble > 7, nibble - 16, nibble)


def apart(low: Tensor, high: Tensor) -> Tensor:
    return torch.stack([low, high], -1).flatten(1)


LAB = "lab-2.1-quantizer"
EXERCISES = [
    Exercise(
        id="lab_quantizer.affine",
        inputs=tensor_inputs,
        spec=affine,
        lesson=LAB,
        trials=6,
        mistakes={
            "zero_is_minimum": mapped(zero_is_minimum),
            "zero_unrounded": mapped(unrounded_zero),
            "zero_sign": mapped(negative_zero),
            "one_step_more": mapped(one_step_more),
            "truncated": mapped(truncated),
            "inverted": mapped(inverted),
            "zero_forgotten": mapped(zero_forgotten),
            "from_minimum": mapped(from_minimum),
            "not_clamped": mapped(unclamped, clamp=False),
            "zero_truncated": mapped(with_zero_by(torch.floor)),
            "zero_rounded_up": mapped(with_zero_by(torch.ceil)),
            "codes_come_back": lambda x, bits: (
                (affine(x, bits)[0].double() - affine(x, bits)[2]) * affine(x, bits)[1],
                *affine(x, bits)[1:],
            ),
        },
    ),
    Exercise(
        id="lab_quantizer.per_channel",
        inputs=row_inputs,
        spec=per_channel,
        lesson=LAB,
        trials=4,
        mistakes={
            "per_tensor": signed(
                lambda w, bits: (w.abs().max() / (2 ** (bits - 1) - 1)).expand(len(w), 1)
            ),
            "one_step_more": signed(lambda w, bits: largest(w) / 2 ** (bits - 1)),
            "all_levels": signed(lambda w, bits: largest(w) / (2**bits - 1)),
            "sign_kept": signed(lambda w, bits: w.amax(1, keepdim=True) / (2 ** (bits - 1) - 1)),
            "unsigned": signed(
                lambda w, bits: largest(w) / (2 ** (bits - 1) - 1), lambda bits: 2 ** (bits - 1)
            ),
            "row_of_zeros": of_zeros,
            "inverted": lambda weight, bits: (
                per_channel(weight, bits)[0],
                1 / per_channel(weight, bits)[1],
            ),
            "columns": lambda weight, bits: tuple(t.T for t in per_channel(weight.T, bits)),
        },
    ),
    Exercise(
        id="lab_quantizer.per_group",
        inputs=group_inputs,
        spec=per_group,
        lesson=LAB,
        trials=4,
        mistakes={
            "range_without_zero": grouped(without_zero),
            "zero_unrounded": grouped(zero_kept_real),
            "symmetric": grouped(middle),
            "one_step_more": grouped(wide),
            "strided": grouped(with_zero, strided=True),
            "whole_rows": grouped(with_zero, whole_rows=True),
            "group_of_zeros": grouped(with_zero, guard=False),
            "not_clamped": grouped(with_zero, clamp=False),
            "zero_truncated": grouped(zero_cut_off),
        },
    ),
    Exercise(
        id="lab_quantizer.nf4_encode",
        inputs=block_inputs,
        spec=nf4_encode,
        lesson=LAB,
        mistakes={
            "not_scaled": not_scaled,
            "one_scale": blocked(lambda blocks, weight: weight.abs().max().view(1, 1)),
            "sign_kept": blocked(lambda blocks, weight: blocks.amax(1, keepdim=True)),
            "even_steps": blocked(block_max, even_steps),
            "next_below": blocked(block_max, next_below),
            "by_columns": blocked(block_max, cut=lambda w, size: w.T.reshape(-1, size)),
            "block_of_zeros": of_zero_blocks,
            "one_for_zeros": one_for_zeros,
        },
    ),
    Exercise(
        id="lab_quantizer.nf4_decode",
        inputs=decode_inputs,
        spec=nf4_decode,
        lesson=LAB,
        mistakes={
            "table_forgotten": decoded(lambda t, a, codes: codes * a),
            "scale_forgotten": decoded(lambda t, a, codes: t),
            "divided": decoded(lambda t, a, codes: t / a),
            "tiled": lambda codes, absmax, table, block_size, shape: (
                table[codes.long()] * absmax.repeat(block_size)
            ).view(shape),
            "not_reshaped": lambda **given: nf4_decode(**given).flatten(),
            "added": decoded(lambda t, a, codes: t + a),
        },
    ),
    Exercise(
        id="lab_quantizer.pack",
        inputs=code_inputs,
        spec=pack,
        lesson=LAB,
        mistakes={
            "nibbles_swapped": lambda codes: joined(codes[:, 1::2], codes[:, ::2]),
            "halves": lambda codes: joined(*codes.chunk(2, 1)),
            "not_masked": lambda codes: (codes[:, ::2] | (codes[:, 1::2] << 4)).to(torch.uint8),
            "borrowed": lambda codes: (codes[:, ::2] + (codes[:, 1::2] << 4)).to(torch.uint8),
            "not_shifted": lambda codes: ((codes[:, ::2] | codes[:, 1::2]) & 15).to(torch.uint8),
            "moved_by_eight": lambda codes: joined(codes[:, ::2] + 8, codes[:, 1::2] + 8),
            "not_packed": lambda codes: codes,
            "sign_and_magnitude": lambda codes: joined(
                *(torch.where(c < 0, 8 - c, c) for c in (codes[:, ::2], codes[:, 1::2]))
            ),
            "as_int8": lambda codes: pack(codes).to(torch.int8),
        },
        properties={"bytes": lambda inputs, result: result.dtype == torch.uint8},
    ),
    Exercise(
        id="lab_quantizer.unpack",
        inputs=packed_inputs,
        spec=unpack,
        lesson=LAB,
        mistakes={
            "sign_lost": lambda packed: apart(*nibbles(packed)),
            "nibbles_swapped": lambda packed: apart(*map(with_sign, nibbles(packed)[::-1])),
            "halves": lambda packed: torch.cat(list(map(with_sign, nibbles(packed))), 1),
            "moved_by_eight": lambda packed: apart(*nibbles(packed)) - 8,
            "sign_and_magnitude": lambda packed: apart(
                *(torch.where(n > 7, 8 - n, n) for n in nibbles(packed))
            ),
            "not_masked": lambda packed: apart(
                packed.to(torch.int8), with_sign(nibbles(packed)[1])
            ),
            "low_only": lambda packed: with_sign(nibbles(packed)[0]),
        },
    ),
]
