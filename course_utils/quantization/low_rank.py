"""Low rank: a weight as a product of two thin matrices, cut where the inputs are loud (SVD-LLM,
Wang et al., 2025).

The best matrix of rank r by the outputs of the layer, not by its weights:

    H = (2/N) XᵀX = S Sᵀ,     W S = P Σ Qᵀ,     Ŵ = P_r Σ_r Q_rᵀ S⁻¹ = A B,
    A (out, r), B (r, in),
    tr((W − Ŵ) H (W − Ŵ)ᵀ) = Σ_{i > r} σ_i²,

because ‖(W − Ŵ) S‖² is that error, W S the matrix whose best approximation is wanted, and S has an
inverse. (With the damping below, H stands for H + λI.) Without H this is the SVD of the weight. The
two factors hold r (out + in) numbers in the place of out · in:
only below r = out · in / (out + in), half the rank of a square matrix, is anything saved.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from .compressed import Compressed
from .convert import Seen, frozen, layer_by_layer
from .grids import check_matrix
from .hessians import check_hessian, damped, shrunk
from .layer import storable

PRECISIONS = ("bfloat16", "float16", "float32")
# tokens for each input from which H is taken as it is; below, a cut by it is worse than one without
# (512 tokens, 0.7 of the numbers)
ENOUGH = 4


@dataclass(frozen=True)
class Factors:
    """Ŵ = out_factor @ in_factor, (out, r) and (r, in); `loss` the sum of the squared singular
    values that were dropped.
    """

    out_factor: Tensor
    in_factor: Tensor
    loss: float

    @property
    def weight(self) -> Tensor:
        """The product of the factors."""
        return self.out_factor @ self.in_factor


def rank_for(ratio: float, rows: int, columns: int) -> int:
    """The largest rank whose factors hold at most `ratio` of the weight's numbers.

    Raises CompressionError if that is none, or not fewer.
    """
    if not 0 < ratio < 1:
        raise CompressionError(
            f"ratio={ratio}: choose a share of the weight's numbers between 0 and 1."
        )
    rank = int(ratio * rows * columns / (rows + columns) + 1e-9)
    if rank < 1:
        raise CompressionError(
            f"ratio={ratio}: not even rank 1 of a weight ({rows}, {columns}) is that small; "
            f"it needs {(rows + columns) / (rows * columns):.3f}."
        )
    return rank


def factor(weight: Tensor, H: Tensor | None = None, *, rank: int, damping: float = 1e-4) -> Factors:
    """The factors above for W (out, in) and H (in, in), in float64; without H the plain SVD. √Σ
    goes to each side.

    Raises CompressionError for NaN, infinity, a rank outside 1 … min(out, in), or shapes that do
    not match.
    """
    W = check_matrix(weight).double()
    if not 1 <= rank <= min(W.shape):
        raise CompressionError(
            f"rank={rank}: choose from 1 to {min(W.shape)} for a weight {tuple(W.shape)}."
        )
    S = None
    if H is not None:
        check_hessian(H, W.shape[1])
        S, failed = torch.linalg.cholesky_ex(damped(H.double(), damping))
        if failed:
            raise CompressionError(
                f"H is not positive definite; use a larger damping than {damping}."
            )
    P, sigma, Qt = torch.linalg.svd(W if S is None else W @ S, full_matrices=False)
    root = sigma[:rank].sqrt()
    right = root[:, None] * Qt[:rank]
    if S is not None:  # B S = right
        right = torch.linalg.solve_triangular(S, right, upper=False, left=False)
    return Factors(
        (P[:, :rank] * root).to(weight), right.to(weight), float(sigma[rank:].square().sum())
    )


@storable
class LowRankLinear(nn.Module):
    """y = A (B x) + b, with the parameters `out_factor` A (out, r) and `in_factor` B (r, in)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = False,
        precision: str = "bfloat16",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank, self.precision = (
            in_features,
            out_features,
            rank,
            precision,
        )
        self.in_factor = nn.Parameter(
            torch.zeros(rank, in_features, dtype=dtype), requires_grad=False
        )
        self.out_factor = nn.Parameter(
            torch.zeros(out_features, rank, dtype=dtype), requires_grad=False
        )
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features, "rank": self.rank,
            "bias": self.bias is not None,
            "precision": self.precision,
        }  # fmt: skip

    @classmethod
    def of(
        cls,
        factors: Factors,
        bias: Tensor | None,
        precision: str = "bfloat16",
        dtype: torch.dtype = torch.float32,
    ) -> "LowRankLinear":
        """Factors rounded to a precision, held in the model's dtype; `Compressed.save` writes those
        of bfloat16 with 2 bytes a number.
        """
        (rows, rank), columns = factors.out_factor.shape, factors.in_factor.shape[1]
        layer = cls(
            columns, rows, rank, bias=bias is not None, precision=precision, dtype=dtype
        ).to(factors.in_factor.device)
        layer.in_factor.copy_(factors.in_factor.to(getattr(torch, precision)))
        layer.out_factor.copy_(factors.out_factor.to(getattr(torch, precision)))
        layer.bias = frozen(bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in) as one matrix."""
        return self.out_factor @ self.in_factor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(
            nn.functional.linear(x, self.in_factor), self.out_factor, self.bias
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


@torch.no_grad()
def compress(
    model: nn.Module, calibration: Tensor | None = None, *, ratio: float = 0.5,
    damping: float = 1e-4, precision: str = "bfloat16", ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Every linear layer of the blocks in factors with `ratio` of its numbers; without calibration
    by plain SVD. Works on a copy.

    Blocks are done in order; H is of inputs that went through the blocks done so far, below ENOUGH
    tokens an input `hessians.shrunk`.
    Layers that no token reaches are cut by plain SVD.
    `details["loss"]`: each layer's dropped Σ σ². `per_layer` may set another ratio, damping or
    precision for some layers, as in `rtn.quantize`.
    Raises CompressionError as `factor` and `rank_for` do, naming the layer.
    """
    if precision not in PRECISIONS:
        raise CompressionError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}.")
    common: dict[str, Any] = {"ratio": ratio, "damping": damping, "precision": precision}

    def make(
        _name: str, module: nn.Module, own: dict[str, Any], seen: Seen | None = None
    ) -> tuple[LowRankLinear, dict[str, float]]:
        weight = walk.weight_of(module)
        H = None if seen is None or seen.H is None else shrunk(seen.H, seen.tokens, ENOUGH)
        found = factor(
            walk.exact(weight),
            H,
            rank=rank_for(own["ratio"], *weight.shape),
            damping=own["damping"],
        )
        return LowRankLinear.of(found, module.bias, own["precision"], weight.dtype), {
            "loss": found.loss
        }  # type: ignore[arg-type]

    return layer_by_layer(
        model, make, {"method": "low_rank", **common}, ignore, per_layer, calibration=calibration
    )
