"""Lesson 4.4: eigenvalues that chance does not explain, a step in a random subspace, where a
prediction ends.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.theory import spectra

from ..draws import pick, turn, until

LESSON = "4.4-intrinsic-dimension"

# --- eigenvalues above the edge ---


def draw_spiked(rng: torch.Generator) -> dict:
    """Noise of deviation σ and a few signals of rank one: one strong, others that only just show;
    wide, tall or square.
    """
    n, m = turn(rng, (24, 240), (150, 30), (70, 70))
    sigma = float(10 ** (2 * torch.rand((), generator=rng) - 1.5))
    W = sigma * torch.randn(n, m, generator=rng, dtype=torch.float64)
    threshold = spectra.visible_above(n, m, sigma)
    for strength in (
        6.0,
        *[1.5 + float(torch.rand((), generator=rng)) for _ in range(pick(rng, 2, 3, 4))],
        0.6,
    ):
        u, v = (torch.randn(k, generator=rng, dtype=torch.float64) for k in (n, m))
        W += strength * threshold * torch.outer(u / u.norm(), v / v.norm())
    return {"weight": W, "sigma": sigma}


def is_clear(given: dict) -> bool:
    """No eigenvalue lies within 3 % of the edge;
    a first guess by the whole variance counts fewer.
    """
    W, q = given["weight"], spectra.ratio(tuple(given["weight"].shape))
    edge, own = (
        spectra.edges(q, variance)[1] for variance in (given["sigma"] ** 2, float(W.var()))
    )
    values = spectra.eigenvalues(W)
    return not (values / edge - 1).abs().min() < 0.03 and int((values > own).sum()) < int(
        (values > edge).sum()
    )


def spiked_inputs(rng: torch.Generator) -> dict:
    return until(rng, draw_spiked, is_clear)


def spikes(weight: Tensor, sigma: float) -> int:
    """How many eigenvalues of (1/m) W Wᵀ, m the longer side, exceed σ² (1 + √(n/m))²."""
    n, m = min(weight.shape), max(weight.shape)
    edge = sigma**2 * (1 + math.sqrt(n / m)) ** 2
    count = 0
    for s in torch.linalg.svdvals(weight):
        if float(s) ** 2 / m > edge:
            count += 1
    return count


def spikes_with(edge, value=lambda s, n, m: s * s / m):
    def answer(weight, sigma):
        n, m = min(weight.shape), max(weight.shape)
        values = value(torch.linalg.svdvals(weight), n, m)
        return int((values > edge(n, m, sigma, weight)).sum())

    return answer


# --- one step in a random subspace ---


def step_inputs(rng: torch.Generator) -> dict:
    """A point θ₀ + P z away from the origin, columns of unlike length, the gradient of the loss by
    θ there.
    """
    D, d = turn(rng, (12, 3), (20, 5), (9, 2))
    basis = torch.randn(D, d, generator=rng, dtype=torch.float64) * (
        0.5 + 3 * torch.rand(d, generator=rng, dtype=torch.float64)
    )
    origin, z, gradient = (torch.randn(k, generator=rng, dtype=torch.float64) for k in (D, d, D))
    return {
        "origin": origin,
        "basis": basis,
        "z": z,
        "gradient": gradient,
        "rate": 0.05 + float(torch.rand((), generator=rng)),
    }


def subspace_step(
    origin: Tensor, basis: Tensor, z: Tensor, gradient: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """(z′, θ′): P has the columns of `basis` at length 1, z′ = z − rate Pᵀ g, θ′ = θ₀ + P z′."""
    D, d = basis.shape
    new, theta = z.clone(), origin.clone()
    for j in range(d):
        column = basis[:, j] / basis[:, j].norm()
        new[j] = z[j] - rate * sum(float(column[i] * gradient[i]) for i in range(D))
        theta += new[j] * column
    return new, theta


def step_with(change):
    def answer(origin, basis, z, gradient, rate):
        P = basis / basis.norm(dim=0)
        return change(origin, basis, P, z, gradient, rate)

    return answer


def joined(origin, P, z):
    return z, origin + P @ z


# --- where the prediction ends ---


def edge_inputs(rng: torch.Generator) -> dict:
    """Sparsities in any order; measured damage leaves the prediction somewhere, may come back by
    chance, or holds to the end.
    """
    n = pick(rng, 6, 7, 8)
    sparsities = (0.1 + 0.8 * torch.rand(n, generator=rng, dtype=torch.float64)).sort().values
    predicted = (
        0.02 * sparsities**2 * (0.6 + 0.8 * torch.rand(n, generator=rng, dtype=torch.float64))
    )
    factor = pick(rng, 1.5, 2.0, 3.0)
    ratio = 1 + 0.8 * (factor - 1) * torch.rand(n, generator=rng, dtype=torch.float64)
    breaks = turn(rng, 3, 2, n, 0, 4)
    ratio[breaks:] = factor * (1.3 + 4 * torch.rand(n - breaks, generator=rng, dtype=torch.float64))
    if breaks < n:
        ratio[breaks] = 1.06 * factor
    if breaks:
        ratio[breaks - 1] = 0.96 * factor
    if 0 < breaks < n - 2:
        ratio[breaks + 1] = 0.9 * factor  # one later point that happens to agree
    order = torch.randperm(n, generator=rng)
    return {
        "sparsities": sparsities[order].tolist(), "measured": (ratio * predicted)[order].tolist(),
        "predicted": predicted[order].tolist(), "factor": factor,
    }  # fmt: skip


def breaking_sparsity(
    sparsities: list[float], measured: list[float], predicted: list[float], factor: float
) -> float:
    """The largest sparsity up to which measured ≤ factor · predicted held without a break; 0 if it
    never did.
    """
    held = 0.0
    for s, m, p in sorted(zip(sparsities, measured, predicted, strict=True)):
        if m > factor * p:
            break
        held = s
    return held


def edge_with(choose):
    def answer(sparsities, measured, predicted, factor):
        return choose(sorted(zip(sparsities, measured, predicted, strict=True)), factor)

    return answer


def in_given_order(sparsities, measured, predicted, factor):
    held = 0.0
    for s, m, p in zip(sparsities, measured, predicted, strict=True):
        if m > factor * p:
            break
        held = s
    return held


EXERCISES = [
    Exercise(
        "intrinsic_dimension.spikes", spiked_inputs, spikes,
        {
            "sides_swapped": spikes_with(lambda n, m, sigma, W:
                sigma**2 * (1 + math.sqrt(m / n)) ** 2),
            "shorter_side": spikes_with(lambda n, m, sigma, W:
                sigma**2 * (1 + math.sqrt(n / m)) ** 2, lambda s, n, m: s * s / n),
            "deviation": spikes_with(lambda n, m, sigma, W: sigma * (1 + math.sqrt(n / m)) ** 2),
            "singular_values": spikes_with(lambda n, m, sigma, W:
                sigma**2 * (1 + math.sqrt(n / m)) ** 2, lambda s, n, m: s),
            "own_variance": spikes_with(lambda n, m, sigma, W:
                float(W.pow(2).mean()) * (1 + math.sqrt(n / m)) ** 2),
            "root_left_out": spikes_with(lambda n, m, sigma, W: sigma**2 * (1 + n / m) ** 2),
            "lower_edge": spikes_with(lambda n, m, sigma, W:
                sigma**2 * (1 - math.sqrt(n / m)) ** 2),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=10,
    ),
    Exercise(
        "intrinsic_dimension.subspace_step", step_inputs, subspace_step,
        {
            "trains_everything": step_with(lambda o, B, P, z, g, rate:
                (z - rate * P.T @ g, o + P @ z - rate * g)),
            "not_normalized": step_with(lambda o, B, P, z, g, rate:
                joined(o, B, z - rate * B.T @ g)),
            "rows_normalized": step_with(lambda o, B, P, z, g, rate:
                joined(o, R := B / B.norm(dim=1, keepdim=True), z - rate * R.T @ g)),
            "origin_forgotten": step_with(lambda o, B, P, z, g, rate:
                joined(0 * o, P, z - rate * P.T @ g)),
            "z_forgotten": step_with(lambda o, B, P, z, g, rate:
                (z - rate * P.T @ g, o - rate * P @ (P.T @ g))),
            "twice": step_with(lambda o, B, P, z, g, rate:
                (z - rate * P.T @ g, o + P @ z + P @ (z - rate * P.T @ g))),
            "uphill": step_with(lambda o, B, P, z, g, rate: joined(o, P, z + rate * P.T @ g)),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=8,
    ),
    Exercise(
        "intrinsic_dimension.breaking_sparsity", edge_inputs, breaking_sparsity,
        {
            "last_agreement": edge_with(lambda rows, f: max((s for s, m, p in rows if m <= f * p),
                default=0.0)),
            "first_break": edge_with(lambda rows, f: next((s for s, m, p in rows if m > f * p),
                rows[-1][0])),
            "given_order": in_given_order,
            "difference": edge_with(lambda rows, f:
                max((s for s, m, p in rows if m - p <= f * 0.01), default=0.0)),
            "relative_difference": lambda sparsities, measured, predicted, factor:
                breaking_sparsity(sparsities, measured, predicted, 1 + factor),
            "ratio_inverted": edge_with(lambda rows, f: max((s for s, m, p in rows if p <= f * m),
                default=0.0)),
        },
        lesson=LESSON, kind="decide", difficulty=2, minutes=8, trials=5,
    ),
]  # fmt: skip
