"""Lesson 1.3: the points worth having, the bytes of a sparse matrix, the speed of the whole."""

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick

# --- points worth having ---


def points(rng: torch.Generator) -> dict:
    """Candidates in any order; some are worse in both, some equal in one, and the loss jumps up and down with size."""
    n = int(torch.randint(7, 12, (), generator=rng))
    sizes = (torch.randperm(60, generator=rng)[:n] + 10).tolist()
    losses = [round(1.5 - 0.01 * s + 0.4 * float(torch.rand((), generator=rng)), 3) for s in sizes]
    best = min(range(n), key=lambda i: (losses[i], sizes[i]))
    smallest = min(sizes)
    sizes += [sizes[best] + 3, smallest]  # as good as the best but larger; as small as the smallest but worse
    losses += [losses[best], max(losses) + 0.1]
    return {"sizes": sizes, "losses": losses}


def front(sizes: list, losses: list) -> list:
    """Indices that no other candidate beats (none is at most as large, at most as bad, and better in one), by size."""
    kept = []
    for i in range(len(sizes)):
        beaten = False
        for j in range(len(sizes)):
            no_worse = sizes[j] <= sizes[i] and losses[j] <= losses[i]
            better = sizes[j] < sizes[i] or losses[j] < losses[i]
            beaten = beaten or (no_worse and better)
        if not beaten:
            kept.append(i)
    return sorted(kept, key=lambda i: sizes[i])


def beaten_only_in_both(sizes, losses):
    n = range(len(sizes))
    kept = [i for i in n if not any(sizes[j] < sizes[i] and losses[j] < losses[i] for j in n)]
    return sorted(kept, key=sizes.__getitem__)


def better_than_the_one_before(sizes, losses):
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], losses[i]))
    return order[:1] + [b for a, b in zip(order, order[1:], strict=False) if losses[b] < losses[a]]


# --- the bytes of a sparse matrix ---


def sparse_inputs(rng: torch.Generator) -> dict:
    """Sparsities that are exact in binary, so that weights · (1 − sparsity) is a whole number, also for who rounds it down."""
    return {"weights": 10_000 * int(torch.randint(1, 500, (), generator=rng)), "sparsity": pick(rng, 0.25, 0.625, 0.75, 0.875),
            "bits": pick(rng, 4, 16, 32)}  # fmt: skip


def bitmap_bytes(weights: int, sparsity: float, bits: int) -> float:
    """One bit for each weight (is it kept?), and `bits` bits for each weight that is kept."""
    kept = weights * (1 - sparsity)
    return weights / 8 + kept * bits / 8


# --- the speed of the whole ---


def share_inputs(rng: torch.Generator) -> dict:
    return {"share": 0.2 + 0.7 * float(torch.rand((), generator=rng)), "factor": 1.5 + 6 * float(torch.rand((), generator=rng))}


def whole_speedup(share: float, factor: float) -> float:
    """Time before: 1 = (1 − share) + share. Time after: (1 − share) + share / factor."""
    before = (1 - share) + share
    after = (1 - share) + share / factor
    return before / after


EXERCISES = [
    Exercise(
        id="tradeoff.front", inputs=points, spec=front, tolerance=0, lesson="1.3-the-trade-off", trials=12,
        mistakes={
            "smallest_only": lambda sizes, losses: [front(sizes, losses)[0]],
            "loss_upside_down": lambda sizes, losses: front(sizes, [-loss for loss in losses]),
            "beaten_in_both": beaten_only_in_both,
            "one_before": better_than_the_one_before,
            "unsorted": lambda sizes, losses: sorted(front(sizes, losses)),
            "largest_first": lambda sizes, losses: front(sizes, losses)[::-1],
            "values": lambda sizes, losses: [sizes[i] for i in front(sizes, losses)],
        },
    ),
    Exercise(
        id="tradeoff.bitmap_bytes", inputs=sparse_inputs, spec=bitmap_bytes, tolerance=1e-6, lesson="1.3-the-trade-off",
        trials=6,
        mistakes={
            "map_forgotten": lambda weights, sparsity, bits: weights * (1 - sparsity) * bits / 8,
            "removed_for_kept": lambda weights, sparsity, bits: weights / 8 + weights * sparsity * bits / 8,
            "map_in_bytes": lambda weights, sparsity, bits: weights + weights * (1 - sparsity) * bits / 8,
            "in_bits": lambda weights, sparsity, bits: weights + weights * (1 - sparsity) * bits,
            "map_of_kept": lambda weights, sparsity, bits: weights * (1 - sparsity) * (bits + 1) / 8,
            "dense": lambda weights, sparsity, bits: weights * bits / 8,
        },
    ),
    Exercise(
        id="tradeoff.whole_speedup", inputs=share_inputs, spec=whole_speedup, tolerance=1e-6, lesson="1.3-the-trade-off",
        mistakes={
            "part_for_whole": lambda share, factor: factor,
            "mean_of_factors": lambda share, factor: 1 - share + share * factor,
            "share_of_factor": lambda share, factor: share * factor,
            "time_multiplied": lambda share, factor: 1 / (1 - share + share * factor),
            "time": lambda share, factor: 1 / whole_speedup(share, factor),
            "other_part": lambda share, factor: whole_speedup(1 - share, factor),
        },
    ),
]  # fmt: skip
