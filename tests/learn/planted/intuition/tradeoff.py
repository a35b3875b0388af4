"""Right and wrong answers to the exercises of tradeoff."""

import math
import statistics

import numpy as np
import torch


def by_sweep(sizes, losses):
    """From the smallest on: kept is what has a lower loss than all before."""
    kept, best = [], float("inf")
    for size, loss, i in sorted(zip(sizes, losses, range(len(sizes)), strict=True)):
        assert size == sizes[i]
        if loss < best:
            kept.append(i)
            best = loss
    return kept


def by_removal(sizes, losses):
    left = list(range(len(sizes)))
    for i in range(len(sizes)):
        pair = (sizes[i], losses[i])
        rivals = [(sizes[j], losses[j]) for j in range(len(sizes)) if j != i]
        if any(s <= pair[0] and x <= pair[1] and (s, x) != pair for s, x in rivals):
            left.remove(i)
    left.sort(key=lambda i: sizes[i])
    return left


def by_sizes_only(sizes, losses):
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def tolerant(sizes, losses):
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    return [
        i for i in order if not any(sizes[j] < sizes[i] and losses[j] < losses[i] for j in order)
    ]


def stepwise(sizes, losses):
    ranked = sorted(range(len(sizes)), key=lambda i: (sizes[i], losses[i]))
    kept = [ranked[0]]
    for before, now in zip(ranked, ranked[1:], strict=False):
        if losses[now] < losses[before]:
            kept.append(now)
    return kept


def bitmap_in_parts(weights, sparsity, bits):
    gone = sparsity * weights
    values = (weights - gone) * bits
    return (values + weights) / 8


def speedup_by_times(share, factor):
    """A run of 100 seconds."""
    slow = 100 * share
    rest = 100 - slow
    return 100 / (rest + slow / factor)


def difference_by_numpy(before, after):
    d = np.asarray(after) - np.asarray(before)
    half = 2 * d.std(ddof=1) / np.sqrt(len(d))
    if d.mean() > half:
        return "worse"
    return "better" if d.mean() < -half else "no difference seen"


def difference_by_statistics(before, after):
    changes = [new - old for old, new in zip(before, after, strict=True)]
    mean, error = statistics.fmean(changes), statistics.stdev(changes) / math.sqrt(len(changes))
    inside = mean - 2 * error <= 0 <= mean + 2 * error
    return "no difference seen" if inside else ("better", "worse")[mean > 0]


def difference_by_root_mean_square(before, after):
    d = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    n, mean = len(d), d.mean()
    error = ((d.square().mean() - mean**2) / (n - 1)).sqrt()
    return "no difference seen" if mean.abs() / error <= 2 else "better" if mean < 0 else "worse"


def difference_by(half):
    def told(before, after):
        d = np.asarray(after) - np.asarray(before)
        edge = half(d, len(d))
        return (
            "no difference seen" if abs(d.mean()) <= edge else "worse" if d.mean() > 0 else "better"
        )

    return told


def difference_of_two_texts(before, after):
    a, b = np.asarray(before), np.asarray(after)
    edge = 2 * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))
    change = b.mean() - a.mean()
    return "no difference seen" if abs(change) <= edge else "worse" if change > 0 else "better"


RIGHT = {
    "tradeoff.sparsity_needed": [
        lambda bits, wanted: (bits + 1 - wanted) / bits,
        lambda bits, wanted: 1 - wanted / bits + 1 / bits,
        lambda bits, wanted: np.float64(bits - (wanted - 1)) / bits,
    ],
    "tradeoff.seen_difference": [
        difference_by_numpy,
        difference_by_statistics,
        difference_by_root_mean_square,
    ],
    "tradeoff.front": [by_sweep, by_removal, lambda sizes, losses: tuple(by_sweep(sizes, losses))],
    "tradeoff.bitmap_bytes": [
        bitmap_in_parts,
        lambda weights, sparsity, bits: (weights + weights * bits - sparsity * weights * bits) / 8,
        lambda weights, sparsity, bits: weights * 0.125 * (1 + bits * (1 - sparsity)),
        lambda weights, sparsity, bits: weights // 8 + int(weights * (1 - sparsity)) * bits // 8,
    ],
    "tradeoff.whole_speedup": [
        speedup_by_times,
        lambda share, factor: factor / (factor - share * factor + share),
        lambda share, factor: 1 / (1 - share * (1 - 1 / factor)),
    ],
}
WRONG = {
    "tradeoff.sparsity_needed": [
        (lambda bits, wanted: (bits - wanted) / bits, "map_forgotten"),
        (lambda bits, wanted: (wanted - 1) / bits, "share_kept"),
        (lambda bits, wanted: (bits + 1 - wanted) / (bits + 1), "map_of_kept"),
        (lambda bits, wanted: (bits + 8 - wanted) / bits, "map_in_bytes"),
        (lambda bits, wanted: (17 - wanted) / 16, "of_16_bits"),
        (lambda bits, wanted: 100 * (bits + 1 - wanted) / bits, None),
    ],
    "tradeoff.seen_difference": [
        (difference_of_two_texts, "not_paired"),
        (lambda before, after: "worse" if sum(after) > sum(before) else "better", "no_interval"),
        (difference_by(lambda d, n: d.std(ddof=1) / n**0.5), "one_error"),
        (difference_by(lambda d, n: 2 * d.std(ddof=1)), "spread_of_one"),
        (difference_by(lambda d, n: 2 * d.std(ddof=1) / n), "divided_by_n"),
        (lambda before, after: difference_by_numpy(after, before), "turned"),
        (lambda before, after: "worse", None),
        (lambda before, after: difference_by_numpy(before, after) == "worse", None),
    ],
    "tradeoff.front": [
        (
            lambda sizes, losses: (
                lambda o: [i for k, i in enumerate(o) if all(losses[i] < losses[j] for j in o[:k])]
            )(sorted(range(len(sizes)), key=lambda i: sizes[i])),
            "size_only",
        ),
        (lambda sizes, losses: by_sweep(sizes, losses)[:1], "smallest_only"),
        (lambda sizes, losses: by_sweep(sizes, [5 - x for x in losses]), "loss_upside_down"),
        (tolerant, "beaten_in_both"),
        (stepwise, "one_before"),
        (lambda sizes, losses: sorted(by_sweep(sizes, losses)), "unsorted"),
        (lambda sizes, losses: by_sweep(sizes, losses)[::-1], "largest_first"),
        (lambda sizes, losses: [sizes[i] for i in by_sweep(sizes, losses)], "values"),
        (by_sizes_only, None),
        (lambda sizes, losses: len(by_sweep(sizes, losses)), None),
        (lambda sizes, losses: by_sweep(losses, sizes), "largest_first"),
    ],
    "tradeoff.bitmap_bytes": [
        (lambda weights, sparsity, bits: (1 - sparsity) * weights * bits / 8, "map_forgotten"),
        (lambda weights, sparsity, bits: weights * (1 + sparsity * bits) / 8, "removed_for_kept"),
        (lambda weights, sparsity, bits: weights * (1 + (1 - sparsity) * bits / 8), "map_in_bytes"),
        (lambda weights, sparsity, bits: weights * (1 + (1 - sparsity) * bits), "in_bits"),
        (lambda weights, sparsity, bits: weights * (1 - sparsity) / 8 * (1 + bits), "map_of_kept"),
        (lambda weights, sparsity, bits: bits * weights / 8, "dense"),
        (lambda weights, sparsity, bits: weights * (1 - sparsity) * (bits + 16) / 8, None),
        (lambda weights, sparsity, bits: weights * bits / 16 + weights / 8, None),
    ],
    "tradeoff.whole_speedup": [
        (lambda share, factor: factor, "part_for_whole"),
        (lambda share, factor: share * factor + (1 - share), "mean_of_factors"),
        (lambda share, factor: factor * share, "share_of_factor"),
        (lambda share, factor: 1 / (share * factor + (1 - share)), "time_multiplied"),
        (lambda share, factor: 1 - share + share / factor, "time"),
        (lambda share, factor: 1 / (share + (1 - share) / factor), "other_part"),
        (lambda share, factor: 1 / (1 - share), None),
        (lambda share, factor: factor / share, None),
        (lambda share, factor: 1 + (factor - 1) / 2, None),
    ],
}
