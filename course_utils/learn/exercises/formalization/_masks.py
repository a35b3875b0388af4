"""Lesson 3.4, first part: what removing costs, and masks, right and wrong.

The exercises are in `scores`.
"""

import torch
from torch import Tensor

from ..draws import kept, pick, turn, with_ties


def matrix(rng: torch.Generator, rows: int, columns: int) -> Tensor:
    """Weights of both signs whose rows and columns differ in size."""
    weight = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    return (
        weight
        * torch.logspace(-0.4, 0.4, rows, dtype=torch.float64)[
            torch.randperm(rows, generator=rng), None
        ]
    )


def lowest(score: Tensor, count: int) -> Tensor:
    """True everywhere but at the `count` lowest entries of the whole tensor; of equal ones the
    later go first.
    """
    left = score.flatten().tolist()
    mask = torch.ones(len(left), dtype=torch.bool)
    mask[sorted(range(len(left)), key=lambda j: (left[j], -j))[:count]] = False
    return mask.view_as(score)


def rows_of(score: Tensor, count: int) -> Tensor:
    return torch.stack([lowest(row, count) for row in score])


# --- the two first terms of the Taylor series ---


def removal_inputs(rng: torch.Generator) -> dict:
    weight, grad = (torch.randn(4, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    return {
        "weight": weight,
        "grad": grad,
        "curvature": torch.rand(4, 6, generator=rng, dtype=torch.float64) + 0.2,
    }


def removal(weight: Tensor, grad: Tensor, curvature: Tensor) -> Tensor:
    """G δ + ½ H_ii δ² with δ = −θ_i, for each weight by itself."""
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
    """More negative weights than positive ones;
    in every second trial many are equal in magnitude.
    """
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
    return (
        score > torch.cat([score.new_full((1,), -torch.inf), score.flatten().sort().values])[count]
    )


# --- Wanda ---


def wanda_inputs(rng: torch.Generator) -> dict:
    """Inputs of different size and with means far from zero, so that leaving out either shows."""
    tokens, n = turn(rng, (12, 8), (37, 7), (12, 11))
    x = torch.randn(tokens, n, generator=rng, dtype=torch.float64) + 2 * torch.randn(
        n, generator=rng, dtype=torch.float64
    )
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
    return lambda weight, x, sparsity: rows_of(
        weight.abs() * norm(x), round(sparsity * weight.shape[1])
    )


def wanda_score(weight: Tensor, x: Tensor) -> Tensor:
    return weight.abs() * x.norm(dim=0)


# --- N of M ---


def n_of_m_inputs(rng: torch.Generator) -> dict:
    """Both sides differ and can be divided by M, and N is not M − N, so that no confusion goes
    unseen.
    """
    n, m = turn(rng, (1, 4), (3, 4), (2, 6), (5, 6))
    score = torch.rand(
        *turn(rng, (12, 24), (12, 132), (132, 12)), generator=rng, dtype=torch.float64
    )
    return {
        "score": with_ties(rng, score) if turn(rng, False, True, every=4) else score,
        "n": n,
        "m": m,
    }


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
