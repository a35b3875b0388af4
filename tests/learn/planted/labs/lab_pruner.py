"""Right and wrong answers to the exercises of lab_pruner."""

import torch

from course_utils.pruning import groups, masks


def by_threshold(weights, sparsity, size=torch.abs, key=torch.abs):
    """Of those at the limit all go."""
    every = torch.cat([key(w).flatten() for w in weights.values()])
    limit = torch.cat([torch.tensor([-torch.inf]), every.sort().values])[
        round(sparsity * every.numel())
    ]
    return {name: size(w) > limit for name, w in weights.items()}


def by_ranks(weights, sparsity, key=torch.abs):
    ranks = torch.cat([key(w).flatten() for w in weights.values()]).argsort().argsort()
    stays = (ranks >= round(sparsity * len(ranks))).split([w.numel() for w in weights.values()])
    return {
        name: part.reshape(w.shape) for (name, w), part in zip(weights.items(), stays, strict=True)
    }


def by_quantile(weights, sparsity, stays):
    """Right but for the ends: sparsity 0 or 1."""
    limit = torch.cat([w.abs().flatten() for w in weights.values()]).quantile(sparsity)
    return {name: stays(w.abs(), limit) for name, w in weights.items()}


def by_course(weights, sparsity):
    return masks.across({name: w.abs() for name, w in weights.items()}, sparsity)


def one_by_one(weights, sparsity):
    ranked = sorted(
        (abs(float(v)), name, i) for name, w in weights.items() for i, v in enumerate(w.flatten())
    )
    found = {name: torch.ones(w.numel(), dtype=torch.bool) for name, w in weights.items()}
    for _, name, i in ranked[: round(sparsity * len(ranked))]:
        found[name][i] = False
    return {name: mask.reshape(weights[name].shape) for name, mask in found.items()}


def best(score, n, m, turned=False):
    score = score.T.contiguous() if turned else score
    groups_of = score.view(len(score), -1, m)
    mask = (
        torch.zeros_like(groups_of, dtype=torch.bool)
        .scatter(-1, groups_of.topk(n).indices, True)
        .view_as(score)
    )
    return mask.T if turned else mask


def far_apart(score, n, m):
    parts = score.view(len(score), m, -1)
    return (parts >= parts.sort(dim=1, descending=True).values[:, n - 1 : n]).view_as(score)


def energy_from_output(down, x):
    return torch.stack(
        [torch.outer(x[:, j], down[:, j]).square().sum(1).mean() for j in range(down.shape[1])]
    )


def select(gate, up, down, kept):
    return gate.index_select(0, kept), up.index_select(0, kept), down.index_select(1, kept)


def compressed_by_mask(gate, up, down, kept):
    mask = torch.zeros(len(gate), dtype=torch.bool)
    mask[kept] = True
    return gate[mask], up[mask], down[:, mask]


def heads_by_view(q, k, v, o, kept, heads, kv_heads):
    hidden, size, ratio = q.shape[1], k.shape[0] // kv_heads, heads // kv_heads
    new_q = q.view(kv_heads, ratio * size, hidden)[kept].reshape(-1, hidden)
    new_k, new_v = (t.view(kv_heads, size, hidden)[kept].reshape(-1, hidden) for t in (k, v))
    return new_q, new_k, new_v, o.view(len(o), kv_heads, ratio * size)[:, kept].reshape(len(o), -1)


def heads_by_members(q, k, v, o, kept, heads, kv_heads):
    size, ratio = k.shape[0] // kv_heads, heads // kv_heads
    own, shared = groups.members(kept, size), groups.members(groups.members(kept, ratio), size)
    return q[shared], k[own], v[own], o[:, shared]


def wrong_heads(change):
    def wrong(q, k, v, o, kept, heads, kv_heads):
        new = dict(zip("qkvo", heads_by_view(q, k, v, o, kept, heads, kv_heads), strict=True))
        new.update(change(q=q, k=k, v=v, o=o, kept=kept, heads=heads, kv_heads=kv_heads))
        return tuple(new.values())

    return wrong


def queries(which):
    def change(q, k, v, o, kept, heads, kv_heads):
        index = groups.members(which(kept, heads, kv_heads), k.shape[0] // kv_heads)
        return {"q": q[index], "o": o[:, index]}

    return change


def rest(kept, n):
    return torch.arange(n)[~torch.isin(torch.arange(n), kept)]


def best_by_counting(score, n, m, equal=True):
    """Kept where fewer than n neighbours are larger, or as large and further to the left."""
    parts = score.reshape(len(score), -1, m)
    one, other = parts[..., :, None], parts[..., None, :]
    before = (other > one) | (torch.ones(m, m).tril(-1).bool() & (other == one) & equal)
    return (before.sum(-1) < n).reshape(score.shape)


def heads_by_counting(q, k, v, o, kept, heads, kv_heads):
    """A row stays if the number of its head is among those kept."""
    kept, width = set(kept.tolist()), len(q) // kv_heads
    wide = torch.tensor([row // width in kept for row in range(len(q))])
    narrow = torch.tensor([row // (len(k) // kv_heads) in kept for row in range(len(k))])
    return [q[wide], k[narrow], v[narrow], o[:, wide]]


RIGHT = {
    "lab_pruner.global_masks": [by_ranks, by_course, one_by_one],
    "lab_pruner.n_of_m": [best_by_counting, best, masks.n_of_m],
    "lab_pruner.channel_energy": [
        lambda down, x: (x[:, None] * down).norm(dim=1).square().mean(0),
        energy_from_output,
        lambda down, x: x.square().mean(0) * down.square().sum(0),
        lambda down, x: groups.score(down, 2 / len(x) * x.T @ x) / 2,
    ],
    "lab_pruner.remove_channels": [
        select,
        compressed_by_mask,
        lambda gate, up, down, kept: [gate[kept], up[kept], down.T[kept].T],
    ],
    "lab_pruner.remove_heads": [heads_by_counting, heads_by_view, heads_by_members],
}
WRONG = {
    "lab_pruner.global_masks": [
        (lambda weights, sparsity: by_threshold(weights, sparsity), "threshold"),
        (lambda weights, sparsity: by_course(weights,
            int(sparsity * (n := sum(w.numel() for w in weights.values()))) / n), "rounded_down"),
        (lambda weights, sparsity:
            by_course(weights,
                      -int(-sparsity * (n := sum(w.numel() for w in weights.values())) // 1) / n),
                      "rounded_up"),
        (lambda weights, sparsity:
            {n: masks.per_layer(w.abs(), sparsity) for n, w in weights.items()}, "each_layer"),
        (lambda weights, sparsity: by_ranks(weights, sparsity, key=lambda w: w), "signed"),
        (lambda weights, sparsity: {n: ~m for n, m in by_course(weights, sparsity).items()},
         "inverted"),
        (lambda weights, sparsity: by_course(weights, 1 - sparsity), "keeps_sparsity"),
        (lambda weights, sparsity:
            by_course({n: w / w.square().sum().sqrt() for n, w in weights.items()}, sparsity),
            "normalized"),
        (lambda weights, sparsity:
            {n: m if n == "q_proj" else torch.ones_like(m) for n, m in by_course(weights,
                sparsity).items()}, "first_layer_only"),
        (lambda weights, sparsity: by_quantile(weights, sparsity, torch.gt), "threshold"),
        (lambda weights, sparsity: by_quantile(weights, sparsity, torch.ge), "count"),
        (lambda weights, sparsity:
            {n: w * by_course(weights, sparsity)[n] for n, w in weights.items()}, None),
        (lambda weights, sparsity: list(by_course(weights, sparsity).values()), None),
    ],
    "lab_pruner.n_of_m": [
        (lambda score, n, m:
            torch.cat([part >= part.topk(n).values.amin(1, True) for part in score.split(m, 1)], 1),
            "threshold"),
        (lambda score, n, m: best(score, n, m, turned=True), "along_outputs"),
        (far_apart, "strided"),
        (lambda score, n, m: best(score, m - n, m), "removes_n"),
        (lambda score, n, m: best(-score, n, m), "keeps_lowest"),
        (lambda score, n, m: masks.per_row(score, 1 - n / m), "whole_rows"),
        (lambda score, n, m: masks.per_layer(score, 1 - n / m), None),
        (lambda score, n, m: best(score, n, m) * score, None),
    ],
    "lab_pruner.channel_energy": [
        (lambda down, x: (down * down).sum(0), "inputs_forgotten"),
        (lambda down, x: (x * x).sum(0) / len(x), "weights_forgotten"),
        (lambda down, x: x.norm(dim=0).square() * down.norm(dim=0).square(), "summed_over_tokens"),
        (lambda down, x: x.square().mean(0).sqrt() * down.norm(dim=0), "rooted"),
        (lambda down, x: (x.mean(0) * down.norm(dim=0)).square(), "mean_before_square"),
        (lambda down, x: energy_from_output(down.sum(0, keepdim=True), x), "signed_sum"),
        (lambda down, x: (down @ x.T).square().mean(1), "rows"),
        (lambda down, x: (x[:, None] * down).square().mean((0, 1)), "mean_over_outputs"),
        (lambda down, x: x.abs().mean(0) * down.abs().sum(0), None),
    ],
    "lab_pruner.remove_channels": [
        (lambda gate, up, down, kept:
            tuple(t * torch.isin(torch.arange(len(gate)), kept).view(s) for t, s in (
                (gate, (-1, 1)), (up, (-1, 1)), (down, (1, -1)))), "zeros_instead"),
        (lambda gate, up, down, kept: (*select(gate, up, down, kept)[:2], down.clone()),
         "output_untouched"),
        (lambda gate, up, down, kept: (gate[kept], up.clone(), down[:, kept]), "gate_only"),
        (lambda gate, up, down, kept: select(gate, up, down, rest(kept, len(gate))), "others_kept"),
        (lambda gate, up, down, kept: (gate[: len(kept)], up[: len(kept)], down[:, : len(kept)]),
         "first_ones"),
        (lambda gate, up, down, kept: (gate[kept], up[kept], down.T[kept]), "transposed"),
        (lambda gate, up, down, kept: (gate[kept], down[:, kept], up[kept]), None),
    ],
    "lab_pruner.remove_heads": [
        (wrong_heads(lambda **g: {"o": g["o"]}), "output_untouched"),
        (wrong_heads(lambda **g: {"k": g["k"], "v": g["v"]}), "keys_untouched"),
        (wrong_heads(lambda **g: {"v": g["v"]}), "values_untouched"),
        (wrong_heads(lambda **g: {"q": g["q"]}), "queries_untouched"),
        (wrong_heads(queries(lambda kept, heads, kv: kept)), "one_query_each"),
        (wrong_heads(queries(lambda kept, heads, kv:
            torch.arange(heads)[torch.isin(torch.arange(heads) % kv, kept)])), "strided_queries"),
        (wrong_heads(lambda **g:
            dict(zip("qkvo", heads_by_view(**{**g, "kept": rest(g["kept"], g["kv_heads"])}),
                     strict=True))), "others_kept"),
        (wrong_heads(lambda **g:
            dict(zip("qkvo", heads_by_members(**{**g, "kept": torch.arange(len(g["kept"]))}),
                     strict=True))), "first_ones"),
        (wrong_heads(lambda **g: {"o": g["o"].T}), None),
        (wrong_heads(lambda **g: {"q": g["q"] * 0}), None),
    ],
}  # fmt: skip
