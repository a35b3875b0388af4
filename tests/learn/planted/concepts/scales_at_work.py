"""Right and wrong answers to the exercises of scales_at_work."""

import numpy as np
import torch

from course_utils.quantization import dequantize, make_grid, quantize

# --- the gain of a scale for each token ---


def by_amax(x):
    a = x.abs().amax(dim=1)
    return a.max() ** 2 / (a**2).mean()


def by_error_of_steps(x):
    """The error of a step s is s² / 12: both sides written out, for any number of codes."""
    steps = (x.amax(1).clamp(min=0), -x.amin(1).clamp(max=0))
    each = torch.maximum(*steps) / 127
    return float((each.max() ** 2 / 12) / (each.square() / 12).mean())


def in_numpy(x):
    a = np.abs(x.numpy()).max(axis=1)
    return float(a.max() ** 2 / np.mean(a**2))


# --- the best grid within a budget ---


def error(x, bits, group_size):
    grid = make_grid(x, bits=bits, group_size=group_size)
    return float((dequantize(quantize(x, grid), grid) - x).norm())


def own_error(x, bits, group_size):
    groups = x.unflatten(1, (-1, group_size))
    low, high = (
        groups.amin(-1, keepdim=True).clamp(max=0),
        groups.amax(-1, keepdim=True).clamp(min=0),
    )
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    back = scale * (((groups / scale).round() + zero).clamp(0, 2**bits - 1) - zero)
    return float((back - groups).square().mean())


def in_all(bits, group_size):
    return bits + 16 / group_size + bits / group_size


def by_sorting(x, choices, budget):
    fitting = [(error(x, *choice), choice) for choice in choices if in_all(*choice) <= budget]
    return sorted(fitting)[0][1]


def by_own_grid(x, choices, budget):
    best = None
    for bits, group_size in choices:
        if (bits * group_size + 16 + bits) / group_size > budget:
            continue
        found = own_error(x, bits, group_size)
        if best is None or found < best[0]:
            best = (found, bits, group_size)
    return best[1:]


def as_a_list(x, choices, budget):
    errors = torch.tensor([error(x, *c) if in_all(*c) <= budget else torch.inf for c in choices])
    return list(choices[int(errors.argmin())])


def pick(price, key, fits=lambda price, budget: price <= budget):
    def answer(x, choices, budget):
        return min((c for c in choices if fits(price(*c), budget)), key=lambda c: key(x, *c))

    return answer


RIGHT = {
    "scales_at_work.token_gain": [by_amax, by_error_of_steps, in_numpy],
    "scales_at_work.best_in_budget": [by_sorting, by_own_grid, as_a_list],
}
WRONG = {
    "scales_at_work.token_gain": [
        (lambda x: x.abs().max() / x.abs().amax(1).mean(), "not_squared"),
        (lambda x: x.abs().max() ** 2 / x.abs().amax(1).mean() ** 2, "mean_squared"),
        (lambda x: 1 / by_amax(x), "inverted"),
        (lambda x: by_amax(x.T), "of_columns"),
        (lambda x: (x.abs().max() / x.abs().amax(1).min()) ** 2, "to_the_smallest"),
        (lambda x: (x.abs().max() / torch.quantile(x.abs().amax(1), 0.5)) ** 2, "to_the_median"),
        (lambda x: x.abs().max() ** 2 / (x**2).mean(), "of_all_numbers"),
        (lambda x: by_amax(x.clamp(min=0)) - 1, None),
        (lambda x: by_amax(x) * len(x), None),
    ],
    "scales_at_work.best_in_budget": [
        (pick(lambda b, g: b, error), "scales_free"),
        (pick(lambda b, g: b + 16 / g, error), "zero_free"),
        (pick(in_all, error, lambda price, budget: price < budget), "budget_not_reached"),
        (pick(in_all, lambda x, b, g: -in_all(b, g)), "dearest"),
        (pick(in_all, lambda x, b, g: in_all(b, g)), "cheapest"),
        (pick(in_all, lambda x, b, g: (-b, g)), "most_bits"),
        (pick(in_all, lambda x, b, g: (g, -b)), "smallest_group"),
        (pick(lambda b, g: 0, error), "budget_ignored"),
        (lambda x, choices, budget: by_sorting(x, choices, budget)[::-1], None),
        (lambda x, choices, budget: by_sorting(x, choices, budget)[0], None),
    ],
}
