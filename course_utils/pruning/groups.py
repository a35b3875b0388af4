"""Groups of inputs of one linear layer: what a group is worth, and how the rest can take over its
work.

A layer computes Y = X Wᵀ with X (tokens, in). Its inputs come in groups g of `size` neighbours: one
MLP channel (size 1), one attention head (head_dim). H = (2/N) XᵀX.
"""

from numbers import Integral, Real

import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.quantization.gptq import damped

from . import masks

SCORES = ("energy", "surgeon", "magnitude")


def score(
    weight: Tensor, H: Tensor, size: int = 1, kind: str = "energy", damping: float = 1e-4
) -> Tensor:
    """The worth of each group of inputs, (in / size,), higher = keep. W_g is (out, size).

    energy     tr(W_g H_gg W_gᵀ): twice the mean square of what the group adds to the output
    surgeon    tr(W_g ([H⁻¹]_gg)⁻¹ W_gᵀ): the squared error when the group goes and all others adapt
               (optimal brain surgeon for groups; Kurtić et al., 2022, eq. 4)
    magnitude  ‖W_g‖²

    Raises CompressionError for an unknown kind or a size that does not divide the inputs.
    """
    out, columns = weight.shape
    if kind not in SCORES:
        raise CompressionError(f"score={kind!r}: choose one of {', '.join(SCORES)}.")
    if size < 1 or columns % size:
        raise CompressionError(f"size={size} does not divide the {columns} inputs.")
    parts = weight.double().view(out, -1, size).transpose(0, 1)  # (groups, out, size)
    if kind == "magnitude":
        return parts.square().sum((1, 2)).to(weight.dtype)
    matrix = H.double() if kind == "energy" else torch.linalg.inv(damped(H.double(), damping))
    index = torch.arange(columns, device=H.device).view(-1, size)
    inner = matrix[index[:, :, None], index[:, None, :]]  # (groups, size, size)
    if kind == "surgeon":
        inner = torch.linalg.inv(inner)
    return ((parts @ inner) * parts).sum((1, 2)).to(weight.dtype)


def kept(score: Tensor, keep: int) -> Tensor:
    """The indices of the `keep` best groups, ascending; of equal ones the first stay."""
    return masks.top(score[None], keep)[0].nonzero().flatten()


def members(groups: Tensor, size: int) -> Tensor:
    """The inputs that belong to these groups."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def compensated(weight: Tensor, H: Tensor, columns: Tensor, damping: float = 1e-4) -> Tensor:
    """W′ (out, kept) = W H[:, K] H[K, K]⁻¹, the least-squares fit of X Wᵀ by the inputs K that
    stay.

    Solved in float64, with damping · mean(diag H) added to H's diagonal.
    """
    H = damped(H.double(), damping)
    solution = torch.linalg.solve(H[columns][:, columns], H[columns] @ weight.double().T)
    return solution.T.to(weight.dtype)


def how_many(n: int, keep: int | float, what: str) -> int:
    """`keep` as a count: an int is one already, a float is a fraction of n (to the nearest, at
    least 1).

    Raises CompressionError unless 1 ≤ count ≤ n.
    """
    if isinstance(keep, Integral):
        count = 0 if isinstance(keep, bool) else int(keep)
    else:
        count = (
            max(1, n - masks.removed(n, 1 - keep))
            if isinstance(keep, Real) and 0 < keep <= 1
            else 0
        )
    if not 1 <= count <= n:
        raise CompressionError(
            f"keep={keep}: give a fraction above 0 and up to 1.0, or a count from 1 to {n} {what}."
        )
    return count
