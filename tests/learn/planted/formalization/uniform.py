"""Right and wrong answers to the exercises of uniform."""

import math

import torch

# --- there and back ---


def by_torch(x, low, high, bits):
    scale = (high - low) / (2**bits - 1)
    return torch.fake_quantize_per_tensor_affine(x, scale, int(round(-low / scale)), 0, 2**bits - 1)


def by_ends(x, low, high, bits):
    """The range in whole steps on either side of 0."""
    scale = (high - low) / (2**bits - 1)
    below = round(-low / scale)
    return (x / scale).round().clamp(min=-below, max=2**bits - 1 - below) * scale


def by_list(x, low, high, bits):
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    grid = scale * (torch.arange(2**bits, dtype=x.dtype) - zero)
    return grid[(x[..., None] - grid).abs().argmin(-1)]


def trip(code, back, steps=lambda bits: 2**bits - 1):
    def answer(x, low, high, bits):
        scale = (high - low) / steps(bits)
        zero = round(-low / scale)
        return back(code(x, scale, zero, low).clamp(0, 2**bits - 1), scale, zero, low)

    return answer


def usual_code(x, s, z, low):
    return torch.round(x / s) + z


def usual_back(q, s, z, low):
    return (q - z) * s


def upside_down(x, low, high, bits):
    scale = (2**bits - 1) / (high - low)
    zero = round(-low * scale)
    return (((x / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale


# --- the two parts of the error ---


def grid_trip(x, threshold, bits):
    top = 2 ** (bits - 1) - 1
    step = threshold / top
    return (x / step).round().clamp(-top, top) * step


def by_mask(x, threshold, bits):
    squares = (x - grid_trip(x, threshold, bits)).square()
    beyond = x.abs() > threshold
    return (squares * ~beyond).mean(), (squares * beyond).mean()


def by_shares(x, threshold, bits):
    squares, inside = (x - grid_trip(x, threshold, bits)) ** 2, x.abs() <= threshold
    share = inside.double().mean()
    return [float(squares[inside].mean() * share), float(squares[~inside].mean() * (1 - share))]


def from_parts(change):
    def answer(x, threshold, bits):
        squares = (x - grid_trip(x, threshold, bits)).square()
        return change(squares, x.abs() > threshold, x)

    return answer


def with_step(step):
    def answer(x, threshold, bits):
        s, beyond = step(threshold, bits), x.abs() > threshold
        squares = (x - (s * (x / s).round()).clamp(-threshold, threshold)).square()
        return (squares * ~beyond).mean(), (squares * beyond).mean()

    return answer


# --- the best threshold ---


def by_argmin(x, bits, thresholds):
    errors = torch.stack([(x - grid_trip(x, t, bits)).square().mean() for t in thresholds])
    return thresholds[errors.argmin()]


def by_loop(x, bits, thresholds):
    best, least = None, math.inf
    for t in thresholds.tolist():
        error = float(((x - grid_trip(x, t, bits)) ** 2).sum())
        if error < least:
            best, least = t, error
    return best


def chosen(rule):
    def answer(x, bits, thresholds):
        errors = torch.stack([(x - grid_trip(x, t, bits)).square().mean() for t in thresholds])
        return rule(
            errors,
            thresholds,
            torch.stack([torch.stack(by_mask(x, float(t), bits)) for t in thresholds]),
        )

    return answer


# --- stochastic rounding ---


def by_floor(x, scale, u):
    steps = x / scale
    below = torch.floor(steps)
    return scale * torch.where(u < steps - below, below + 1, below)


def by_ceil(x, scale, u):
    return torch.ceil(x / scale - u) * scale


def rounded(move):
    def answer(x, scale, u):
        steps = x / scale
        return scale * move(steps, steps - steps.floor(), u)

    return answer


def by_hand(x, threshold, bits):
    top = 2 ** (bits - 1) - 1
    inside, outside = [], []
    for value in x.tolist():
        clipped = max(-threshold, min(threshold, value))
        error = value - round(clipped * top / threshold) * threshold / top
        (inside if abs(value) <= threshold else outside).append(error * error)
    return sum(inside) / len(x), sum(outside) / len(x)


def by_sorting(x, bits, thresholds):
    return sorted(thresholds.tolist(), key=lambda t: sum(by_hand(x, t, bits)))[0]


def by_entries(x, scale, u):
    """Up with the probability of what is left of the step."""
    out = torch.empty(x.shape)
    for place, value in enumerate(x.flatten().tolist()):
        below, rest = divmod(value / scale, 1)
        out.view(-1)[place] = (below + 1 if u.flatten()[place] < rest else below) * scale
    return out


def bound_in_steps(peak, bits):
    """The variance inside a step of width 1 / (M N)."""
    width = 1 / (peak * (1 << bits))
    return width * width / 12


RIGHT = {
    "uniform.round_trip": [by_torch, by_ends, by_list],
    "uniform.error_parts": [by_hand, by_mask, by_shares],
    "uniform.best_threshold": [by_sorting, by_argmin, by_loop],
    "uniform.stochastic_round": [by_entries, by_floor, by_ceil],
    "uniform.lower_bound": [
        bound_in_steps,
        lambda peak, bits: (1 / peak / 2**bits) ** 2 / 12,
        lambda peak, bits: torch.tensor(0.5 / peak / 2**bits).square() / 3,  # in single precision
    ],
}
WRONG = {
    "uniform.round_trip": [
        (
            lambda x, low, high, bits: (
                lambda s: s * (((x / s).round() + -(low // s)).clamp(0, 2**bits - 1) - -(low // s))
            )((high - low) / (2**bits - 1)),
            "zero_rounded_up",
        ),
        (
            lambda x, low, high, bits: (
                lambda s: (
                    s * (((x / s).round() + int(-low / s)).clamp(0, 2**bits - 1) - int(-low / s))
                )
            )((high - low) / (2**bits - 1)),
            "zero_truncated",
        ),
        (
            lambda x, low, high, bits: (
                lambda s: (
                    s
                    * (
                        ((x / s).round() + round(-low / s)).clamp(
                            -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
                        )
                        - round(-low / s)
                    )
                )
            )((high - low) / (2**bits - 1)),
            "signed_range",
        ),
        (
            lambda x, low, high, bits: (
                lambda s: (
                    s * ((x / s).round().clamp(0, 2**bits - 1) + round(-low / s) - round(-low / s))
                )
            )((high - low) / (2**bits - 1)),
            "clamped_too_early",
        ),
        (
            trip(lambda x, s, z, low: torch.round((x - z) / s), lambda q, s, z, low: q * s + z),
            "forms_mixed",
        ),
        (
            trip(lambda x, s, z, low: torch.round((x - low) / s), lambda q, s, z, low: q * s + low),
            "minimum_as_zero",
        ),
        (
            trip(
                lambda x, s, z, low: torch.round(x / s) - low / s,
                lambda q, s, z, low: (q + low / s) * s,
            ),
            "zero_unrounded",
        ),
        (
            lambda x, low, high, bits: (
                torch.round(x * (2**bits - 1) / (high - low)) * (high - low) / (2**bits - 1)
            ),
            "not_clamped",
        ),
        (trip(usual_code, usual_back, lambda bits: 2**bits), "one_step_more"),
        (trip(usual_code, lambda q, s, z, low: q), "codes"),
        (trip(usual_code, lambda q, s, z, low: s * q), "zero_not_taken_off"),
        (trip(lambda x, s, z, low: torch.fix(x / s) + z, usual_back), "truncated"),
        (
            trip(lambda x, s, z, low: torch.round(x * s) + z, lambda q, s, z, low: (q - z) / s),
            "scale_inverted",
        ),
        (upside_down, "scale_inverted"),
        (trip(usual_code, lambda q, s, z, low: s * (q + z)), None),
        (lambda x, low, high, bits: x.clamp(low, high), None),
    ],
    "uniform.error_parts": [
        (from_parts(lambda e, beyond, x: (e[~beyond].mean(), e[beyond].mean())), "own_means"),
        (from_parts(lambda e, beyond, x: (e[~beyond].sum(), e[beyond].sum())), "sums"),
        (
            from_parts(
                lambda e, beyond, x: ((e.sqrt() * ~beyond).mean(), (e.sqrt() * beyond).mean())
            ),
            "magnitudes",
        ),
        (with_step(lambda t, bits: 2 * t / (2**bits - 1)), "all_levels"),
        (with_step(lambda t, bits: t / 2 ** (bits - 1)), "one_step_more"),
        (from_parts(lambda e, beyond, x: ((e * beyond).mean(), (e * ~beyond).mean())), "swapped"),
        (
            from_parts(lambda e, beyond, x: ((e * ~beyond).mean(), (x * x * beyond).mean())),
            "lost_whole",
        ),
        (
            from_parts(
                lambda e, beyond, x: ((e * ~beyond).mean() ** 0.5, (e * beyond).mean() ** 0.5)
            ),
            "roots",
        ),
        (
            lambda x, threshold, bits: (
                (threshold / (2 ** (bits - 1) - 1)) ** 2
                / 12
                * float((x.abs() <= threshold).sum())
                / len(x),
                by_mask(x, threshold, bits)[1],
            ),
            "formula",
        ),
        (from_parts(lambda e, beyond, x: e.mean()), None),
        (from_parts(lambda e, beyond, x: (e.mean(), (e * beyond).mean())), None),
    ],
    "uniform.best_threshold": [
        (lambda x, bits, thresholds: thresholds[-1], "largest"),
        (chosen(lambda e, t, p: t[p[:, 0].argmin()]), "rounding_only"),
        (
            lambda x, bits, thresholds: next(t for t in thresholds if t >= x.abs().max()),
            "clipping_only",
        ),
        (
            lambda x, bits, thresholds: min(
                thresholds.tolist(), key=lambda t: float((x.abs() - t).clamp(min=0).sum())
            ),
            "clipping_only",
        ),
        (chosen(lambda e, t, p: e.argmin()), "position"),
        (chosen(lambda e, t, p: e.min()), "error"),
        (chosen(lambda e, t, p: t[e.argmax()]), "rounding_only"),
        (lambda x, bits, thresholds: thresholds.mean(), None),
        (lambda x, bits, thresholds: 3 * x.std(), None),
    ],
    "uniform.stochastic_round": [
        (rounded(lambda v, part, u: v.round()), "nearest"),
        (rounded(lambda v, part, u: v.floor() + (part < u)), "reversed"),
        (lambda x, scale, u: by_floor(x, scale, u) / scale, "codes"),
        (rounded(lambda v, part, u: v.trunc() + (u < v.frac())), "toward_zero"),
        (rounded(lambda v, part, u: (v + u).round()), "noise_then_nearest"),
        (rounded(lambda v, part, u: v.floor() + (part > 1 - u)), "other_half"),
        (rounded(lambda v, part, u: (v + u - 0.5).round()), "other_half"),
        (rounded(lambda v, part, u: v - part), "always_down"),
        (
            lambda x, scale, u: scale * ((x / scale).floor() + (u < x.remainder(scale))),
            "not_in_steps",
        ),
        (rounded(lambda v, part, u: v.floor() + u.round().eq(0)), "a_coin"),
        (rounded(lambda v, part, u: v.ceil()), None),
        (rounded(lambda v, part, u: v.floor() + u), None),
    ],
    "uniform.lower_bound": [
        (lambda peak, bits: 2.0**-bits / peak**2 / 12, "values_not_squared"),
        (lambda peak, bits: (1 / peak / bits) ** 2 / 12, "bits_for_values"),
        (lambda peak, bits: (1 / peak / (2**bits - 1)) ** 2 / 12, "steps_for_values"),
        (lambda peak, bits: 4.0**-bits / peak / 12, "peak_not_squared"),
        (lambda peak, bits: (peak / 2**bits) ** 2 / 12, "peak_above"),
        (lambda peak, bits: 1 / peak / 2**bits / math.sqrt(12), "root"),
        (lambda peak, bits: (0.5 / peak / 2**bits) ** 2, "radius"),
        (lambda peak, bits: 4.0**bits / 12, None),
        (lambda peak, bits: -(4.0**-bits) / (12 * peak**2), None),
    ],
}
