"""GPTQ (Frantar et al., 2023): quantize column by column, and let the columns to come absorb each
error.

For a layer with weight W (out, in) and inputs X (tokens, in) it lowers

    ‖X Wᵀ − X Ŵᵀ‖² ∝ tr((W − Ŵ) H (W − Ŵ)ᵀ),     H = (2/N) XᵀX.

With H⁻¹ = UᵀU (U upper triangular), column i is rounded and the columns to its right move by

    W[:, j] −= (w_i − ŵ_i) / U_ii · U_ij,    j > i,

which is the optimal brain surgeon's update with the inverse Hessian of the columns that are left.
With the rows of errors e_i = (w_i − ŵ_i) / U_ii, W − Ŵ = E U, so that the damped error that all
this ends with is Σ e_i².

The walk is greedy: each column is rounded as if the later ones could still be any real number. It
is nearly always better than rounding, but it need not be (few bits, strongly correlated inputs, a
range that the moved weights leave). `quantize_layer` therefore compares the two and keeps plain
rounding for a layer where that is better.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionWarning
from course_utils.kernels import columns as columns_of
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer

from . import rtn
from .compressed import Compressed
from .convert import Seen, layer_by_layer
from .grids import Grid, check_bits, check_group_size, make_grid, scale_and_zero, settings_of_grid
from .hessians import (
    LOUD,
    block_hessians,
    check_hessian,
    check_walk,
    damped,
    hessian,
    inverse_cholesky,
    is_loud,
    layer_error,
    warn_of_few_tokens,
)  # fmt: skip
from .layer import LayerResult, QuantizedLinear

__all__ = [
    "LOUD", "block_hessians", "check_hessian", "check_walk", "damped", "hessian",
    "inverse_cholesky", "is_loud", "layer_error", "quantize", "quantize_layer",
    "quantize_layer_spec", "rounding_error", "warn_of_few_tokens",
]  # fmt: skip


@torch.no_grad()
def quantize_layer(
    weight: Tensor, H: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, damping: float = 0.01, block_size: int = 128, act_order: bool = False,
    static_groups: bool = False,
    never_worse: bool = True,
) -> LayerResult:  # fmt: skip
    """GPTQ of one weight (out, in) for the Hessian H (in, in).

    Errors within a block of columns are handed on at once, those to later blocks in one matrix
    product. A group's scale is taken from its weights as they stand when the block begins in which
    the group begins, as in the official code: with block_size=1 that is when the group begins.
    `static_groups` takes all scales beforehand. For static groups, and for whole rows, `block_size`
    changes the time only. `act_order` visits the inputs with the largest H_ii first, so that groups
    are formed in that order unless they are static. With `never_worse`, a layer whose `layer_error`
    is larger than that of rounding to nearest with the same bits, groups and symmetry is rounded
    instead; turn it off for the bare algorithm. Work is done in the weight's precision (float32 at
    least).

    Raises CompressionError for NaN, infinity, shapes that do not match, a group size that does not
    divide the inputs, or a Hessian that is not positive definite after damping.
    """
    weight = check_walk(weight, H, damping, block_size)
    check_bits(bits)
    result = _walk_columns(
        weight, H.to(weight), bits, check_group_size(group_size, weight.shape[1]), symmetric,
        damping, block_size, act_order, static_groups,
    )  # fmt: skip
    if not never_worse:
        return result
    error, plain = (
        layer_error(weight, result.weight, H),
        rounding_error(weight, H, bits, group_size, symmetric),
    )
    if error <= plain:
        return replace(result, error=error)
    return replace(
        rtn.quantize_layer(weight, bits=bits, group_size=group_size, symmetric=symmetric),
        rounded=True,
        error=plain,
    )


def rounding_error(
    weight: Tensor, H: Tensor, bits: int, group_size: int | None, symmetric: bool
) -> float:
    """The layer error of rounding to nearest, a few rows at a time to spare memory."""
    settings: dict[str, Any] = {"bits": bits, "group_size": group_size, "symmetric": symmetric}
    total = 0.0
    for rows in weight.split(256):
        total += layer_error(rows, rtn.quantize_layer(rows, **settings).weight, H)
    return total


def _walk_columns(
    weight: Tensor, H: Tensor, bits: int, size: int, symmetric: bool, damping: float,
    block_size: int, act_order: bool, static_groups: bool, mismatch: Tensor | None = None,
) -> LayerResult:  # fmt: skip
    """The walk itself. `mismatch` (in, in): what `gptaq` adds to it."""
    rows, columns = weight.shape
    order = (
        torch.argsort(H.diagonal(), descending=True)
        if act_order
        else torch.arange(columns, device=H.device)
    )
    group_of = order // size if static_groups else torch.arange(columns, device=H.device) // size
    dead = H.diagonal()[order] == 0
    U = inverse_cholesky(damped(H[order[:, None], order] if act_order else H, damping))
    P = None if mismatch is None else (mismatch[order[:, None], order] @ U.T).triu_(1) @ U

    W = (
        weight.T[order].contiguous()
        if act_order
        else weight.T.clone(memory_format=torch.contiguous_format)
    )
    # W is (in, out): a column of the weight is a row here
    W[dead] = 0
    codes = torch.empty(columns, rows, dtype=torch.uint8, device=W.device)
    if static_groups:  # the weights of dead inputs become 0, and must not widen a grid before that
        alive = weight.masked_fill(H.diagonal() == 0, 0)
        grid = make_grid(alive, bits=bits, symmetric=symmetric, group_size=size)
        scale, zero = grid.scale.T.contiguous(), grid.zero_point.T.contiguous()
    else:
        scale, zero = W.new_empty(2, columns // size, rows)
    largest = 2**bits - 1
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        if not static_groups:
            for first in range(-(-start // size) * size, end, size):
                group = W[first : first + size]
                scale[first // size], zero[first // size] = scale_and_zero(
                    group.amin(0), group.amax(0), bits, symmetric
                )
        if P is not None:
            _hand_on_within(W[start:end], U[start:end, start:end], P[start:end, start:end])
        errors = columns_of.walk(W, U, scale, zero, group_of, codes, start, end, largest)
        W[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)
        if P is not None:  # from the values before they were rounded
            W[end:].addmm_(
                P[start:end, end:].T,
                torch.addcmul(W[start:end], errors, U.diagonal()[start:end, None]),
            )
    del U

    if act_order:
        back = torch.argsort(order)
        codes, W, group_of = codes[back], W[back], group_of[back]
    grid = Grid(scale.T.contiguous(), zero.T.contiguous(), group_of, bits, symmetric)
    return LayerResult(codes.T.contiguous(), grid, W.T.contiguous())


def _hand_on_within(W: Tensor, U: Tensor, P: Tensor) -> None:
    """Make w_j = W_j + Σ_{i<j} (w_i P_ij − e_i U_ij), for a block of columns, GPTQ's own walk, in
    place.

    The rows of w are w = (W − E U_s) T with T = (I − P)⁻¹ and U_s = U without its diagonal: W T in
    W's place, U_s T in that of U_s.
    W is (columns, rows) here; U and P (columns, columns), P strictly upper triangular. P = 0
    changes no bit.
    """
    one = torch.eye(len(P), dtype=P.dtype, device=P.device)
    T = torch.linalg.solve_triangular(one - P, one, upper=True, unitriangular=True)
    W.copy_(T.T @ W)
    U.copy_(U.diagonal().diag() + U.triu(1) @ T)


def quantize_layer_spec(weight: Tensor, H: Tensor, *, grid: Grid, damping: float = 0.01) -> Tensor:
    """The same mathematics written slowly, in float64, for a fixed grid: returns Ŵ (out, in).

    At each column the inverse Hessian of the columns that are left is computed afresh:
    δ = −(w_i − ŵ_i) / [H_F⁻¹]_ii · [H_F⁻¹]_i,:
    with F the columns i … in−1 (optimal brain surgeon, eq. 3 of the paper).
    """
    W, H = weight.double().clone(), damped(H.double(), damping)
    result = torch.empty_like(W)
    for i in range(W.shape[1]):
        inverse = torch.linalg.inv(H[i:, i:])
        g = grid.group_index[i]
        s, z = grid.scale[:, g].double(), grid.zero_point[:, g].double()
        result[:, i] = s * ((W[:, i] / s).round().add(z).clamp(0, grid.largest) - z)
        error = (W[:, i] - result[:, i]) / inverse[0, 0]
        W[:, i:] -= error[:, None] * inverse[0][None, :]
    return result


@torch.no_grad()
def quantize(
    model: PreTrainedModel, calibration: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, damping: float = 0.01, block_size: int = 128, act_order: bool = False,
    static_groups: bool = False, never_worse: bool = True, quantize_layer: Callable=quantize_layer,
    ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """GPTQ of every linear layer in the blocks of a causal language model; `ignore`, `per_layer` as
    in `rtn.quantize`.

    `calibration` holds token ids (sequences, context). Blocks are done in order; each sees inputs
    that went through the blocks already quantized. Another `quantize_layer` with the same arguments
    may be given.
    Works on a copy; `model` is unchanged. Embeddings, norms and the output head stay as they are.
    Experts that saw fewer tokens than they have inputs are rounded, and layers that none reached:
    `details["few_tokens"]` names them with their tokens. `details["layer_error"]` holds each
    layer's `layer_error`, `details["rounded"]` the layers that kept rounding.
    Raises CompressionError as `quantize_layer` does, naming the layer, or for calibration that does
    not fit the model.
    """
    settings = {
        "method": "gptq", "bits": bits, "group_size": group_size, "symmetric": symmetric,
        "damping": damping, "block_size": block_size, "act_order": act_order,
        "static_groups": static_groups, "never_worse": never_worse,
    }  # fmt: skip

    def make(
        _name: str, module: nn.Module, own: dict[str, Any], seen: Seen
    ) -> tuple[nn.Module, dict[str, Any]]:
        weight = walk.weight_of(module).float()
        told: dict[str, Any] = {}
        if seen.few:
            result = rtn.quantize_layer(weight, **settings_of_grid(own))
            told["few_tokens"] = seen.tokens
        else:
            known = seen.known
            result = quantize_layer(weight, known, **own)  # type: ignore[arg-type]
            measured = result.error is not None and known is seen.H
            error = result.error if measured else layer_error(weight, result.weight, seen.H)  # type: ignore[arg-type]
            told |= {"loud": is_loud(seen.H), "layer_error": error}  # type: ignore[arg-type]
        return QuantizedLinear.of(result, module.bias), {**told, "rounded": result.rounded}  # type: ignore[arg-type]

    walk.check_finite(model, by_block=True)
    walk.blocks(model)
    # None is no calibration of this method
    calibration = walk.check_calibration(calibration, model)
    made = layer_by_layer(model, make, settings, ignore, per_layer, calibration=calibration)
    told = {
        key: made.details.get(key, {}) for key in ("layer_error", "rounded", "loud", "few_tokens")
    }
    made.details = {
        key: [name for name in found if found[name]] if key in ("rounded", "loud") else found
        for key, found in told.items()
    }
    if loud := made.details["loud"]:
        warnings.warn(
            (
                f"damping: in {len(loud)} layers ({loud[0]} …) a few inputs are so loud that 1 % "
                f"of the mean of diag H exceeds its median; the mean was bounded by {LOUD} medians "
                "there. Try damping=0.001, or AWQ, which scales such inputs."
            ),
            CompressionWarning,
            stacklevel=2,
        )
    return made
