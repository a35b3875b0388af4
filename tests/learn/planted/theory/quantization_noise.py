"""Right and wrong answers to the exercises of quantization_noise."""

import math

import numpy as np
import torch

# --- predict the damage ---


def by_norms(weights, quantized, damages, level):
    return sum(
        d / level**2 * float((q - w).norm() / w.norm()) ** 2
        for w, q, d in zip(weights, quantized, damages, strict=True)
    )


def by_arrays(weights, quantized, damages, level):
    t2 = np.array(
        [
            ((q - w).numpy() ** 2).sum() / (w.numpy() ** 2).sum()
            for w, q in zip(weights, quantized, strict=True)
        ]
    )
    return np.dot(np.array(damages) / level**2, t2)


def by_means(weights, quantized, damages, level):
    total = torch.zeros((), dtype=torch.float64)
    for i, w in enumerate(weights):
        total += damages[i] * (quantized[i] - w).square().mean() / (w * level).square().mean()
    return total


def plan(term, join=sum):
    def answer(weights, quantized, damages, level):
        sizes = [
            (float(((q - w) ** 2).sum()), float((w**2).sum()))
            for w, q in zip(weights, quantized, strict=True)
        ]
        return join([term(e, w, d, level) for (e, w), d in zip(sizes, damages, strict=True)])

    return answer


# --- which noise is it? ---


def by_polyfit(weight, changed):
    order = weight.abs().flatten().argsort()
    size = [float(part.abs().log().mean()) for part in weight.flatten()[order].chunk(10)]
    energy = [
        float(part.pow(2).mean().log()) for part in (changed - weight).flatten()[order].chunk(10)
    ]
    return ("additive", "signal", "multiplicative")[
        min(2, max(0, round(float(np.polyfit(size, energy, 1)[0]))))
    ]


def by_halves(weight, changed):
    """The smaller and the larger half of the weights: how do their energies compare?"""
    size, energy = weight.flatten().abs(), (changed - weight).flatten() ** 2
    small, large = size.argsort().tensor_split(2)
    growth = math.log(
        energy[large].mean() / energy[small].mean(), size[large].mean() / size[small].mean()
    )
    return ("additive", "signal", "multiplicative")[round(growth)]


def by_evenness(weight, changed):
    """Under the right model e² / |w|^k does not depend on |w|: take the k with the least
    correlation of ranks.
    """
    from scipy.stats import spearmanr

    w, e2 = weight.flatten().abs(), (changed - weight).flatten() ** 2
    keep = w > w.quantile(0.02)
    strength = [abs(spearmanr(w[keep], e2[keep] / w[keep] ** k).statistic) for k in (0, 1, 2)]
    return ("additive", "signal", "multiplicative")[int(np.argmin(strength))]


def growth(weight, changed):
    order = weight.abs().flatten().argsort()
    size = [float(part.abs().log().mean()) for part in weight.flatten()[order].chunk(10)]
    energy = [
        float(part.pow(2).mean().log()) for part in (changed - weight).flatten()[order].chunk(10)
    ]
    return float(np.polyfit(size, energy, 1)[0])


def by_likelihood(weight, changed):
    """The model under which the errors are the likeliest: normal with a deviation that grows like
    |w|^(k/2).
    """
    w, e = weight.flatten().abs(), (changed - weight).flatten()
    fits = [-0.5 * (e**2 / w**k).mean().log() - 0.5 * k * w.log().mean() for k in (0, 1, 2)]
    return ("additive", "signal", "multiplicative")[int(torch.stack(fits).argmax())]


def by_kurtosis(weight, changed):
    """Thresholds that hold for normal weights only."""
    e = changed - weight
    k = float((e**4).mean() / (e**2).mean() ** 2)
    return "additive" if k < 3.8 else "signal" if k < 6.5 else "multiplicative"


def by_size(weight, changed):
    """Errors of the larger half over those of the smaller, judged by what normal weights give."""
    small, large = weight.flatten().abs().argsort().tensor_split(2)
    e2 = (changed - weight).flatten() ** 2
    ratio = float(e2[large].mean() / e2[small].mean())
    return "additive" if ratio < 1.6 else "signal" if ratio < 10 else "multiplicative"


# --- the straight-through gradient ---


def by_where(weight, gradient, scale, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    t = weight / scale
    hat = torch.round(t).clamp(low, high) * scale
    return hat, torch.where((t < low) | (t > high), torch.zeros_like(gradient), gradient)


def by_autograd(weight, gradient, scale, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    w = weight.clone().requires_grad_()
    t = (w / scale).clamp(low, high)
    hat = scale * (t + (t.round() - t).detach())
    hat.backward(gradient)
    return hat.detach().clone(), w.grad


def by_fake_quantize(weight, gradient, scale, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    hat = torch.fake_quantize_per_tensor_affine(weight, scale, 0, low, high)
    return [hat, gradient * ((weight > low * scale) * (weight < high * scale)).to(gradient)]


def half(forward, backward):
    def answer(weight, gradient, scale, bits):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        right = by_where(weight, gradient, scale, bits)
        t = weight / scale
        hat = right[0] if forward is None else forward(t, scale, low, high)
        return hat, right[1] if backward is None else backward(t, gradient, scale, low, high)

    return answer


NAMES = ("additive", "signal", "multiplicative")

RIGHT = {
    "quantization_noise.predicted_kl": [by_norms, by_arrays, by_means],
    "quantization_noise.which_noise": [by_polyfit, by_halves, by_evenness, by_likelihood],
    "quantization_noise.ste": [by_where, by_autograd, by_fake_quantize],
}

WRONG = {
    "quantization_noise.predicted_kl": [
        (plan(lambda e, w, d, level: d / level**2 * math.sqrt(e / w)), "not_squared"),
        (plan(lambda e, w, d, level: d / level**2 * e), "absolute"),
        (plan(lambda e, w, d, level: d * e / w), "wrong_scale"),
        (plan(lambda e, w, d, level: d / level * e / w), "level_not_squared"),
        (
            plan(lambda e, w, d, level: d / level**2 * e / w, lambda p: math.hypot(*p)),
            "root_of_sum",
        ),
        (plan(lambda e, w, d, level: d / level**2 * e / w, lambda p: sum(p) / len(p)), "mean"),
        (plan(lambda e, w, d, level: d / level**2 * e / w, max), "largest"),
        (plan(lambda e, w, d, level: d * level**2 * e / w), None),
    ],
    "quantization_noise.which_noise": [
        (
            lambda weight, changed: NAMES[min(2, max(0, round(growth(weight, changed) / 2)))],
            "first_power",
        ),
        (
            lambda weight, changed: (
                "additive" if growth(weight, changed) < 0.5 else "multiplicative"
            ),
            "two_kinds_only",
        ),
        (lambda weight, changed: "additive", "always_additive"),
        (lambda weight, changed: "multiplicative", None),
        (lambda weight, changed: NAMES[2 - min(2, max(0, round(growth(weight, changed))))], None),
        (lambda weight, changed: round(growth(weight, changed)), None),
        (by_kurtosis, None),
        (by_size, None),
    ],
    "quantization_noise.ste": [
        (half(None, lambda t, g, s, low, high: g.clone()), "passed_everywhere"),
        (half(None, lambda t, g, s, low, high: 0 * g), "true_gradient"),
        (half(lambda t, s, low, high: s * torch.round(t), None), "not_clamped"),
        (
            half(lambda t, s, low, high: s * torch.round(t).clamp(-high, high), None),
            "symmetric_ends",
        ),
        (half(lambda t, s, low, high: torch.round(t).clamp(low, high), None), "codes"),
        (
            half(None, lambda t, g, s, low, high: g / s * ((t >= low) & (t <= high))),
            "gradient_scaled",
        ),
        (
            half(None, lambda t, g, s, low, high: g * ((t >= low - 0.5) & (t <= high + 0.49999))),
            "by_rounded",
        ),
        (half(lambda t, s, low, high: s * torch.floor(t).clamp(low, high), None), None),
    ],
}
