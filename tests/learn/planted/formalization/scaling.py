"""Right and wrong answers to the exercises of scaling."""

import torch

from course_utils.quantization.grids import scale_and_zero
from course_utils.quantization.rtn import quantize_layer


def ties(weight, bits):
    return quantize_layer(weight, bits=bits, group_size=-1).weight


def fold_by_diag(gain, weight, s):
    return torch.linalg.inv(torch.diag(s)) @ gain, weight @ torch.diag(s)


def awq_by_logs(x, alpha):
    logs = alpha * x.abs().mean(0).log()
    return (logs - (logs.max() + logs.min()) / 2).exp()


def awq_in_steps(x, alpha):
    s = x.abs().sum(0).div(len(x)).pow(alpha)
    low, high = torch.aminmax(s)
    return s / low.sqrt() / high.sqrt()


def error_by_columns(x, weight, s, bits):
    total = 0.0
    effective = ties(weight * s[None], bits) / s[None]
    for row, other in zip(weight, effective, strict=True):
        total = total + ((row - other) @ x.T).pow(2).sum()
    return total


def clip_at_once(w, x, bits, shares):
    c = torch.tensor(shares, dtype=w.dtype)
    s, z = scale_and_zero(c * w.min(), c * w.max(), bits, False)
    q = ((w[None] / s[:, None]).round() + z[:, None]).clamp(0, 2**bits - 1)
    return ((w[None] - s[:, None] * (q - z[:, None])) @ x.T).square().sum(1)


def clip_by_product(w, x, bits, shares):
    found = []
    for c in shares:
        s, z = scale_and_zero(w.min() * c, w.max() * c, bits, False)
        d = w - s * (torch.clamp(torch.round(w / s), -z, 2**bits - 1 - z))
        found.append(d @ (x.T @ x) @ d)
    return torch.stack(found)


def clip_with(change):
    """A wrong answer: change(w, s, z, bits) gives ŵ for the grid of a share."""

    def errors(w, x, bits, shares):
        found = []
        for c in shares:
            s, z = scale_and_zero(c * w.min(), c * w.max(), bits, False)
            found.append((x @ (w - change(w, s, z, bits))).square().sum())
        return torch.stack(found)

    return errors


def one_sided(low, high):
    def errors(w, x, bits, shares):
        found = []
        for c in shares:
            s, z = scale_and_zero(
                (c if low else 1) * w.min(), (c if high else 1) * w.max(), bits, False
            )
            q = ((w / s).round() + z).clamp(0, 2**bits - 1)
            found.append((x @ (w - s * (q - z))).square().sum())
        return torch.stack(found)

    return errors


def clipped_weights(w, x, bits, shares):
    s, z = scale_and_zero(w.min(), w.max(), bits, False)
    q = ((w / s).round() + z).clamp(0, 2**bits - 1)
    quantized = s * (q - z)
    return torch.stack(
        [(x @ (w - quantized.clamp(w.min() * c, w.max() * c))).square().sum() for c in shares]
    )


def weight_errors(w, x, bits, shares):
    return clip_at_once(w, torch.eye(len(w), dtype=w.dtype), bits, shares)


def terms_squared(w, x, bits, shares):
    """Each input alone, as if no two of them occurred together."""
    alone = (torch.zeros_like(x).index_copy(1, torch.tensor([j]), x[:, [j]]) for j in range(len(w)))
    return sum(clip_at_once(w, one, bits, shares) for one in alone)


def smoothing_by_logs(x, weight, alpha):
    return (alpha * x.abs().amax(0).log() - (1 - alpha) * weight.abs().amax(0).log()).exp()


def smoothing_by_sort(x, weight, alpha):
    a, w = x.abs().sort(0).values[-1], weight.abs().sort(0).values[-1]
    return a.pow(alpha).div(w.pow(1 - alpha))


def fold_by_loops(gain, weight, s):
    gains = [float(g) / float(f) for g, f in zip(gain, s, strict=True)]
    rows = [[float(w) * float(f) for w, f in zip(row, s, strict=True)] for row in weight]
    return torch.tensor(gains), torch.tensor(rows)


def awq_by_entries(x, alpha):
    powers = []
    for column in x.T.tolist():
        powers.append((sum(abs(value) for value in column) / len(column)) ** alpha)
    middle = (max(powers) * min(powers)) ** 0.5
    return torch.tensor([power / middle for power in powers])


def error_in_single_precision(x, weight, s, bits):
    effective = ties(weight * s, bits) / s
    return torch.einsum("tj,ij->ti", x.float(), (weight - effective).float()).square().sum()


def clip_by_tokens(w, x, bits, shares):
    found = []
    for c in shares:
        low, high = float(w.min()) * c, float(w.max()) * c
        scale, zero = scale_and_zero(torch.tensor(low).to(w), torch.tensor(high).to(w), bits, False)
        codes = torch.clamp(torch.round(w / scale) + zero, min=0, max=2**bits - 1)
        lost = w - (codes - zero) * scale
        found.append(sum(float(token @ lost) ** 2 for token in x))
    return torch.tensor(found)


def smoothing_by_powers(x, weight, alpha):
    loud = x.float().norm(p=float("inf"), dim=0)
    large = weight.float().norm(p=float("inf"), dim=0)
    return loud**alpha * large ** (alpha - 1)


RIGHT = {
    "scaling.fold": [
        fold_by_loops,
        fold_by_diag,
        lambda gain, weight, s: (gain * s.reciprocal(), torch.einsum("ij,j->ij", weight, s)),
    ],
    "scaling.awq_scale": [awq_by_entries, awq_by_logs, awq_in_steps],
    "scaling.output_error": [
        error_in_single_precision,
        error_by_columns,
        lambda x, weight, s, bits: (
            torch.dist(x @ weight.T, (x / s) @ ties(weight * s, bits).T) ** 2
        ),
    ],
    "scaling.clip_errors": [clip_by_tokens, clip_at_once, clip_by_product],
    "scaling.smoothing_scale": [smoothing_by_powers, smoothing_by_logs, smoothing_by_sort],
}
WRONG = {
    "scaling.fold": [
        (lambda gain, weight, s: (gain * s, weight / s), "wrong_way"),
        (lambda gain, weight, s: (gain / s, (weight.T * s).T), "rows"),
        (lambda gain, weight, s: (gain, weight @ torch.diag(s)), "gain_left"),
        (lambda gain, weight, s: (gain / s, weight.clone()), "weight_left"),
        (lambda gain, weight, s: (gain * s, weight * s), "both_multiplied"),
        (lambda gain, weight, s: (gain / s, weight / s), "both_divided"),
        (lambda gain, weight, s: (weight * s, gain / s), None),
    ],
    "scaling.awq_scale": [
        (lambda x, alpha: awq_by_logs(x.mean(0, keepdim=True), alpha), "signs_cancel"),
        (lambda x, alpha: awq_by_logs(x.abs().amax(0, keepdim=True), alpha), "maximum"),
        (
            lambda x, alpha: awq_by_logs(x.square().mean(0, keepdim=True).sqrt(), alpha),
            "mean_square",
        ),
        (
            lambda x, alpha: awq_by_logs(x.abs().pow(alpha).mean(0, keepdim=True), 1.0),
            "power_before_mean",
        ),
        (lambda x, alpha: x.abs().mean(0).pow(alpha), "not_centred"),
        (lambda x, alpha: awq_by_logs(x, 1.0), "alpha_missing"),
        (lambda x, alpha: awq_by_logs(x, 1 - alpha), "alpha_from_one"),
        (lambda x, alpha: awq_by_logs(x, -alpha), "inverse"),
        (
            lambda x, alpha: (lambda s: s / (s.max() * s.min()))(x.abs().mean(0) ** alpha),
            "root_missing",
        ),
        (lambda x, alpha: x.abs().mean(0) ** alpha / x.abs().mean() ** alpha, None),
    ],
    "scaling.output_error": [
        (
            lambda x, weight, s, bits: (x @ (weight - ties(weight * s, bits)).T).square().sum(),
            "input_not_divided",
        ),
        (
            lambda x, weight, s, bits: error_by_columns(x, weight, torch.ones_like(s), bits),
            "not_scaled",
        ),
        (lambda x, weight, s, bits: error_by_columns(x, weight, 1 / s, bits), "wrong_way"),
        (
            lambda x, weight, s, bits: (x @ (weight - ties(weight, bits) / s).T).square().sum(),
            "scaled_after",
        ),
        (
            lambda x, weight, s, bits: error_by_columns(
                torch.eye(len(s), dtype=x.dtype), weight, s, bits
            ),
            "of_weights",
        ),
        (
            lambda x, weight, s, bits: (
                error_by_columns(x, weight, s, bits) / (len(x) * len(weight))
            ),
            "mean",
        ),
        (lambda x, weight, s, bits: error_by_columns(x, weight, s, bits).sqrt(), "root"),
        (lambda x, weight, s, bits: error_by_columns(x, weight, s, bits + 1), None),
    ],
    "scaling.clip_errors": [
        (weight_errors, "of_weights"),
        (terms_squared, "squared_before_sum"),
        (clip_with(lambda w, s, z, bits: s * (w / s).round()), "not_clamped"),
        (one_sided(False, True), "only_the_top"),
        (one_sided(True, False), "only_the_bottom"),
        (clipped_weights, "step_kept"),
        (clip_with(lambda w, s, z, bits: s * ((w / s).round() + z).clamp(0, 2**bits - 1)), None),
    ],
    "scaling.smoothing_scale": [
        (lambda x, weight, alpha: smoothing_by_logs(x, weight, 1 - alpha), "exponents_swapped"),
        (
            lambda x, weight, alpha: (x.abs().amax(0) / weight.abs().amax(0)).pow(alpha),
            "same_exponent",
        ),
        (lambda x, weight, alpha: smoothing_by_sort(x, weight, alpha).reciprocal(), "inverse"),
        (
            lambda x, weight, alpha: x.abs().amax(0) ** alpha * weight.abs().amax(0) ** (1 - alpha),
            "multiplied",
        ),
        (lambda x, weight, alpha: smoothing_by_sort(x, weight.T, alpha), "rows"),
        (
            lambda x, weight, alpha: x.abs().mean(0) ** alpha / weight.abs().mean(0) ** (1 - alpha),
            "mean",
        ),
        (lambda x, weight, alpha: x.abs().amax(0) ** alpha, "activations_only"),
        (
            lambda x, weight, alpha: x.abs().amax(0) ** alpha / weight.abs().amax() ** (1 - alpha),
            "one_for_all",
        ),
        (
            lambda x, weight, alpha: x.amax(0).abs() ** alpha / weight.amax(0).abs() ** (1 - alpha),
            "signed",
        ),
        (lambda x, weight, alpha: smoothing_by_sort(x, weight, alpha).mean() + 0 * x[0], None),
    ],
}
