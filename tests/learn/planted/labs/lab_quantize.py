"""Right and wrong answers to the exercises of lab_quantize."""

import numpy as np
import torch


def grid_by_loop(weight, bits):
    scales, zeros = [], []
    for row in weight.tolist():
        low, high = min(0.0, *row), max(0.0, *row)
        step = (high - low) / (2**bits - 1) or 1.0
        scales.append(step)
        zeros.append(float(round(-low / step)))
    return torch.tensor(scales), torch.tensor(zeros)


def grid_with_numpy(weight, bits):
    w = np.concatenate([weight.numpy(), np.zeros((len(weight), 1))], axis=1)
    scale = np.ptp(w, axis=1) / ((1 << bits) - 1)
    scale[scale == 0] = 1
    return torch.from_numpy(scale), torch.from_numpy(np.rint(-w.min(axis=1) / scale))


def grid_in_single_precision(weight, bits):
    weight = weight.float()
    nothing = torch.zeros(len(weight))
    low, high = (
        torch.minimum(weight.min(dim=1).values, nothing),
        torch.maximum(weight.max(dim=1).values, nothing),
    )
    scale = (high - low) / (2**bits - 1)
    scale = scale + (scale == 0)
    return [scale, torch.round(low / -scale)]


def grid(weight, bits):
    return grid_with_numpy(weight, bits)


def codes_by_loop(weight, scale, zero, bits):
    out = torch.zeros(weight.shape, dtype=torch.int32)
    for r in range(weight.shape[0]):
        for c in range(weight.shape[1]):
            q = round(float(weight[r, c] / scale[r])) + int(zero[r])
            out[r, c] = max(0, min(2**bits - 1, q))
    return out


def codes_rounded_last(weight, scale, zero, bits):
    return (weight.T / scale + zero).T.round().clip(0, 2**bits - 1).byte()


def exact(weight, scale, zero, bits, change):
    return change(weight / scale[:, None], zero[:, None]).clamp(0, 2**bits - 1).to(torch.uint8)


def back_by_loop(codes, scale, zero):
    return torch.stack(
        [(row.double() - z) * s for row, s, z in zip(codes, scale, zero, strict=True)]
    )


def unsigned_wrap(codes, scale, zero):
    return scale[:, None] * (codes - zero[:, None].to(torch.uint8))


def codes_with_numpy(weight, scale, zero, bits):
    w, s, z = weight.numpy(), scale.numpy()[:, None], zero.numpy()[:, None]
    return torch.from_numpy(
        np.minimum(np.maximum(np.rint(w / s) + z, 0), (1 << bits) - 1).astype(np.int64)
    )


def back_by_entries(codes, scale, zero):
    out = torch.zeros(codes.shape, dtype=torch.float64)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            out[row, column] = float(scale[row]) * (int(codes[row, column]) - float(zero[row]))
    return out


RIGHT = {
    "lab_quantize.scale_zero": [grid_by_loop, grid_with_numpy, grid_in_single_precision],
    "lab_quantize.quantize": [codes_with_numpy, codes_by_loop, codes_rounded_last],
    "lab_quantize.dequantize": [
        back_by_entries,
        back_by_loop,
        lambda codes, scale, zero: ((codes.T - zero) * scale).T,
        lambda codes, scale, zero: codes * scale[:, None] - (scale * zero).unsqueeze(1),
        lambda codes, scale, zero: (
            torch.diag(scale.float()) @ (codes.float() - zero.float()[:, None])
        ),
    ],
}
WRONG = {
    "lab_quantize.scale_zero": [
        (lambda weight, bits: (grid(weight, bits)[0], weight.amin(1).clamp(max=0)),
         "zero_is_minimum"),
        (lambda weight, bits:
            ((g := grid(weight, bits))[0], (-weight.amin(1).clamp(max=0) / g[0]).long().double()),
            "zero_truncated"),
        (lambda weight, bits: ((g := grid(weight, bits))[0],
                               (-weight.amin(1).clamp(max=0) / g[0]).ceil()), "zero_rounded_up"),
        (lambda weight, bits:
            (1 / grid(weight, bits)[0],
             (-weight.min(1).values.clamp(max=0) * grid(weight, bits)[0]).round()),
             "scale_inverted"),
        (lambda weight, bits: (grid(weight, bits)[0] ** -1, grid(weight, bits)[1]),
         "scale_inverted_at_the_end"),
        (lambda weight, bits:
            (grid(weight, bits)[0], weight.min(1).values.clamp(max=0) / -grid(weight, bits)[0]),
            "zero_unrounded"),
        (lambda weight, bits:
            (s := (weight.amax(1).clamp(min=0) - weight.amin(1).clamp(max=0)) / 2**bits + 1.0
             * (weight == 0).all(1), (-weight.amin(1).clamp(max=0) / s).round()), "one_step_more"),
        (lambda weight, bits:
            (s := (lambda r: r + (r == 0))((weight.amax(1) - weight.amin(1)) / (2**bits - 1)),
             (-weight.amin(1) / s).round()), "range_without_zero"),
        (lambda weight, bits: (grid(weight, bits)[0], grid(weight, bits)[1].neg()), "zero_sign"),
        (lambda weight, bits:
            tuple(v.repeat(len(weight)) for v in grid(weight.reshape(1, -1), bits)),
            "whole_matrix"),
        (lambda weight, bits:
            (s := (lambda r: r + (r == 0))(weight.abs().max(1).values / (2 ** (bits - 1) - 1)),
             torch.full_like(s, 2 ** (bits - 1))), "symmetric"),
        (lambda weight, bits:
            (s := (weight.amax(1).clamp(min=0) - weight.amin(1).clamp(max=0)) / (2**bits - 1),
             (-weight.amin(1).clamp(max=0) / s).round()), "row_of_zeros"),
        (lambda weight, bits: grid(weight, bits)[0], None),
        (lambda weight, bits: grid(weight.T, bits), None),
        (lambda weight, bits: grid(weight, 4), None),
    ],
    "lab_quantize.quantize": [
        (lambda weight, scale, zero, bits: (weight / scale[:, None]).round().int() + zero[:,
            None].int(), "not_clamped"),
        (lambda weight, scale, zero, bits:
            ((weight / scale[:, None]).round() + zero[:, None]).to(torch.uint8), "not_clamped"),
        (lambda weight, scale, zero, bits: (weight / scale[:, None]).round().clamp(0,
            2**bits - 1).int() + zero[:, None].int(), "clamped_too_early"),
        (lambda weight, scale, zero, bits: exact(weight * scale[:, None] ** 2, scale, zero, bits,
            lambda w, z: w.round() + z), "multiplied"),
        (lambda weight, scale, zero, bits:
            exact(weight, scale, zero, bits, lambda w, z: w.round() - z), "zero_subtracted"),
        (lambda weight, scale, zero, bits: exact(weight, scale, zero, bits, lambda w, z: w.round()),
         "zero_forgotten"),
        (lambda weight, scale, zero, bits:
            exact(weight, scale, zero, bits, lambda w, z: w.trunc() + z), "truncated"),
        (lambda weight, scale, zero, bits:
            exact(weight, scale, zero, bits, lambda w, z: w.floor() + z), "floored"),
        (lambda weight, scale, zero, bits:
            ((weight / scale[:, None]).round() + zero[:, None]).clamp(-(2**bits) // 2,
                2**bits // 2 - 1).short(), "signed_range"),
        (lambda weight, scale, zero, bits:
            ((weight / scale[:, None]).round() + zero[:, None]).clamp(0, 2**bits).short(),
            "one_code_more"),
        (lambda weight, scale, zero, bits:
            ((weight / scale[:, None]).round() + zero[:, None]).clamp(0, 2**bits - 1), None),
        (lambda weight, scale, zero, bits:
            exact(weight, scale, zero, bits, lambda w, z: w.ceil() + z), None),
        (lambda weight, scale, zero, bits: (weight / scale).round(), None),
    ],
    "lab_quantize.dequantize": [
        (lambda codes, scale, zero: (codes + zero[:, None]) * scale[:, None], "zero_added"),
        (lambda codes, scale, zero: codes * scale[:, None] - zero[:, None], "zero_outside"),
        (lambda codes, scale, zero: codes * scale[:, None] + zero[:, None], "zero_point_as_offset"),
        (lambda codes, scale, zero: codes * scale[:, None], "zero_forgotten"),
        (lambda codes, scale, zero: (codes - zero[:, None]) / scale[:, None], "divided"),
        (unsigned_wrap, None),
        (lambda codes, scale, zero: codes, None),
        (lambda codes, scale, zero: scale * (codes - zero), None),
    ],
}  # fmt: skip
