"""Right and wrong answers to the exercises of gptq."""

import torch

from course_utils.kernels import packing
from course_utils.quantization import gptq, grids
from course_utils.quantization.grids import scale_and_zero


def factor(H):
    return torch.linalg.cholesky(H.inverse()).mT.contiguous()


def factor_by_elimination(H):
    """Row i of U from the inverse of what is left, made from scratch each time."""
    U = torch.zeros_like(H)
    for i in range(len(H)):
        inverse = torch.linalg.inv(H[i:, i:])
        U[i, i:] = inverse[0] / inverse[0, 0].sqrt()
    return U


def update(weight, U, i, quantized):
    rest = torch.zeros_like(U[i])
    rest[i + 1 :] = U[i, i + 1 :] / U[i, i]
    moved = weight - (weight[:, i] - quantized).outer(rest)
    return torch.cat([moved[:, :i], quantized[:, None], moved[:, i + 1 :]], dim=1)


def update_in_place(weight, U, i, quantized):
    error = (weight[:, i] - quantized) / U[i, i]
    weight[:, i:] -= error[:, None] * U[i, i:][None, :]
    return weight


def update_with_remaining_inverse(weight, U, i, quantized):
    H = torch.linalg.inv(U.T @ U)
    inverse = torch.linalg.inv(H[i:, i:])
    delta = torch.zeros_like(weight)
    delta[:, i:] = -torch.einsum("r,c->rc", (weight[:, i] - quantized) / inverse[0, 0], inverse[0])
    return weight + delta


def layer(weight, H, bits, group_size, move=update, U=None, take=None, grid_from=None):
    """Column by column, each quantized with course_utils' own grid."""
    W, U = weight.clone(), factor(H) if U is None else U
    codes, scales, zeros = torch.empty(W.shape, dtype=torch.long), [], []
    for i in range(W.shape[1]):
        if i % group_size == 0:
            source = W if grid_from is None else grid_from
            part = source[:, i : i + group_size] if take is None else take(source)
            grid = grids.make_grid(part, bits=bits, granularity="per_channel")
            scales.append(grid.scale[:, 0])
            zeros.append(grid.zero_point[:, 0])
        column = grids.Grid(scales[-1][:, None], zeros[-1][:, None], torch.tensor([0]), bits, False)
        codes[:, i] = grids.quantize(W[:, i : i + 1], column)[:, 0]
        W = move(W, U, i, grids.dequantize(codes[:, i : i + 1], column)[:, 0])
    return codes, torch.stack(scales, -1), torch.stack(zeros, -1)


def lazily(weight, H, bits, group_size):
    """In batches of 32 columns whose errors never reach the next one."""

    def move(W, U, i, quantized):
        end = i - i % 32 + 32
        return torch.cat([update(W, U, i, quantized)[:, :end], W[:, end:]], 1)

    return layer(weight, H, bits, group_size, move=move)


def layer_in_blocks(weight, H, bits, group_size):
    """Errors inside a group at once, those to later groups in one product."""
    W, U = weight.clone(), factor_by_elimination(H)
    rows, columns = W.shape
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    scale, zero = torch.zeros(2, rows, columns // group_size, dtype=W.dtype)
    for g, start in enumerate(range(0, columns, group_size)):
        end, errors = start + group_size, torch.zeros(rows, group_size, dtype=W.dtype)
        scale[:, g], zero[:, g] = scale_and_zero(
            W[:, start:end].amin(1), W[:, start:end].amax(1), bits, False
        )
        for i in range(start, end):
            q = torch.clamp(torch.round(W[:, i] / scale[:, g]) + zero[:, g], 0, 2**bits - 1)
            codes[:, i] = q.byte()
            errors[:, i - start] = (W[:, i] - scale[:, g] * (q - zero[:, g])) / U[i, i]
            W[:, i:end] -= errors[:, i - start].outer(U[i, i:end])
        W[:, end:] -= errors @ U[start:end, end:]
    return codes, scale, zero


def layer_of_the_course(weight, H, bits, group_size):
    result = gptq.quantize_layer(
        weight, H, bits=bits, group_size=group_size, damping=0.0, never_worse=False, block_size=1
    )
    return result.codes, result.grid.scale, result.grid.zero_point


def with_row(row):
    """An update that moves the later columns along `row(U, i)` times the bare error."""

    def move(weight, U, i, quantized):
        moved = weight.clone()
        moved[:, i + 1 :] -= (weight[:, i] - quantized).outer(row(U, i)[i + 1 :])
        moved[:, i] = quantized
        return moved

    return move


def not_stored(weight, U, i, quantized):
    moved = update(weight, U, i, quantized)
    moved[:, i] = weight[:, i]
    return moved


def late(weight, U, i, quantized):
    moved = update(weight, U, i, quantized)
    moved[:, i + 1 : i + 2] = weight[:, i + 1 : i + 2]
    return moved


def back_as_well(weight, U, i, quantized):
    inverse = U.T @ U
    return weight - ((weight[:, i] - quantized) / inverse[i, i]).outer(inverse[i])


def keep_after(end_of):
    def move(weight, U, i, quantized):
        moved, end = update(weight, U, i, quantized), end_of(i)
        moved[:, end:] = weight[:, end:]
        return moved

    return move


def keep_inside(end_of):
    def move(weight, U, i, quantized):
        moved, end = update(weight, U, i, quantized), end_of(i)
        moved[:, i + 1 : end] = weight[:, i + 1 : end]
        return moved

    return move


def rounded(weight, U, i, quantized):
    return torch.cat([weight[:, :i], quantized[:, None], weight[:, i + 1 :]], dim=1)


def product_in_groups(x, packed, scale, zero):
    codes = packing.unpack(packed, 4, 2 * packed.shape[1]).view(len(packed), scale.shape[1], -1)
    weight = (codes - zero[..., None]) * scale[..., None]
    return torch.einsum("tgc,rgc->tr", x.view(len(x), scale.shape[1], -1), weight)


def product_with_divmod(x, packed, scale, zero):
    low, high = packed % 16, packed.long() // 16
    size = 2 * packed.shape[1] // scale.shape[1]
    weight = torch.empty(len(packed), 2 * packed.shape[1])
    weight[:, ::2], weight[:, 1::2] = low.float(), high.float()
    group = torch.arange(weight.shape[1]) // size
    weight = (weight - zero[:, group]) * scale[:, group]
    return (weight @ x.T).T


def product(x, packed, scale, zero, spread=None, weight_of=None, swap=False):
    nibbles = [packed >> 4, packed & 15] if swap else [packed & 15, packed >> 4]
    codes = torch.stack(nibbles, -1).reshape(len(packed), -1).double()
    size = codes.shape[1] // scale.shape[1]
    spread = spread or (lambda v: v.repeat_interleave(size, 1))
    weight_of = weight_of or (lambda q, s, z: s * (q - z))
    return x @ weight_of(codes, spread(scale), spread(zero)).T


def pack_in_words(codes):
    return (
        (codes.long() * torch.tensor([1, 16]).repeat(codes.shape[1] // 2))
        .view(len(codes), -1, 2)
        .sum(-1)
        .to(torch.uint8)
    )


def promise_by_pivots(H, step):
    """1 / [H_F⁻¹]_ii is what elimination from the last column leaves on the diagonal."""
    H, total = H.clone(), 0.0
    for i in range(len(H) - 1, -1, -1):
        total += float(H[i, i]) * step**2 / 4
        H -= torch.outer(H[:, i], H[i]) / H[i, i]
    return total


def promise_by_schur(H, step):
    """What is left of H_ii when the later inputs have explained all they can."""
    total = 0
    for i in range(len(H)):
        later = H[i + 1 :, i]
        total = total + H[i, i] - later @ torch.linalg.solve(H[i + 1 :, i + 1 :], later)
    return total * (step / 2) ** 2


RIGHT = {
    "gptq.worst_case": [
        lambda H, step: (step**2 / 4 / factor(H).diagonal().square()).sum(),
        promise_by_pivots,
        promise_by_schur,
    ],
    "gptq.hessian": [
        # as GPTQ's own code does it
        lambda x: (lambda scaled: scaled.T @ scaled)(x * (2 / len(x)) ** 0.5),
        lambda x: torch.einsum("ni,nj->ij", x, x) * 2 / x.shape[0],
        lambda x: 2 * (x[:, :, None] * x[:, None, :]).mean(0),
        lambda x: gptq.hessian(x.float()),
    ],
    "gptq.inverse_cholesky": [
        lambda H: -torch.linalg.cholesky(H.inverse()).mT,
        lambda H: torch.linalg.qr(torch.linalg.cholesky(H.inverse()).mT).R,
        factor,
        factor_by_elimination,
        gptq.inverse_cholesky,
    ],
    "gptq.column_update": [update, update_in_place, update_with_remaining_inverse],
    "gptq.quantize_layer": [layer, layer_in_blocks, layer_of_the_course],
    "gptq.pack_int4": [
        pack_in_words,
        lambda codes: packing.pack(codes, 4),
        lambda codes: codes[:, ::2] + 16 * codes[:, 1::2],
    ],
    "gptq.packed_linear": [product_in_groups, product_with_divmod, product],
}
WRONG = {
    "gptq.worst_case": [
        (lambda H, step: (step**2 / factor(H).diagonal() ** 2).sum(), "whole_step"),
        (lambda H, step: (step**2 / 12 / factor(H).diagonal() ** 2).sum(), "mean"),
        (lambda H, step: step**2 / 4 * H.diagonal().sum(), "nobody_moves"),
        (lambda H, step: step**2 / 4 * (1 / H.inverse().diagonal()).sum(), "whole_inverse"),
        (lambda H, step: (step**2 / 4 * factor(H).diagonal() ** 2).sum(), "multiplied"),
        (lambda H, step: (step / 2 / factor(H).diagonal() ** 2).sum(), "step_not_squared"),
        (lambda H, step: (step**2 / 4 / factor(H).diagonal()).sum(), "factor_not_squared"),
        (lambda H, step: (step**2 / 8 / factor(H).diagonal() ** 2).sum(), "half_of_it"),
        (lambda H, step: step / 2 * (1 / factor(H).diagonal() ** 2).sum().sqrt(), "root"),
        (lambda H, step: (step**2 / 4 / factor(H).diagonal() ** 2).amax(), "one_column"),
    ],
    "gptq.hessian": [
        (lambda x: 2 * x.mT @ x, "not_divided"),
        (lambda x: x.mT @ x / x.shape[0], "two_forgotten"),
        (lambda x: (x[:, :, None] * x[:, None]).sum(0), "factor_forgotten"),
        (lambda x: 2 / x.shape[-1] * x.mT @ x, "divided_by_inputs"),
        (lambda x: 2 * (x.mT @ x) / (x.shape[0] * x.shape[1]), "divided_by_all"),
        (lambda x: 2 / len(x) * x @ x.mT, "tokens_by_tokens"),
        (lambda x: 2 / len(x) * (x - x.mean(0)).T @ (x - x.mean(0)), "centred"),
        (lambda x: 2 / (len(x) - 1) * (x - x.mean(0)).T @ (x - x.mean(0)), "centred_unbiased"),
        (lambda x: 2 / len(x) * torch.diag_embed((x * x).sum(0)), "diagonal_only"),
        (lambda x: torch.corrcoef(x.T), None),
        (lambda x: 2 / len(x) * x.abs().T @ x.abs(), None),
    ],
    "gptq.inverse_cholesky": [
        (lambda H: torch.linalg.cholesky(H.inverse()), "lower_factor"),
        (lambda H: torch.linalg.cholesky(H).mT, "hessian_not_inverse"),
        (lambda H: torch.linalg.cholesky(H), "lower_hessian_factor"),
        (lambda H: torch.linalg.cholesky(H).inverse().mT, "product_reversed"),
        (lambda H: torch.linalg.cholesky(H).inverse(), "inverse_of_lower"),
        (lambda H: torch.cholesky_inverse(torch.linalg.cholesky(H)), "not_factored"),
        (lambda H: factor(H).triu(1), None),
        (lambda H: factor(H) / factor(H).diagonal()[:, None], None),
        (lambda H: torch.linalg.cholesky(-H), None),
    ],
    "gptq.column_update": [
        (with_row(lambda U, i: U[i] / (U.T @ U)[i, i]), "divided_by_inverse"),
        (with_row(lambda U, i: U[i]), "not_divided"),
        (with_row(lambda U, i: U[i] / U[i, i].square()), "divided_twice"),
        (with_row(lambda U, i: U[i] / -U[i, i]), "sign"),
        (with_row(lambda U, i: U[:, i] / U[i, i]), "only_rounded"),
        (with_row(lambda U, i: (U.T @ U).inverse()[i] / (U.T @ U).inverse()[i, i]),
         "hessian_not_inverse"),
        (with_row(lambda U, i: (U.T @ U)[i] / (U.T @ U)[i, i]), "full_inverse_row"),
        (back_as_well, "earlier_columns_moved"),
        (rounded, "only_rounded"),
        (not_stored, "column_not_stored"),
        (late, "one_column_late"),
        (lambda weight, U, i, quantized: weight, None),
        (with_row(lambda U, i: 2 * U[i] / U[i, i]), None),
    ],
    "gptq.quantize_layer": [
        (lambda weight, H, bits, group_size: lazily(weight, H, bits, group_size), "lazy_batch"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size, move=rounded),
         "no_update"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size, U=factor(H).T),
         "no_update"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size, grid_from=weight),
         "scales_from_the_start"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size, grid_from=weight,
            take=lambda w: w), "one_scale_a_row"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size,
            U=torch.linalg.cholesky(H).T), "hessian_not_inverse"),
        (lambda weight, H, bits, group_size:
            layer(weight, H, bits, group_size, move=with_row(lambda U, i: U[i])), "not_divided"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size,
            move=with_row(lambda U, i: -U[i] / U[i, i])), "sign"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size,
            move=keep_after(lambda i: i - i % group_size + group_size)), "within_groups"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size,
            move=keep_inside(lambda i: i - i % group_size + group_size)), "across_groups"),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, weight.shape[1]), None),
        (lambda weight, H, bits, group_size: layer(weight, H, 4, group_size)[::-1], None),
        (lambda weight, H, bits, group_size: layer(weight, H, bits, group_size)[0], None),
    ],
    "gptq.pack_int4": [
        (lambda codes: (codes[:, ::2] + 16 * codes[:, 1::2]).view(torch.int8), "as_int8"),
        (lambda codes: codes[:, 1::2] + 16 * codes[:, ::2], "nibbles_swapped"),
        (lambda codes: codes[:, : codes.shape[1] // 2] + 16 * codes[:, codes.shape[1] // 2 :],
         "halves"),
        (lambda codes: codes[:, 1::2] | codes[:, ::2], "not_shifted"),
        (lambda codes: codes[:, ::2] | codes[:, 1::2] * 8, "three_bits"),
        (lambda codes: codes.clone(), "not_packed"),
        (lambda codes: codes[: len(codes) // 2 * 2 : 2] + 16 * codes[1::2], "rows_paired"),
        (lambda codes: codes[:, ::2].int() + 16 * codes[:, 1::2].int(), "bytes"),
        (lambda codes: codes[:, ::2], None),
        (lambda codes: codes[:, ::2] * codes[:, 1::2], None),
    ],
    "gptq.packed_linear": [
        (lambda x, packed, scale, zero: product(x, packed, scale, zero, swap=True),
         "nibbles_swapped"),
        (lambda x, packed, scale, zero: product(x, packed, scale, zero, spread=lambda v:
            v.repeat(1, 2 * packed.shape[1] // scale.shape[1])), "groups_tiled"),
        (lambda x, packed, scale, zero: product(x, packed, scale, zero, weight_of=lambda q, s, z:
            q * s), "zero_forgotten"),
        (lambda x, packed, scale, zero: product(x, packed, scale, zero, weight_of=lambda q, s, z:
            (q + z) * s), "zero_added"),
        (lambda x, packed, scale, zero: product(x, packed, scale, zero, weight_of=lambda q, s, z:
            q * s - z), "zero_outside"),
        (lambda x, packed, scale, zero: product(x, packed, scale, zero, weight_of=lambda q, s, z:
            (q - z) / s), "divided"),
        (lambda x, packed, scale, zero: product(x, packed, scale, zero).T, None),
        (lambda x, packed, scale, zero: product(x, packed, scale[:, :1], zero[:, :1]), None),
    ],
}  # fmt: skip
