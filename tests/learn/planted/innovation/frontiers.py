"""Right and wrong answers to the exercises of frontiers."""

import itertools
import math

import numpy as np
import torch

# --- what each F would choose ---


def loops(F, deltas):
    n, costs, picks = len(F), [], []
    for d in deltas.tolist():
        costs.append(sum(d[i] * float(F[i, j]) * d[j] for i in range(n) for j in range(n)) / 2)
    lengths = [sum(x * x for x in d) for d in deltas.tolist()]
    weighed = [sum(float(F[i, i]) * d[i] ** 2 for i in range(n)) for d in deltas.tolist()]
    for c in (lengths, weighed, costs):
        picks.append(c.index(min(c)))
    return costs, picks


def by_root(F, deltas):
    L = torch.linalg.cholesky(F)
    whole = (deltas @ L).square().sum(1) / 2
    return whole, (
        deltas.norm(dim=1).argmin(),
        (deltas * F.diag().sqrt()).norm(dim=1).argmin(),
        whole.argmin(),
    )


def by_numpy(F, deltas):
    F, D = F.numpy(), deltas.numpy()
    whole = 0.5 * np.diag(D @ F @ D.T)
    return whole, np.array(
        [np.argmin((D * D).sum(1)), np.argmin((D * D) @ np.diag(F)), np.argmin(whole)]
    )


def chosen(whole, diagonal=None, scale=0.5, best=min):
    def answer(F, deltas):
        w = [float(whole(F, d)) for d in deltas]
        one = [float(d @ d) for d in deltas]
        two = [float((d * d) @ (F.diag() if diagonal is None else diagonal(F))) for d in deltas]
        return torch.tensor([scale * x for x in w], dtype=torch.float64), [
            c.index(best(c)) for c in (one, two, w)
        ]

    return answer


def form(F, d):
    return d @ F @ d


# --- a swap ---


def by_definition(Q, removed, back, gone):
    after = removed.clone()
    after[back], after[gone] = False, True
    before_set, after_set = removed.nonzero().flatten(), after.nonzero().flatten()
    return Q[after_set][:, after_set].sum() - Q[before_set][:, before_set].sum()


def by_difference(Q, removed, back, gone):
    d = np.zeros(len(Q))
    d[gone], d[back] = 1, -1
    return float(2 * d @ Q.numpy() @ removed.numpy().astype(float) + d @ Q.numpy() @ d)


def by_sums(Q, removed, back, gone):
    rest = [i for i in range(len(Q)) if removed[i] and i != back]
    return float(Q[gone, gone] - Q[back, back] + 2 * sum(Q[gone, i] - Q[back, i] for i in rest))


def swapped(field=2.0, own=1.0, pair=-2.0, sign=1.0):
    def answer(Q, removed, back, gone):
        f = np.array(
            [sum(float(Q[i, j]) for j in range(len(Q)) if removed[j]) for i in range(len(Q))]
        )
        return sign * (
            field * (f[gone] - f[back])
            + own * float(Q[gone, gone] + Q[back, back])
            + pair * float(Q[back, gone])
        )

    return answer


# --- the penalty ---


def entries(Q, remove, strength):
    n, rows = len(Q), Q.tolist()
    for i, j in itertools.product(range(n), range(n)):
        rows[i][j] += strength * (1 - 2 * remove if i == j else 1)
    return rows, strength * remove * remove


def by_outer(Q, remove, strength):
    one = np.ones(len(Q))
    return Q.numpy() + strength * np.outer(one, one) - 2 * strength * remove * np.diag(
        one
    ), np.float64(strength * remove**2)


def in_place(Q, remove, strength):
    new = Q + strength
    new.diagonal().sub_(2 * strength * remove)
    return new, strength * remove**2


def penal(pairs=1.0, own=None, constant=None, upper=False):
    def answer(Q, remove, strength):
        new = Q.clone()
        for i in range(len(Q)):
            for j in range(len(Q)):
                if i == j:
                    new[i, i] += strength * (1 - 2 * remove if own is None else own(remove))
                elif not upper or j > i:
                    new[i, j] += strength * pairs
        return new, strength * remove**2 if constant is None else constant(remove, strength)

    return answer


# --- connections that move ---


def by_lists(weight, gradient, mask, count):
    places = list(itertools.product(*map(range, mask.shape)))
    on = sorted((p for p in places if mask[p]), key=lambda p: abs(float(weight[p])))[count:]
    off = sorted((p for p in places if p not in on), key=lambda p: -abs(float(gradient[p])))[:count]
    new = torch.zeros_like(mask)
    for p in on + off:
        new[p] = True
    return new


def by_topk(weight, gradient, mask, count):
    w, g = weight.abs().flatten(), gradient.abs().flatten()
    stay = torch.where(mask.flatten(), w, -torch.ones_like(w)).topk(int(mask.sum()) - count).indices
    new = torch.zeros(mask.numel(), dtype=torch.bool)
    new[stay] = True
    more = torch.where(new, -torch.ones_like(g), g).topk(count).indices
    new[more] = True
    return new.reshape(mask.shape)


def by_numpy_order(weight, gradient, mask, count):
    w, g, m = (t.numpy().ravel().copy() for t in (weight, gradient, mask))
    order = np.argsort(np.where(m, np.abs(w), np.inf))
    m[order[:count]] = False
    m[np.argsort(np.where(m, np.inf, -np.abs(g)))[:count]] = True
    return m.reshape(tuple(mask.shape))


def moves(size=abs, gain=lambda w, g, now: abs(g), shut=lambda p, on, mask: p in on, largest=False):
    def answer(weight, gradient, mask, count):
        places = list(itertools.product(*map(range, mask.shape)))
        on = sorted(
            (p for p in places if mask[p]),
            key=lambda p: (-1 if largest else 1) * size(float(weight[p])),
        )[count:]
        off = [p for p in places if not shut(p, on, mask)]
        grow = sorted(off, key=lambda p: -gain(float(weight[p]), float(gradient[p]), p in on))[
            :count
        ]
        new = torch.zeros_like(mask)
        for p in on + grow:
            new[p] = True
        return new

    return answer


def given(weight, gradient, mask, count):
    kept = mask.flatten().clone()
    size = weight.flatten().masked_fill(~kept, float("inf"))
    kept[size.argsort()[:count]] = False
    gain = (gradient.flatten() * kept).abs().masked_fill(kept, -1.0)
    kept[gain.argsort(descending=True)[:count]] = True
    return kept.view_as(mask)


# --- what exits cost ---


def walk_tokens(p, threshold, block, head):
    cost, same = [], []
    for t in range(p.shape[1]):
        for d in range(len(p)):
            if float(p[d, t].max()) > threshold or d == len(p) - 1:
                cost.append((d + 1) * (block + head))
                same.append(int(p[d, t].argmax()) == int(p[-1, t].argmax()))
                break
    return sum(cost) / len(cost), sum(same) / len(same)


def by_running(p, threshold, block, head):
    inside, paid, said = (
        torch.ones(p.shape[1], dtype=torch.bool),
        0.0,
        torch.zeros(p.shape[1], dtype=torch.long),
    )
    for layer in p:
        paid += float(inside.sum()) * (block + head)
        said = torch.where(inside, layer.argmax(-1), said)
        inside = inside & (layer.amax(-1) <= threshold)
    return paid / p.shape[1], (said == p[-1].argmax(-1)).double().mean()


def by_array(p, threshold, block, head):
    sure = p.numpy().max(-1) > threshold
    depth = np.where(sure.any(0), sure.argmax(0), len(p) - 1)
    said = p.numpy().argmax(-1)
    return np.mean((depth + 1) * (block + head)), np.mean(
        said[depth, np.arange(p.shape[1])] == said[-1]
    )


def leaves(
    looks=lambda d, n: d,
    sure=lambda q, t: float(q.max()) > t,
    keep=lambda left: True,
    share=None,
    stays=False,
):
    def answer(p, threshold, block, head):
        cost, same, n = [], [], len(p)
        for t in range(p.shape[1]):
            ready = [sure(p[d, t], threshold) for d in range(n)]
            if stays:
                ready = [all(ready[d:]) for d in range(n)]
            d = ready.index(True) if any(ready) else n - 1
            if keep(any(ready)):
                cost.append((d + 1) * block + looks(d + 1, n) * head)
                same.append(
                    float(p[d, t].argmax() == p[-1, t].argmax())
                    if share is None
                    else share(d + 1, n)
                )
        return sum(cost) / len(cost), sum(same) / len(same)

    return answer


# --- a verdict ---


def by_table(idea, control, t):
    if (idea["steps"], idea["tuned"]) != (control["steps"], control["tuned"]) or idea[
        "losses"
    ].numel() <= 2:
        return "unfair"
    d = (idea["losses"] - control["losses"]).numpy()
    low, high = (
        d.mean() - t * d.std(ddof=1) / len(d) ** 0.5,
        d.mean() + t * d.std(ddof=1) / len(d) ** 0.5,
    )
    return "better" if high < 0 else "worse" if low > 0 else "no difference seen"


def by_lists_too(idea, control, t):
    pairs = list(zip(idea["losses"].tolist(), control["losses"].tolist(), strict=True))
    n = len(pairs)
    if n < 3 or any(idea[k] != control[k] for k in ("tuned", "steps")):
        return "unfair"
    d = [a - b for a, b in pairs]
    mean = sum(d) / n
    half = t * math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1) / n)
    return "no difference seen" if -half <= mean <= half else ["worse", "better"][mean < 0]


def by_ratio(idea, control, t):
    fair = (
        idea["steps"] == control["steps"]
        and idea["tuned"] == control["tuned"]
        and len(control["losses"]) >= 3
    )
    d = control["losses"] - idea["losses"]
    score = float(d.mean() / (d.var(unbiased=True) / len(d)).sqrt()) if fair else 0.0
    return (
        "unfair"
        if not fair
        else "better"
        if score > t
        else "worse"
        if score < -t
        else "no difference seen"
    )


def judged(half, steps=True, tuned=True, seeds=3, flip=False):
    def answer(idea, control, t):
        a, b = idea["losses"].numpy(), control["losses"].numpy()
        if (
            (steps and idea["steps"] != control["steps"])
            or (tuned and idea["tuned"] != control["tuned"])
            or len(a) < seeds
        ):
            return "unfair"
        gap = float(np.mean(a) - np.mean(b))
        if abs(gap) <= half(a, b, t):
            return "no difference seen"
        return "better" if (gap < 0) != flip else "worse"

    return answer


def student(a, b, t):
    return t * float(np.std(a - b, ddof=1)) / math.sqrt(len(a))


RIGHT = {
    "frontiers.choices": [loops, by_root, by_numpy],
    "frontiers.swap": [by_definition, by_difference, by_sums],
    "frontiers.penalty": [entries, by_outer, in_place],
    "frontiers.regrow": [by_lists, by_topk, by_numpy_order],
    "frontiers.exit_cost": [walk_tokens, by_running, by_array],
    "frontiers.verdict": [by_table, by_lists_too, by_ratio],
}
WRONG = {
    "frontiers.choices": [
        (chosen(form, scale=1.0), "no_half"),
        (chosen(lambda F, d: (d * d) @ F.diag()), "columns"),
        (chosen(lambda F, d: d @ F @ d - (d * d) @ F.diag()), "off_diagonal"),
        (chosen(form, best=max), "largest"),
        (chosen(lambda F, d: (F @ d) @ (F @ d)), "norm_of_product"),
        (chosen(form, diagonal=lambda F: F.sum(0)), "row_sums"),
        (chosen(lambda F, d: d.abs() @ F @ d.abs()), "absolute"),
        (chosen(lambda F, d: d @ d), None),
        (chosen(lambda F, d: d @ torch.linalg.inv(F) @ d), None),
    ],
    "frontiers.swap": [
        (swapped(pair=0.0), "pair_forgotten"),
        (swapped(pair=2.0), "pair_added"),
        (swapped(pair=-1.0), "pair_once"),
        (swapped(field=1.0), "field_once"),
        (swapped(own=0.0), "own_forgotten"),
        (swapped(own=2.0), "own_twice"),
        (swapped(sign=-1.0), "other_way"),
        (swapped(field=0.0, pair=0.0), "diagonal_only"),
        (lambda Q, removed, back, gone: float(Q[gone, gone] - Q[back, back]), None),
        (lambda Q, removed, back, gone: by_definition(Q, removed, gone, back), None),
    ],
    "frontiers.penalty": [
        (penal(own=lambda r: 1.0), "no_linear"),
        (penal(own=lambda r: 1.0 - r), "linear_once"),
        (penal(own=lambda r: 1.0 + 2 * r), "sign"),
        (penal(own=lambda r: 2.0 - 2 * r), "diagonal_doubled"),
        (penal(own=lambda r: -2.0 * r), "diagonal_left_out"),
        (penal(upper=True), "half_of_the_pairs"),
        (penal(pairs=2.0), "pairs_doubled"),
        (penal(constant=lambda r, P: 0.0), "no_constant"),
        (penal(constant=lambda r, P: float(r * r)), "constant_unscaled"),
        (penal(constant=lambda r, P: P * (r if r > 1 else 0)), "constant_once"),
        (lambda Q, remove, strength: (Q, strength * remove**2), None),
    ],
    "frontiers.regrow": [
        (given, "as_given"),
        (lambda weight, gradient, mask, count: mask.clone(), "nothing_moves"),
        (moves(gain=lambda w, g, now: abs(w)), "nothing_moves"),
        (moves(gain=lambda w, g, now: abs(w * g)), "nothing_moves"),
        (moves(gain=lambda w, g, now: 0.0), "masked_gradient"),
        (moves(size=lambda w: w), "signed_weight"),
        (moves(gain=lambda w, g, now: g), "signed_gradient"),
        (moves(largest=True), "largest_cut"),
        (moves(shut=lambda p, on, mask: bool(mask[p])), "never_again"),
        (moves(gain=lambda w, g, now: -abs(g)), "smallest_grow"),
        (lambda weight, gradient, mask, count: ~mask, None),
    ],
    "frontiers.exit_cost": [
        (leaves(looks=lambda d, n: 0), "looks_free"),
        (leaves(looks=lambda d, n: 1), "one_look"),
        (leaves(looks=lambda d, n: d if d < n else d - 1), "early_looks_only"),
        (leaves(looks=lambda d, n: n), "all_looks"),
        (leaves(keep=lambda left: left), "never_sure_left_out"),
        (leaves(stays=True), "stays_sure"),
        (
            leaves(sure=lambda q, t: float(q.topk(2).values[0] - q.topk(2).values[1]) > t),
            "by_margin",
        ),
        (leaves(share=lambda d, n: float(d < n)), "share_that_left"),
        (lambda p, threshold, block, head: (len(p) * (block + head), 1.0), None),
    ],
    "frontiers.verdict": [
        (judged(lambda a, b, t: -1.0), "mean_only"),
        (
            judged(lambda a, b, t: t * math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a))),
            "unpaired",
        ),
        (judged(lambda a, b, t: t * float(np.std(a - b, ddof=1))), "spread_for_interval"),
        (judged(lambda a, b, t: float(np.std(a - b, ddof=1)) / math.sqrt(len(a))), "no_t"),
        (judged(student, steps=False), "steps_ignored"),
        (judged(student, tuned=False), "tuning_ignored"),
        (judged(student, seeds=0), "two_seeds"),
        (judged(student, steps=False, tuned=False, seeds=0), "fairness_ignored"),
        (judged(student, flip=True), "higher_is_better"),
        (lambda idea, control, t: "unfair", None),
    ],
}
