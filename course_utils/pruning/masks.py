"""Masks: which weights stay.

A mask is a boolean tensor shaped as the score, True where the weight is kept.

Every function here takes a score (higher = keep) of shape (out, in) and ranks it. Counts are exact,
equal scores are settled in favour of the lower index, and masks of growing sparsity are nested.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from course_utils.errors import CompressionError

PATTERNS = (
    "'per_layer', 'per_row', 'N:M' such as '2:4', 'RxC' blocks such as '4x4', 'rows', 'columns'"
)


def check_score(score: Tensor, name: str = "score") -> Tensor:
    """A finite, non-empty matrix. Raises CompressionError for anything else."""
    if not isinstance(score, Tensor) or score.dim() != 2 or score.numel() == 0:
        shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise CompressionError(f"{name}: expected a non-empty matrix (out, in), got {shape}.")
    if not torch.isfinite(score).all():
        raise CompressionError(
            f"{name}: contains NaN or infinity; repair the weights or the calibration data first."
        )
    return score


def removed(n: int, sparsity: float) -> int:
    """How many of `n` go at this sparsity: sparsity · n to the nearest integer, halves up.

    Raises CompressionError unless 0 ≤ sparsity ≤ 1.
    """
    if not isinstance(sparsity, Real) or not 0 <= sparsity <= 1:
        raise CompressionError(
            f"sparsity={sparsity!r}: choose a number from 0 (nothing goes) to 1 (everything goes)."
        )
    return min(n, math.floor(float(sparsity) * n + 0.5))


def top(score: Tensor, keep: int) -> Tensor:
    """True at the `keep` largest entries of the last dimension; of equal ones the first stay."""
    order = torch.argsort(score, dim=-1, descending=True, stable=True)[..., :keep]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order, True)


def per_layer(score: Tensor, sparsity: float) -> Tensor:
    """The lowest-scored fraction of the whole matrix goes."""
    score = check_score(score)
    return top(score.flatten(), score.numel() - removed(score.numel(), sparsity)).view_as(score)


def per_row(score: Tensor, sparsity: float) -> Tensor:
    """The lowest-scored fraction of each row (output) goes, so that every row keeps the same
    number.
    """
    score = check_score(score)
    columns = score.shape[1]
    return top(score, columns - removed(columns, sparsity))


def n_of_m(score: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """Of every `m` neighbouring inputs of a row the best `n` stay (Mishra et al., 2021, for 2:4).

    Raises CompressionError if m does not divide the inputs, or not 0 ≤ n ≤ m.
    """
    score = check_score(score)
    if not 0 <= n <= m or m < 1:
        raise CompressionError(
            f"pattern {n}:{m}: N of every M weights stay, so 0 <= N <= M is needed."
        )
    if score.shape[1] % m:
        raise CompressionError(
            f"pattern {n}:{m}: {m} does not divide the {score.shape[1]} inputs of a row; "
            "choose an M that does."
        )
    return top(score.view(len(score), -1, m), n).view_as(score)


def blocks(score: Tensor, sparsity: float, shape: tuple[int, int] = (4, 4)) -> Tensor:
    """Whole blocks of `shape` go, those with the lowest summed score.

    Raises CompressionError if the shape does not divide the matrix.
    """
    score = check_score(score)
    (rows, columns), (height, width) = score.shape, shape
    if height < 1 or width < 1 or rows % height or columns % width:
        raise CompressionError(
            f"blocks of {height}x{width} do not tile a matrix of {rows}x{columns}; choose divisors."
        )
    sums = score.view(rows // height, height, columns // width, width).sum(dim=(1, 3))
    return per_layer(sums, sparsity).repeat_interleave(height, 0).repeat_interleave(width, 1)


def rows(score: Tensor, sparsity: float) -> Tensor:
    """Whole rows (outputs) go, those with the lowest summed score."""
    return blocks(score, sparsity, (1, check_score(score).shape[1]))


def columns(score: Tensor, sparsity: float) -> Tensor:
    """Whole columns (inputs) go, those with the lowest summed score."""
    return blocks(score, sparsity, (len(check_score(score)), 1))


def across(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """One ranking over all the matrices together:
    the lowest-scored fraction of all weights goes.
    """
    if not scores:
        raise CompressionError("scores: empty; give the score of at least one layer.")
    flat = torch.cat(
        [check_score(score, f"score of {name}").flatten() for name, score in scores.items()]
    )
    gone = removed(len(flat), sparsity)
    if gone == 0:
        kept = torch.ones_like(flat, dtype=torch.bool)
    else:
        # the limit alone is looked for: the places of all weights in order would take 8 bytes each
        limit = flat.kthvalue(gone).values
        kept, equal = flat > limit, flat == limit
        places = equal.nonzero().flatten()  # of equal ones the first stay
        kept[places[: len(flat) - gone - int(kept.sum())]] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def parse(pattern: str, separator: str) -> tuple[int, int] | None:
    """'2:4' → (2, 4) for the separator ':'; None if the pattern is not of that form."""
    first, found, second = pattern.partition(separator)
    return (int(first), int(second)) if found and first.isdecimal() and second.isdecimal() else None


def make(score: Tensor, sparsity: float = 0.5, pattern: str | None = None) -> Tensor:
    """The mask of one score for a pattern given by name; None means 'per_layer'.

    'N:M' fixes the sparsity at 1 − N/M and does not look at `sparsity`.
    Raises CompressionError for an unknown pattern, or one that does not fit the matrix.
    """
    removed(1, sparsity)
    plain = {
        None: per_layer,
        "per_layer": per_layer,
        "per_row": per_row,
        "rows": rows,
        "columns": columns,
    }
    if pattern in plain:
        return plain[pattern](score, sparsity)
    if isinstance(pattern, str) and (pair := parse(pattern, ":")):
        return n_of_m(score, *pair)
    if isinstance(pattern, str) and (pair := parse(pattern, "x")):
        return blocks(score, sparsity, pair)
    raise CompressionError(f"pattern={pattern!r}: choose one of {PATTERNS}.")
