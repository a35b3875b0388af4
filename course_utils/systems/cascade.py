"""A cascade: a small model answers where it is confident, all else goes to a large one.

The threshold is chosen on validation only.

    answer(x) = small(x) if confidence(x) ≥ t, else large(x)
    cost = c + share that is passed on

with c the small model's cost in costs of the large one. Harm: a question that the small model
answers, and that the cascade thereby loses. As t falls more is answered and harm can only grow, so
thresholds are tried from the strictest on, each by an upper bound of its risk, and the first that
fails ends the search. Then P(risk of the chosen t > allowed) ≤ 1 − level, for any models and any
text (fixed-sequence testing; Angelopoulos et al., "Learn then Test", 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.errors import CompressionError

GRID = tuple(i / 200 for i in range(200, -1, -1))  # fixed before any answer is seen


def upper_bound(harmed: int, n: int, level: float = 0.95) -> float:
    """The largest risk with which `harmed` or fewer of n questions still have a probability of 1 −
    level (Clopper and Pearson, one-sided).
    """
    from scipy.special import betaincinv

    if not 0 <= harmed <= n or n < 1 or not 0 < level < 1:
        raise CompressionError(
            f"harmed={harmed}, n={n}, level={level}: count at least one question, and choose "
            "a level between 0 and 1."
        )
    return 1.0 if harmed == n else float(betaincinv(harmed + 1, n - harmed, level))


def choose_threshold(
    confidence: Tensor,
    harm: Tensor,
    *,
    risk: float,
    level: float = 0.95,
    grid: Sequence[float] = GRID,
) -> float:
    """The lowest threshold that validation answers allow; inf where none does: the small model then
    answers nothing.

    `confidence` (n,) of the small model, `harm` (n,) true where its answer would be a loss (wrong,
    while the large one is right).
    Risk is the share of *all* questions that are lost. `grid` falls and does not depend on the
    answers. Raises CompressionError for unlike lengths, NaN, or a risk outside 0 … 1.
    """
    if (
        confidence.shape != harm.shape
        or confidence.dim() != 1
        or not len(harm)
        or bool(confidence.isnan().any())
    ):
        raise CompressionError(
            "confidence, harm: one number and one verdict for each question, none of them NaN."
        )
    if not 0 < risk < 1 or list(grid) != sorted(grid, reverse=True):
        raise CompressionError(f"risk={risk}: allow a share between 0 and 1, on a grid that falls.")
    chosen = math.inf
    for threshold in grid:
        lost = int((harm.bool() & (confidence >= threshold)).sum())
        if upper_bound(lost, len(harm), level) > risk:
            break
        chosen = threshold
    return chosen


@dataclass(frozen=True)
class Served:
    """Right answers, and the share that was passed on to the large model, each of 1."""

    accuracy: float
    passed_on: float
    lost: float  # share of questions that the large model would have answered rightly

    def cost(self, small: float) -> float:
        """In questions to the large model; the small one costs `small` of that and reads every
        question.
        """
        return small + self.passed_on


def serve(confidence: Tensor, small: Tensor, large: Tensor, threshold: float) -> Served:
    """What a cascade does with questions: `small` and `large` (n,) say whether each model's answer
    is right.
    """
    if not confidence.shape == small.shape == large.shape or not len(small):
        raise CompressionError("confidence, small, large: one entry for each question.")
    stays = confidence >= threshold
    right = torch.where(stays, small.bool(), large.bool())
    lost = (large.bool() & ~right).double().mean()
    return Served(float(right.double().mean()), float((~stays).double().mean()), float(lost))
