"""Right and wrong answers to the exercises of lab_wanda."""

import torch

from course_utils.pruning import masks, scores, sparsegpt


def running_norm(batches):
    total = 0
    for batch in batches:
        total = total + torch.einsum("nj,nj->j", batch, batch)
    return total**0.5


def hypot_norm(batches):
    norm = batches[0].norm(dim=0)
    for batch in batches[1:]:
        norm = torch.hypot(norm, batch.norm(dim=0))
    return norm


def mask(weight, input_norm, sparsity, score=None, keep=None):
    found = weight.abs() * input_norm if score is None else score(weight, input_norm)
    stay = weight.shape[1] - round(sparsity * weight.shape[1]) if keep is None else keep
    return torch.zeros_like(weight, dtype=torch.bool).scatter(
        1, found.topk(stay, dim=1).indices, True
    )


def fewest(score, count):
    order = score.flatten().argsort()
    chosen = torch.ones(score.numel(), dtype=torch.bool)
    chosen[order[:count]] = False
    return chosen.view_as(score)


def best(score, n):
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, score.topk(n, dim=1).indices, True)


def walk(
    weight,
    H,
    width,
    choose,
    U=None,
    score=lambda W, u, h: (W / u) ** 2,
    source=None,
    scale=lambda u: 1 / u,
    stop=None,
):
    """SparseGPT with a mask for `width` columns at a time."""
    U = torch.linalg.cholesky(H.inverse(), upper=True) if U is None else U
    W, keep = weight.clone(), torch.empty(weight.shape, dtype=torch.bool)
    for i in range(W.shape[1]):
        if i % width == 0:
            block = (W if source is None else source)[:, i : i + width]
            keep[:, i : i + width] = choose(
                score(block, U.diagonal()[i : i + width], H.diagonal()[i : i + width])
            )
        gone = torch.where(keep[:, i], 0, W[:, i]) * scale(U[i, i])
        end = W.shape[1] if stop is None else stop(i)
        W[:, i + 1 : end] -= gone[:, None] * U[i, i + 1 : end]
    return torch.where(keep, W, 0)


def layer(weight, H, sparsity, block_size, **changes):
    return walk(weight, H, block_size, lambda s: fewest(s, round(sparsity * s.numel())), **changes)


def layer_with_inverses(weight, H, sparsity, block_size, choose=None, width=None):
    """Every inverse afresh, and whole rows of H⁻¹ in place of U."""
    W, columns, width = weight.clone(), weight.shape[1], width or block_size
    keep = torch.ones(W.shape, dtype=torch.bool)
    for i in range(columns):
        if i % width == 0:
            score = torch.stack(
                [W[:, j] ** 2 / H[j:, j:].inverse()[0, 0] for j in range(i, i + width)], 1
            )
            keep[:, i : i + width] = choose(score) if choose else masks.per_layer(score, sparsity)
        inverse = H[i:, i:].inverse()
        W[:, i:] -= (W[:, i] * ~keep[:, i] / inverse[0, 0]).outer(inverse[0])
    return W * keep


def pattern(weight, H, n, m, **changes):
    return walk(weight, H, m, lambda s: best(s, n), **changes)


CHANGES = [
    (lambda W, H: {"U": torch.linalg.cholesky(H).T}, "hessian_not_inverse"),
    (lambda W, H: {"score": lambda w, u, h: w * w / u}, "not_squared"),
    (lambda W, H: {"scale": lambda u: 0}, "no_update"),
    (lambda W, H: {"source": W}, "mask_from_the_start"),
    (lambda W, H: {"score": lambda w, u, h: w.square() * h}, "wanda_score"),
    (lambda W, H: {"score": lambda w, u, h: w.abs()}, "magnitude_score"),
    (lambda W, H: {"score": lambda w, u, h: (w * u).abs()}, "score_multiplied"),
    (lambda W, H: {"scale": lambda u: -1 / u}, "sign"),
    (lambda W, H: {"scale": lambda u: 1}, "not_divided"),
]  # fmt: skip


def planted(prune):
    """Each change as a wrong answer."""

    def make(change):
        return lambda weight, H, **given: prune(weight, H, **given, **change(weight.clone(), H))

    return [(make(change), name) for change, name in CHANGES]


def norm_by_entries(batches):
    squares = [0.0] * batches[0].shape[1]
    for batch in batches:
        for token in batch.tolist():
            squares = [before + value * value for before, value in zip(squares, token, strict=True)]
    return torch.tensor([total**0.5 for total in squares], dtype=torch.float64)


def mask_by_ranks(weight, input_norm, sparsity):
    rank = (weight * input_norm).square().argsort(dim=1).argsort(dim=1)
    return rank >= round(sparsity * weight.shape[1])


def layer_by_rows(weight, H, sparsity, block_size):
    """One weight after the other; the mask of a block is chosen when the walk reaches it."""
    U = torch.linalg.cholesky(torch.linalg.inv(H)).T
    W, mask = weight.clone(), torch.zeros(weight.shape, dtype=torch.bool)
    for i in range(W.shape[1]):
        if i % block_size == 0:
            end = i + block_size
            ranked = (W[:, i:end] / U.diagonal()[i:end]).abs().flatten().argsort()
            part = torch.zeros(len(ranked), dtype=torch.bool)
            part[ranked[round(sparsity * len(ranked)) :]] = True
            mask[:, i:end] = part.view(len(W), -1)
        for row in range(len(W)):
            if not mask[row, i]:
                W[row] = W[row] - W[row, i] / U[i, i] * U[i]
    return W * mask


def pattern_by_rows(weight, H, n, m):
    """As SparseGPT in blocks of m: the m − n cheapest of each row go."""
    U = torch.linalg.cholesky(torch.linalg.inv(H)).T
    W, gone = weight.clone(), torch.zeros(weight.shape, dtype=torch.bool)
    for i in range(W.shape[1]):
        if i % m == 0:
            cost = (W[:, i : i + m] / U.diagonal()[i : i + m]).square()
            gone[:, i : i + m].scatter_(1, cost.argsort(dim=1)[:, : m - n], True)
        step = torch.where(gone[:, i], W[:, i] / U[i, i], 0.0)
        W = W - torch.einsum("r,c->rc", step, U[i])
    return W.masked_fill(gone, 0.0)


RIGHT = {
    "lab_wanda.input_norm": [norm_by_entries, running_norm, hypot_norm, lambda batches:
        torch.cat(batches).norm(dim=0)],
    "lab_wanda.mask": [mask_by_ranks, mask, lambda weight, input_norm, sparsity:
        masks.per_row(scores.wanda(weight, input_norm), sparsity)],
    "lab_wanda.prune_layer": [
        layer_by_rows,
        layer,
        layer_with_inverses,
    ],
    "lab_wanda.prune_n_of_m": [
        pattern_by_rows,
        pattern,
        lambda weight, H, n, m: layer_with_inverses(weight, H, 0, m, choose=lambda score:
            masks.n_of_m(score, n, m)),
        lambda weight, H, n, m: sparsegpt.prune_layer(weight, H, pattern=f"{n}:{m}",
            damping=0.0).weight,
    ],
}  # fmt: skip
WRONG = {
    "lab_wanda.input_norm": [
        (lambda batches: running_norm(batches[-1:]), "last_batch"),
        (lambda batches: torch.stack([b.norm(dim=0) for b in batches]).sum(0), "sum_of_norms"),
        (lambda batches: torch.stack([b.norm(dim=0) for b in batches]).mean(0), "mean_of_norms"),
        (lambda batches: running_norm(batches) ** 2, "not_rooted"),
        (lambda batches: running_norm(batches) / sum(len(b) for b in batches) ** 0.5,
         "mean_square"),
        (lambda batches: (torch.cat(batches) - torch.cat(batches).mean(0)).norm(dim=0), "spread"),
        (lambda batches: torch.cat([b.square().sum(1).sqrt() for b in batches]), "norms_of_tokens"),
        (lambda batches: torch.cat(batches).abs().amax(0), None),
        (lambda batches: torch.cat(batches).norm(), None),
    ],
    "lab_wanda.mask": [
        (lambda weight, input_norm, sparsity:
            (s := weight.abs() * input_norm) > torch.cat([torch.full((len(s), 1), -1.0),
                s.sort(dim=1).values], 1)[:, round(sparsity * s.shape[1]), None], "threshold"),
        (lambda weight, input_norm, sparsity: (weight * input_norm).square().sort(dim=1).indices
         >= round(sparsity * weight.shape[1]), "argsort_as_rank"),
        (lambda weight, input_norm, sparsity:
            fewest(weight.abs() * input_norm, round(sparsity * weight.numel())), "layer_wise"),
        (lambda weight, input_norm, sparsity: masks.per_row(weight.abs(), sparsity),
         "inputs_forgotten"),
        (lambda weight, input_norm, sparsity:
            mask(weight, input_norm, sparsity, score=lambda w, norm: w * norm), "signed"),
        (lambda weight, input_norm, sparsity: mask(weight, 1 / input_norm, sparsity), "divided"),
        (lambda weight, input_norm, sparsity: mask(weight, input_norm.square(), sparsity),
         "squared_norm"),
        (lambda weight, input_norm, sparsity: ~mask(weight, input_norm, sparsity), "inverted"),
        (lambda weight, input_norm, sparsity: mask(weight, input_norm, sparsity,
            keep=round(sparsity * weight.shape[1])), "keeps_sparsity"),
        (lambda weight, input_norm, sparsity: weight * mask(weight, input_norm, sparsity), None),
        (lambda weight, input_norm, sparsity: weight.abs() * input_norm > sparsity, "count"),
        (lambda weight, input_norm, sparsity:
            weight.abs() * input_norm > (weight.abs() * input_norm).quantile(sparsity, 1, True),
            "threshold"),
    ],
    "lab_wanda.prune_layer": [
        *planted(layer),
        (lambda weight, H, sparsity, block_size: layer(weight, H, sparsity, weight.shape[1]),
         "one_block"),
        (lambda weight, H, sparsity, block_size: walk(weight, H, block_size,
            lambda s: best(s, block_size - round(sparsity * block_size))), "each_row"),
        (lambda weight, H, sparsity, block_size: layer(weight, H, sparsity, block_size,
            stop=lambda i: i - i % block_size + block_size), "within_blocks"),
        (lambda weight, H, sparsity, block_size: layer(weight, H, 1 - sparsity, block_size).neg(),
         None),
        (lambda weight, H, sparsity, block_size: layer(weight, H, sparsity, block_size) != 0, None),
    ],
    "lab_wanda.prune_n_of_m": [
        *planted(pattern),
        (lambda weight, H, n, m: pattern(weight, H, m - n, m), "removes_n"),
        (lambda weight, H, n, m: walk(weight, H, m, lambda s:
            best(s.T, len(s) - round(len(s) * (m - n) / m)).T), "along_outputs"),
        (lambda weight, H, n, m: layer(weight, H, 1 - n / m, m).neg(), None),
        (lambda weight, H, n, m: weight * masks.n_of_m(weight.abs(), n, m) * 2, None),
    ],
}  # fmt: skip
