"""Lesson 1.3: the points worth having, the bytes of a sparse matrix, a difference that is seen, the
speed of the whole.
"""

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick

# --- points worth having ---


def points(rng: torch.Generator) -> dict:
    """Candidates in any order; some are worse in both, some equal in one, and the loss jumps up and
    down with size.
    """
    n = int(torch.randint(7, 12, (), generator=rng))
    sizes = (torch.randperm(60, generator=rng)[:n] + 10).tolist()
    losses = [round(1.5 - 0.01 * s + 0.4 * float(torch.rand((), generator=rng)), 3) for s in sizes]
    best = min(range(n), key=lambda i: (losses[i], sizes[i]))
    smallest = min(sizes)
    # as good as the best but larger; as small as the smallest but worse
    sizes += [sizes[best] + 3, smallest]
    losses += [losses[best], max(losses) + 0.1]
    order = torch.randperm(len(sizes), generator=rng).tolist()
    return {"sizes": [sizes[i] for i in order], "losses": [losses[i] for i in order]}


def by_size_only(sizes, losses):
    """Those that beat all smaller ones; of two of the same size, the one that stands first."""
    kept: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if not kept or losses[i] < losses[kept[-1]]:
            kept.append(i)
    return kept


def front(sizes: list, losses: list) -> list:
    """Indices that no other candidate beats (none is at most as large, at most as bad, and better
    in one), by size.
    """
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
    """Sparsities that are exact in binary, so that weights · (1 − sparsity) is a whole number, also
    for who rounds it down.
    """
    return {"weights": 10_000 * int(torch.randint(1, 500, (), generator=rng)),
            "sparsity": pick(rng, 0.25, 0.625, 0.75, 0.875),
            "bits": pick(rng, 4, 16, 32)}  # fmt: skip


def bitmap_bytes(weights: int, sparsity: float, bits: int) -> float:
    """One bit for each weight (is it kept?), and `bits` bits for each weight that is kept."""
    kept = weights * (1 - sparsity)
    return weights / 8 + kept * bits / 8


# --- the zeros that a size asks for ---


def wanted_inputs(rng: torch.Generator) -> dict:
    """A size between one bit (nothing is kept) and all weights with their map."""
    bits = pick(rng, 4, 8, 16, 32)
    return {
        "bits": bits,
        "wanted": round(1 + bits * (0.05 + 0.85 * float(torch.rand((), generator=rng))), 3),
    }


def sparsity_needed(bits: int, wanted: float) -> float:
    """1 + (1 − s) bits = wanted, so s = 1 − (wanted − 1) / bits."""
    for_kept = wanted - 1
    return 1 - for_kept / bits


# --- a difference that is seen ---


def window_inputs(rng: torch.Generator) -> dict:
    """Losses of the same windows: texts differ far more than the two versions do."""
    n = pick(rng, 16, 25, 40, 64)
    before = 0.7 + 0.25 * torch.randn(n, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, generator=rng, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    spread = 0.01 * (0.5 + float(torch.rand((), generator=rng)))
    # mean / (spread / √n); never near 2
    errors = pick(rng, 0.3, 1.4, 1.6, 2.6, 3.5, 6.0, 30.0) * pick(rng, -1, 1, 1)
    after = before + spread * (noise + errors / n**0.5)
    return {"before": before.tolist(), "after": after.tolist()}


def seen_difference(before: list, after: list) -> str:
    """d_i = after_i − before_i; "no difference seen" if |mean d| ≤ 2 s / √n, s their standard
    deviation.
    """
    n = len(before)
    d = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(d) / n
    s = (sum((x - mean) ** 2 for x in d) / (n - 1)) ** 0.5
    return verdict(mean, 2 * s / n**0.5)


def verdict(mean: float, half: float) -> str:
    return "no difference seen" if abs(mean) <= half else "worse" if mean > 0 else "better"


def moments(values: list) -> tuple[float, float]:
    data = torch.tensor(values, dtype=torch.float64)
    return float(data.mean()), float(data.std())


def not_paired(before, after):
    (a, spread_a), (b, spread_b) = moments(before), moments(after)
    return verdict(b - a, 2 * ((spread_a**2 + spread_b**2) / len(before)) ** 0.5)


def with_half(width):
    """The paired differences with another half width."""

    def wrong(before, after):
        mean, spread = moments([b - a for a, b in zip(before, after, strict=True)])
        return verdict(mean, width(spread, len(before)))

    return wrong


# --- the speed of the whole ---


def share_inputs(rng: torch.Generator) -> dict:
    return {
        "share": 0.2 + 0.7 * float(torch.rand((), generator=rng)),
        "factor": 1.5 + 6 * float(torch.rand((), generator=rng)),
    }


def whole_speedup(share: float, factor: float) -> float:
    """Time before: 1 = (1 − share) + share. Time after: (1 − share) + share / factor."""
    before = (1 - share) + share
    after = (1 - share) + share / factor
    return before / after


EXERCISES = [
    Exercise(
        id="tradeoff.front",
        kind="debug",
        difficulty=2,
        minutes=12,
        inputs=points,
        spec=front,
        tolerance=0,
        lesson="1.3-the-trade-off",
        trials=12,
        mistakes={
            "smallest_only": lambda sizes, losses: [front(sizes, losses)[0]],
            "loss_upside_down": lambda sizes, losses: front(sizes, [-loss for loss in losses]),
            "beaten_in_both": beaten_only_in_both,
            "one_before": better_than_the_one_before,
            "unsorted": lambda sizes, losses: sorted(front(sizes, losses)),
            "largest_first": lambda sizes, losses: front(sizes, losses)[::-1],
            "size_only": by_size_only,
            "values": lambda sizes, losses: [sizes[i] for i in front(sizes, losses)],
        },
    ),
    Exercise(
        id="tradeoff.bitmap_bytes",
        kind="step",
        difficulty=1,
        minutes=5,
        inputs=sparse_inputs,
        spec=bitmap_bytes,
        tolerance=1e-6,
        lesson="1.3-the-trade-off",
        trials=6,
        mistakes={
            "map_forgotten": lambda weights, sparsity, bits: weights * (1 - sparsity) * bits / 8,
            "removed_for_kept": lambda weights, sparsity, bits: (
                weights / 8 + weights * sparsity * bits / 8
            ),
            "map_in_bytes": lambda weights, sparsity, bits: (
                weights + weights * (1 - sparsity) * bits / 8
            ),
            "in_bits": lambda weights, sparsity, bits: weights + weights * (1 - sparsity) * bits,
            "map_of_kept": lambda weights, sparsity, bits: (
                weights * (1 - sparsity) * (bits + 1) / 8
            ),
            "dense": lambda weights, sparsity, bits: weights * bits / 8,
        },
    ),
    Exercise(
        id="tradeoff.sparsity_needed",
        kind="design",
        difficulty=2,
        minutes=6,
        inputs=wanted_inputs,
        spec=sparsity_needed,
        lesson="1.3-the-trade-off",
        trials=6,
        mistakes={
            "map_forgotten": lambda bits, wanted: 1 - wanted / bits,
            "share_kept": lambda bits, wanted: 1 - sparsity_needed(bits, wanted),
            "map_of_kept": lambda bits, wanted: 1 - wanted / (bits + 1),
            "map_in_bytes": lambda bits, wanted: 1 - (wanted - 8) / bits,
            "of_16_bits": lambda bits, wanted: sparsity_needed(16, wanted),
        },
    ),
    Exercise(
        id="tradeoff.seen_difference",
        kind="decide",
        difficulty=3,
        minutes=12,
        inputs=window_inputs,
        spec=seen_difference,
        lesson="1.3-the-trade-off",
        trials=40,
        mistakes={
            "not_paired": not_paired,
            "no_interval": with_half(lambda spread, n: 0.0),
            "one_error": with_half(lambda spread, n: spread / n**0.5),
            "spread_of_one": with_half(lambda spread, n: 2 * spread),
            "divided_by_n": with_half(lambda spread, n: 2 * spread / n),
            "turned": lambda before, after: seen_difference(after, before),
        },
    ),
    Exercise(
        id="tradeoff.whole_speedup",
        kind="step",
        difficulty=2,
        minutes=6,
        inputs=share_inputs,
        spec=whole_speedup,
        tolerance=1e-6,
        lesson="1.3-the-trade-off",
        mistakes={
            "part_for_whole": lambda share, factor: factor,
            "mean_of_factors": lambda share, factor: 1 - share + share * factor,
            "share_of_factor": lambda share, factor: share * factor,
            "time_multiplied": lambda share, factor: 1 / (1 - share + share * factor),
            "time": lambda share, factor: 1 / whole_speedup(share, factor),
            "other_part": lambda share, factor: whole_speedup(1 - share, factor),
        },
    ),
]
