"""Lesson 5.9: what a pretended F chooses, a QUBO's penalty, a swap, connections that move, the cost
of exits, a verdict.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until
from ._exits_and_verdicts import (
    exit_cost,
    exit_with,
    last_sure,
    looks,
    trial,
    verdict,
    verdict_with,
)

LESSON = "5.9-frontiers"

# --- what each pretended F would choose ---


def candidates(rng: torch.Generator) -> dict:
    """Four changes of a few weights, of which identity, diagonal and the whole F choose unlike
    ones.
    """

    def make(rng):
        n = 5
        A = torch.randn(n, n, generator=rng, dtype=torch.float64)
        F = A @ A.T / n
        F = F * (0.2 + 3 * torch.rand(n, generator=rng, dtype=torch.float64))[:, None].sqrt() * 1.0
        F = (F + F.T) / 2
        F = F + (0.05 - min(0.0, float(torch.linalg.eigvalsh(F)[0]))) * torch.eye(
            n, dtype=torch.float64
        )
        return {"F": F, "deltas": torch.randn(4, n, generator=rng, dtype=torch.float64)}

    return until(rng, make, lambda given: len(set(choices(**given)[1])) == 3)


def choices(F: Tensor, deltas: Tensor) -> tuple[Tensor, list[int]]:
    """(½ δᵀFδ of each row of deltas, [which row the identity takes, the diagonal of F, F]): each
    takes what costs least by it.
    """
    costs = [
        torch.einsum("ri,ij,rj->r", deltas, M, deltas) / 2
        for M in (torch.eye(len(F), dtype=F.dtype), F.diag().diag(), F)
    ]
    return costs[2], [int(c.argmin()) for c in costs]


def choices_with(
    half=0.5,
    identity=lambda d: d.square().sum(1),
    diagonal=lambda F, d: (d.square() * F.diag()).sum(1),
    full=None,
    best=torch.argmin,
):
    def answer(F, deltas):
        whole = torch.einsum("ri,ij,rj->r", deltas, F, deltas) if full is None else full(F, deltas)
        return half * whole, [int(best(c)) for c in (identity(deltas), diagonal(F, deltas), whole)]

    return answer


# --- the count as a penalty ---


def problem(rng: torch.Generator) -> dict:
    n = pick(rng, 4, 5)
    A = torch.randn(n, 6, generator=rng, dtype=torch.float64)
    return {
        "Q": A @ A.T,
        "remove": turn(rng, 1, 2, 3),
        "strength": 2 + 5 * float(torch.rand((), generator=rng)),
    }


def penalty(Q: Tensor, remove: int, strength: float) -> tuple[Tensor, float]:
    """(Q′, c): sᵀQ′s + c = sᵀQs + P (Σ s − r)² for all s of zeros and ones, Q′ symmetric."""
    eye = torch.eye(len(Q), dtype=Q.dtype)
    return Q + strength * (torch.ones_like(Q) - 2 * remove * eye), strength * remove**2


def penalty_with(
    ones=1.0,
    linear=lambda r: -2.0 * r,
    constant=lambda r: r * r,
    extra=0.0,
    upper=False,
    scaled=True,
):
    def answer(Q, remove, strength):
        all_ones = torch.ones_like(Q)
        pairs = ones * (all_ones.triu() if upper else all_ones) + extra * torch.eye(
            len(Q), dtype=Q.dtype
        )
        more = pairs + linear(remove) * torch.eye(len(Q), dtype=Q.dtype)
        return Q + strength * more, (strength if scaled else 1.0) * constant(remove)

    return answer


# --- one swap ---


def swap_problem(rng: torch.Generator) -> dict:
    n = pick(rng, 5, 6)
    A = torch.randn(n, 7, generator=rng, dtype=torch.float64)
    order = torch.randperm(n, generator=rng)
    removed = torch.zeros(n, dtype=torch.bool)
    removed[order[: turn(rng, 2, 3, 1)]] = True
    return {"Q": A @ A.T, "removed": removed, "back": int(order[0]), "gone": int(order[-1])}


def swap(Q: Tensor, removed: Tensor, back: int, gone: int) -> float:
    """E(s′) − E(s), E = sᵀQs, when `back` comes back and `gone` goes."""
    s, t = removed.to(Q.dtype), removed.to(Q.dtype)
    t[back], t[gone] = 0, 1
    return float(t @ Q @ t - s @ Q @ s)


def swap_with(pair=-2.0, field=2.0, own=1.0, sign=1.0):
    def answer(Q, removed, back, gone):
        f = Q @ removed.to(Q.dtype)
        return float(
            sign
            * (
                own * (Q[back, back] + Q[gone, gone])
                + field * (f[gone] - f[back])
                + pair * Q[back, gone]
            )
        )

    return answer


# --- connections that move ---


def layer(rng: torch.Generator) -> dict:
    """A small layer: its largest gradients lie where connections are, at gaps, and at one that will
    be cut.
    """
    rows, columns = pick(rng, 3, 4), 6
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[torch.randperm(rows * columns, generator=rng)[: turn(rng, 8, 10, 7)]] = True
    mask = mask.view(rows, columns)
    weight = torch.randn(rows, columns, generator=rng, dtype=torch.float64) * mask
    gradient = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    if turn(rng, True, False):  # what is cut would grow again at once
        smallest = weight.abs().masked_fill(~mask, 9.0).argmin()
        gradient.view(-1)[smallest] = 3.0 * turn(rng, 1, -1, every=2)
    return {"weight": weight, "gradient": gradient, "mask": mask, "count": turn(rng, 2, 3, 2)}


def regrow(weight: Tensor, gradient: Tensor, mask: Tensor, count: int) -> Tensor:
    """Cut the `count` smallest |w| of the mask; grow `count` of all that are then cut, where
    |gradient| is largest.
    """
    flat, w, g = mask.flatten().clone(), weight.abs().flatten(), gradient.abs().flatten()
    cut = w.masked_fill(~flat, math.inf).argsort()[:count]
    flat[cut] = False
    grown = g.masked_fill(flat, -1.0).argsort(descending=True)[:count]
    flat[grown] = True
    return flat.view_as(mask)


def regrow_with(size=torch.abs, worth=lambda w, g, now: g.abs(), again=True, largest=False):
    def answer(weight, gradient, mask, count):
        old = mask.flatten()
        flat, w = old.clone(), size(weight.flatten())
        cut = (
            w.masked_fill(~old, -math.inf).argsort(descending=True)
            if largest
            else w.masked_fill(~old, math.inf).argsort(stable=True)
        )[:count]
        flat[cut] = False
        shut = flat if again else flat | old
        grown = (
            worth(weight.flatten(), gradient.flatten(), flat)
            .masked_fill(shut, -math.inf)
            .argsort(descending=True, stable=True)[:count]
        )
        flat[grown] = True
        return flat.view_as(mask)

    return answer


def as_given(weight: Tensor, gradient: Tensor, mask: Tensor, count: int) -> Tensor:
    """The code that the lesson asks to mend, word for word."""
    kept = mask.flatten().clone()
    size = weight.flatten().masked_fill(~kept, float("inf"))
    kept[size.argsort()[:count]] = False
    gain = (gradient.flatten() * kept).abs().masked_fill(kept, -1.0)
    kept[gain.argsort(descending=True)[:count]] = True
    return kept.view_as(mask)


EXERCISES = [
    Exercise(
        "frontiers.choices",
        candidates,
        choices,
        {
            "no_half": choices_with(half=1.0),
            "columns": choices_with(
                full=lambda F, d: torch.einsum("ri,ij,rj->r", d, F.diag().diag(), d)
            ),
            "off_diagonal": choices_with(
                full=lambda F, d: torch.einsum("ri,ij,rj->r", d, F - F.diag().diag(), d)
            ),
            "largest": choices_with(best=torch.argmax),
            "norm_of_product": choices_with(full=lambda F, d: (d @ F).square().sum(1)),
            "row_sums": choices_with(diagonal=lambda F, d: (d.square() * F.sum(1)).sum(1)),
            "absolute": choices_with(
                full=lambda F, d: torch.einsum("ri,ij,rj->r", d.abs(), F, d.abs())
            ),
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=6,
        trials=6,
    ),
    Exercise(
        "frontiers.swap",
        swap_problem,
        swap,
        {
            "pair_forgotten": swap_with(pair=0.0),
            "pair_added": swap_with(pair=2.0),
            "pair_once": swap_with(pair=-1.0),
            "field_once": swap_with(field=1.0),
            "own_forgotten": swap_with(own=0.0),
            "own_twice": swap_with(own=2.0),
            "other_way": swap_with(sign=-1.0),
            "diagonal_only": swap_with(pair=0.0, field=0.0),
        },
        lesson=LESSON,
        kind="formula",
        difficulty=2,
        minutes=6,
        trials=6,
    ),
    Exercise(
        "frontiers.penalty",
        problem,
        penalty,
        {
            "no_linear": penalty_with(linear=lambda r: 0.0),
            "linear_once": penalty_with(linear=lambda r: -1.0 * r),
            "sign": penalty_with(linear=lambda r: 2.0 * r),
            "diagonal_doubled": penalty_with(extra=1.0),
            "diagonal_left_out": penalty_with(extra=-1.0),
            "half_of_the_pairs": penalty_with(upper=True),
            "pairs_doubled": penalty_with(ones=2.0, extra=-1.0),
            "no_constant": penalty_with(constant=lambda r: 0.0),
            "constant_unscaled": penalty_with(scaled=False),
            "constant_once": penalty_with(constant=lambda r: r if r > 1 else 0.0),
        },
        lesson=LESSON,
        kind="step",
        difficulty=3,
        minutes=8,
        trials=6,
    ),
    Exercise(
        "frontiers.regrow",
        layer,
        regrow,
        {
            "as_given": as_given,
            "nothing_moves": lambda weight, gradient, mask, count: mask,
            "masked_gradient": regrow_with(worth=lambda w, g, now: (g * now).abs()),
            "signed_weight": regrow_with(size=lambda w: w),
            "signed_gradient": regrow_with(worth=lambda w, g, now: g),
            "largest_cut": regrow_with(largest=True),
            "never_again": regrow_with(again=False),
            "smallest_grow": regrow_with(worth=lambda w, g, now: -g.abs()),
        },
        lesson=LESSON,
        kind="debug",
        difficulty=2,
        minutes=7,
        trials=8,
    ),
    Exercise(
        "frontiers.exit_cost",
        looks,
        exit_cost,
        {
            "looks_free": exit_with(looks=lambda d, last: d * 0),
            "one_look": exit_with(looks=lambda d, last: d * 0 + 1),
            "early_looks_only": exit_with(looks=lambda d, last: torch.where(d < last, d, d - 1)),
            "all_looks": exit_with(looks=lambda d, last: d * 0 + last),
            "never_sure_left_out": exit_with(never="left out"),
            "stays_sure": exit_with(sure=last_sure),
            "by_margin": exit_with(
                sure=lambda p, t: (p.topk(2, -1).values[..., 0] - p.topk(2, -1).values[..., 1]) > t
            ),
            "share_that_left": exit_with(
                agree=lambda p, depth, same: (depth < len(p)).double().mean()
            ),
        },
        lesson=LESSON,
        kind="decide",
        difficulty=2,
        minutes=8,
        trials=6,
    ),
    Exercise(
        "frontiers.verdict",
        trial,
        verdict,
        {
            "mean_only": verdict_with(only_mean=True),
            "unpaired": verdict_with(
                half=lambda d, a, b, t: t * math.sqrt(float(a.var() + b.var()) / len(d))
            ),
            "spread_for_interval": verdict_with(half=lambda d, a, b, t: t * float(d.std())),
            "no_t": verdict_with(half=lambda d, a, b, t: float(d.std()) / math.sqrt(len(d))),
            "steps_ignored": verdict_with(fair=("tuned", "seeds")),
            "tuning_ignored": verdict_with(fair=("steps", "seeds")),
            "two_seeds": verdict_with(fair=("steps", "tuned")),
            "fairness_ignored": verdict_with(fair=()),
            "higher_is_better": verdict_with(lower="worse"),
        },
        lesson=LESSON,
        kind="decide",
        difficulty=2,
        minutes=8,
        trials=24,
    ),
]
