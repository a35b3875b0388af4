"""Right and wrong answers to the exercises of lab_quantizer."""

import torch

from course_utils.quantization import grids, nf4

# --- one grid for a tensor ---


def by_torch(x, bits):
    scale = float((x.max() - x.min()) / (2**bits - 1))
    zero = int(torch.round(-x.min() / scale))
    back = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    return (back / scale).round().long() + zero, scale, zero


def by_formula(x, bits):
    top = 2**bits - 1
    scale = (x.amax() - x.amin()) / top
    zero = (-x.amin() / scale).round()
    return (x.div(scale).round() + zero).clamp(0, top).to(torch.uint8), scale, zero


def by_levels(x, bits):
    """The nearest of the listed grid points."""
    scale = float(x.max() - x.min()) / (2**bits - 1)
    zero = round(-float(x.min()) / scale)
    levels = scale * (torch.arange(2**bits).double() - zero)
    return (
        (x[..., None] - levels).abs().argmin(-1),
        torch.tensor(scale, dtype=torch.float64),
        torch.tensor(zero),
    )


def tensor_wrong(scale_of, zero_of, code_of=lambda x, s, z: (x / s).round() + z, shown=lambda s: s):
    def answer(x, bits):
        s = scale_of(x, bits)
        z = zero_of(x, s)
        return code_of(x, s, z).round().clamp(0, 2**bits - 1).byte(), shown(s), z

    return answer


def usual_scale(x, bits):
    return (x.max() - x.min()) / (2**bits - 1)


def usual_zero(x, s):
    return torch.round(-x.min() / s)


# --- rows ---


def rows_by_grid(weight, bits):
    """Codes of the course's symmetric grid, moved to be signed; the scales before they are kept in
    16 bits.
    """
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().max(1).values.unsqueeze(1) / top
    scale[scale == 0] = 1
    grid = grids.Grid(
        scale,
        torch.full_like(scale, top + 1),
        torch.zeros(weight.shape[1], dtype=torch.long),
        bits,
        True,
    )
    return grids.quantize(weight, grid).long() - (top + 1), scale


def rows_by_loop(weight, bits):
    codes, scales = [], []
    for row in weight:
        s = row.abs().max() / (2 ** (bits - 1) - 1)
        s = s if s > 0 else torch.ones_like(s)
        codes.append(torch.round(row / s))
        scales.append(s[None])
    return torch.stack(codes).to(torch.int8), torch.stack(scales)


def rows_wrong(scale_of, move=0):
    def answer(weight, bits):
        top = 2 ** (bits - 1) - 1
        s = scale_of(weight, bits)
        s = s + (s == 0)
        return ((weight / s).round().clamp(-top, top) + move * (top + 1)).long(), s

    return answer


def zero_row(weight, bits):
    codes, scale = rows_by_loop(weight, bits)
    scale[weight.abs().sum(1) == 0] = 0
    return codes, scale


def columns(weight, bits):
    codes, scale = rows_by_loop(weight.T, bits)
    return codes.T, scale.T


# --- groups ---


def groups_by_grid(weight, bits, group_size):
    """The course's codes for scales that are not rounded to 16 bits."""
    w = weight.unflatten(1, (-1, group_size))
    low, high = w.min(-1).values.clamp(max=0), w.max(-1).values.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = scale.masked_fill(scale == 0, 1)
    zero = torch.round(-low / scale)
    grid = grids.Grid(scale, zero, torch.arange(weight.shape[1]) // group_size, bits, False)
    return grids.quantize(weight, grid), scale, zero


def groups_as_rows(weight, bits, group_size):
    rows = weight.reshape(-1, group_size)
    low = torch.minimum(rows.amin(1), torch.zeros(len(rows)))
    high = torch.maximum(rows.amax(1), torch.zeros(len(rows)))
    scale = (high - low) / (2**bits - 1) + (high == low)
    zero = (-low / scale).round()
    codes = ((rows / scale[:, None]).round() + zero[:, None]).clamp(0, 2**bits - 1).byte()
    return codes.view_as(weight), scale.view(len(weight), -1), zero.view(len(weight), -1)


def groups_wrong(ends=None, zero_of=None, steps=None, spread=None, cut=None, guard=True):
    def answer(weight, bits, group_size):
        n = weight.shape[1] // group_size
        w = weight.unflatten(1, (n, group_size)) if cut is None else cut(weight, n, group_size)
        low, high = w.amin(-1), w.amax(-1)
        low, high = (low.clamp(max=0), high.clamp(min=0)) if ends is None else ends(low, high)
        scale = (high - low) / (2**bits - 1 if steps is None else steps(bits))
        if guard:
            scale = torch.where(scale == 0, 1.0, scale)
        zero = (-low / scale).round() if zero_of is None else zero_of(low, scale)
        if guard:
            zero = zero.nan_to_num()
        index = (
            torch.arange(weight.shape[1]) // group_size
            if spread is None
            else torch.arange(weight.shape[1]) % n
        )
        codes = (
            ((weight / scale[:, index]).round() + zero[:, index])
            .nan_to_num()
            .round()
            .clamp(0, 2**bits - 1)
        )
        return codes.byte(), scale, zero

    return answer


def centred(weight, bits, group_size):
    w = weight.unflatten(1, (-1, group_size))
    scale = w.abs().amax(-1) / (2 ** (bits - 1) - 1)
    scale, zero = (
        torch.where(scale == 0, 1.0, scale),
        torch.where(scale == 0, 0.0, 2.0 ** (bits - 1)),
    )
    codes = (w / scale[..., None]).round() + zero[..., None]
    return codes.clamp(0, 2**bits - 1).flatten(1).byte(), scale, zero


def of_rows(weight, n, size):
    return weight[:, None, :].repeat(1, n, 1)


# --- NF4 ---


def encode_by_course(weight, table, block_size):
    """The course's search in the middles of a table, for these blocks."""
    flat = weight.reshape(-1, block_size)
    absmax = flat.abs().max(dim=1).values
    unit = flat / absmax.clamp(min=1e-300)[:, None]
    return torch.bucketize(unit.flatten(), (table[1:] + table[:-1]) / 2), absmax


def encode_by_distance(weight, table, block_size):
    blocks = weight.view(-1, block_size)
    absmax = torch.linalg.vector_norm(blocks, ord=float("inf"), dim=1)
    distance = (blocks[..., None] - absmax[:, None, None] * table).abs()
    codes = distance.argmin(-1)
    codes[absmax == 0] = int((table == 0).nonzero())
    return codes.flatten().byte(), absmax


def encode_wrong(scale_of=None, find=None, cut=None):
    def answer(weight, table, block_size):
        blocks = weight.reshape(-1, block_size) if cut is None else cut(weight, block_size)
        absmax = blocks.abs().amax(1) if scale_of is None else scale_of(blocks)
        unit = (blocks / (absmax + (absmax == 0))[:, None]).flatten()
        codes = (unit[:, None] - table).abs().argmin(1) if find is None else find(unit, table)
        return codes.long(), absmax

    return answer


def unscaled(weight, table, block_size):
    codes = (weight.reshape(-1, 1) - table).abs().argmin(1)
    return codes, weight.reshape(-1, block_size).abs().amax(1)


def zeros_at_zero(weight, table, block_size):
    codes, absmax = encode_by_course(weight, table, block_size)
    return codes * (absmax > 0).repeat_interleave(block_size), absmax


def decode_in_blocks(codes, absmax, table, block_size, shape):
    return (table[codes.int()].view(-1, block_size) * absmax[:, None]).view(*shape)


def decode_by_course(codes, absmax, table, block_size, shape):
    found = nf4.decode(nf4.Blockwise(codes, absmax.float(), "nf4", block_size, torch.Size(shape)))
    return found.double()


def decode_wrong(join):
    def answer(codes, absmax, table, block_size, shape):
        return join(codes.long(), absmax[torch.arange(len(codes)) // block_size], table).view(shape)

    return answer


# --- packing ---


def pack_by_arithmetic(codes):
    wide = codes.long() % 16
    return (wide[:, ::2] + 16 * wide[:, 1::2]).to(torch.uint8)


def pack_by_view(codes):
    nibbles = (codes.view(torch.uint8) & 15).unflatten(1, (-1, 2))
    return nibbles[..., 0] | (nibbles[..., 1] << 4)


def unpack_by_shifts(packed):
    """The sign comes back by an arithmetic shift."""
    signed = packed.view(torch.int8)
    return torch.stack([(signed << 4) >> 4, signed >> 4], -1).flatten(1)


def unpack_by_table(packed):
    table = torch.cat([torch.arange(8), torch.arange(-8, 0)])
    out = torch.empty(len(packed), 2 * packed.shape[1], dtype=torch.long)
    out[:, ::2], out[:, 1::2] = table[(packed % 16).long()], table[(packed // 16).long()]
    return out


def in_turn(low, high):
    return torch.stack([low, high], 2).reshape(len(low), -1)


def sign(n):
    n = n.long()
    return n - 16 * (n >= 8)


def rows_by_where(weight, bits):
    top = 2 ** (bits - 1) - 1
    largest = torch.linalg.vector_norm(weight, ord=float("inf"), dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest / top, 1.0)
    return (weight / scale).round().clamp(-top, top).int(), scale


def groups_one_by_one(weight, bits, group_size):
    """Each group by itself, put together at the end."""
    top, codes, scales, zeros = 2**bits - 1, [], [], []
    for part in weight.split(group_size, dim=1):
        low, high = part.amin(1, keepdim=True).clamp(max=0), part.amax(1, keepdim=True).clamp(min=0)
        scale = torch.where(high > low, (high - low) / top, 1.0)
        zero = (-low / scale).round()
        codes.append(((part / scale).round() + zero).clamp(0, top))
        scales.append(scale)
        zeros.append(zero)
    return torch.cat(codes, 1).long(), torch.cat(scales, 1), torch.cat(zeros, 1)


def encode_in_turn(weight, table, block_size):
    """The nearest entry so far is replaced whenever a nearer one comes."""
    blocks = weight.reshape(-1, block_size)
    absmax = blocks.abs().amax(1)
    unit = torch.where(absmax[:, None] > 0, blocks / absmax[:, None], 0.0)
    code, distance = torch.zeros(unit.shape, dtype=torch.int64), torch.full_like(unit, 9.0)
    for k, entry in enumerate(table):
        nearer = (unit - entry).abs() < distance
        code[nearer], distance[nearer] = k, (unit - entry).abs()[nearer]
    return code.flatten(), absmax


def decode_by_repeating(codes, absmax, table, block_size, shape):
    scale = absmax.repeat_interleave(block_size)
    return (torch.take(table, codes.long()) * scale).reshape(shape)


def pack_by_einsum(codes):
    nibbles = codes.double().remainder(16).reshape(len(codes), -1, 2)
    return torch.einsum("rkp,p->rk", nibbles, torch.tensor([1.0, 16.0], dtype=torch.float64)).byte()


def unpack_by_remainder(packed):
    both = torch.stack([packed.int() % 16, packed.int().div(16, rounding_mode="floor")], dim=2)
    return ((both + 8) % 16 - 8).reshape(len(packed), -1)


RIGHT = {
    "lab_quantizer.affine": [by_torch, by_formula, by_levels],
    "lab_quantizer.per_channel": [rows_by_where, rows_by_grid, rows_by_loop],
    "lab_quantizer.per_group": [groups_one_by_one, groups_by_grid, groups_as_rows],
    "lab_quantizer.nf4_encode": [encode_in_turn, encode_by_course, encode_by_distance],
    "lab_quantizer.nf4_decode": [decode_by_repeating, decode_in_blocks, decode_by_course],
    "lab_quantizer.pack": [pack_by_einsum, pack_by_arithmetic, pack_by_view],
    "lab_quantizer.unpack": [unpack_by_remainder, unpack_by_shifts, unpack_by_table],
}
WRONG = {
    "lab_quantizer.affine": [
        (
            lambda x, bits: (
                (
                    (x / (s := (x.max() - x.min()) / (2**bits - 1))).round()
                    + (z := (-x.min() / s).round())
                ).long(),
                s,
                z,
            ),
            "not_clamped",
        ),
        (
            lambda x, bits: (
                (
                    (x / (s := (x.max() - x.min()) / (2**bits - 1))).round()
                    + (z := int(-x.min() / s))
                )
                .clamp(0, 2**bits - 1)
                .long(),
                s,
                z,
            ),
            "zero_truncated",
        ),
        (
            lambda x, bits: (
                (
                    (x / (s := (x.max() - x.min()) / (2**bits - 1))).round()
                    + (z := (-x.min() / s).ceil())
                )
                .clamp(0, 2**bits - 1)
                .long(),
                s,
                z,
            ),
            "zero_rounded_up",
        ),
        (
            tensor_wrong(usual_scale, lambda x, s: x.min(), lambda x, s, z: (x - z) / s),
            "zero_is_minimum",
        ),
        (tensor_wrong(usual_scale, lambda x, s: -x.min() / s), "zero_unrounded"),
        (tensor_wrong(usual_scale, lambda x, s: torch.round(x.min() / s)), "zero_sign"),
        (tensor_wrong(lambda x, bits: (x.max() - x.min()) / 2**bits, usual_zero), "one_step_more"),
        (tensor_wrong(usual_scale, usual_zero, lambda x, s, z: torch.fix(x / s) + z), "truncated"),
        (tensor_wrong(usual_scale, usual_zero, shown=lambda s: 1 / s), "inverted"),
        (tensor_wrong(usual_scale, usual_zero, lambda x, s, z: (x / s).round()), "zero_forgotten"),
        (
            tensor_wrong(usual_scale, usual_zero, lambda x, s, z: ((x - x.min()) / s).round()),
            "from_minimum",
        ),
        (
            lambda x, bits: (lambda q, s, z: (s * (q.double() - z), s, z))(*by_formula(x, bits)),
            "codes_come_back",
        ),
        (lambda x, bits: by_formula(x, bits)[0], None),
        (tensor_wrong(lambda x, bits: x.abs().max() / (2 ** (bits - 1) - 1), usual_zero), None),
    ],
    "lab_quantizer.per_channel": [
        (
            rows_wrong(lambda w, bits: (w.abs().max() / (2 ** (bits - 1) - 1)).repeat(len(w), 1)),
            "per_tensor",
        ),
        (
            rows_wrong(lambda w, bits: w.abs().amax(1, keepdim=True) * 2.0 ** (1 - bits)),
            "one_step_more",
        ),
        (rows_wrong(lambda w, bits: w.abs().amax(1, keepdim=True) / (2**bits - 1)), "all_levels"),
        (
            rows_wrong(lambda w, bits: w.max(1, keepdim=True).values / (2 ** (bits - 1) - 1)),
            "sign_kept",
        ),
        (
            rows_wrong(
                lambda w, bits: w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1), move=1
            ),
            "unsigned",
        ),
        (zero_row, "row_of_zeros"),
        (
            lambda weight, bits: (rows_by_loop(weight, bits)[0], 1 / rows_by_loop(weight, bits)[1]),
            "inverted",
        ),
        (columns, "columns"),
        (lambda weight, bits: rows_by_loop(weight, bits)[::-1], None),
        (
            lambda weight, bits: (
                rows_by_loop(weight, bits)[0],
                rows_by_loop(weight, bits)[1].flatten(),
            ),
            None,
        ),
    ],
    "lab_quantizer.per_group": [
        (
            lambda weight, bits, group_size: (
                lambda g: (
                    lambda s: (
                        lambda z: (((g / s).round() + z).flatten(1).long(), s[..., 0], z[..., 0])
                    )((-g.amin(-1, True).clamp(max=0) / s).round())
                )(
                    (lambda r: torch.where(r == 0, 1.0, r))(
                        (g.amax(-1, True).clamp(min=0) - g.amin(-1, True).clamp(max=0))
                        / (2**bits - 1)
                    )
                )
            )(weight.view(len(weight), -1, group_size)),
            "not_clamped",
        ),
        (
            lambda weight, bits, group_size: (
                lambda g: (
                    lambda s: (
                        lambda z: (
                            ((g / s).round() + z).clamp(0, 2**bits - 1).flatten(1).long(),
                            s[..., 0],
                            z[..., 0],
                        )
                    )((-g.amin(-1, True).clamp(max=0) / s).long().double())
                )(
                    (lambda r: torch.where(r == 0, 1.0, r))(
                        (g.amax(-1, True).clamp(min=0) - g.amin(-1, True).clamp(max=0))
                        / (2**bits - 1)
                    )
                )
            )(weight.view(len(weight), -1, group_size)),
            "zero_truncated",
        ),
        (groups_wrong(ends=lambda low, high: (low, high)), "range_without_zero"),
        (groups_wrong(zero_of=lambda low, s: -low / s), "zero_unrounded"),
        (centred, "symmetric"),
        (groups_wrong(steps=lambda bits: 2**bits), "one_step_more"),
        (groups_wrong(spread=True, cut=lambda w, n, size: w.unflatten(1, (size, n)).mT), "strided"),
        (groups_wrong(cut=of_rows), "whole_rows"),
        (groups_wrong(guard=False), "group_of_zeros"),
        (lambda weight, bits, group_size: groups_as_rows(weight, bits, group_size)[:2], None),
        (groups_wrong(steps=lambda bits: 2 ** (bits - 1)), None),
    ],
    "lab_quantizer.nf4_encode": [
        (unscaled, "not_scaled"),
        (encode_wrong(scale_of=lambda b: b.abs().max().repeat(len(b))), "one_scale"),
        (encode_wrong(scale_of=lambda b: b.max(1).values), "sign_kept"),
        (encode_wrong(find=lambda u, table: (7.5 * (u + 1)).round().clamp(0, 15)), "even_steps"),
        (
            encode_wrong(find=lambda u, table: (u[:, None] >= table).sum(1).sub(1).clamp(min=0)),
            "next_below",
        ),
        (encode_wrong(cut=lambda w, size: w.mT.reshape(-1, size)), "by_columns"),
        (zeros_at_zero, "block_of_zeros"),
        (
            lambda **given: (lambda codes, absmax: (codes, absmax + (absmax == 0)))(
                *encode_in_turn(**given)
            ),
            "one_for_zeros",
        ),
        (lambda weight, table, block_size: encode_by_course(weight, table, block_size)[::-1], None),
        (encode_wrong(scale_of=lambda b: b.abs().mean(1)), None),
    ],
    "lab_quantizer.nf4_decode": [
        (decode_wrong(lambda q, a, table: q * a), "table_forgotten"),
        (decode_wrong(lambda q, a, table: table[q]), "scale_forgotten"),
        (decode_wrong(lambda q, a, table: table[q] / a), "divided"),
        (
            lambda codes, absmax, table, block_size, shape: (
                table[codes.long()] * absmax[torch.arange(len(codes)) % len(absmax)]
            ).view(shape),
            "tiled",
        ),
        (
            lambda codes, absmax, table, block_size, shape: (
                table[codes.long()] * absmax.repeat_interleave(block_size)
            ),
            "not_reshaped",
        ),
        (decode_wrong(lambda q, a, table: a + table[q]), "added"),
        (decode_wrong(lambda q, a, table: (q - 7) / 7 * a), None),
        (
            lambda codes, absmax, table, block_size, shape: (
                decode_in_blocks(codes, absmax, table, block_size, shape).T
            ),
            None,
        ),
    ],
    "lab_quantizer.pack": [
        (
            lambda codes: (lambda n: n[:, ::2] + 16 * n[:, 1::2])(
                torch.where(codes < 0, 8 + codes.abs(), codes).long() % 16
            ).to(torch.uint8),
            "sign_and_magnitude",
        ),
        (lambda codes: (codes[:, 1::2] << 4) | (codes[:, ::2] & 15), "as_int8"),
        (
            lambda codes: pack_by_arithmetic(codes.unflatten(1, (-1, 2)).flip(2).flatten(1)),
            "nibbles_swapped",
        ),
        (lambda codes: pack_by_arithmetic(in_turn(*codes.chunk(2, 1))), "halves"),
        (lambda codes: codes[:, ::2].byte() | (codes[:, 1::2].byte() << 4), "not_masked"),
        (
            lambda codes: (codes[:, ::2].int() + 16 * codes[:, 1::2].int()).remainder(256).byte(),
            "borrowed",
        ),
        (lambda codes: (codes[:, ::2].byte() & 15) | (codes[:, 1::2].byte() & 15), "not_shifted"),
        (lambda codes: pack_by_arithmetic(codes + 8), "moved_by_eight"),
        (lambda codes: codes.clone(), "not_packed"),
        (lambda codes: pack_by_arithmetic(codes).int(), "bytes"),
        (lambda codes: pack_by_arithmetic(codes.abs()), None),
        (lambda codes: pack_by_arithmetic(codes)[:, :-1], None),
    ],
    "lab_quantizer.unpack": [
        (
            lambda packed: (lambda n: torch.where(n >= 8, -(n & 7), n))(
                torch.stack([packed & 15, packed >> 4], -1).flatten(1).long()
            ),
            "sign_and_magnitude",
        ),
        (lambda packed: in_turn(packed % 16, packed // 16).long(), "sign_lost"),
        (lambda packed: in_turn(sign(packed // 16), sign(packed % 16)), "nibbles_swapped"),
        (lambda packed: torch.cat([sign(packed % 16), sign(packed // 16)], 1), "halves"),
        (lambda packed: in_turn(packed % 16, packed // 16).long() - 8, "moved_by_eight"),
        (lambda packed: in_turn(packed.view(torch.int8).long(), sign(packed // 16)), "not_masked"),
        (lambda packed: sign(packed % 16), "low_only"),
        (lambda packed: unpack_by_table(packed).abs(), None),
        (lambda packed: -unpack_by_table(packed), None),
    ],
}
