"""The points worth having among measured ones."""

import math
from collections.abc import Sequence

from course_utils.errors import CompressionError


def front(costs: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the Pareto front, by the first cost, then the second, and so on.

    `costs` holds a row for each candidate, lower is better in every column. A candidate is left out if another is at
    most as high in every column and lower in one; equal candidates stay together. Raises CompressionError for rows
    of different length and for NaN.
    """
    rows = [tuple(map(float, row)) for row in costs]
    if len({len(row) for row in rows}) > 1 or any(not row for row in rows):
        raise CompressionError("costs: every candidate needs the same number of costs, at least one.")
    if any(math.isnan(value) for row in rows for value in row):
        raise CompressionError("costs: NaN cannot be compared; leave out candidates that were not measured.")
    order = sorted(range(len(rows)), key=rows.__getitem__)
    kept: list[int] = []
    for i in order:  # whatever beats i comes before it in this order
        if not any(beats(rows[j], rows[i]) for j in kept):
            kept.append(i)
    return kept


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """At most as high in every cost, and lower in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))
