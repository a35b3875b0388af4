"""GPTAQ (Li et al., 2025, arXiv 2504.02692): GPTQ whose walk also makes up for inputs that are off
already.

By the time a layer is quantized its inputs X come out of quantized blocks; wanted is what the
original's inputs X̃ give (as in `qronos`):

    ‖Ŵ X − W X̃‖² = ‖(Ŵ − W) X − W ΔX‖²,     ΔX = X̃ − X   (X: (in, tokens), as in the paper).

GPTQ is this with ΔX = 0. GPTAQ takes the mismatch W ΔX = Σ_q w_q ΔX_q apart by columns: when column
q is rounded, the columns F behind it move by GPTQ's step for its error, and by the least-squares
answer to its own part of the mismatch,

    W_F += w_q P_q,     P_q = α ΔX_q X_Fᵀ (X_F X_Fᵀ + λI)⁻¹.

With H⁻¹ = UᵀU (H damped, U upper triangular) all rows of P come from one product, strictly upper
triangular:

    P = α ((C − H) Uᵀ ⊙ M) U,     C = (2/N) X̃ᵀX,     M ones above the diagonal.

α = 1 is the formula; the published code has α = ¼, and that is the default here. w_q is the column
as it stands before it is rounded. (The published code hands that on within a block of columns, and
the rounded one to later blocks, so that its result depends on the size of a block.)
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models.selection import Patterns, PerLayer

from . import gptq, paired
from .compressed import Compressed
from .grids import check_bits, check_group_size
from .hessians import check_walk
from .layer import LayerResult

ALPHA = 0.25


@torch.no_grad()
def quantize_layer(
    weight: Tensor, H: Tensor, C: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, damping: float = 0.01, alpha: float = ALPHA, block_size: int = 128,
    act_order: bool = False, static_groups: bool = False,
) -> LayerResult:  # fmt: skip
    """GPTAQ of one weight (out, in) for H = (2/N) XᵀX and C = (2/N) X̃ᵀX (in, in) of the same
    tokens, X (tokens, in).

    Other arguments as in `gptq.quantize_layer`; it never falls back on rounding. With C = H, or α =
    0, it is GPTQ bit for bit.
    Raises CompressionError as that does, for a C that does not fit, and for α outside 0 to 1.
    """
    weight = check_walk(weight, H, damping, block_size)
    paired.check_moments(H, C, weight.shape[1])
    check_bits(bits)
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise CompressionError(
            f"alpha={alpha!r}: choose a number from 0 (GPTQ) to 1; the published code has 0.25."
        )
    size = check_group_size(group_size, weight.shape[1])
    mismatch = alpha * (C.to(weight) - H.to(weight))
    return gptq._walk_columns(
        weight,
        H.to(weight),
        bits,
        size,
        symmetric,
        damping,
        block_size,
        act_order,
        static_groups,
        mismatch,
    )


def quantize(
    model: PreTrainedModel, calibration: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, damping: float = 0.01, alpha: float = ALPHA, block_size: int = 128,
    act_order: bool = False, static_groups: bool = False, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """GPTAQ of every linear layer in the blocks of a causal language model in memory.

    Arguments as in `gptq.quantize`, `paired.quantize` does the work.
    """
    settings = {
        "method": "gptaq", "bits": bits, "group_size": group_size, "symmetric": symmetric,
        "damping": damping, "alpha": alpha, "block_size": block_size, "act_order": act_order,
        "static_groups": static_groups,
    }  # fmt: skip
    return paired.quantize(model, calibration, quantize_layer, settings, ignore, per_layer)
