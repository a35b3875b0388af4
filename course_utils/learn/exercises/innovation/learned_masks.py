"""Lesson 5.4: a soft mask over patterns, a hard concrete gate, the price that meets a budget,
movement.
"""

import itertools
import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.pruning import concrete, gumbel

from ..draws import pick, turn

LESSON = "5.4-differentiable-pruning"
DOUBLE = torch.float64


# --- a soft mask over the patterns of each group ---


def groups(rng: torch.Generator) -> dict:
    """Logits of each group's patterns and Gumbel noise; 2:4, 1:4 and 2:3 in turn; temperatures far
    from 1.
    """
    n, m = turn(rng, (2, 4), (1, 4), (2, 3))
    patterns = gumbel.patterns(n, m).to(DOUBLE)
    shape = (pick(rng, 2, 3), pick(rng, 2, 4), len(patterns))
    logits = 2 * torch.randn(shape, generator=rng, dtype=DOUBLE)
    return {
        "logits": logits,
        "noise": gumbel.noise(shape, rng, DOUBLE),
        "tau": pick(rng, 0.3, 0.5, 2.5),
        "patterns": patterns,
    }


def soft_mask(logits: Tensor, noise: Tensor, tau: float, patterns: Tensor) -> Tensor:
    """(rows, groups · m): softmax((logits + noise) / τ) times the patterns, groups beside each
    other.
    """
    return gumbel.as_mask(gumbel.relaxed(logits, tau, noise), patterns)


def soft_with(
    inside=lambda e, g, tau: (e + g) / tau,
    choose=lambda x: x.softmax(-1),
    lay=lambda x: x.flatten(1),
):
    def answer(logits, noise, tau, patterns):
        return lay(choose(inside(logits, noise, tau)) @ patterns)

    return answer


def one_hot(x: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).to(x)


# --- a hard concrete gate ---


def gates(rng: torch.Generator) -> dict:
    """α from shut to open, u over the whole unit interval, so that gates at both ends are there;
    other constants than the paper's.
    """
    n = 12
    u = (torch.rand(n, generator=rng, dtype=DOUBLE) + torch.arange(n)) / n
    alpha = torch.randn(n, generator=rng, dtype=DOUBLE) * 2 + pick(rng, -1, 0, 1)
    return {
        "alpha": alpha,
        "u": u[torch.randperm(n, generator=rng)],
        "beta": pick(rng, 0.5, 2 / 3, 0.8),
        "gamma": pick(rng, -0.1, -0.2),
        "zeta": pick(rng, 1.1, 1.3),
    }


def gate(alpha: Tensor, u: Tensor, beta: float, gamma: float, zeta: float) -> tuple[Tensor, Tensor]:
    """(z, P(z ≠ 0)) of each gate."""
    return concrete.hard(alpha, torch.logit(u), beta, gamma, zeta), concrete.open_probability(
        alpha, beta, gamma, zeta
    )


def gate_with(
    noise=torch.logit, cool=lambda x, b: x / b, stretch=lambda s, g, z: s * (z - g) + g,
    clip=lambda z: z.clamp(0, 1), chance=lambda a, b, g, z: torch.sigmoid(a - b * math.log(-g / z)),
):  # fmt: skip
    def answer(alpha, u, beta, gamma, zeta):
        s = torch.sigmoid(cool(noise(u) + alpha, beta))
        return clip(stretch(s, gamma, zeta)), chance(alpha, beta, gamma, zeta)

    return answer


# --- the price that meets a budget ---


def parts(rng: torch.Generator) -> dict:
    """Parts of a network with what leaving them out costs and how many weights they have; budgets
    that fit exactly, nearly, all, or none.
    """
    n = pick(rng, 5, 6, 7)
    size = torch.randint(2, 40, (n,), generator=rng)
    size[: n // 2] *= 10  # unlike sizes: the dearest part is not the best buy
    ratio = torch.randperm(4 * n, generator=rng)[:n].to(DOUBLE) / 8 + 0.25
    damage = ratio * size
    order = ratio.argsort(descending=True)
    fits = size[order].cumsum(0)
    k = int(torch.randint(1, n - 1, (), generator=rng))
    budget = turn(
        rng,
        int(fits[k]),
        int(fits[k]) - 1,
        int(size.sum()),
        int(fits[k]) + 1,
        int(size[order[0]]) - 1,
    )
    return {"damage": damage, "size": size, "budget": budget}


def price(damage: Tensor, size: Tensor, budget: int) -> tuple[float, Tensor]:
    """(λ, kept): the smallest λ ≥ 0 at which the parts with damage > λ · size fit into the budget,
    and those parts.
    """
    ratio = damage / size
    for value in [0.0, *sorted(ratio.tolist())]:
        kept = ratio > value
        if int(size[kept].sum()) <= budget:
            break
    return value, kept


def price_with(
    ratio=lambda d, s: d / s,
    fits=lambda total, budget: total <= budget,
    used=lambda s: s,
    values=lambda r: [0.0, *sorted(r.tolist())],
    stays=lambda r, v: r > v,
):
    def answer(damage, size, budget):
        found = ratio(damage, size.to(DOUBLE))
        for value in values(found):
            kept = stays(found, value)
            if fits(int(used(size)[kept].sum()), budget):
                break
        return value, kept

    return answer


def filled(damage, size, budget):
    """Takes the best buys one by one and passes over what does not fit: a better filling, but of no
    single price.
    """
    ratio, left = damage / size, budget
    kept = torch.zeros(len(size), dtype=torch.bool)
    for i in ratio.argsort(descending=True).tolist():
        if int(size[i]) <= left:
            kept[i], left = True, left - int(size[i])
    return float(ratio[~kept].max()) if not kept.all() else 0.0, kept


def best_set(damage, size, budget):
    """Of all sets that fit, the one that keeps the most damage away: a knapsack, which no price
    gives.
    """
    best = max(
        (
            s
            for s in itertools.product((False, True), repeat=len(size))
            if int(size[torch.tensor(s)].sum()) <= budget
        ),
        key=lambda s: float(damage[torch.tensor(s)].sum()),
    )
    kept = torch.tensor(best)
    return price(damage, size, budget)[0], kept


# --- movement ---


def path(rng: torch.Generator) -> dict:
    """Weights before each of some steps and their gradients; weights change sign on the way; what
    stays is not divided evenly.
    """
    steps, shape = pick(rng, 4, 5), (3, 5)
    gradients = torch.randn(steps, *shape, generator=rng, dtype=DOUBLE)
    start = 0.6 * torch.randn(*shape, generator=rng, dtype=DOUBLE)
    moved = torch.cat([torch.zeros(1, *shape, dtype=DOUBLE), -0.5 * gradients.cumsum(0)[:-1]])
    return {"weights": start + moved, "gradients": gradients, "keep": pick(rng, 4, 7, 8)}


def movement(weights: Tensor, gradients: Tensor, keep: int) -> Tensor:
    """The mask of the `keep` weights with the largest Σ_t −w_t g_t."""
    return top(-(weights * gradients).sum(0), keep)


def top(score: Tensor, keep: int) -> Tensor:
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(descending=True)[:keep]] = True
    return mask.view_as(score)


def movement_with(score, chosen=top):
    return lambda weights, gradients, keep: chosen(score(weights, gradients), keep)


EXERCISES = [
    Exercise(
        "learned_masks.soft_mask",
        groups,
        soft_mask,
        {
            "multiplied": soft_with(inside=lambda e, g, tau: (e + g) * tau),
            "noise_forgotten": soft_with(inside=lambda e, g, tau: e / tau),
            "noise_not_cooled": soft_with(inside=lambda e, g, tau: e / tau + g),
            "temperature_forgotten": soft_with(inside=lambda e, g, tau: e + g),
            "across_groups": soft_with(choose=lambda x: x.softmax(1)),
            "hard": soft_with(choose=one_hot),
            "interleaved": soft_with(lay=lambda x: x.transpose(1, 2).flatten(1)),
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=6,
        trials=6,
    ),
    Exercise(
        "learned_masks.gate",
        gates,
        gate,
        {
            "sign": gate_with(noise=lambda u: torch.logit(u).neg()),
            "no_stretch": gate_with(stretch=lambda s, g, z: s),
            "no_clip": gate_with(clip=lambda z: z),
            "not_cooled": gate_with(cool=lambda x, b: x),
            "noise_cooled_alone": lambda alpha, u, beta, gamma, zeta: (
                (torch.sigmoid(torch.logit(u) / beta + alpha) * (zeta - gamma) + gamma).clamp(0, 1),
                gate(alpha, u, beta, gamma, zeta)[1],
            ),
            "beta_lost": gate_with(chance=lambda a, b, g, z: torch.sigmoid(a - math.log(-g / z))),
            "penalty_sign": gate_with(
                chance=lambda a, b, g, z: torch.sigmoid(a + b * math.log(-g / z))
            ),
            "soft_chance": gate_with(chance=lambda a, b, g, z: torch.sigmoid(a)),
            "penalty_on_z": lambda alpha, u, beta, gamma, zeta: (
                (gate(alpha, u, beta, gamma, zeta)[0],) * 2
            ),
        },
        lesson=LESSON,
        kind="formula",
        difficulty=2,
        minutes=7,
        trials=6,
    ),
    Exercise(
        "learned_masks.price",
        parts,
        price,
        {
            "dearest": price_with(ratio=lambda d, s: d),
            "inverted": price_with(ratio=lambda d, s: s / d),
            "smallest_stay": price_with(
                values=lambda r: [0.0, *sorted(r.tolist(), reverse=True)],
                stays=lambda r, v: r < v if v else torch.ones_like(r, dtype=torch.bool),
            ),
            "not_quite_full": price_with(fits=lambda total, budget: total < budget),
            "counted": price_with(used=torch.ones_like),
            "one_over": price_with(stays=lambda r, v: r >= v),
            "filled": filled,
            "knapsack": best_set,
        },
        lesson=LESSON,
        kind="decide",
        difficulty=2,
        minutes=8,
        trials=15,
    ),
    Exercise(
        "learned_masks.movement",
        path,
        movement,
        {
            "sign": movement_with(lambda w, g: (w * g).sum(0)),
            "sizes": movement_with(lambda w, g: (w * g).abs().sum(0)),
            "size_of_sum": movement_with(lambda w, g: (w * g).sum(0).abs()),
            "last_only": movement_with(lambda w, g: -(w[-1] * g[-1])),
            "sums_multiplied": movement_with(lambda w, g: -(w[-1] * g.sum(0))),
            "gradient_alone": movement_with(lambda w, g: -g.sum(0)),
            "magnitude": movement_with(lambda w, g: w[-1].abs()),
            "number_that_goes": movement_with(
                lambda w, g: -(w * g).sum(0), chosen=lambda s, keep: top(s, s.numel() - keep)
            ),
            "per_row": movement_with(
                lambda w, g: -(w * g).sum(0),
                chosen=lambda s, keep: torch.stack([top(row, max(1, keep // len(s))) for row in s]),
            ),
        },
        lesson=LESSON,
        kind="debug",
        difficulty=2,
        minutes=6,
        trials=6,
    ),
]
