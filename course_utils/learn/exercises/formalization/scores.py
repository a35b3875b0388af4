"""Lesson 3.4: what removing a weight costs, masks by magnitude, Wanda and N:M, the surgeon's step, groups."""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import kept, pick, turn, until, with_ties
from .gptq import correlated, damped_hessian


def matrix(rng: torch.Generator, rows: int, columns: int) -> Tensor:
    """Weights of both signs whose rows and columns differ in size."""
    weight = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    return weight * torch.logspace(-0.4, 0.4, rows, dtype=torch.float64)[torch.randperm(rows, generator=rng), None]


def lowest(score: Tensor, count: int) -> Tensor:
    """True everywhere but at the `count` lowest entries of the whole tensor; of equal ones the later go first."""
    left = score.flatten().tolist()
    mask = torch.ones(len(left), dtype=torch.bool)
    mask[sorted(range(len(left)), key=lambda j: (left[j], -j))[:count]] = False
    return mask.view_as(score)


def rows_of(score: Tensor, count: int) -> Tensor:
    return torch.stack([lowest(row, count) for row in score])


# --- the two first terms of the Taylor series ---


def removal_inputs(rng: torch.Generator) -> dict:
    weight, grad = (torch.randn(4, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    return {"weight": weight, "grad": grad, "curvature": torch.rand(4, 6, generator=rng, dtype=torch.float64) + 0.2}


def removal(weight: Tensor, grad: Tensor, curvature: Tensor) -> Tensor:
    """g δ + ½ H_ii δ² with δ = −θ_i, for each weight by itself."""
    change = torch.zeros_like(weight)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            step = -weight[i, j]
            change[i, j] = grad[i, j] * step + 0.5 * curvature[i, j] * step**2
    return change


# --- Fisher ---


def fisher_inputs(rng: torch.Generator) -> dict:
    grads = torch.randn(pick(rng, 5, 7, 9), 3, 4, generator=rng, dtype=torch.float64) + 0.3
    return {"weight": torch.randn(3, 4, generator=rng, dtype=torch.float64), "grads": grads}


def fisher(weight: Tensor, grads: Tensor) -> Tensor:
    """½ F_ii θ_i² with F_ii = (1/N) Σ_n g_n²."""
    F = torch.zeros_like(weight)
    for g in grads:
        F += g**2 / len(grads)
    return 0.5 * F * weight**2


# --- magnitude ---


def mask_inputs(rng: torch.Generator) -> dict:
    """More negative weights than positive ones; in every second trial many are equal in magnitude."""
    weight = matrix(rng, *turn(rng, (5, 8), (7, 9), (3, 37))) - 0.3
    weight = with_ties(rng, weight) if turn(rng, False, True) else weight
    return {"weight": weight, "sparsity": turn(rng, 0.27, 0.36, 0.43, 0.61, 0.72)}


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """True but at the sparsity · n smallest |θ| of the layer."""
    return lowest(weight.abs(), round(sparsity * weight.numel()))


def stay_in_layer(given: dict, mask: Tensor) -> Tensor:
    """What of a mask counts: the magnitudes that stay."""
    return kept(given["weight"].abs().flatten(), mask.flatten())


def limited(score: Tensor, count: int) -> Tensor:
    """Everything above the largest score that should go: of equal ones all go."""
    return score > torch.cat([score.new_full((1,), -torch.inf), score.flatten().sort().values])[count]


# --- Wanda ---


def wanda_inputs(rng: torch.Generator) -> dict:
    """Inputs of different size and with means far from zero, so that leaving out either shows."""
    tokens, n = turn(rng, (12, 8), (37, 7), (12, 11))
    x = torch.randn(tokens, n, generator=rng, dtype=torch.float64) + 2 * torch.randn(n, generator=rng, dtype=torch.float64)
    x *= torch.logspace(-0.6, 0.6, n, dtype=torch.float64)
    x = x[:, torch.randperm(n, generator=rng)]
    x[0, int(torch.randint(n, (), generator=rng))] = 9  # one loud token
    weight = matrix(rng, 5, n)
    if turn(rng, False, True):  # equal weights before equal inputs
        x[:, 1], x[:, 2] = x[:, 0], -x[:, 0]
        weight[:, 1], weight[:, 2] = weight[:, 0], -weight[:, 0]
    return {"weight": weight, "x": x, "sparsity": turn(rng, 0.25, 0.45, 0.6, every=2)}


def wanda_mask(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    """In each row, False at the lowest |W_ij| ‖X_j‖₂."""
    norm = torch.stack([column.square().sum().sqrt() for column in x.T])
    return rows_of(weight.abs() * norm, round(sparsity * weight.shape[1]))


def stay_in_rows(given: dict, mask: Tensor) -> Tensor:
    """What of a mask counts: the scores that stay in each row."""
    return kept(wanda_score(given["weight"], given["x"]), mask)


def argsort_as_rank(weight, x, sparsity):
    """One argsort gives the place of each rank, not the rank of each place."""
    return wanda_score(weight, x).argsort(dim=1) >= round(sparsity * weight.shape[1])


def with_norm(norm):
    """Wanda's ranking with another size of the inputs."""
    return lambda weight, x, sparsity: rows_of(weight.abs() * norm(x), round(sparsity * weight.shape[1]))


def wanda_score(weight: Tensor, x: Tensor) -> Tensor:
    return weight.abs() * x.norm(dim=0)


# --- N of M ---


def n_of_m_inputs(rng: torch.Generator) -> dict:
    """Both sides differ and can be divided by M, and N is not M − N, so that no confusion goes unseen."""
    n, m = turn(rng, (1, 4), (3, 4), (2, 6), (5, 6))
    score = torch.rand(12, 24 * turn(rng, 1, 1, 6), generator=rng, dtype=torch.float64)
    return {"score": with_ties(rng, score) if turn(rng, False, True, every=4) else score, "n": n, "m": m}


def n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """Of every m neighbours in a row the n highest stay."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    for i in range(score.shape[0]):
        for start in range(0, score.shape[1], m):
            mask[i, start : start + m] = lowest(score[i, start : start + m], m - n)
    return mask


def stay_in_groups(given: dict, mask: Tensor) -> Tensor:
    """What of a mask counts: the scores that stay in each group of m."""
    score = given["score"]
    return kept(score.view(len(score), -1, given["m"]), mask.view(len(score), -1, given["m"]))


def by_limit_of_groups(score, n, m):
    """All scores that reach the n-th largest of their group: of equal ones all stay."""
    groups = score.view(len(score), -1, m)
    return (groups >= groups.sort(dim=-1, descending=True).values[..., n - 1 : n]).view_as(score)


def strided(score, n, m):
    groups = score.view(len(score), m, -1).transpose(1, 2).reshape(len(score), -1)
    return n_of_m(groups, n, m).view(len(score), -1, m).transpose(1, 2).reshape(score.shape)


# --- the surgeon's step ---


def remove_inputs(rng: torch.Generator) -> dict:
    w = torch.randn(6, generator=rng, dtype=torch.float64)
    return {"w": w + w.sign(), "H": damped_hessian(rng, 6), "q": int(torch.randint(6, (), generator=rng))}


def remove_weight(w: Tensor, H: Tensor, q: int) -> Tensor:
    """w − w_q / [H⁻¹]_qq · [H⁻¹]_q,: — found here as the minimum of ½ δHδᵀ over the other weights."""
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
    """Groups of two or three inputs; in one, two loud inputs occur together and their weights nearly cancel.

    In every second trial, the norm of W_g H_gg W_gᵀ ranks the groups otherwise than its trace.
    """
    return until(rng, groups_of_inputs, lambda given: not turn(rng, True, False) or not norm_for_trace(**given).equal(group_mask(**given)))


def groups_of_inputs(rng: torch.Generator) -> dict:
    size, groups = turn(rng, 2, 3, every=2), turn(rng, 6, 6, 7, 19)
    weight = torch.randn(5, groups * size, generator=rng, dtype=torch.float64)
    x = correlated(rng, 80, groups * size) * torch.logspace(-0.5, 0.5, groups * size, dtype=torch.float64)
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
        id="scores.removal", inputs=removal_inputs, spec=removal, lesson="3.4-pruning-scores",
        kind="step", difficulty=1, minutes=4,
        mistakes={
            "gradient_sign": lambda weight, grad, curvature: grad * weight + 0.5 * curvature * weight**2,
            "half_forgotten": lambda weight, grad, curvature: -grad * weight + curvature * weight**2,
            "not_squared": lambda weight, grad, curvature: -grad * weight + 0.5 * curvature * weight,
            "first_order_only": lambda weight, grad, curvature: -grad * weight,
            "second_order_only": lambda weight, grad, curvature: 0.5 * curvature * weight**2,
            "absolute": lambda weight, grad, curvature: (grad * weight).abs() + 0.5 * curvature * weight**2,
            "divided": lambda weight, grad, curvature: -grad * weight + 0.5 * weight**2 / curvature,
        },
    ),
    Exercise(
        id="scores.fisher", inputs=fisher_inputs, spec=fisher, lesson="3.4-pruning-scores",
        kind="debug", difficulty=2, minutes=6,
        mistakes={
            "mean_before_square": lambda weight, grads: 0.5 * grads.mean(0) ** 2 * weight**2,
            "gradient_over_fisher": lambda weight, grads: 0.5 * grads.mean(0) ** 2 / grads.square().mean(0),
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
        id="scores.magnitude_mask", inputs=mask_inputs, spec=magnitude_mask, lesson="3.4-pruning-scores", trials=6,
        counts=stay_in_layer,
        kind="step", difficulty=1, minutes=5,
        mistakes={
            "signed": lambda weight, sparsity: lowest(weight, round(sparsity * weight.numel())),
            "positive_only": lambda weight, sparsity: weight > weight.abs().flatten().sort().values[round(sparsity * weight.numel()) - 1],
            "inverted": lambda weight, sparsity: ~magnitude_mask(weight, sparsity),
            "keeps_sparsity": lambda weight, sparsity: magnitude_mask(weight, 1 - sparsity),
            "each_row": lambda weight, sparsity: rows_of(weight.abs(), round(sparsity * weight.shape[1])),
            "share_of_largest": lambda weight, sparsity: weight.abs() > sparsity * weight.abs().max(),
            "sparsity_as_threshold": lambda weight, sparsity: weight.abs() > sparsity,
            "pruned_weight": lambda weight, sparsity: weight * magnitude_mask(weight, sparsity),
            "threshold": lambda weight, sparsity: limited(weight.abs(), round(sparsity * weight.numel())),
            "rounded_down": lambda weight, sparsity: lowest(weight.abs(), int(sparsity * weight.numel())),
            "rounded_up": lambda weight, sparsity: lowest(weight.abs(), math.ceil(sparsity * weight.numel())),
        },
    ),
    Exercise(
        id="scores.wanda_mask", inputs=wanda_inputs, spec=wanda_mask, lesson="3.4-pruning-scores", trials=8,
        counts=stay_in_rows,
        kind="formula", difficulty=2, minutes=6,
        mistakes={
            "layer_wise": lambda weight, x, sparsity: lowest(wanda_score(weight, x), round(sparsity * weight.numel())),
            "each_column": lambda weight, x, sparsity: rows_of(wanda_score(weight, x).T, round(sparsity * len(weight))).T,
            "inputs_forgotten": with_norm(lambda x: torch.ones_like(x[0])),
            "signed": lambda weight, x, sparsity: rows_of(weight * x.norm(dim=0), round(sparsity * weight.shape[1])),
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
        id="scores.n_of_m", inputs=n_of_m_inputs, spec=n_of_m, lesson="3.4-pruning-scores", trials=8,
        counts=stay_in_groups,
        kind="step", difficulty=2, minutes=6,
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
        id="scores.remove_weight", inputs=remove_inputs, spec=remove_weight, lesson="3.4-pruning-scores",
        kind="step", difficulty=2, minutes=6,
        mistakes={
            "hessian_not_inverse": along(lambda H, q: H[q] / H[q, q]),
            "divided_by_hessian": along(lambda H, q: torch.linalg.inv(H)[q] / H[q, q]),
            "not_divided": along(lambda H, q: torch.linalg.inv(H)[q]),
            "sign": along(lambda H, q: -torch.linalg.inv(H)[q] / torch.linalg.inv(H)[q, q]),
            "nobody_moves": along(lambda H, q: torch.zeros_like(H[q])),
            "later_only": along(lambda H, q: (torch.linalg.inv(H)[q] / torch.linalg.inv(H)[q, q]) * (torch.arange(len(H)) > q)),
        },
        trials=5,
    ),
    Exercise(
        id="scores.group_mask", inputs=group_inputs, spec=group_mask, lesson="3.4-pruning-scores", trials=6,
        kind="decide", difficulty=3, minutes=10,
        mistakes={
            "no_groups": no_groups,
            "each_row": each_row,
            "inputs_forgotten": with_cost(lambda weight, H: weight**2),
            "diagonal_only": with_cost(lambda weight, H: weight**2 * H.diagonal()),
            "whole_hessian": with_cost(lambda weight, H: (weight @ H) * weight),
            "norm_for_trace": norm_for_trace,
            "keeps_worst": lambda weight, H, size, keep: by_groups(-group_costs(weight, H, size), weight, size, keep),
            "keep_counts_inputs": lambda weight, H, size, keep: lowest(((weight @ H) * weight).sum(0), weight.shape[1] - keep).expand_as(weight),
        },
    ),
]  # fmt: skip
