"""The points worth having among measured ones."""

import math
from collections.abc import Sequence

from course_utils.errors import CompressionError


def front(costs: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the Pareto front, by the first cost, then the second, and so on.

    `costs` holds a row for each candidate, lower is better in every column. A candidate is left out
    if another is at most as high in every column and lower in one; equal candidates stay together.
    Raises CompressionError for rows of different length and for NaN.
    """
    rows = [tuple(map(float, row)) for row in costs]
    if len({len(row) for row in rows}) > 1 or any(not row for row in rows):
        raise CompressionError(
            "costs: every candidate needs the same number of costs, at least one."
        )
    if any(math.isnan(value) for row in rows for value in row):
        raise CompressionError(
            "costs: NaN cannot be compared; leave out candidates that were not measured."
        )
    order = sorted(range(len(rows)), key=rows.__getitem__)
    kept: list[int] = []
    for i in order:  # whatever beats i comes before it in this order
        if not any(beats(rows[j], rows[i]) for j in kept):
            kept.append(i)
    return kept


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """At most as high in every cost, and lower in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


def weighted(costs: Sequence[Sequence[float]], weights: Sequence[float]) -> int:
    """The candidate with the least Σ weight · cost, the first of equals: one of the *convex hull*
    of the front, never one in a dent of it.
    """
    front(costs)
    if not costs or len(weights) != len(costs[0]) or min(weights) < 0 or not any(weights):
        raise CompressionError(
            "costs, weights: at least one candidate, and a weight that is not negative for each "
            "cost, one of them above 0."
        )
    return min(
        range(len(costs)),
        key=lambda i: sum(w * float(c) for w, c in zip(weights, costs[i], strict=True) if w),
    )


def within(costs: Sequence[Sequence[float]], limits: Sequence[float], least: int) -> int:
    """The ε-constraint: among candidates with every cost ≤ its limit (math.inf: none), that with
    the least cost `least`.

    Of equals the one that comes first on the front. Reaches every point of the front. Raises
    CompressionError where nothing fits.
    """
    fit = [
        i
        for i in front(costs)
        if all(c <= limit for c, limit in zip(costs[i], limits, strict=True))
    ]
    if not fit:
        raise CompressionError(
            "limits: no candidate keeps all of them; allow more, or measure smaller ones."
        )
    return min(fit, key=lambda i: costs[i][least])
