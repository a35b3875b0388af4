"""Planted answers for the exercises of lesson 5.4 about masks and gates."""

import itertools
import math

import numpy as np
import torch

# --- a soft mask ---


def by_einsum(logits, noise, tau, patterns):
    share = torch.softmax((logits + noise) / tau, dim=2)
    return torch.einsum("rgk,km->rgm", share, patterns).reshape(len(logits), -1)


def by_exponentials(logits, noise, tau, patterns):
    x = (logits.numpy() + noise.numpy()) / tau
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True) @ patterns.numpy()).reshape(x.shape[0], -1)


def by_rows(logits, noise, tau, patterns):
    rows = []
    for row, g in zip(logits, noise, strict=True):
        parts = []
        for a, b in zip(row, g, strict=True):
            share = ((a + b) / tau).log_softmax(0).exp()
            parts.append(sum(s * p for s, p in zip(share, patterns, strict=True)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def shared(inside, dim=-1, after=lambda y: y.reshape(y.shape[0], -1)):
    def answer(logits, noise, tau, patterns):
        e = inside(logits, noise, tau).exp()
        return after((e / e.sum(dim, keepdim=True)).matmul(patterns))

    return answer


def picked(logits, noise, tau, patterns):
    return patterns[(logits + noise).argmax(-1)].reshape(len(logits), -1)


# --- a gate ---


def by_logs(alpha, u, beta, gamma, zeta):
    s = 1 / (1 + torch.exp(-(torch.log(u) - torch.log1p(-u) + alpha) / beta))
    z = torch.clamp(gamma + (zeta - gamma) * s, min=0.0, max=1.0)
    return z, 1 / (1 + torch.exp(beta * math.log(-gamma / zeta) - alpha))


def by_numpy(alpha, u, beta, gamma, zeta):
    a, v = alpha.numpy(), u.numpy()
    odds = (v / (1 - v) * np.exp(a)) ** (1 / beta)
    z = np.minimum(1, np.maximum(0, odds / (1 + odds) * (zeta - gamma) + gamma))
    closed = 1 / (1 + np.exp(a) * (-gamma / zeta) ** (-beta))
    return z, 1 - closed


def one_by_one(alpha, u, beta, gamma, zeta):
    z, chance = [], []
    for a, v in zip(alpha.tolist(), u.tolist(), strict=True):
        s = 1 / (1 + math.exp(-(math.log(v / (1 - v)) + a) / beta))
        z.append(sorted((0.0, s * (zeta - gamma) + gamma, 1.0))[1])
        chance.append(1 / (1 + math.exp(-(a + beta * math.log(zeta / -gamma)))))
    return z, chance


def gates(z, chance):
    def answer(alpha, u, beta, gamma, zeta):
        logit = lambda v: (v / (1 - v)).log()  # noqa: E731
        return z(alpha, logit(u), beta, gamma, zeta), chance(alpha, beta, gamma, zeta)

    return answer


def z_right(a, n, b, g, z):
    return torch.clip(((n + a) / b).sigmoid() * (z - g) + g, 0, 1)


def chance_right(a, b, g, z):
    return (a + b * math.log(z / -g)).sigmoid()


# --- a price ---


def by_sorting(damage, size, budget):
    ratio = damage / size
    order = ratio.argsort(descending=True)
    fits = int((size[order].cumsum(0) <= budget).sum())
    kept = torch.zeros(len(size), dtype=torch.bool)
    kept[order[:fits]] = True
    return (0.0 if fits == len(size) else float(ratio[order[fits]])), kept


def by_going_down(damage, size, budget):
    ratio, best = (damage / size).numpy(), None
    for value in sorted([*ratio, 0.0], reverse=True):
        if size.numpy()[ratio > value].sum() > budget:
            break
        best = value
    return best, ratio > best


def by_sets(damage, size, budget):
    """Among the sets that are the best ratios, the largest that fits."""
    ratio = damage / size
    sets = [ratio > v for v in (-1.0, *ratio.tolist())]
    kept = max((s for s in sets if int((size * s).sum()) <= budget), key=lambda s: int(s.sum()))
    return max(
        [float(r) for r, k in zip(ratio, kept, strict=True) if not k], default=0.0
    ), kept.tolist()


def ranked(
    key, over=False, most=lambda size, order, budget: int((size[order].cumsum(0) <= budget).sum())
):
    def answer(damage, size, budget):
        ratio = key(damage, size.double())
        order = ratio.argsort(descending=True)
        fits = most(size, order, budget)
        kept = torch.zeros(len(size), dtype=torch.bool)
        kept[order[:fits]] = True
        value = 0.0 if fits == len(size) else float(ratio[order[fits]])
        return value, kept

    return answer


def worst_first(damage, size, budget):
    ratio = damage / size
    if int(size.sum()) <= budget:
        return 0.0, torch.ones(len(size), dtype=torch.bool)
    for value in sorted(ratio.tolist(), reverse=True):
        if int(size[ratio < value].sum()) <= budget:
            return value, ratio < value
    return 0.0, ratio < 0


def inclusive(damage, size, budget):
    ratio = damage / size
    for value in [0.0, *sorted(ratio.tolist())]:
        if int(size[ratio >= value].sum()) <= budget:
            return value, ratio >= value
    return value, ratio >= value


def greedy(damage, size, budget):
    kept, left = [False] * len(size), budget
    for i in sorted(range(len(size)), key=lambda i: -float(damage[i]) / int(size[i])):
        if int(size[i]) <= left:
            kept[i], left = True, left - int(size[i])
    gone = [float(damage[i]) / int(size[i]) for i in range(len(size)) if not kept[i]]
    return max(gone, default=0.0), torch.tensor(kept)


def whole_knapsack(damage, size, budget):
    sets = [
        s
        for s in itertools.product((0, 1), repeat=len(size))
        if sum(a * int(b) for a, b in zip(s, size, strict=True)) <= budget
    ]
    best = max(sets, key=lambda s: sum(a * float(b) for a, b in zip(s, damage, strict=True)))
    return by_sorting(damage, size, budget)[0], torch.tensor(best).bool()


# --- movement ---


def by_loop(weights, gradients, keep):
    score = torch.zeros_like(weights[0])
    for w, g in zip(weights, gradients, strict=True):
        score -= w * g
    border = score.flatten().sort(descending=True).values[keep - 1]
    return score >= border


def by_einsum_movement(weights, gradients, keep):
    score = torch.einsum("tij,tij->ij", weights, -gradients)
    mask = torch.zeros_like(score).flatten()
    mask[torch.topk(score.flatten(), keep).indices] = 1
    return mask.view_as(score).bool()


def by_numpy_movement(weights, gradients, keep):
    score = np.sum(weights.numpy() * gradients.numpy(), axis=0)
    order = np.argsort(score, axis=None)
    mask = np.zeros(score.size, dtype=bool)
    mask[order[:keep]] = True
    return mask.reshape(score.shape)


def largest(score, count=lambda score, keep: keep):
    def answer(weights, gradients, keep):
        s = score(weights, gradients)
        mask = torch.zeros(s.numel(), dtype=torch.bool)
        mask[torch.topk(s.flatten(), count(s, keep)).indices] = True
        return mask.view(s.shape)

    return answer


def moved(w, g):
    return torch.stack([-a * b for a, b in zip(w, g, strict=True)]).sum(0)


def by_rows_movement(weights, gradients, keep):
    score = moved(weights, gradients)
    n = max(1, keep // len(score))
    return score >= score.sort(1, descending=True).values[:, n - 1 : n]


RIGHT = {
    "learned_masks.soft_mask": [by_einsum, by_exponentials, by_rows],
    "learned_masks.gate": [by_logs, by_numpy, one_by_one],
    "learned_masks.price": [by_sorting, by_going_down, by_sets],
    "learned_masks.movement": [by_loop, by_einsum_movement, by_numpy_movement],
}
WRONG = {
    "learned_masks.soft_mask": [
        (shared(lambda e, g, tau: (e + g).mul(tau)), "multiplied"),
        (shared(lambda e, g, tau: e.div(tau)), "noise_forgotten"),
        (shared(lambda e, g, tau: e.div(tau).add(g)), "noise_not_cooled"),
        (shared(lambda e, g, tau: e.add(g)), "temperature_forgotten"),
        (shared(lambda e, g, tau: (e + g) / tau, dim=1), "across_groups"),
        (picked, "hard"),
        (
            shared(
                lambda e, g, tau: (e + g) / tau,
                after=lambda y: torch.stack([y[:, :, i] for i in range(y.shape[2])], 1).reshape(
                    len(y), -1
                ),
            ),
            "interleaved",
        ),
        (lambda logits, noise, tau, patterns: by_einsum(logits, -noise, tau, patterns), None),
        (
            lambda logits, noise, tau, patterns: by_einsum(logits, noise, tau, patterns).view(
                len(logits), -1, patterns.shape[1]
            ),
            None,
        ),
        (lambda logits, noise, tau, patterns: 1 - by_einsum(logits, noise, tau, patterns), None),
    ],
    "learned_masks.gate": [
        (gates(lambda a, n, b, g, z: z_right(a, -n, b, g, z), chance_right), "sign"),
        (gates(lambda a, n, b, g, z: ((n + a) / b).sigmoid(), chance_right), "no_stretch"),
        (
            gates(lambda a, n, b, g, z: ((n + a) / b).sigmoid() * (z - g) + g, chance_right),
            "no_clip",
        ),
        (gates(lambda a, n, b, g, z: z_right(a, n, 1.0, g, z), chance_right), "not_cooled"),
        (
            gates(lambda a, n, b, g, z: z_right(a * b, n, b, g, z), chance_right),
            "noise_cooled_alone",
        ),
        (gates(z_right, lambda a, b, g, z: (a + math.log(z / -g)).sigmoid()), "beta_lost"),
        (gates(z_right, lambda a, b, g, z: (a - b * math.log(z / -g)).sigmoid()), "penalty_sign"),
        (gates(z_right, lambda a, b, g, z: a.sigmoid()), "soft_chance"),
        (
            lambda alpha, u, beta, gamma, zeta: (
                by_logs(alpha, u, beta, gamma, zeta)[0],
                by_logs(alpha, u, beta, gamma, zeta)[0].clone(),
            ),
            "penalty_on_z",
        ),
        (gates(z_right, lambda a, b, g, z: 1 - chance_right(a, b, g, z)), None),
        (lambda alpha, u, beta, gamma, zeta: by_logs(alpha, u, beta, gamma, zeta)[::-1], None),
    ],
    "learned_masks.price": [
        (ranked(lambda d, s: d), "dearest"),
        (ranked(lambda d, s: s / d), "inverted"),
        (worst_first, "smallest_stay"),
        (
            ranked(
                lambda d, s: d / s,
                most=lambda size, order, budget: int((size[order].cumsum(0) < budget).sum()),
            ),
            "not_quite_full",
        ),
        (
            ranked(lambda d, s: d / s, most=lambda size, order, budget: min(len(size), budget)),
            "counted",
        ),
        (inclusive, "one_over"),
        (greedy, "filled"),
        (whole_knapsack, "knapsack"),
        (
            lambda damage, size, budget: (
                by_sorting(damage, size, budget)[0],
                ~by_sorting(damage, size, budget)[1],
            ),
            None,
        ),
    ],
    "learned_masks.movement": [
        (largest(lambda w, g: -moved(w, g)), "sign"),
        (largest(lambda w, g: (w.abs() * g.abs()).sum(0)), "sizes"),
        (largest(lambda w, g: moved(w, g).abs()), "size_of_sum"),
        (largest(lambda w, g: moved(w[-1:], g[-1:])), "last_only"),
        (largest(lambda w, g: -w[-1] * sum(g)), "sums_multiplied"),
        (largest(lambda w, g: -sum(g)), "gradient_alone"),
        (largest(lambda w, g: w[-1].square()), "magnitude"),
        (largest(moved, count=lambda s, keep: s.numel() - keep), "number_that_goes"),
        (by_rows_movement, "per_row"),
        (lambda weights, gradients, keep: ~by_loop(weights, gradients, keep), None),
        (largest(lambda w, g: w[0].abs()), None),
    ],
}
