"""Self-consistency: many answers to one question, and the one given most often (Wang et al., 2023,
arXiv 2203.11171).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from course_utils.errors import CompressionError


def majority(answers: Sequence[Hashable | None]) -> Any:
    """The answer that is given most often; of equal ones the one given first.

    None, for no readable answer, has no vote.

    Returns None where no answer is readable. Raises CompressionError for an empty list.
    """
    if not len(answers):
        raise CompressionError("answers: empty; a vote needs at least one.")
    given = [a for a in answers if a is not None]
    return Counter(given).most_common(1)[0][0] if given else None


def right_by_vote(p: float, m: int) -> float:
    """P(right) = Σ_{k > m/2} C(m, k) pᵏ (1 − p)^{m−k}, plus half of the term k = m/2 where m is
    even.

    For m *independent* votes, each right with the probability p, and one wrong answer for all that
    err; where wrong answers scatter over several, the true share is higher. Raises CompressionError
    for p outside [0, 1] or m < 1.
    """
    if not 0 <= p <= 1:
        raise CompressionError(f"p={p}: a probability lies between 0 and 1.")
    if m < 1 or m != int(m):
        raise CompressionError(f"m={m}: choose a whole number of votes, 1 or more.")
    m = int(m)
    terms = [math.comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(m + 1)]
    return min(1.0, math.fsum(terms[m // 2 + 1 :]) + (terms[m // 2] / 2 if m % 2 == 0 else 0.0))


def accuracy(
    answers: Sequence[Sequence[Hashable | None]], right: Sequence[Hashable], m: int | None = None
) -> list[float]:
    """For each question 1.0 where the majority of its first `m` answers (all of them by default) is
    right, else 0.0.
    """
    if len(answers) != len(right):
        raise CompressionError(
            f"right: {len(right)} right answers for {len(answers)} questions; give one for each."
        )
    return [float(majority(a[:m]) == r) for a, r in zip(answers, right, strict=True)]
