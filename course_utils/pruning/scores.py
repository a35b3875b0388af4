"""Scores: what a weight is worth.

A score is a tensor shaped as the weight (out, in); higher = keep.

Most are one term of the Taylor series of the loss at the trained weights θ, for the change δ = −θ_i
that pruning makes (LeCun et al., 1990, eq. 1):

    ΔL = gᵀδ + ½ δᵀHδ + …

gradient keeps the first term, |g_i θ_i|; OBD the diagonal of the second, ½ H_ii θ_i²; Fisher puts
the mean squared gradient F_ii for H_ii; Wanda takes H of the layer's own squared output error; the
surgeon (SparseGPT) lets the weights that stay adapt, ½ θ_i² / [H⁻¹]_ii. `pruning.statistics`
measures g, F and H.
"""

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def _same_shape(weight: Tensor, other: Tensor, name: str) -> None:
    if other.shape != weight.shape:
        raise CompressionError(
            f"{name}: shape {tuple(other.shape)}, but the weight is {tuple(weight.shape)}."
        )


def random(weight: Tensor, seed: int = 0) -> Tensor:
    """Uniform on [0, 1): the control that every score must beat."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def magnitude(weight: Tensor) -> Tensor:
    """|θ|: optimal for ‖W − M⊙W‖², which knows nothing of the inputs (Han et al., 2015)."""
    return weight.abs()


def gradient(weight: Tensor, grad: Tensor) -> Tensor:
    """|g θ|, the first-order change of the loss. Near a minimum g is mostly noise.

    For single weights: SNIP (Lee et al., 2019, eq. 4, there at initialization). Molchanov et al.
    (2017) sum it over a feature map.
    """
    _same_shape(weight, grad, "grad")
    return (grad * weight).abs()


def movement(weight: Tensor, moved: Tensor) -> Tensor:
    """−Σ_t g_t θ_t over training steps: positive for weights that moved away from zero (Sanh et
    al., 2020, eq. 5).

    `moved` is Σ_t g_t θ_t, as `statistics.Movement` gathers it. Signed: a large weight on its way
    to zero goes.
    """
    _same_shape(weight, moved, "moved")
    return -moved


def obd(weight: Tensor, hessian_diagonal: Tensor) -> Tensor:
    """½ H_ii θ_i², optimal brain damage (LeCun et al., 1990, eq. 5).

    `hessian_diagonal` has the weight's shape, or is (in,) for a layer-wise H that all rows share.
    """
    if hessian_diagonal.shape != weight.shape[1:]:
        _same_shape(weight, hessian_diagonal, "hessian_diagonal")
    return 0.5 * hessian_diagonal * weight**2


def fisher(weight: Tensor, fisher_diagonal: Tensor) -> Tensor:
    """½ F_ii θ_i²: optimal brain damage with the empirical Fisher in the Hessian's place (Theis et
    al., 2018).
    """
    _same_shape(weight, fisher_diagonal, "fisher_diagonal")
    return 0.5 * fisher_diagonal * weight**2


def wanda(weight: Tensor, input_norm: Tensor) -> Tensor:
    """|W_ij| · ‖X_j‖₂ (Sun et al., 2024, eq. 1), to be ranked within each output row.

    `input_norm` (in,) is the norm of each input over all calibration tokens. The square is, up to a
    constant that the layer shares, the OBD score for the layer's output error.
    """
    if input_norm.shape != weight.shape[1:]:
        raise CompressionError(
            f"input_norm: shape {tuple(input_norm.shape)}, but the weight has "
            f"{weight.shape[1]} inputs."
        )
    return weight.abs() * input_norm


def surgeon(weight: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """½ θ_i² / [H⁻¹]_ii, the loss after the other weights have adapted (Hassibi & Stork, 1993, eq.
    5).

    `inverse_diagonal` (in,) is the diagonal of the inverse of the layer's H.
    """
    if inverse_diagonal.shape != weight.shape[1:]:
        raise CompressionError(
            f"inverse_diagonal: shape {tuple(inverse_diagonal.shape)}, but the weight has "
            f"{weight.shape[1]} inputs."
        )
    return 0.5 * weight**2 / inverse_diagonal
