"""Lesson 2.5: the roofline, the ratio beyond which a model breaks, the ratio of two techniques
together.
"""

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick


def between(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


# --- the roofline ---


def roofline_inputs(rng: torch.Generator) -> dict:
    """Work on both sides of the ridge."""
    peak, bandwidth = 1e9 * between(rng, 20, 900), 1e9 * between(rng, 5, 90)
    flops = 1e9 * between(rng, 0.5, 40)
    bytes_moved = flops * bandwidth / peak * pick(rng, 0.2, 0.6, 1.7, 6.0)
    return {"flops": flops, "bytes_moved": bytes_moved, "peak": peak, "bandwidth": bandwidth}


def roofline_time(flops: float, bytes_moved: float, peak: float, bandwidth: float) -> float:
    """max(flops / peak, bytes / bandwidth): the slower of computing and moving."""
    computing = flops / peak
    moving = bytes_moved / bandwidth
    return computing if computing > moving else moving


# --- the breaking point ---


def sweep(rng: torch.Generator) -> dict:
    """Versions in any order, no two of one ratio; one that breaks, often the first, stands before
    larger ratios that look fine.
    """
    n = int(torch.randint(6, 10, (), generator=rng))
    ratios = [round(1.5 + 2 * i + between(rng, 0, 1.9), 2) for i in range(n)]
    original, allowed = between(rng, 0.4, 3.0), between(rng, 0.05, 0.3)
    losses = [original + allowed * between(rng, 0, 0.9) for _ in range(n)]
    first = pick(rng, 0, int(torch.randint(1, n - 2, (), generator=rng)))
    losses[first] = original + allowed * between(rng, 1.2, 4)
    for i in range(first + 1, n):
        losses[i] = original + allowed * pick(rng, 0.8, 1.5, 3.0)
    losses[first + 1] = original + 0.7 * allowed
    order = torch.randperm(n, generator=rng).tolist()
    return {
        "ratios": [ratios[i] for i in order],
        "losses": [losses[i] for i in order],
        "original": original,
        "allowed": allowed,
    }


def breaking_point(ratios: list, losses: list, original: float, allowed: float) -> float:
    """The highest ratio up to which every version stays within original + allowed; 1 if not even
    the first does.
    """
    last = 1.0
    for ratio, loss in sorted(zip(ratios, losses, strict=True)):
        if loss > original + allowed:
            return last
        last = ratio
    return last


def highest_allowed(ratios, losses, original, allowed):
    return max(
        (r for r, x in zip(ratios, losses, strict=True) if x <= original + allowed), default=1.0
    )


def in_given_order(ratios, losses, original, allowed):
    last = 1.0
    for ratio, loss in zip(ratios, losses, strict=True):
        if loss > original + allowed:
            return last
        last = ratio
    return last


def first_broken(ratios, losses, original, allowed):
    return min(
        (r for r, x in zip(ratios, losses, strict=True) if x > original + allowed),
        default=max(ratios),
    )


# --- the ratio of two techniques together ---


def ratio_inputs(rng: torch.Generator) -> dict:
    return {
        "outside": between(rng, 0.03, 0.4),
        "pruning": between(rng, 1.3, 4),
        "bits": pick(rng, 2, 3, 4, 8),
    }


def combined_ratio(outside: float, pruning: float, bits: int) -> float:
    """1 / (outside + (1 − outside) / (pruning · 16 / bits)): the part outside stays as it is,
    inside the ratios multiply.
    """
    inside = 1 - outside
    after = outside + inside / pruning * bits / 16
    return 1 / after


EXERCISES = [
    Exercise(
        id="pitfalls.roofline_time", kind="formula", difficulty=1, minutes=4,
        inputs=roofline_inputs, spec=roofline_time, tolerance=1e-6, lesson="2.5-pitfalls",
        trials=10,
        mistakes={
            "added": lambda flops, bytes_moved, peak, bandwidth:
                flops / peak + bytes_moved / bandwidth,
            "faster_of_the_two": lambda flops, bytes_moved, peak, bandwidth:
                min(flops / peak, bytes_moved / bandwidth),
            "computing_only": lambda flops, bytes_moved, peak, bandwidth: flops / peak,
            "moving_only": lambda flops, bytes_moved, peak, bandwidth: bytes_moved / bandwidth,
            "exchanged": lambda flops, bytes_moved, peak, bandwidth:
                max(flops / bandwidth, bytes_moved / peak),
            "speed": lambda flops, bytes_moved, peak, bandwidth:
                min(peak / flops, bandwidth / bytes_moved),
        },
    ),
    Exercise(
        id="pitfalls.breaking_point", kind="design", difficulty=2, minutes=8,
        inputs=sweep, spec=breaking_point, tolerance=1e-6, lesson="2.5-pitfalls", trials=12,
        mistakes={
            "highest_allowed": highest_allowed,
            "unsorted": in_given_order,
            "first_broken": first_broken,
            "relative": lambda ratios, losses, original, allowed:
                breaking_point(ratios, losses, original, original * allowed),
            "limit_is_allowed": lambda ratios, losses, original, allowed:
                breaking_point(ratios, losses, 0, allowed),
            "lowest_loss": lambda ratios, losses, original, allowed:
                ratios[losses.index(min(losses))],
        },
    ),
    Exercise(
        id="pitfalls.combined_ratio", kind="step", difficulty=2, minutes=8,
        inputs=ratio_inputs, spec=combined_ratio, tolerance=1e-6, lesson="2.5-pitfalls", trials=6,
        mistakes={
            "outside_forgotten": lambda outside, pruning, bits: pruning * 16 / bits,
            "ratios_added": lambda outside, pruning, bits:
                1 / (outside + (1 - outside) / (pruning + 16 / bits)),
            "better_of_the_two": lambda outside, pruning, bits:
                1 / (outside + (1 - outside) / max(pruning, 16 / bits)),
            "mean_of_ratios": lambda outside, pruning, bits:
                outside + (1 - outside) * pruning * 16 / bits,
            "removed_for_kept": lambda outside, pruning, bits:
                1 / (outside + (1 - outside) * (1 - 1 / pruning) * bits / 16),
            "share": lambda outside, pruning, bits: 1 / combined_ratio(outside, pruning, bits),
            "from_32_bits": lambda outside, pruning, bits:
                1 / (outside + (1 - outside) / pruning * bits / 32),
            "outside_too": lambda outside, pruning, bits:
                1 / ((outside + (1 - outside) / pruning) * bits / 16),
        },
    ),
]  # fmt: skip
