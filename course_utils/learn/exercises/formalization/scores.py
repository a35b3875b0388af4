"""Lesson 3.4: what removing a weight costs, masks by magnitude, Wanda and N:M, the surgeon's step,
groups.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until
from ._masks import (
    argsort_as_rank,
    by_limit_of_groups,
    fisher,
    fisher_inputs,
    limited,
    lowest,
    magnitude_mask,
    mask_inputs,
    matrix,  # noqa: F401 (for other rooms)
    n_of_m,
    n_of_m_inputs,
    removal,
    removal_inputs,
    rows_of,
    stay_in_groups,
    stay_in_layer,
    stay_in_rows,
    strided,
    wanda_inputs,
    wanda_mask,
    wanda_score,
    with_norm,
)
from .gptq import correlated, damped_hessian

# --- the surgeon's step ---


def remove_inputs(rng: torch.Generator) -> dict:
    w = torch.randn(6, generator=rng, dtype=torch.float64)
    return {
        "w": w + w.sign(),
        "H": damped_hessian(rng, 6),
        "q": int(torch.randint(6, (), generator=rng)),
    }


def remove_weight(w: Tensor, H: Tensor, q: int) -> Tensor:
    """W − w_q / [H⁻¹]_qq · [H⁻¹]_q,: — found here as the minimum of ½ δHδᵀ over
    the other weights.
    """
    others = [j for j in range(len(w)) if j != q]
    new = torch.zeros_like(w)
    new[others] = w[others] + torch.linalg.solve(H[others][:, others], H[others, q]) * w[q]
    return new


def along(direction):
    """A wrong step: w minus w_q times `direction(H, q)`, with weight q at zero."""

    def step(w, H, q):
        new = w - w[q] * direction(H, q)
        new[q] = 0
        return new

    return step


# --- groups of inputs ---


def group_inputs(rng: torch.Generator) -> dict:
    """Groups of two or three inputs; in one, two loud inputs occur together and their weights
    nearly cancel.

    In every second trial, the norm of W_g H_gg W_gᵀ ranks the groups otherwise than its trace.
    """
    return until(
        rng,
        groups_of_inputs,
        lambda given: (
            not turn(rng, True, False) or not norm_for_trace(**given).equal(group_mask(**given))
        ),
    )


def groups_of_inputs(rng: torch.Generator) -> dict:
    size, groups = turn(rng, 2, 3, every=2), turn(rng, 6, 6, 7, 19)
    weight = torch.randn(5, groups * size, generator=rng, dtype=torch.float64)
    x = correlated(rng, 80, groups * size) * torch.logspace(
        -0.5, 0.5, groups * size, dtype=torch.float64
    )
    first = size * int(torch.randint(groups, (), generator=rng))
    noise = torch.randn(80, generator=rng, dtype=torch.float64)
    x[:, first : first + size] = 0.02 * x[:, first : first + size]
    x[:, first] = 6 * noise
    x[:, first + 1] = 6 * noise + 0.05 * x[:, first + 1]
    weight[:, first + 1] = -weight[:, first]
    return {"weight": weight, "H": 2 / len(x) * x.T @ x, "size": size, "keep": pick(rng, 2, 4)}


def group_costs(weight: Tensor, H: Tensor, size: int) -> Tensor:
    """tr(W_g H_gg W_gᵀ) for each group of `size` neighbouring inputs."""
    parts = [slice(start, start + size) for start in range(0, weight.shape[1], size)]
    return torch.stack([torch.trace(weight[:, g] @ H[g, g] @ weight[:, g].T) for g in parts])


def by_groups(costs: Tensor, weight: Tensor, size: int, keep: int) -> Tensor:
    kept = lowest(costs, len(costs) - keep).repeat_interleave(size)
    return kept.expand_as(weight).clone()


def group_mask(weight: Tensor, H: Tensor, size: int, keep: int) -> Tensor:
    """The `keep` groups with the largest tr(W_g H_gg W_gᵀ) stay, whole, in every row."""
    return by_groups(group_costs(weight, H, size), weight, size, keep)


def with_cost(cost):
    """Groups ranked by `cost(weight, H)`, a number for each weight, summed."""

    def mask(weight, H, size, keep):
        return by_groups(cost(weight, H).sum(0).view(-1, size).sum(1), weight, size, keep)

    return mask


def norm_for_trace(weight, H, size, keep):
    parts = [slice(start, start + size) for start in range(0, weight.shape[1], size)]
    costs = torch.stack([(weight[:, g] @ H[g, g] @ weight[:, g].T).norm() for g in parts])
    return by_groups(costs, weight, size, keep)


def each_row(weight, H, size, keep):
    return torch.cat([group_mask(row[None], H, size, keep) for row in weight])


def no_groups(weight, H, size, keep):
    return lowest(weight**2 * H.diagonal(), weight.numel() - len(weight) * size * keep)


EXERCISES = [
    Exercise(
        id="scores.removal",
        inputs=removal_inputs,
        spec=removal,
        lesson="3.4-pruning-scores",
        kind="step",
        difficulty=1,
        minutes=4,
        mistakes={
            "gradient_sign": lambda weight, grad, curvature: (
                grad * weight + 0.5 * curvature * weight**2
            ),
            "half_forgotten": lambda weight, grad, curvature: (
                -grad * weight + curvature * weight**2
            ),
            "not_squared": lambda weight, grad, curvature: (
                -grad * weight + 0.5 * curvature * weight
            ),
            "first_order_only": lambda weight, grad, curvature: -grad * weight,
            "second_order_only": lambda weight, grad, curvature: 0.5 * curvature * weight**2,
            "absolute": lambda weight, grad, curvature: (
                (grad * weight).abs() + 0.5 * curvature * weight**2
            ),
            "divided": lambda weight, grad, curvature: -grad * weight + 0.5 * weight**2 / curvature,
        },
    ),
    Exercise(
        id="scores.fisher",
        inputs=fisher_inputs,
        spec=fisher,
        lesson="3.4-pruning-scores",
        kind="debug",
        difficulty=2,
        minutes=6,
        mistakes={
            "mean_before_square": lambda weight, grads: 0.5 * grads.mean(0) ** 2 * weight**2,
            "gradient_over_fisher": lambda weight, grads: (
                0.5 * grads.mean(0) ** 2 / grads.square().mean(0)
            ),
            "weight_over_fisher": lambda weight, grads: 0.5 * weight**2 / grads.square().mean(0),
            "half_forgotten": lambda weight, grads: grads.square().mean(0) * weight**2,
            "all_squared": lambda weight, grads: 0.5 * (grads.square().mean(0) * weight) ** 2,
            "summed": lambda weight, grads: 0.5 * grads.square().sum(0) * weight**2,
            "not_squared": lambda weight, grads: 0.5 * grads.square().mean(0) * weight.abs(),
            "weight_forgotten": lambda weight, grads: 0.5 * grads.square().mean(0),
            "variance": lambda weight, grads: 0.5 * grads.var(0, correction=0) * weight**2,
        },
    ),
    Exercise(
        id="scores.magnitude_mask",
        inputs=mask_inputs,
        spec=magnitude_mask,
        lesson="3.4-pruning-scores",
        trials=6,
        counts=stay_in_layer,
        kind="step",
        difficulty=1,
        minutes=5,
        mistakes={
            "signed": lambda weight, sparsity: lowest(weight, round(sparsity * weight.numel())),
            "positive_only": lambda weight, sparsity: (
                weight > weight.abs().flatten().sort().values[round(sparsity * weight.numel()) - 1]
            ),
            "inverted": lambda weight, sparsity: ~magnitude_mask(weight, sparsity),
            "keeps_sparsity": lambda weight, sparsity: magnitude_mask(weight, 1 - sparsity),
            "each_row": lambda weight, sparsity: rows_of(
                weight.abs(), round(sparsity * weight.shape[1])
            ),
            "share_of_largest": lambda weight, sparsity: (
                weight.abs() > sparsity * weight.abs().max()
            ),
            "sparsity_as_threshold": lambda weight, sparsity: weight.abs() > sparsity,
            "pruned_weight": lambda weight, sparsity: weight * magnitude_mask(weight, sparsity),
            "threshold": lambda weight, sparsity: limited(
                weight.abs(), round(sparsity * weight.numel())
            ),
            "rounded_down": lambda weight, sparsity: lowest(
                weight.abs(), int(sparsity * weight.numel())
            ),
            "rounded_up": lambda weight, sparsity: lowest(
                weight.abs(), math.ceil(sparsity * weight.numel())
            ),
        },
    ),
    Exercise(
        id="scores.wanda_mask",
        inputs=wanda_inputs,
        spec=wanda_mask,
        lesson="3.4-pruning-scores",
        trials=8,
        counts=stay_in_rows,
        kind="formula",
        difficulty=2,
        minutes=6,
        mistakes={
            "layer_wise": lambda weight, x, sparsity: lowest(
                wanda_score(weight, x), round(sparsity * weight.numel())
            ),
            "each_column": lambda weight, x, sparsity: (
                rows_of(wanda_score(weight, x).T, round(sparsity * len(weight))).T
            ),
            "inputs_forgotten": with_norm(lambda x: torch.ones_like(x[0])),
            "signed": lambda weight, x, sparsity: rows_of(
                weight * x.norm(dim=0), round(sparsity * weight.shape[1])
            ),
            "mean_of_inputs": with_norm(lambda x: x.mean(0).abs()),
            "centred": with_norm(lambda x: x.std(0)),
            "largest_input": with_norm(lambda x: x.abs().amax(0)),
            "sum_of_magnitudes": with_norm(lambda x: x.abs().sum(0)),
            "squared_norm": with_norm(lambda x: x.square().sum(0)),
            "inverted": lambda weight, x, sparsity: ~wanda_mask(weight, x, sparsity),
            "argsort_as_rank": argsort_as_rank,
            "threshold": lambda weight, x, sparsity: torch.stack(
                [limited(row, round(sparsity * len(row))) for row in wanda_score(weight, x)]
            ),
        },
    ),
    Exercise(
        id="scores.n_of_m",
        inputs=n_of_m_inputs,
        spec=n_of_m,
        lesson="3.4-pruning-scores",
        trials=8,
        counts=stay_in_groups,
        kind="step",
        difficulty=2,
        minutes=6,
        mistakes={
            "along_outputs": lambda score, n, m: n_of_m(score.T, n, m).T,
            "strided": strided,
            "removes_n": lambda score, n, m: n_of_m(score, m - n, m),
            "keeps_lowest": lambda score, n, m: n_of_m(-score, n, m),
            "whole_rows": lambda score, n, m: rows_of(score, score.shape[1] * (m - n) // m),
            "whole_layer": lambda score, n, m: lowest(score, score.numel() * (m - n) // m),
            "threshold": by_limit_of_groups,
        },
    ),
    Exercise(
        id="scores.remove_weight",
        inputs=remove_inputs,
        spec=remove_weight,
        lesson="3.4-pruning-scores",
        kind="step",
        difficulty=2,
        minutes=6,
        mistakes={
            "hessian_not_inverse": along(lambda H, q: H[q] / H[q, q]),
            "divided_by_hessian": along(lambda H, q: torch.linalg.inv(H)[q] / H[q, q]),
            "not_divided": along(lambda H, q: torch.linalg.inv(H)[q]),
            "sign": along(lambda H, q: -torch.linalg.inv(H)[q] / torch.linalg.inv(H)[q, q]),
            "nobody_moves": along(lambda H, q: torch.zeros_like(H[q])),
            "later_only": along(
                lambda H, q: (
                    (torch.linalg.inv(H)[q] / torch.linalg.inv(H)[q, q])
                    * (torch.arange(len(H)) > q)
                )
            ),
        },
        trials=5,
    ),
    Exercise(
        id="scores.group_mask",
        inputs=group_inputs,
        spec=group_mask,
        lesson="3.4-pruning-scores",
        trials=6,
        kind="decide",
        difficulty=3,
        minutes=10,
        mistakes={
            "no_groups": no_groups,
            "each_row": each_row,
            "inputs_forgotten": with_cost(lambda weight, H: weight**2),
            "diagonal_only": with_cost(lambda weight, H: weight**2 * H.diagonal()),
            "whole_hessian": with_cost(lambda weight, H: (weight @ H) * weight),
            "norm_for_trace": norm_for_trace,
            "keeps_worst": lambda weight, H, size, keep: by_groups(
                -group_costs(weight, H, size), weight, size, keep
            ),
            "keep_counts_inputs": lambda weight, H, size, keep: lowest(
                ((weight @ H) * weight).sum(0), weight.shape[1] - keep
            ).expand_as(weight),
        },
    ),
]
