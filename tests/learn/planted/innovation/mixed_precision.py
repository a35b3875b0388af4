"""Right and wrong answers to the exercises of mixed_precision."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

# --- bits that are really taken ---


def by_division(shapes, bits, group_size):
    taken = weights = 0
    for (rows, columns), b in zip(shapes, bits, strict=True):
        taken += rows * (-(-columns * b // 8) + 4 * -(-columns // group_size))
        weights += rows * columns
    return taken * 8 / weights


def by_rows(shapes, bits, group_size):
    """Walks through every row and every group of it."""
    taken, weights = 0, 0
    for (rows, columns), b in zip(shapes, bits, strict=True):
        for _ in range(rows):
            taken += (columns * b + 7) // 8
            for _start in range(0, columns, group_size):
                taken += 2 + 2
        weights += rows * columns
    return taken / weights * 8


def by_numpy(shapes, bits, group_size):
    rows, columns = np.array(shapes).T
    codes = np.ceil(columns * np.array(bits) / 8)
    side = 4 * np.ceil(columns / group_size)
    return (rows * (codes + side) * 8).sum() / (rows * columns).sum()


def stored(row, factor=8.0):
    def answer(shapes, bits, group_size):
        taken = sum(r * row(c, b, group_size) for (r, c), b in zip(shapes, bits, strict=True))
        return factor * taken / sum(r * c for r, c in shapes)

    return answer


def layers_alike(shapes, bits, group_size):
    return float(
        np.mean([by_division([s], [b], group_size) for s, b in zip(shapes, bits, strict=True)])
    )


# --- damage of one layer alone ---


def logits(weights, x):
    for w in weights[:-1]:
        x = torch.tanh(F.linear(x, w))
    return F.linear(x, weights[-1])


def by_kl_div(weights, rounded, inputs, labels):
    goal = F.log_softmax(logits(weights, inputs), -1)
    found = []
    for i, r in enumerate(rounded):
        changed = F.log_softmax(logits([*weights[:i], r, *weights[i + 1 :]], inputs), -1)
        found.append(F.kl_div(changed, goal, log_target=True, reduction="batchmean").item())
    return found


def by_loops(weights, rounded, inputs, labels):
    found = []
    for i in range(len(weights)):
        matrices = [rounded[j] if i == j else weights[j] for j in range(len(weights))]
        whole = 0.0
        for x in inputs:
            p, q = logits(weights, x).softmax(0), logits(matrices, x).softmax(0)
            whole += sum(
                float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)
            )
        found.append(whole / len(inputs))
    return found


def by_putting_back(weights, rounded, inputs, labels):
    """Changes its own list and puts the matrix back."""
    mine = [w.clone() for w in weights]
    p = torch.distributions.Categorical(logits=logits(mine, inputs))
    found = torch.empty(len(mine), dtype=torch.float64)
    for i in range(len(mine)):
        kept, mine[i] = mine[i], rounded[i]
        found[i] = torch.distributions.kl_divergence(
            p, torch.distributions.Categorical(logits=logits(mine, inputs))
        ).mean()
        mine[i] = kept
    return found.tolist()


def damage(measure, matrices=lambda w, r, i: [*w[:i], r[i], *w[i + 1 :]]):
    def answer(weights, rounded, inputs, labels):
        p = F.log_softmax(logits(weights, inputs), -1)
        return [
            float(
                measure(p, F.log_softmax(logits(matrices(weights, rounded, i), inputs), -1), labels)
            )
            for i in range(len(weights))
        ]

    return answer


def kl(p, q, labels):
    return (p.exp() * (p - q)).sum(1).mean()


def loss(p, q, labels):
    return F.nll_loss(q, labels) - F.nll_loss(p, labels)


def given_code(weights, rounded, inputs, labels):
    """The code of the page, with its three faults."""
    p = F.log_softmax(logits(weights, inputs), -1)
    weights, found = list(weights), []
    for i in range(len(weights)):
        weights[i] = rounded[i]
        q = F.log_softmax(logits(weights, inputs), -1)
        found.append(float((q.exp() * (q - p)).mean()))
    return found


# --- the exact allocation ---


def by_sizes(damages, sizes, budget):
    best = {0: (0.0, [])}
    for d, s in zip(damages, sizes, strict=True):
        grown = {}
        for taken, (harm, chosen) in best.items():
            for o, (more, cost) in enumerate(zip(s, d, strict=True)):
                if taken + more <= budget and (
                    taken + more not in grown or harm + cost < grown[taken + more][0]
                ):
                    grown[taken + more] = (harm + cost, [*chosen, o])
        best = grown
    return min(best.values(), key=lambda entry: entry[0])[1]


def by_recursion(damages, sizes, budget):
    def least(layer, left):
        if layer == len(sizes):
            return 0.0, ()
        found = (math.inf, ())
        for o, (s, d) in enumerate(zip(sizes[layer], damages[layer], strict=True)):
            if s <= left:
                harm, rest = least(layer + 1, left - s)
                found = min(found, (harm + d, (o, *rest)))
        return found

    return least(0, budget)[1]


def by_milp(damages, sizes, budget):
    from scipy.optimize import LinearConstraint, milp

    layers, options = len(sizes), len(sizes[0])
    each = np.kron(np.eye(layers), np.ones(options))
    limits = [
        LinearConstraint(each, 1, 1),
        LinearConstraint(np.array(sizes, dtype=float).reshape(1, -1), 0, budget),
    ]
    found = milp(
        np.array(damages).ravel(),
        constraints=limits,
        integrality=np.ones(layers * options),
        bounds=(0, 1),
        options={"mip_rel_gap": 0},
    )
    return torch.from_numpy(found.x.reshape(layers, options)).argmax(1).tolist()


def all_of(damages, sizes, good):
    choices = itertools.product(*map(range, map(len, sizes)))
    cost = [
        (sum(d[o] for d, o in zip(damages, c, strict=True)), c)
        for c in choices
        if good(sum(s[o] for s, o in zip(sizes, c, strict=True)), c)
    ]
    return list(min(cost, default=(0, (0,) * len(sizes)))[1])


def steps(damages, sizes, budget):
    now = [0] * len(sizes)
    left = budget - sum(s[0] for s in sizes)
    while True:
        gains = {}
        for i, o in enumerate(now):
            if (
                o < len(sizes[i]) - 1
                and (price := sizes[i][o + 1] - sizes[i][o]) <= left
                and damages[i][o + 1] < damages[i][o]
            ):
                gains[i] = (damages[i][o] - damages[i][o + 1]) / price
        if not gains:
            return now
        i = max(gains, key=lambda i: (gains[i], i))
        left -= sizes[i][now[i] + 1] - sizes[i][now[i]]
        now[i] += 1


def widths_alike(damages, sizes, budget):
    limit = len(sizes) * budget / sum(s[0] for s in sizes)
    return all_of(
        damages,
        sizes,
        lambda size, c: sum(s[o] / s[0] for s, o in zip(sizes, c, strict=True)) <= limit,
    )


def own_part(damages, sizes, budget):
    factor = budget / sum(s[0] for s in sizes)
    return [
        int(np.argmin([d[o] if o == 0 or s[o] <= factor * s[0] else np.inf for o in range(len(s))]))
        for d, s in zip(damages, sizes, strict=True)
    ]


def priced(damages, sizes, budget):
    slopes = [
        (d[a] - d[b]) / (s[b] - s[a])
        for d, s in zip(damages, sizes, strict=True)
        for a in range(len(s))
        for b in range(a + 1, len(s))
    ]
    for price in sorted([0.0, *(x * (1 + 1e-9) for x in slopes if x > 0)]):
        chosen = [
            int(np.argmin(np.array(d) + price * np.array(s)))
            for d, s in zip(damages, sizes, strict=True)
        ]
        if sum(s[o] for s, o in zip(sizes, chosen, strict=True)) <= budget:
            return chosen
    return [0] * len(sizes)


def worst_first(damages, sizes, budget):
    chosen, left = [0] * len(sizes), budget - sum(s[0] for s in sizes)
    for i in np.argsort([-d[0] for d in damages], kind="stable"):
        fits = [o for o in range(len(sizes[i])) if sizes[i][o] - sizes[i][0] <= left]
        chosen[i] = min(fits, key=lambda o: damages[i][o])
        left -= sizes[i][chosen[i]] - sizes[i][0]
    return chosen


# --- ideal bits ---


def by_bisection(sensitivities, weights, mean_bits):
    """The slope that all layers share, found by bisection."""
    a, n = np.array(sensitivities), np.array(weights, dtype=float)
    low, high = -200.0, 200.0
    for _ in range(200):
        middle = (low + high) / 2
        bits = 0.5 * (np.log2(a / n) - middle)
        low, high = (middle, high) if (n * bits).sum() > mean_bits * n.sum() else (low, middle)
    return bits.tolist()


def by_weighted_mean(sensitivities, weights, mean_bits):
    h = np.log2(np.array(sensitivities) / np.array(weights)) / 2
    return list(mean_bits + h - np.average(h, weights=weights))


def by_four(sensitivities, weights, mean_bits):
    """Logarithms to base 4."""
    total, per = (
        sum(weights),
        [math.log(s / w, 4) for s, w in zip(sensitivities, weights, strict=True)],
    )
    shift = mean_bits
    for n, x in zip(weights, per, strict=True):
        shift -= n * x / total
    return [x + shift for x in per]


def ideal(part, mean=None, sign=1):
    def answer(sensitivities, weights, mean_bits):
        h = np.array([part(a, n) for a, n in zip(sensitivities, weights, strict=True)])
        m = (
            np.average(h, weights=weights)
            if mean is None
            else mean(np.array(sensitivities), np.array(weights), h)
        )
        return (mean_bits + sign * (h - m)).tolist()

    return answer


# --- whose scale do keys share? ---


def trial(keys, bits, dim):
    low, high = keys.amin(dim, keepdim=True), keys.amax(dim, keepdim=True)
    step = (high - low) / (2**bits - 1)
    return low + torch.round((keys - low) / step) * step


def by_both(queries, keys, bits):
    exact = queries @ keys.T
    errors = {
        name: float(((queries @ trial(keys, bits, dim).T - exact) ** 2).mean())
        for name, dim in (("channel", 0), ("token", 1))
    }
    return min(errors, key=errors.get)


def by_codes(queries, keys, bits):
    """Integer codes with a zero point, as the cache stores them."""

    def rounded(x):
        low, high = x.min(), x.max()
        scale = (high - low) / (2**bits - 1)
        zero = -low / scale
        return ((x / scale + zero).round().clamp(0, 2**bits - 1) - zero) * scale

    channel = torch.stack([rounded(column) for column in keys.T]).T
    token = torch.stack([rounded(row) for row in keys])
    worse = (queries @ (channel - keys).T).norm() > (queries @ (token - keys).T).norm()
    return "token" if worse else "channel"


def by_gram(queries, keys, bits):
    """Σ (Q e)² by the Gram matrix of the queries."""
    G = queries.T @ queries
    harm = [
        float(((trial(keys, bits, dim) - keys) @ G * (trial(keys, bits, dim) - keys)).sum())
        for dim in (0, 1)
    ]
    return ["channel", "token"][int(np.argmin(harm))]


def keys_alone(queries, keys, bits):
    errors = [float((trial(keys, bits, dim) - keys).norm()) for dim in (0, 1)]
    return "channel" if errors[0] < errors[1] else "token"


def look(queries, keys, bits):
    channels, tokens = keys.abs().amax(0), keys.abs().amax(1)
    return (
        "channel"
        if channels.max() / channels.median() > tokens.max() / tokens.median()
        else "token"
    )


RIGHT = {
    "mixed_precision.taken_bits": [by_division, by_rows, by_numpy],
    "mixed_precision.damages": [by_kl_div, by_loops, by_putting_back],
    "mixed_precision.allocate": [by_sizes, by_recursion, by_milp],
    "mixed_precision.ideal_bits": [by_bisection, by_weighted_mean, by_four],
    "mixed_precision.scale_axis": [by_both, by_codes, by_gram],
}

WRONG = {
    "mixed_precision.taken_bits": [
        (stored(lambda c, b, g: (c * b + 7) // 8), "codes_only"),
        (stored(lambda c, b, g: (c * b + 7) // 8 + 2 * -(-c // g)), "scales_only"),
        (stored(lambda c, b, g: (c * b + 7) // 8 + 4 * (c // g)), "whole_groups"),
        (stored(lambda c, b, g: (c * b + 7) // 8 + 4 * c / g), "part_groups"),
        (stored(lambda c, b, g: c * b / 8 + 4 * math.ceil(c / g)), "part_bytes"),
        (stored(lambda c, b, g: (c * b + 7) // 8 + 4 * -(-c // g), 1), "in_bytes"),
        (layers_alike, "mean_of_layers"),
        (lambda shapes, bits, group_size: sum(bits) / len(bits), None),
        (stored(lambda c, b, g: (c * b + 7) // 8 + 8 * -(-c // g)), None),
    ],
    "mixed_precision.damages": [
        (damage(kl, lambda w, r, i: list(r)), "together"),
        (damage(kl, lambda w, r, i: r[: i + 1] + w[i + 1 :]), "stays_rounded"),
        (damage(kl, lambda w, r, i: r[:i] + [w[i]] + r[i + 1 :]), "all_but_one"),
        (damage(lambda p, q, labels: kl(q, p, labels)), "reversed"),
        (damage(loss), "loss"),
        (damage(lambda p, q, labels: F.kl_div(q, p, log_target=True, reduction="sum")), "summed"),
        (damage(lambda p, q, labels: (p.exp() * (p - q)).mean()), "over_classes"),
        (damage(lambda p, q, labels: kl(p, q, labels) / math.log(2)), "in_bits"),
        (
            lambda weights, rounded, inputs, labels: [
                float(((w - r) ** 2).sum()) for w, r in zip(weights, rounded, strict=True)
            ],
            "weight_error",
        ),
        (given_code, None),
        (damage(lambda p, q, labels: (p - q).abs().mean()), None),
    ],
    "mixed_precision.allocate": [
        (steps, "greedy"),
        (widths_alike, "equal_layers"),
        (
            lambda damages, sizes, budget: all_of(damages, sizes, lambda size, c: size < budget),
            "strictly_below",
        ),
        (own_part, "even_share"),
        (lambda damages, sizes, budget: [int(np.argmin(d)) for d in damages], "without_limit"),
        (priced, "one_price"),
        (worst_first, "most_damaged_first"),
        (lambda damages, sizes, budget: [0] * len(sizes), None),
        (lambda damages, sizes, budget: [1] * len(sizes), None),
    ],
    "mixed_precision.ideal_bits": [
        (ideal(lambda a, n: math.log2(a) / 2), "sizes_forgotten"),
        (ideal(lambda a, n: math.log2(a / n) / 2, lambda a, n, h: h.mean()), "plain_mean"),
        (ideal(lambda a, n: math.log2(a / n)), "no_half"),
        (ideal(lambda a, n: math.log(a / n) / 2), "natural"),
        (ideal(lambda a, n: math.log2(a / n) / 2, sign=-1), "reversed"),
        (
            ideal(
                lambda a, n: math.log2(a / n) / 2, lambda a, n, h: math.log2(a.sum() / n.sum()) / 2
            ),
            "mean_of_sensitivities",
        ),
        (ideal(lambda a, n: math.log2(a * n) / 2), "total_for_each"),
        (lambda sensitivities, weights, mean_bits: [mean_bits] * len(weights), None),
    ],
    "mixed_precision.scale_axis": [
        (keys_alone, "key_error"),
        (look, "largest"),
        (lambda queries, keys, bits: "channel", "always_channel"),
        (lambda queries, keys, bits: "token", "always_token"),
        (
            lambda queries, keys, bits: (
                "token" if by_both(queries, keys, bits) == "channel" else "channel"
            ),
            "swapped",
        ),
        (lambda queries, keys, bits: by_both(queries, keys, bits) == "channel", None),
    ],
}
