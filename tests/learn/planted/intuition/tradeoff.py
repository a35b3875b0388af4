"""Right and wrong answers to the exercises of tradeoff."""


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
    return [i for i in order if not any(sizes[j] < sizes[i] and losses[j] < losses[i] for j in order)]


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


RIGHT = {
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
    "tradeoff.front": [
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
