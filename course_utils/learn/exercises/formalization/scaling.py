"""AWQ and SmoothQuant step by step: folding a scale, AWQ's scale, the error it leads to, clipping,
smoothing.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.quantization.grids import scale_and_zero
from course_utils.quantization.rtn import quantize_layer

from ..draws import pick, turn


def salient(rng: torch.Generator, tokens: int, inputs: int) -> Tensor:
    """Inputs (tokens, inputs) of which each channel has its own size, one of them far larger."""
    sizes = torch.rand(inputs, generator=rng, dtype=torch.float64) + 0.3
    sizes[int(torch.randint(inputs, (), generator=rng))] *= 20
    return (torch.randn(tokens, inputs, generator=rng, dtype=torch.float64) + 0.2) * sizes


def positive(rng: torch.Generator, n: int) -> Tensor:
    return torch.rand(n, generator=rng, dtype=torch.float64) * 3 + 0.3


def matrix(rng: torch.Generator, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=rng, dtype=torch.float64)


# --- the same function ---


def fold_inputs(rng: torch.Generator) -> dict:
    n = pick(rng, 4, 5, 6)  # square, so that a scale may land on the wrong side
    return {"gain": positive(rng, n), "weight": matrix(rng, n, n), "s": positive(rng, n)}


def fold(gain: Tensor, weight: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """g_j ← g_j / s_j,   w_ij ← w_ij · s_j."""
    new_gain, new_weight = gain.clone(), weight.clone()
    for j in range(len(s)):
        new_gain[j] = gain[j] / s[j]
        for i in range(len(weight)):
            new_weight[i, j] = weight[i, j] * s[j]
    return new_gain, new_weight


# --- AWQ's scale ---


def awq_scale_inputs(rng: torch.Generator) -> dict:
    return {
        "x": salient(rng, turn(rng, 7, 12, 37), turn(rng, 5, 4)),
        "alpha": turn(rng, 0.3, 0.6, 1.0, 0.0),
    }


def centred(scale: Tensor) -> Tensor:
    return scale / (scale.max() * scale.min()).sqrt()


def awq_scale(x: Tensor, alpha: float) -> Tensor:
    """s_j = m_j^α / √(max_k m_k^α · min_k m_k^α), m_j = mean over tokens of |x_j|."""
    magnitude = x.new_zeros(x.shape[1])
    for token in x:
        for j in range(x.shape[1]):
            magnitude[j] += abs(token[j]) / len(x)
    return centred(magnitude**alpha)


# --- the error of rounding a scaled weight ---


def error_inputs(rng: torch.Generator) -> dict:
    n = 8
    return {
        "x": salient(rng, 10, n),
        "weight": matrix(rng, 4, n),
        "s": positive(rng, n),
        "bits": pick(rng, 3, 4),
    }


def rounded(weight: Tensor, bits: int) -> Tensor:
    return quantize_layer(weight, bits=bits, group_size=-1).weight


def output_error(x: Tensor, weight: Tensor, s: Tensor, bits: int) -> Tensor:
    """Σ over tokens and outputs of (X Wᵀ − (X / s) Q(W · s)ᵀ)²."""
    quantized, total = rounded(weight * s, bits), x.new_zeros(())
    for token in x:
        for i in range(len(weight)):
            exact = sum(token[j] * weight[i, j] for j in range(len(s)))
            found = sum(token[j] / s[j] * quantized[i, j] for j in range(len(s)))
            total += (exact - found) ** 2
    return total


# --- clipping ---


def clip_inputs(rng: torch.Generator) -> dict:
    w = torch.randn(12, generator=rng, dtype=torch.float64)
    w[int(torch.randint(12, (), generator=rng))] = 3.5
    w[int(torch.randint(11, (), generator=rng))] -= 3.0
    return {
        "w": w,
        "x": salient(rng, 9, 12),
        "bits": pick(rng, 2, 3, 4),
        "shares": [1.0, 0.85, 0.7, 0.55],
    }


def clip_errors(
    w: Tensor, x: Tensor, bits: int, shares: list[float], *, clamp=True, of_weights=False, low=True,
    high=True, fixed=False
) -> Tensor:  # fmt: skip
    """For each share c: Σ_t (x_t · (w − ŵ))² with ŵ on the grid over [c · min w, c · max w], codes
    held to 0 … 2^b − 1.
    """
    errors = []
    for c in shares:
        lowest, highest = w.min() * (c if low else 1), w.max() * (c if high else 1)
        s, z = scale_and_zero(*((w.min(), w.max()) if fixed else (lowest, highest)), bits, False)
        q = torch.round(w / s) + z
        q = q.clamp(0, 2**bits - 1) if clamp else q
        quantized = s * (q - z)
        if fixed:
            quantized = quantized.clamp(lowest, highest)
        difference = w - quantized
        errors.append((difference if of_weights else x @ difference).square().sum())
    return torch.stack(errors)


# --- SmoothQuant ---


def smoothing_inputs(rng: torch.Generator) -> dict:
    n = pick(rng, 5, 6)
    weight = matrix(rng, n, n) * positive(rng, n)  # every column its own size
    weight[:, 0] = -weight[:, 0].abs() * 2
    return {"x": salient(rng, 9, n), "weight": weight, "alpha": turn(rng, 0.35, 0.8, 0.0, 1.0)}


def smoothing_scale(x: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """s_j = max_t |x_tj|^α / max_i |w_ij|^(1−α)."""
    s = x.new_zeros(x.shape[1])
    for j in range(x.shape[1]):
        largest_x = max(abs(value) for value in x[:, j].tolist())
        largest_w = max(abs(value) for value in weight[:, j].tolist())
        s[j] = largest_x**alpha / largest_w ** (1 - alpha)
    return s


def largest(values: Tensor, dim: int = 0) -> Tensor:
    return values.abs().amax(dim)


EXERCISES = [
    Exercise(
        id="scaling.fold", inputs=fold_inputs, spec=fold, lesson="3.3-awq-smoothquant",
        kind="step", difficulty=1, minutes=5,
        mistakes={
            "wrong_way": lambda gain, weight, s: (gain * s, weight / s),
            "rows": lambda gain, weight, s: (gain / s, weight * s[:, None]),
            "gain_left": lambda gain, weight, s: (gain, weight * s),
            "weight_left": lambda gain, weight, s: (gain / s, weight),
            "both_multiplied": lambda gain, weight, s: (gain * s, weight * s),
            "both_divided": lambda gain, weight, s: (gain / s, weight / s),
        },
    ),
    Exercise(
        id="scaling.awq_scale", inputs=awq_scale_inputs, spec=awq_scale,
        lesson="3.3-awq-smoothquant", trials=4, kind="formula", difficulty=1, minutes=5,
        mistakes={
            "signs_cancel": lambda x, alpha: centred(x.mean(0).abs() ** alpha),
            "maximum": lambda x, alpha: centred(largest(x) ** alpha),
            "mean_square": lambda x, alpha: centred(x.square().mean(0).sqrt() ** alpha),
            "power_before_mean": lambda x, alpha: centred((x.abs() ** alpha).mean(0)),
            "not_centred": lambda x, alpha: x.abs().mean(0) ** alpha,
            "alpha_missing": lambda x, alpha: centred(x.abs().mean(0)),
            "alpha_from_one": lambda x, alpha: centred(x.abs().mean(0) ** (1 - alpha)),
            "inverse": lambda x, alpha: 1 / awq_scale(x, alpha),
            "root_missing": lambda x, alpha:
                x.abs().mean(0) ** alpha
                    / (largest(x.abs().mean(0)) * x.abs().mean(0).min()) ** alpha,
        },
    ),
    Exercise(
        id="scaling.output_error", inputs=error_inputs, spec=output_error,
        lesson="3.3-awq-smoothquant", kind="step", difficulty=2, minutes=6,
        mistakes={
            "input_not_divided": lambda x, weight, s, bits:
                (x @ weight.T - x @ rounded(weight * s, bits).T).square().sum(),
            "not_scaled": lambda x, weight, s, bits:
                (x @ (weight - rounded(weight, bits)).T).square().sum(),
            "wrong_way": lambda x, weight, s, bits:
                (x @ (weight - rounded(weight / s, bits) * s).T).square().sum(),
            "scaled_after": lambda x, weight, s, bits:
                (x @ weight.T - x / s @ rounded(weight, bits).T).square().sum(),
            "of_weights": lambda x, weight, s, bits:
                (weight - rounded(weight * s, bits) / s).square().sum(),
            "mean": lambda x, weight, s, bits:
                (x @ (weight - rounded(weight * s, bits) / s).T).square().mean(),
            "root": lambda x, weight, s, bits:
                (x @ (weight - rounded(weight * s, bits) / s).T).norm(),
        },
    ),
    Exercise(
        id="scaling.clip_errors", inputs=clip_inputs, spec=clip_errors,
        lesson="3.3-awq-smoothquant", trials=8, kind="step", difficulty=3, minutes=10,
        mistakes={
            "of_weights": lambda **given: clip_errors(**given, of_weights=True),
            "squared_before_sum": lambda w, x, bits, shares:
                clip_errors(w, torch.diag(x.norm(dim=0)), bits, shares),
            "not_clamped": lambda **given: clip_errors(**given, clamp=False),
            "only_the_top": lambda **given: clip_errors(**given, low=False),
            "only_the_bottom": lambda **given: clip_errors(**given, high=False),
            "step_kept": lambda **given: clip_errors(**given, fixed=True),
        },
    ),
    Exercise(
        id="scaling.smoothing_scale", inputs=smoothing_inputs, spec=smoothing_scale,
        lesson="3.3-awq-smoothquant", trials=4, kind="design", difficulty=2, minutes=8,
        mistakes={
            "exponents_swapped": lambda x, weight, alpha:
                largest(x) ** (1 - alpha) / largest(weight) ** alpha,
            "same_exponent": lambda x, weight, alpha: (largest(x) / largest(weight)) ** alpha,
            "inverse": lambda x, weight, alpha: 1 / smoothing_scale(x, weight, alpha),
            "multiplied": lambda x, weight, alpha:
                largest(x) ** alpha * largest(weight) ** (1 - alpha),
            "rows": lambda x, weight, alpha:
                largest(x) ** alpha / largest(weight, 1) ** (1 - alpha),
            "signed": lambda x, weight, alpha:
                x.amax(0).abs() ** alpha / weight.amax(0).abs() ** (1 - alpha),
            "mean": lambda x, weight, alpha:
                x.abs().mean(0) ** alpha / weight.abs().mean(0) ** (1 - alpha),
            "activations_only": lambda x, weight, alpha: largest(x) ** alpha,
            "one_for_all": lambda x, weight, alpha:
                largest(x) ** alpha / weight.abs().max() ** (1 - alpha),
        },
    ),
]  # fmt: skip
