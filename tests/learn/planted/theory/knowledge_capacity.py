"""Right and wrong answers to the exercises of knowledge_capacity."""

import math

import numpy as np
import torch

# --- bits of fact ---


def by_softmax(logits, values, right):
    among = logits[:, values].log_softmax(-1)
    log_p = among[range(len(right)), right] / math.log(2)
    return float((math.log2(len(values)) + log_p).clamp(min=0).sum())


def by_loop(logits, values, right):
    total = 0.0
    for row, r in zip(logits.tolist(), right, strict=True):
        p = math.exp(row[values[r]]) / sum(math.exp(row[v]) for v in values)
        if p * len(values) > 1:
            total += math.log2(p * len(values))
    return total


def by_cross_entropy(logits, values, right):
    loss = torch.nn.functional.cross_entropy(
        logits[:, values], torch.tensor(right), reduction="none"
    )
    return torch.relu(math.log(len(values)) - loss).sum() / math.log(2)


def variant(bits):
    def answer(logits, values, right):
        facts, n = list(range(len(right))), len(values)
        p = logits[:, values].softmax(-1)[facts, right]
        whole = logits.softmax(-1)[facts, [values[r] for r in right]]
        best = (logits[:, values].argmax(-1) == torch.tensor(right)).double()
        return float(
            sum(
                bits(float(a), float(b), float(c), n, logits.shape[1])
                for a, b, c in zip(p, whole, best, strict=True)
            )
        )

    return answer


# --- who forgets? ---


def by_sorting(before, after, seen, share):
    order = sorted(range(len(seen)), key=lambda i: seen[i])
    k = int(share * len(seen))
    found = []
    for group in (order[:k], order[-k:]):
        known = [i for i in group if before[i]]
        found.append(sum(not after[i] for i in known) / len(known))
    return tuple(found)


def by_arrays(before, after, seen, share):
    order, k = np.argsort(seen), int(share * len(seen))
    b, a = np.array(before)[order], np.array(after)[order]
    return [float((x & ~y).sum() / x.sum()) for x, y in ((b[:k], a[:k]), (b[-k:], a[-k:]))]


def by_means(before, after, seen, share):
    rows = sorted(zip(seen, before, after, strict=True))
    k = int(len(rows) * share)
    means = [
        np.mean([not a for _, b, a in part if b]) for part in (rows[:k], rows[len(rows) - k :])
    ]
    return means[0], means[1]


def groups(of_group, order_by=lambda seen, i: seen[i], turned=False, size=int):
    def answer(before, after, seen, share):
        order, k = (
            sorted(range(len(seen)), key=lambda i: order_by(seen, i)),
            size(share * len(seen)),
        )
        found = [of_group(g, before, after, seen) for g in (order[:k], order[-k:])]
        return tuple(reversed(found)) if turned else tuple(found)

    return answer


def lost(g, b, a, s):
    return sum(b[i] and not a[i] for i in g) / sum(b[i] for i in g)


# --- how many parameters? ---


def by_sum(people, values, per_parameter):
    return math.ceil(people * sum(math.log2(v) for v in values) / per_parameter)


def by_product(people, values, per_parameter):
    return -int(-(people * math.log2(math.prod(values))) // per_parameter)


def by_numpy(people, values, per_parameter):
    return int(np.ceil(np.log2(values).sum() * people / per_parameter))


RIGHT = {
    "knowledge_capacity.held": [by_softmax, by_loop, by_cross_entropy],
    "knowledge_capacity.forgotten": [by_sorting, by_arrays, by_means],
    "knowledge_capacity.parameters_needed": [by_sum, by_product, by_numpy],
}

WRONG = {
    "knowledge_capacity.held": [
        (variant(lambda p, whole, best, n, v: max(0.0, math.log2(v * whole))), "vocabulary"),
        (variant(lambda p, whole, best, n, v: max(0.0, math.log2(n * whole))), "not_normalized"),
        (variant(lambda p, whole, best, n, v: best * math.log2(n)), "accuracy"),
        (variant(lambda p, whole, best, n, v: math.log2(n * p)), "negative_kept"),
        (variant(lambda p, whole, best, n, v: p * math.log2(n)), "guessing_not_subtracted"),
        (variant(lambda p, whole, best, n, v: -math.log2(p)), "loss"),
        (variant(lambda p, whole, best, n, v: max(0.0, math.log(n * p))), "nats"),
        (variant(lambda p, whole, best, n, v: max(0.0, math.log2(n * p)) / 6), None),
        (variant(lambda p, whole, best, n, v: best * math.log2(n * p) if best else 0.0), None),
    ],
    "knowledge_capacity.forgotten": [
        (groups(lambda g, b, a, s: sum(not a[i] for i in g) / len(g)), "never_known_counted"),
        (
            groups(lambda g, b, a, s: sum(b[i] and not a[i] for i in g) / len(g)),
            "of_the_whole_group",
        ),
        (
            groups(lambda g, b, a, s: 1 - sum(a[i] for i in g) / sum(b[i] for i in g)),
            "gains_against_losses",
        ),
        (
            groups(
                lambda g, b, a, s: (
                    sum(s[i] * (b[i] and not a[i]) for i in g) / sum(s[i] * b[i] for i in g)
                )
            ),
            "weighted_by_frequency",
        ),
        (groups(lambda g, b, a, s: 1 - lost(g, b, a, s)), "kept"),
        (groups(lost, turned=True), "groups_swapped"),
        (groups(lost, order_by=lambda seen, i: i), "order_of_the_list"),
        (groups(lost, order_by=lambda seen, i: -seen[i], turned=False), "groups_swapped"),
        (groups(lost, size=lambda k: int(k + 0.5)), "rounded"),
        (groups(lost, size=math.ceil), None),
    ],
    "knowledge_capacity.parameters_needed": [
        (
            lambda people, values, per_parameter: math.ceil(
                people * math.log2(sum(values)) / per_parameter
            ),
            "log_of_the_sum",
        ),
        (
            lambda people, values, per_parameter: int(
                people * math.log2(math.prod(values)) / per_parameter
            ),
            "rounded_down",
        ),
        (
            lambda people, values, per_parameter: math.ceil(
                people * math.log(math.prod(values)) / per_parameter
            ),
            "nats",
        ),
        (
            lambda people, values, per_parameter: math.ceil(people * sum(values) / per_parameter),
            "values_not_bits",
        ),
        (
            lambda people, values, per_parameter: math.ceil(
                people * math.log2(math.prod(values)) * per_parameter
            ),
            "multiplied",
        ),
        (
            lambda people, values, per_parameter: math.ceil(
                math.log2(math.prod(values)) / per_parameter
            ),
            "people_forgotten",
        ),
        (
            lambda people, values, per_parameter: math.ceil(
                people * sum(math.ceil(math.log2(v)) for v in values) / per_parameter
            ),
            "whole_bits",
        ),
        (lambda people, values, per_parameter: people * len(values), None),
        (
            lambda people, values, per_parameter: round(
                people * math.log2(math.prod(values)) / per_parameter
            ),
            None,
        ),
        (
            lambda people, values, per_parameter: (
                int(people * math.log2(math.prod(values)) / per_parameter) + 1
            ),
            None,
        ),
        (
            lambda people, values, per_parameter: math.ceil(
                math.ceil(people * math.log2(math.prod(values))) / per_parameter
            ),
            None,
        ),
        (
            lambda people, values, per_parameter: (
                people * math.log2(math.prod(values)) / per_parameter
            ),
            None,
        ),
    ],
}
