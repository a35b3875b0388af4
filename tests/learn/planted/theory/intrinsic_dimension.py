"""Right and wrong answers to the exercises of intrinsic_dimension."""

import itertools
import math

import numpy as np
import torch

# --- eigenvalues above the edge ---


def by_svd(weight, sigma):
    n, m = min(weight.shape), max(weight.shape)
    values = torch.linalg.svdvals(weight) ** 2 / m
    return int((values > sigma**2 * (1 + math.sqrt(n / m)) ** 2).sum())


def by_singular_edge(weight, sigma):
    rows, columns = weight.shape
    return sum(
        s > sigma * (rows**0.5 + columns**0.5) for s in torch.linalg.svdvals(weight).tolist()
    )


def by_rows_as_n(weight, sigma):
    """The edge is symmetric in both sides: rows may be n, also when they are the longer one."""
    W = weight.numpy()
    values = np.linalg.eigvalsh(W @ W.T / W.shape[1])
    return np.sum(values > sigma**2 * (1 + np.sqrt(W.shape[0] / W.shape[1])) ** 2)


def count(edge, values=lambda W, n, m: torch.linalg.svdvals(W) ** 2 / m):
    def answer(weight, sigma):
        n, m = min(weight.shape), max(weight.shape)
        return int((values(weight, n, m) > edge(weight, sigma, n / m)).sum())

    return answer


# --- one step in a random subspace ---


def by_matrix(origin, basis, z, gradient, rate):
    P = basis / basis.norm(dim=0)
    new = z - rate * P.T @ gradient
    return new, origin + P @ new


def by_autograd(origin, basis, z, gradient, rate):
    P = torch.nn.functional.normalize(basis, dim=0)
    w = z.clone().requires_grad_()
    (origin + P @ w).backward(gradient)
    new = (w - rate * w.grad).detach()
    return new, origin + P @ new


def by_lengths(origin, basis, z, gradient, rate):
    lengths = np.sqrt((basis.numpy() ** 2).sum(0))
    new = z.numpy() - rate * (gradient.numpy() @ basis.numpy()) / lengths
    return [new, origin.numpy() + basis.numpy() @ (new / lengths)]


def plan(change):
    def answer(origin, basis, z, gradient, rate):
        return change(origin, basis, basis / basis.norm(dim=0), z, gradient, rate)

    return answer


def on(origin, P, z):
    return z, origin + P @ z


# --- where the prediction ends ---


def by_walk(sparsities, measured, predicted, factor):
    rows = sorted(zip(sparsities, measured, predicted, strict=True))
    held = itertools.takewhile(lambda row: row[1] <= factor * row[2], rows)
    return max((sparsity for sparsity, _, _ in held), default=0.0)


def by_first_failure(sparsities, measured, predicted, factor):
    failed = [s for s, m, p in zip(sparsities, measured, predicted, strict=True) if m / p > factor]
    return max((s for s in sparsities if not failed or s < min(failed)), default=0)


def by_running_product(sparsities, measured, predicted, factor):
    order = np.argsort(sparsities)
    good = np.cumprod(np.array(measured)[order] <= factor * np.array(predicted)[order])
    return float(np.max(np.array(sparsities)[order] * good))


def rows(choose):
    def answer(sparsities, measured, predicted, factor):
        return choose(sorted(zip(sparsities, measured, predicted, strict=True)), factor)

    return answer


def by_prediction(sparsities, measured, predicted, factor):
    """Walks from the smallest prediction up."""
    held = itertools.takewhile(
        lambda row: row[1] <= factor * row[0],
        sorted(zip(predicted, measured, sparsities, strict=True)),
    )
    return ([0.0] + [sparsity for *_, sparsity in held])[-1]


RIGHT = {
    "intrinsic_dimension.spikes": [by_svd, by_singular_edge, by_rows_as_n],
    "intrinsic_dimension.subspace_step": [by_matrix, by_autograd, by_lengths],
    "intrinsic_dimension.breaking_sparsity": [by_walk, by_first_failure, by_running_product],
}

WRONG = {
    "intrinsic_dimension.spikes": [
        (count(lambda W, s, q: s**2 * (1 + (1 / q) ** 0.5) ** 2), "sides_swapped"),
        (
            count(
                lambda W, s, q: s**2 * (1 + q**0.5) ** 2,
                lambda W, n, m: torch.linalg.svdvals(W) ** 2 / n,
            ),
            "shorter_side",
        ),
        (count(lambda W, s, q: s * (1 + q**0.5) ** 2), "deviation"),
        (
            count(
                lambda W, s, q: s**2 * (1 + q**0.5) ** 2, lambda W, n, m: torch.linalg.svdvals(W)
            ),
            "singular_values",
        ),
        (count(lambda W, s, q: W.var() * (1 + q**0.5) ** 2), "own_variance"),
        (count(lambda W, s, q: s**2 * (1 + q) ** 2), "root_left_out"),
        (count(lambda W, s, q: s**2 * (1 - q**0.5) ** 2), "lower_edge"),
        (lambda weight, sigma: min(weight.shape) - by_svd(weight, sigma), None),
        (
            lambda weight, sigma: int(
                (torch.linalg.svdvals(weight) > 2 * sigma * (sum(weight.shape) / 2) ** 0.5).sum()
            ),
            None,
        ),
    ],
    "intrinsic_dimension.subspace_step": [
        (plan(lambda o, B, P, z, g, r: (z - r * g @ P, o + P @ z - r * g)), "trains_everything"),
        (plan(lambda o, B, P, z, g, r: on(o, B, z - r * g @ B)), "not_normalized"),
        (
            plan(
                lambda o, B, P, z, g, r: on(
                    o,
                    torch.nn.functional.normalize(B, dim=1),
                    z - r * g @ torch.nn.functional.normalize(B, dim=1),
                )
            ),
            "rows_normalized",
        ),
        (
            plan(lambda o, B, P, z, g, r: on(torch.zeros_like(o), P, z - r * g @ P)),
            "origin_forgotten",
        ),
        (plan(lambda o, B, P, z, g, r: (z - r * g @ P, o - r * P @ (g @ P))), "z_forgotten"),
        (plan(lambda o, B, P, z, g, r: (z - r * g @ P, o + P @ (2 * z - r * g @ P))), "twice"),
        (plan(lambda o, B, P, z, g, r: on(o, P, z + r * g @ P)), "uphill"),
        (plan(lambda o, B, P, z, g, r: on(o, P, z - g @ P)), None),
    ],
    "intrinsic_dimension.breaking_sparsity": [
        (
            rows(lambda found, f: max([s for s, m, p in found if m <= f * p] or [0])),
            "last_agreement",
        ),
        (
            rows(lambda found, f: ([s for s, m, p in found if m > f * p] or [found[-1][0]])[0]),
            "first_break",
        ),
        (
            lambda sparsities, measured, predicted, factor: sum(
                m <= factor * p for m, p in zip(measured, predicted, strict=True)
            ),
            None,
        ),
        (
            lambda sparsities, measured, predicted, factor: rows_as_given(
                sparsities, measured, predicted, factor
            ),
            "given_order",
        ),
        (
            rows(lambda found, f: max([s for s, m, p in found if m - p <= 0.01 * f] or [0])),
            "difference",
        ),
        (
            rows(lambda found, f: max([s for s, m, p in found if p <= f * m] or [0])),
            "ratio_inverted",
        ),
        (
            rows(
                lambda found, f: max(
                    [
                        s
                        for s in [0.0] + [s for s, *_ in found]
                        if all((m - p) / p <= f for t, m, p in found if t <= s)
                    ]
                )
            ),
            "relative_difference",
        ),
        (by_prediction, None),
    ],
}


def rows_as_given(sparsities, measured, predicted, factor):
    held = 0.0
    for s, m, p in zip(sparsities, measured, predicted, strict=True):
        if m > factor * p:
            return held
        held = s
    return held
