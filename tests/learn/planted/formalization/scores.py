"""Right and wrong answers to the exercises of scores."""

import torch

from course_utils.pruning import groups, masks, scores


def kth(score, k):
    """True at all ranks from k of the last dimension."""
    return score.argsort(dim=-1).argsort(dim=-1) >= k


def above(score, k):
    """True above the k-th smallest value of the last dimension: of equal ones all go."""
    return score > score.sort(dim=-1).values[..., k - 1 : k]


def magnitude_sorted(weight, sparsity):
    return kth(weight.abs().flatten(), round(sparsity * weight.numel())).view_as(weight)


def magnitude_topk(weight, sparsity):
    keep = weight.numel() - round(sparsity * weight.numel())
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[weight.square().flatten().topk(keep).indices] = True
    return mask.reshape(weight.shape)


def wanda(weight, x, sparsity, norm=None, by=None):
    size = x.norm(dim=0) if norm is None else norm(x)
    return kth(
        weight.abs() * size if by is None else by(weight, size), round(sparsity * weight.shape[1])
    )


def grouped(score, n, m):
    mask = torch.zeros_like(score).view(len(score), -1, m)
    return mask.scatter(-1, score.view(mask.shape).topk(n).indices, 1).bool().view_as(score)


def n_of_m_loop(score, n, m):
    rows = [
        torch.cat([part >= part.sort().values[m - n] for part in row.split(m)]) for row in score
    ]
    return torch.stack(rows)


def n_of_m_ranks(score, n, m):
    return torch.cat(
        [part.argsort(dim=1).argsort(dim=1) >= m - n for part in score.split(m, dim=1)], dim=1
    )


def surgeon(w, H, q):
    inverse = H.inverse()
    return w - inverse[:, q] * (w[q] / inverse[q, q])


def least_squares(w, H, q):
    """The same by a least-squares fit with the Cholesky factor of H as inputs."""
    x = torch.linalg.cholesky(H).T
    rest = torch.tensor([j for j in range(len(w)) if j != q])
    new = torch.zeros_like(w)
    new[rest] = torch.linalg.lstsq(x[:, rest], (x @ w)[:, None]).solution[:, 0]
    return new


def moved(w, q, step):
    new = w - step * w[q]
    return torch.where(torch.arange(len(w)) == q, 0, new)


def course_groups(weight, H, size, keep):
    chosen = groups.members(groups.kept(groups.score(weight, H, size), keep), size)
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, chosen] = True
    return mask


def einsum_groups(weight, H, size, keep, part=None, largest=True, gram=None):
    w = weight.view(len(weight), -1, size)
    block = (
        torch.stack([H[i : i + size, i : i + size] for i in range(0, len(H), size)])
        if gram is None
        else gram
    )
    cost = torch.einsum("rgi,gij,rgj->g" if part is None else part, w, block, w)
    mask = torch.zeros(w.shape[1], dtype=torch.bool)
    mask[cost.topk(keep, largest=largest).indices] = True
    return mask.repeat_interleave(size).repeat(len(weight), 1)


def single_weights(weight, H, size, keep):
    score = weight.square() * H.diagonal()
    return score >= score.flatten().sort(descending=True).values[len(weight) * size * keep - 1]


def own_groups(weight, H, size, keep):
    return torch.cat([einsum_groups(weight[i : i + 1], H, size, keep) for i in range(len(weight))])


def single_inputs(weight, H, size, keep):
    cost = (weight @ H * weight).sum(0)
    return (cost >= cost.sort(descending=True).values[keep - 1]).repeat(len(weight), 1)


def groups_by(cost, weight, size, keep):
    best = cost.argsort(descending=True)[:keep].tolist()
    return torch.tensor([[j // size in best for j in range(weight.shape[1])]] * len(weight))


def fisher_by_loops(weight, grads):
    out = torch.zeros(weight.shape, dtype=torch.float64)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            mean = sum(float(g[i, j]) ** 2 for g in grads) / len(grads)
            out[i, j] = mean * float(weight[i, j]) ** 2 / 2
    return out


def groups_by_columns(weight, H, size, keep):
    """Σ over pairs of inputs of a group of H_ij · (Wᵀ W)_ij."""
    both = weight.T @ weight * H
    costs = [float(both[g : g + size, g : g + size].sum()) for g in range(0, len(H), size)]
    stay = sorted(range(len(costs)), key=costs.__getitem__)[len(costs) - keep :]
    mask = torch.tensor([column // size in stay for column in range(len(H))])
    return mask.repeat(len(weight), 1)


RIGHT = {
    "scores.removal": [
        lambda weight, grad, curvature: curvature * weight**2 / 2 - grad * weight,
        lambda weight, grad, curvature: weight * (0.5 * curvature * weight - grad),
        lambda weight, grad, curvature: scores.obd(weight, curvature) - weight * grad,
    ],
    "scores.fisher": [
        fisher_by_loops,
        lambda weight, grads: (grads * weight).square().mean(0) / 2,
        lambda weight, grads: scores.fisher(
            weight, torch.einsum("nij,nij->ij", grads, grads) / len(grads)
        ),
    ],
    "scores.magnitude_mask": [
        magnitude_sorted,
        magnitude_topk,
        lambda weight, sparsity: masks.per_layer(weight.abs(), sparsity),
    ],
    "scores.wanda_mask": [
        wanda,
        lambda weight, x, sparsity: masks.per_row(scores.wanda(weight, x.norm(dim=0)), sparsity),
        lambda weight, x, sparsity: wanda(
            weight**2, x, sparsity, norm=lambda x: (x.T @ x).diagonal()
        ),
    ],
    "scores.n_of_m": [grouped, n_of_m_ranks, masks.n_of_m],
    "scores.remove_weight": [
        surgeon,
        least_squares,
        lambda w, H, q: moved(
            w, q, torch.linalg.solve(H, torch.eye(len(H)).to(H)[q]) / H.inverse()[q, q]
        ),
    ],
    "scores.group_mask": [groups_by_columns, course_groups, einsum_groups],
}
WRONG = {
    "scores.removal": [
        (lambda weight, grad, curvature: weight * (0.5 * curvature * weight + grad),
         "gradient_sign"),
        (lambda weight, grad, curvature: weight * (curvature * weight - grad), "half_forgotten"),
        (lambda weight, grad, curvature: (0.5 * curvature - grad) * weight, "not_squared"),
        (lambda weight, grad, curvature: -(grad * weight), "first_order_only"),
        (lambda weight, grad, curvature: scores.obd(weight, curvature), "second_order_only"),
        (lambda weight, grad, curvature: scores.gradient(weight, grad) + scores.obd(weight,
            curvature), "absolute"),
        (lambda weight, grad, curvature: weight**2 / (2 * curvature) - grad * weight, "divided"),
        (lambda weight, grad, curvature: (scores.obd(weight, curvature) - grad * weight).sum(),
         None),
        (lambda weight, grad, curvature: grad**2, None),
    ],
    "scores.fisher": [
        (lambda weight, grads:
            (torch.einsum("nij,nij->ij", grads, grads) / len(grads) * weight).pow(2) / 2,
            "all_squared"),
        (lambda weight, grads: (grads.mean(0) * weight).square() / 2, "mean_before_square"),
        (lambda weight, grads: grads.mean(0).square() / (2 * (grads**2).mean(0)),
         "gradient_over_fisher"),
        (lambda weight, grads: weight.square() / (2 * (grads**2).mean(0)), "weight_over_fisher"),
        (lambda weight, grads: (grads * weight).square().mean(0), "half_forgotten"),
        (lambda weight, grads: (grads * weight).square().sum(0) / 2, "summed"),
        (lambda weight, grads: (grads**2).mean(0) / 2 * abs(weight), "not_squared"),
        (lambda weight, grads: (grads**2).mean(0) / 2, "weight_forgotten"),
        (lambda weight, grads: (grads - grads.mean(0)).square().mean(0) * weight**2 / 2,
         "variance"),
        (lambda weight, grads: (grads * weight).abs().mean(0), None),
    ],
    "scores.magnitude_mask": [
        (lambda weight, sparsity:
            above(weight.abs().flatten(), round(sparsity * weight.numel())).view_as(weight),
            "threshold"),
        (lambda weight, sparsity: magnitude_topk(weight,
            int(sparsity * weight.numel()) / weight.numel()), "rounded_down"),
        (lambda weight, sparsity: magnitude_topk(weight,
            (int(sparsity * weight.numel()) + 1) / weight.numel()), "rounded_up"),
        (lambda weight, sparsity:
            weight > weight.flatten().sort().values[round(sparsity * weight.numel()) - 1],
            "signed"),
        (lambda weight, sparsity:
            weight > weight.abs().flatten().sort().values[round(sparsity * weight.numel()) - 1],
            "positive_only"),
        (lambda weight, sparsity: ~magnitude_topk(weight, sparsity), "inverted"),
        (lambda weight, sparsity: magnitude_sorted(weight, 1 - sparsity), "keeps_sparsity"),
        (lambda weight, sparsity: kth(weight.abs(), round(sparsity * weight.shape[1])), "each_row"),
        (lambda weight, sparsity: weight.abs() / weight.abs().max() > sparsity, "share_of_largest"),
        (lambda weight, sparsity: weight.abs() >= sparsity, "sparsity_as_threshold"),
        (lambda weight, sparsity: torch.where(magnitude_sorted(weight, sparsity), weight, 0),
         "pruned_weight"),
        (lambda weight, sparsity: torch.ones_like(weight, dtype=torch.bool), None),
        (lambda weight, sparsity: magnitude_sorted(weight, sparsity).double(), None),
    ],
    "scores.wanda_mask": [
        (lambda weight, x, sparsity:
            above(weight.abs() * x.norm(dim=0), round(sparsity * weight.shape[1])), "threshold"),
        (lambda weight, x, sparsity: (weight.abs() * x.square().sum(0).sqrt()).sort(dim=1).indices
         >= round(sparsity * len(x[0])), "argsort_as_rank"),
        (lambda weight, x, sparsity: masks.per_layer(scores.wanda(weight, x.norm(dim=0)), sparsity),
         "layer_wise"),
        (lambda weight, x, sparsity:
            kth((weight.abs() * x.norm(dim=0)).T, round(sparsity * len(weight))).T, "each_column"),
        (lambda weight, x, sparsity: wanda(weight, x, sparsity, norm=lambda x: 1),
         "inputs_forgotten"),
        (lambda weight, x, sparsity: wanda(weight, x, sparsity, by=lambda w, size: w * size),
         "signed"),
        (lambda weight, x, sparsity: wanda(weight, x, sparsity, norm=lambda x: x.sum(0).abs()),
         "mean_of_inputs"),
        (lambda weight, x, sparsity: wanda(weight, x - x.mean(0), sparsity), "centred"),
        (lambda weight, x, sparsity:
            wanda(weight, x, sparsity, norm=lambda x: x.abs().max(0).values), "largest_input"),
        (lambda weight, x, sparsity: wanda(weight, x, sparsity, norm=lambda x: x.norm(p=1, dim=0)),
         "sum_of_magnitudes"),
        (lambda weight, x, sparsity:
            wanda(weight, x, sparsity, norm=lambda x: (x.T @ x).diagonal()), "squared_norm"),
        (lambda weight, x, sparsity: ~wanda(weight, x, sparsity), "inverted"),
        (lambda weight, x, sparsity: wanda(weight, x, 1 - sparsity) & False, None),
        (lambda weight, x, sparsity: wanda(weight, x.T, sparsity), None),
    ],
    "scores.n_of_m": [
        (n_of_m_loop, "threshold"),
        (lambda score, n, m: grouped(score.T.contiguous(), n, m).T, "along_outputs"),
        (lambda score, n, m:
            torch.stack([s >= s.sort(dim=0).values[m - n] for s in score.view(len(score), m,
                -1)]).view_as(score), "strided"),
        (lambda score, n, m: grouped(score, m - n, m), "removes_n"),
        (lambda score, n, m: grouped(1 - score, n, m), "keeps_lowest"),
        (lambda score, n, m: masks.per_row(score, 1 - n / m), "whole_rows"),
        (lambda score, n, m: masks.per_layer(score, 1 - n / m), "whole_layer"),
        (lambda score, n, m: grouped(score, n, m).view(-1, m), None),
        (lambda score, n, m: torch.arange(score.numel()).view_as(score) % m < n, None),
    ],
    "scores.remove_weight": [
        (lambda w, H, q: moved(w, q, H[:, q] / H[q, q]), "hessian_not_inverse"),
        (lambda w, H, q: moved(w, q, H.inverse()[:, q] / H[q, q]), "divided_by_hessian"),
        (lambda w, H, q: moved(w, q, H.inverse()[:, q]), "not_divided"),
        (lambda w, H, q: moved(w, q, -H.inverse()[:, q] / H.inverse()[q, q]), "sign"),
        (lambda w, H, q: moved(w, q, torch.zeros(len(w))), "nobody_moves"),
        (lambda w, H, q: torch.cat([w[:q], surgeon(w, H, q)[q:]]), "later_only"),
        (lambda w, H, q: w, None),
        (lambda w, H, q: moved(w, q, H.inverse().sqrt()[:, q]), None),
    ],
    "scores.group_mask": [
        (lambda weight, H, size, keep:
            groups_by(torch.stack(
                [torch.linalg.norm(w @ H[i * size : i * size + size,
                                         i * size : i * size + size] @ w.T) for i, w in enumerate(
                                             weight.split(size, 1))]), weight, size, keep),
                                             "norm_for_trace"),
        (single_weights, "no_groups"),
        (own_groups, "each_row"),
        (lambda weight, H, size, keep: einsum_groups(weight, torch.eye(len(H)).to(H), size, keep),
         "inputs_forgotten"),
        (lambda weight, H, size, keep: einsum_groups(weight, torch.diag(H.diagonal()), size, keep),
         "diagonal_only"),
        (lambda weight, H, size, keep: einsum_groups(torch.ones(1, len(H)).to(H),
            torch.diag((weight @ H * weight).sum(0)), size, keep).expand_as(weight),
            "whole_hessian"),
        (lambda weight, H, size, keep: einsum_groups(weight, H, size, keep, largest=False),
         "keeps_worst"),
        (single_inputs, "keep_counts_inputs"),
        (lambda weight, H, size, keep: course_groups(weight, H, size, keep)[0], None),
        (lambda weight, H, size, keep: ~course_groups(weight, H, size, keep), None),
    ],
}  # fmt: skip
