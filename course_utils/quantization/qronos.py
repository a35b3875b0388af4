"""GPTQ's relatives: LDLQ, which is the same walk in other words, and Qronos, which also mends what
came before.

LDLQ (QuIP, Chee et al., 2023) rounds column k after adding what the *original* errors so far ask
for,

    ŵ_k = Q(w_k + Σ_{j<k} (w_j − ŵ_j) A_jk),     H = (I + A) D (I + A)ᵀ,
    A strictly upper triangular, D diagonal.

GPTQ moves the weights and forgets the errors. With its factor, H⁻¹ = UᵀU, the same is I + A = U⁻¹
diag(U), D = diag(U)⁻²: both round the same numbers, whatever Q is. `ldlq_layer` is there to show
it.

Qronos (Zhang et al., 2025): GPTQ asks for X Ŵᵀ ≈ X Wᵀ with the inputs X that the blocks quantized
so far give. But X itself is off by then; wanted is the original's output, X̃ Wᵀ with the original's
inputs X̃. Among all real V the best answer to X Vᵀ ≈ X̃ Wᵀ is

    V = W (C + λI) (H + λI)⁻¹,     C = (2/N) X̃ᵀX,  H = (2/N) XᵀX,
    λ GPTQ's damping (λI pulls V towards W),

and (Ŵ − V) (H + λI) (Ŵ − V)ᵀ is what a rounding costs above it: so GPTQ, walking from V in W's
place, is the answer. That is the published algorithm but for the first column: there Qronos rounds
the best value with all others held at W, not at V. `target` does so.
`gptaq` has the same aim, with another way to hand on the mismatch.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models.selection import Patterns, PerLayer

from . import gptq, paired
from .compressed import Compressed
from .grids import Grid, check_matrix
from .hessians import damped, inverse_cholesky
from .layer import LayerResult


def ldlq_layer(weight: Tensor, H: Tensor, grid: Grid, *, damping: float = 0.01) -> Tensor:
    """Ŵ (out, in) by LDLQ on a fixed grid, in float64: `gptq.quantize_layer` with static groups
    ends at the same weights.

    A is taken from a Cholesky factor of H itself, in the reversed order of columns, and not from
    `gptq`'s factor of H⁻¹.
    """
    W = check_matrix(weight).double()
    # upper triangular, L Lᵀ = H
    L = torch.linalg.cholesky(damped(H.double(), damping).flip(0, 1)).flip(0, 1)
    A = L / L.diagonal() - torch.eye(len(L), dtype=L.dtype)
    errors, result = torch.zeros_like(W), torch.empty_like(W)
    for k in range(W.shape[1]):
        g = grid.group_index[k]
        s, z = grid.scale[:, g].double(), grid.zero_point[:, g].double()
        wanted = W[:, k] + errors[:, :k] @ A[:k, k]
        result[:, k] = s * ((wanted / s).round().add(z).clamp(0, grid.largest) - z)
        errors[:, k] = W[:, k] - result[:, k]
    return result


def target(
    weight: Tensor, H: Tensor, C: Tensor, *, damping: float = 0.01, first: str = "held"
) -> Tensor:
    """V (out, in), what GPTQ shall walk from, for H = (2/N) XᵀX and C = (2/N) X̃ᵀX (in, in) of the
    same tokens; in float64.

    first="held": the published start, column 0 at its best value while the others are W; "free": V
    itself as above. With C = H both are W. Raises CompressionError for shapes that do not match,
    NaN or infinity.
    """
    W = check_matrix(weight).double()
    paired.check_moments(H, C, W.shape[1])
    Hd = damped(H.double(), damping)
    ridge = (Hd - H.double()).diagonal()
    right = W @ C.double() + W * ridge
    V = torch.cholesky_solve(right.T, torch.linalg.cholesky(Hd)).T
    if first == "free":
        return V
    if first != "held":
        raise CompressionError(f"first={first!r}: choose 'held' or 'free'.")
    best = (right[:, 0] - W[:, 1:] @ Hd[1:, 0]) / Hd[0, 0]
    u = inverse_cholesky(Hd)[0]
    return V + torch.outer((best - V[:, 0]) / u[0], u)


def quantize(
    model: PreTrainedModel, calibration: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, damping: float = 0.01, first: str = "held", ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Qronos of every linear layer in the blocks of a causal language model in memory.

    Arguments as in `gptq.quantize`, `paired.quantize` does the work.
    """
    settings = {
        "method": "qronos",
        "bits": bits,
        "group_size": group_size,
        "symmetric": symmetric,
        "damping": damping,
        "first": first,
    }
    return paired.quantize(model, calibration, quantize_layer, settings, ignore, per_layer)


def quantize_layer(
    weight: Tensor,
    H: Tensor,
    C: Tensor,
    *,
    damping: float = 0.01,
    first: str = "held",
    **settings: Any,
) -> LayerResult:
    """GPTQ's walk from `target`, which never falls back on rounding.

    `settings`: bits, group_size and the rest of `gptq.quantize_layer`.
    """
    return gptq.quantize_layer(
        target(weight, H, C, damping=damping, first=first).to(weight),
        H,
        damping=damping,
        never_worse=False,
        **settings,
    )
