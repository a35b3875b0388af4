"""Right and wrong answers to the exercises of granularity."""

import torch

from course_utils.quantization import qat

# --- scales ---


def by_reshape(x, bits, group_size):
    top = 2 ** (bits - 1) - 1
    m = x.abs()
    return (
        m.max().reshape(1, 1) / top,
        m.amax(1, keepdim=True) / top,
        m.unflatten(1, (-1, group_size)).amax(-1) / top,
    )


def by_unfold(x, bits, group_size):
    groups = x.abs().unfold(1, group_size, group_size).max(-1).values / (2 ** (bits - 1) - 1)
    return [groups.max().view(1, 1), groups.max(1, keepdim=True).values, groups]


def with_divisor(divisor):
    def answer(x, bits, group_size):
        return tuple(
            s * (2 ** (bits - 1) - 1) / divisor(bits) for s in by_reshape(x, bits, group_size)
        )

    return answer


def min_to_max(x, bits, group_size):
    regions = x.reshape(1, 1, -1), x[:, None, :], x.unflatten(1, (-1, group_size))
    return tuple((r.max(-1).values - r.min(-1).values) / (2**bits - 1) for r in regions)


def signs_kept(x, bits, group_size):
    regions = x.reshape(1, 1, -1), x[:, None, :], x.unflatten(1, (-1, group_size))
    return tuple(r.max(-1).values / (2 ** (bits - 1) - 1) for r in regions)


def columns(x, bits, group_size):
    whole, _, groups = by_reshape(x, bits, group_size)
    return whole, x.abs().amax(0, keepdim=True) / (2 ** (bits - 1) - 1), groups


def strided(x, bits, group_size):
    whole, row, groups = by_reshape(x, bits, group_size)
    n = groups.shape[1]
    return (
        whole,
        row,
        torch.stack([x[:, g::n].abs().amax(1) for g in range(n)], 1) / (2 ** (bits - 1) - 1),
    )


def repeated(x, bits, group_size):
    whole, row, groups = by_reshape(x, bits, group_size)
    return whole, whole.repeat(len(row), 1), whole.repeat(*groups.shape)


# --- a static range ---


def of_one_list(batches, bits):
    everything = torch.cat(batches)
    scale = (everything.max() - everything.min()) / (2**bits - 1)
    return scale, torch.round(-everything.min() / scale)


def running(batches, bits):
    low, high = batches[0].min(), batches[0].max()
    for batch in batches[1:]:
        low, high = torch.minimum(low, batch.min()), torch.maximum(high, batch.max())
    scale = (high - low).item() / (2**bits - 1)
    return scale, int((-low / scale).round())


def changed(change):
    def answer(batches, bits):
        scale, zero = of_one_list(batches, bits)
        return change(scale, zero, torch.cat(batches), bits)

    return answer


def mean_range(batches, bits):
    low = sum(b.min() for b in batches) / len(batches)
    high = sum(b.max() for b in batches) / len(batches)
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round()


def one_more(batches, bits):
    everything = torch.cat(batches)
    scale = (everything.max() - everything.min()) / 2**bits
    return scale, torch.round(-everything.min() / scale)


def absolute(batches, bits):
    return torch.cat(batches).abs().max() / (2 ** (bits - 1) - 1), 2 ** (bits - 1)


# --- a product of integers ---


def dequantized(x_codes, x_scale, x_zero, w_codes, w_scale):
    return (x_scale * (x_codes - x_zero)) @ (w_scale * w_codes).T


def in_double(x_codes, x_scale, x_zero, w_codes, w_scale):
    """Integers held in double precision stay integers."""
    total = (x_codes.double() - x_zero.double()) @ w_codes.double().T
    return x_scale * (w_scale.T * total)


def centred_codes(x_codes, x_scale, x_zero, w_codes, w_scale):
    total = torch.einsum("ti,oi->to", x_codes - x_zero, w_codes)
    return total * (x_scale @ w_scale.T)


def product(total, x_scale=None, w_scale=None):
    def answer(**given):
        s = given["x_scale"] if x_scale is None else x_scale(given["x_scale"])
        t = given["w_scale"] if w_scale is None else w_scale(given["w_scale"])
        return total(given["x_codes"], given["x_zero"], given["w_codes"]) * s * t.T

    return answer


def right_total(x, z, w):
    return (x - z) @ w.T


# --- the straight-through gradient ---


def by_torch(w, scale, zero, bits, upstream):
    leaf = w.clone().requires_grad_()
    torch.fake_quantize_per_tensor_affine(leaf, scale, zero, 0, 2**bits - 1).backward(upstream)
    return leaf.grad


def by_course(w, scale, zero, bits, upstream):
    leaf = w.clone().requires_grad_()
    step = torch.tensor(scale, dtype=w.dtype)
    qat.fake_quantize(leaf, step, torch.tensor(float(zero), dtype=w.dtype), bits).backward(upstream)
    return leaf.grad


def by_mask(w, scale, zero, bits, upstream):
    low, high = -zero * scale, (2**bits - 1 - zero) * scale
    return upstream * ((w >= low) & (w <= high))


def where(keep, factor=1.0):
    def answer(w, scale, zero, bits, upstream):
        kept = keep(w, scale, zero, bits).to(upstream.dtype)
        return upstream * kept * (factor(scale) if callable(factor) else factor)

    return answer


def in_range(w, scale, zero, bits):
    code = torch.round(w / scale) + zero
    return (code > -0.5) & (code < 2**bits - 0.5)


def rounded_weight(w, scale, zero, bits, upstream):
    return scale * ((w / scale).round().clamp(-zero, 2**bits - 1 - zero))


def by_loops(x, bits, group_size):
    top = (1 << bits - 1) - 1
    rows = [[abs(float(v)) for v in row] for row in x]
    groups = [
        [max(row[g : g + group_size]) / top for g in range(0, len(row), group_size)] for row in rows
    ]
    each = [[max(row)] for row in groups]
    return torch.tensor([[max(map(max, rows)) / top]]), torch.tensor(each), torch.tensor(groups)


def in_single_precision(batches, bits):
    flat = torch.cat([batch.float().flatten() for batch in batches])
    low, high = torch.aminmax(flat)
    scale = (high - low) / (2**bits - 1)
    return scale, -low.div(scale).round()


def by_two_sums(x_codes, x_scale, x_zero, w_codes, w_scale):
    """The zero point leaves the sum: Σ q_t q_o − z_t Σ q_o."""
    sums = w_codes.sum(1)
    y = x_codes.double() @ w_codes.double().T
    for t in range(len(x_codes)):
        y[t] -= int(x_zero[t]) * sums
    return x_scale * y * w_scale[:, 0]


RIGHT = {
    "granularity.scales": [
        by_loops,
        by_reshape,
        by_unfold,
    ],
    "granularity.static_grid": [in_single_precision, of_one_list, running],
    "granularity.integer_linear": [by_two_sums, in_double, centred_codes],
    "granularity.ste_gradient": [by_torch, by_course, by_mask],
}
WRONG = {
    "granularity.scales": [
        (with_divisor(lambda bits: 2 ** (bits - 1)), "one_step_more"),
        (with_divisor(lambda bits: 2**bits - 1), "all_levels"),
        (min_to_max, "from_min_to_max"),
        (signs_kept, "sign_kept"),
        (
            lambda x, bits, group_size: tuple(1 / s for s in by_reshape(x, bits, group_size)),
            "inverted",
        ),
        (columns, "of_columns"),
        (strided, "groups_strided"),
        (repeated, "one_for_all"),
        (lambda x, bits, group_size: by_reshape(x, bits, group_size)[::-1], None),
        (lambda x, bits, group_size: by_reshape(x, bits, group_size)[2], None),
        (
            lambda x, bits, group_size: tuple(s.squeeze() for s in by_reshape(x, bits, group_size)),
            None,
        ),
    ],
    "granularity.static_grid": [
        (
            lambda batches, bits: (
                s := (torch.cat(batches).max() - torch.cat(batches).min()) / (2**bits - 1),
                int(-torch.cat(batches).min() / s),
            ),
            "zero_truncated",
        ),
        (lambda batches, bits: of_one_list(batches[-1:], bits), "last_batch"),
        (lambda batches, bits: of_one_list(batches[:1], bits), "first_batch"),
        (mean_range, "averaged"),
        (changed(lambda s, z, x, bits: (s, -x.min() / s)), "zero_unrounded"),
        (changed(lambda s, z, x, bits: (s, -z)), "zero_sign"),
        (changed(lambda s, z, x, bits: (s, x.min())), "zero_is_minimum"),
        (changed(lambda s, z, x, bits: (1 / s, z)), "inverted"),
        (one_more, "one_step_more"),
        (absolute, "around_zero"),
        (changed(lambda s, z, x, bits: s), None),
        (changed(lambda s, z, x, bits: (z, s)), None),
    ],
    "granularity.integer_linear": [
        (product(lambda x, z, w: x @ w.T), "zero_forgotten"),
        (product(lambda x, z, w: x @ w.T + z * w.sum(1)), "zero_added"),
        (product(lambda x, z, w: x @ w.T - z * x.sum(1)[:, None]), "inputs_summed"),
        (product(lambda x, z, w: x @ w.T - z * w.sum()), "all_summed"),
        (product(lambda x, z, w: x @ w.T - z), "zero_once"),
        (product(right_total, w_scale=torch.ones_like), "weight_scale_forgotten"),
        (product(right_total, x_scale=torch.ones_like), "input_scale_forgotten"),
        (product(right_total, x_scale=lambda s: 1 / s, w_scale=lambda s: 1 / s), "divided"),
        (dequantized, "real_numbers"),
        (
            lambda **given: dequantized(
                **{
                    **given,
                    "x_scale": given["x_scale"].float(),
                    "w_scale": given["w_scale"].float(),
                }
            ).double(),
            "real_numbers",
        ),
        (lambda **given: dequantized(**given).T, None),
        (lambda **given: dequantized(**given).round(), None),
    ],
    "granularity.ste_gradient": [
        (lambda w, scale, zero, bits, upstream: torch.zeros_like(upstream), "true_derivative"),
        (lambda w, scale, zero, bits, upstream: upstream, "passed_everywhere"),
        (where(lambda *a: ~in_range(*a)), "outside"),
        (where(lambda w, scale, zero, bits: in_range(w, scale, 0, bits)), "zero_forgotten"),
        (
            where(lambda w, scale, zero, bits: in_range(w, scale, 2 ** (bits - 1), bits)),
            "signed_range",
        ),
        (
            where(lambda w, scale, zero, bits: (w / scale).round() + zero <= 2**bits - 1),
            "upper_end_only",
        ),
        (where(in_range, lambda scale: scale), "times_scale"),
        (where(in_range, lambda scale: 1 / scale), "over_scale"),
        (rounded_weight, None),
        (where(in_range, -1.0), None),
    ],
}
