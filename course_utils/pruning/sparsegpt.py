"""SparseGPT (Frantar & Alistarh, 2023): prune column by column, and let the columns to come absorb
each error.

It lowers the same error as GPTQ, tr((W − Ŵ) H (W − Ŵ)ᵀ) with H = (2/N) XᵀX, by the same walk: with
H⁻¹ = UᵀU (U upper triangular), column i gets its final value ŵ_i, zero where the mask prunes, and
the later columns move by

    W[:, j] −= (w_i − ŵ_i) / U_ii · U_ij,    j > i.

The mask is chosen on the way, a block of columns at a time, by the surgeon's score w_ij² /
[H_F⁻¹]_jj for the weights as they stand, where [H_F⁻¹]_jj = U_jj² and F are the columns j, j+1, …
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed
from course_utils.quantization.gptq import (
    block_hessians,
    check_walk,
    damped,
    inverse_cholesky,
    layer_error,
    warn_of_few_tokens,
)  # fmt: skip
from course_utils.quantization.grids import Grid, check_matrix, dequantize, make_grid, quantize
from course_utils.quantization.hessians import shrunk
from course_utils.quantization.layer import LayerResult, QuantizedLinear

from . import apply, masks
from .anatomy import check_model, set_weight


@dataclass(frozen=True)
class PrunedLayer:
    """The new weight (out, in), the mask (True = kept), and the codes and grid if it was quantized
    as well.
    """

    weight: Tensor
    mask: Tensor
    codes: Tensor | None = None
    grid: Grid | None = None


def _check(
    weight: Tensor, H: Tensor, sparsity: float, pattern: str | None, damping: float, block_size: int
) -> int:
    """The number of columns whose mask is chosen at once."""
    columns = check_walk(weight, H, damping, block_size).shape[1]
    group = masks.parse(pattern, ":") if isinstance(pattern, str) else None
    if not group and pattern not in (None, "per_layer", "per_row"):
        raise CompressionError(
            f"pattern={pattern!r}: SparseGPT chooses masks for None, "
            "'per_layer', 'per_row' or 'N:M'."
        )
    masks.make(torch.ones(1, columns), sparsity, pattern)
    return group[1] if group else block_size


def _choose(
    score: Tensor, start: int, columns: int, sparsity: float, pattern: str | None
) -> Tensor:
    """The mask of the columns start … start + width − 1.

    Counts add up to the exact count of the whole weight.
    """
    if pattern not in (None, "per_layer", "per_row"):
        return masks.make(score, sparsity, pattern)
    flat = score if pattern == "per_row" else score.reshape(1, -1)
    each = flat.shape[1] // score.shape[1]  # ranked weights in a column
    before, after = (masks.removed(each * n, sparsity) for n in (start, start + score.shape[1]))
    return masks.top(flat, flat.shape[1] - (after - before)).view_as(score)


@torch.no_grad()
def prune_layer(
    weight: Tensor, H: Tensor, *, sparsity: float = 0.5, pattern: str | None = None,
    mask: Tensor | None = None, damping: float = 0.01, block_size: int = 128,
    bits: int | None = None, group_size: int | None = 64,
    symmetric: bool = False,
) -> PrunedLayer:  # fmt: skip
    """SparseGPT of one weight (out, in) for the Hessian H (in, in).

    `pattern`: None or 'per_layer' (the fraction holds in each block of `block_size` columns, over
    all rows), 'per_row' (in each row of a block), or 'N:M'. A `mask` (out, in) given is used as it
    is: only the update is SparseGPT's.
    `bits`: quantize what stays in the same walk. A first walk without it gives the mask and the
    min-max grid (`group_size`, `symmetric` as in `make_grid`) of the weights as they end; zero is
    on every grid. Work is done in the weight's precision (float32 at least).
    Raises CompressionError for NaN, shapes that do not match, a bad sparsity or pattern, or a
    singular Hessian.
    """
    at_once = _check(weight, H, sparsity, pattern, damping, block_size)
    weight = check_matrix(weight)
    rows, columns = weight.shape
    if mask is not None and mask.shape != weight.shape:
        raise CompressionError(
            f"mask: shape {tuple(mask.shape)}, but the weight is {(rows, columns)}."
        )
    grid = None
    if bits is not None:
        first = prune_layer(
            weight,
            H,
            sparsity=sparsity,
            pattern=pattern,
            mask=mask,
            damping=damping,
            block_size=block_size,
        )
        mask, grid = (
            first.mask,
            make_grid(first.weight, bits=bits, symmetric=symmetric, group_size=group_size),
        )
    H = H.to(weight)
    U = inverse_cholesky(damped(H, damping))
    # (in, out): a column of the weight is a row here
    W = weight.T.clone(memory_format=torch.contiguous_format)
    W[H.diagonal() == 0] = 0
    result = torch.empty_like(W)
    keep = (
        torch.empty(columns, rows, dtype=torch.bool, device=W.device)
        if mask is None
        else mask.T.contiguous()
    )
    width = max(at_once, block_size // at_once * at_once)
    for start in range(0, columns, width):
        end = min(start + width, columns)
        errors = torch.empty_like(W[start:end])
        for i in range(start, end):
            if mask is None and (i - start) % at_once == 0:
                part = slice(i, min(i + at_once, columns))
                score = (W[part] / U.diagonal()[part, None]).square()
                keep[part] = _choose(score.T.contiguous(), i, columns, sparsity, pattern).T
            new = W[i] * keep[i]
            if grid is not None:
                new = _on_grid(new, grid, i)
            result[i] = new
            error = torch.sub(W[i], new, out=errors[i - start]).div_(U[i, i])
            W[i + 1 : end].addr_(U[i, i + 1 : end], error, alpha=-1)
        W[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)
    result, keep = result.T.contiguous(), keep.T.contiguous()
    return PrunedLayer(result, keep, None if grid is None else quantize(result, grid), grid)


def _on_grid(column: Tensor, grid: Grid, i: int) -> Tensor:
    """One column of the weight rounded to its grid."""
    g = grid.group_index[i : i + 1] * 0
    one = Grid(
        grid.scale[:, grid.group_index[i], None],
        grid.zero_point[:, grid.group_index[i], None],
        g,
        grid.bits,
        grid.symmetric,
    )
    return dequantize(quantize(column[:, None], one), one)[:, 0]


def prune_layer_spec(
    weight: Tensor, H: Tensor, *, sparsity: float = 0.5, pattern: str | None = None,
    mask: Tensor | None = None, damping: float = 0.01, block_size: int = 128,
) -> PrunedLayer:  # fmt: skip
    """The same mathematics written slowly, in float64: at each column the Hessian of the columns
    left is inverted afresh.

    δ = −(w_i − ŵ_i) / [H_F⁻¹]_ii · [H_F⁻¹]_i,:
    with F the columns i … in−1 (optimal brain surgeon; eq. 3 of the paper).
    """
    W, H = weight.double().clone(), H.double()
    W[:, H.diagonal() == 0] = 0
    H = damped(H, damping)
    columns = W.shape[1]
    at_once = masks.parse(pattern, ":")[1] if pattern and ":" in pattern else block_size  # type: ignore[index]
    keep = torch.ones_like(W, dtype=torch.bool) if mask is None else mask
    for i in range(columns):
        if mask is None and i % at_once == 0:
            part = range(i, min(i + at_once, columns))
            score = torch.stack([W[:, j] ** 2 / torch.linalg.inv(H[j:, j:])[0, 0] for j in part], 1)
            keep[:, part.start : part.stop] = _choose(score, i, columns, sparsity, pattern)
        inverse = torch.linalg.inv(H[i:, i:])
        error = (W[:, i] - W[:, i] * keep[:, i]) / inverse[0, 0]
        W[:, i:] -= error[:, None] * inverse[0][None, :]
    return PrunedLayer(W * keep, keep)


@torch.no_grad()
def prune(
    model: PreTrainedModel, calibration: Tensor, sparsity: float = 0.5, *,
    pattern: str | None = None, damping: float = 0.01, block_size: int = 128,
    bits: int | None = None, group_size: int | None = 64, symmetric: bool = False,
    prune_layer: Callable=prune_layer, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """SparseGPT for every linear layer in the blocks of a causal language model; settings as in
    `prune_layer`.

    `calibration` holds token ids (sequences, context). Blocks are done in order; each sees inputs
    that went through the blocks already pruned. With `bits` the layers come out as packed integers.
    Otherwise weights that moved are values of the model's precision: saved from a float32 model
    they take four bytes each (`storage.sixteen_bits`).
    Another `prune_layer` with the same arguments may be given. Works on a copy. `ignore`,
    `per_layer` (any setting of a layer) and layers that no token reaches as in `wanda.prune`.
    `settings["sparsity"]` is the share of zeros that came out, of the layers that were pruned.
    """
    began = time.perf_counter()
    check_model(model, by_block=True)
    calibration = walk.check_calibration(calibration, model)
    original, model = model, sharing.structure(model).eval()
    settings = {
        "sparsity": sparsity, "pattern": pattern, "damping": damping, "block_size": block_size,
        "bits": bits, "group_size": group_size, "symmetric": symmetric,
    }  # fmt: skip
    chosen = selection.choose(model, settings, ignore, per_layer)
    names = chosen.names
    warn_of_few_tokens(calibration, chosen.layers)

    def one_block(block: nn.Module, states: walk.States) -> walk.Facts:
        wanted = [module for module in walk.linears(block).values() if id(module) in names]
        counts: dict[nn.Module, int] = {}
        hessians = block_hessians(block, states, wanted, counts)
        facts: walk.Facts = {}
        for module in wanted:
            weight, name, H = (
                walk.weight_of(module).float(),
                names[id(module)],
                hessians.pop(module, None),
            )
            reached = H is not None
            # no token reached it: the smallest weights go
            H = torch.eye(weight.shape[1]) if H is None else H
            known = shrunk(H, counts[module]) if reached else H
            result = prune_layer(weight, known.to(weight.device), **chosen.own[name])
            gone = result.weight == 0
            facts[name] = {
                **apply.told_of(gone, True),
                "error": layer_error(weight, result.weight, H),
                "reached": reached,
            }
            if result.grid is None:
                set_weight(module, result.weight)
            else:
                walk.replace(
                    model,
                    name,
                    QuantizedLinear.of(
                        LayerResult(result.codes, result.grid, result.weight), module.bias
                    ),
                )
        return facts

    facts = walk.each_block(model, one_block, "SparseGPT", calibration)
    kept = {
        k: v for k, v in settings.items() if bits or k not in ("bits", "group_size", "symmetric")
    }
    achieved, zeros = apply.sparsity_from(facts)
    settings = {
        "method": "sparsegpt",
        **kept,
        "sparsity": achieved,
        "calibration": list(calibration.shape),
        **chosen.told,
    }
    details = {
        "layer_error": {name: told["error"] for name, told in facts.items()}, "sparsity": zeros,
        "unreached": [name for name, told in facts.items() if not told["reached"]],
    }  # fmt: skip
    return Compressed(
        sharing.own(experts.fuse(model), original), settings, time.perf_counter() - began, details
    )
