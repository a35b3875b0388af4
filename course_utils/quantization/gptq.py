"""GPTQ (Frantar et al., 2023): quantize column by column, and let the columns to come absorb each error.

For a layer with weight W (out, in) and inputs X (tokens, in) it lowers

    ‖X Wᵀ − X Ŵᵀ‖² ∝ tr((W − Ŵ) H (W − Ŵ)ᵀ),     H = (2/N) XᵀX.

With H⁻¹ = UᵀU (U upper triangular), column i is rounded and the columns to its right move by

    W[:, j] −= (w_i − ŵ_i) / U_ii · U_ij,    j > i,

which is the optimal brain surgeon's update with the inverse Hessian of the columns that are left. With the rows of
errors e_i = (w_i − ŵ_i) / U_ii, W − Ŵ = E U, so that the damped error that all this ends with is Σ e_i².

The walk is greedy: each column is rounded as if the later ones could still be any real number. It is nearly always
better than rounding, but it need not be (few bits, strongly correlated inputs, a range that the moved weights
leave). `quantize_layer` therefore compares the two and keeps plain rounding for a layer where that is better.
"""

import copy
import time
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.models import walk

from . import rtn
from .compressed import Compressed
from .grids import Grid, check_bits, check_group_size, check_matrix, make_grid, scale_and_zero
from .layer import LayerResult, QuantizedLinear, naming

LOUD = 100


def is_loud(H: Tensor) -> bool:
    """Whether 1 % of the mean of diag H exceeds its median, over the inputs that are not always zero."""
    used = H.diagonal()[H.diagonal() > 0]
    return len(used) > 0 and bool(used.mean() > LOUD * used.median())


def hessian(x: Tensor) -> Tensor:
    """H = (2/N) XᵀX for inputs X (…, in), summed in float32 at least; N counts the tokens."""
    x = walk.exact(x.reshape(-1, x.shape[-1]))
    if len(x) == 0:
        raise CompressionError("x: no inputs; give at least one token.")
    return (2.0 / len(x)) * (x.T @ x)


def damped(H: Tensor, damping: float) -> Tensor:
    """H + damping · min(mean, LOUD · median)(diag H) · I over inputs that are not always zero; those count as 1 on the diagonal.

    The official code takes the mean. A few loud inputs can make 1 % of it larger than what most inputs have on the
    diagonal: what is known about those is drowned. So the mean is bounded by LOUD = 100 times the median (`is_loud`).
    """
    H = H.clone()
    diagonal = H.diagonal()
    dead = diagonal == 0
    if not dead.all():
        ridge = damping * torch.minimum(diagonal[~dead].mean(), LOUD * diagonal[~dead].median())
    else:
        ridge = diagonal.new_zeros(())
    diagonal[dead] = 1
    diagonal += ridge
    return H


def inverse_cholesky(H: Tensor) -> Tensor:
    """The upper triangular U with H⁻¹ = UᵀU.

    With J the reversal of order and JHJ = LLᵀ, U = J L⁻¹ J: one Cholesky factor and one triangular inverse.
    Raises CompressionError if H is not positive definite, or so nearly singular that rounding errors would decide.
    """
    diagonal = H.diagonal().flip(0)
    L, failed = torch.linalg.cholesky_ex(H.flip(0, 1))
    if failed or not (L.diagonal() ** 2 > 10 * torch.finfo(H.dtype).eps * diagonal).all():
        raise CompressionError("H is not positive definite; use more calibration data or a larger damping (try 0.1).")
    inverse = torch.eye(len(H), dtype=H.dtype, device=H.device)
    torch.linalg.solve_triangular(L, inverse, upper=False, out=inverse)
    del H, L  # a wide layer's factors are large: hold as few at once as can be
    return inverse.flip(0, 1)


def layer_error(weight: Tensor, quantized: Tensor, H: Tensor) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ): the squared error of the layer's outputs, summed over outputs, mean over tokens, times 2."""
    total = 0.0
    for rows, rounded in zip(weight.split(256), quantized.split(256), strict=True):
        difference = (rows - rounded).to(H.dtype)
        total += float((difference @ H).mul_(difference).sum())
    return total


def check_hessian(H: Tensor, inputs: int) -> None:
    """Raises CompressionError unless H is finite and (inputs, inputs)."""
    if H.shape != (inputs, inputs):
        raise CompressionError(f"H: shape {tuple(H.shape)}, but the weight has {inputs} inputs.")
    if not torch.isfinite(H).all():
        raise CompressionError("H: contains NaN or infinity; check the calibration inputs.")


def check_walk(weight: Tensor, H: Tensor, damping: float, block_size: int) -> Tensor:
    """What a walk over the columns needs: `check_matrix` of the weight, a finite H that fits it, sensible settings."""
    weight = check_matrix(weight)
    check_hessian(H, weight.shape[1])
    if not 0 <= damping <= 1:
        raise CompressionError(f"damping={damping}: choose a number from 0 to 1, usually 0.01.")
    if block_size < 1:
        raise CompressionError(f"block_size={block_size}: choose a number of columns, usually 128.")
    return weight


@torch.no_grad()
def quantize_layer(
    weight: Tensor, H: Tensor, *, bits: int = 4, group_size: int | None = 64, symmetric: bool = False,
    damping: float = 0.01, block_size: int = 128, act_order: bool = False, static_groups: bool = False,
    never_worse: bool = True,
) -> LayerResult:  # fmt: skip
    """GPTQ of one weight (out, in) for the Hessian H (in, in).

    Errors within a block of columns are handed on at once, those to later blocks in one matrix product. A group's scale is
    taken from its weights as they stand when the block begins in which the group begins, as in the official code: with
    block_size=1 that is when the group begins. `static_groups` takes all scales beforehand. For static groups, and for
    whole rows, `block_size` changes the time only. `act_order` visits the inputs with the largest H_ii first, so
    that groups are formed in that order unless they are static. With `never_worse`, a layer whose `layer_error`
    is larger than that of rounding to nearest with the same bits, groups and symmetry is rounded instead; turn it
    off for the bare algorithm. Work is done in the weight's precision (float32 at least).

    Raises CompressionError for NaN, infinity, shapes that do not match, a group size that does not divide the
    inputs, or a Hessian that is not positive definite after damping.
    """
    weight = check_walk(weight, H, damping, block_size)
    check_bits(bits)
    result = _walk_columns(
        weight, H.to(weight), bits, check_group_size(group_size, weight.shape[1]), symmetric, damping, block_size,
        act_order, static_groups,
    )  # fmt: skip
    if not never_worse or layer_error(weight, result.weight, H) <= rounding_error(weight, H, bits, group_size, symmetric):
        return result
    return replace(rtn.quantize_layer(weight, bits=bits, group_size=group_size, symmetric=symmetric), rounded=True)


def rounding_error(weight: Tensor, H: Tensor, bits: int, group_size: int | None, symmetric: bool) -> float:
    """The layer error of rounding to nearest, a few rows at a time to spare memory."""
    settings: dict[str, Any] = {"bits": bits, "group_size": group_size, "symmetric": symmetric}
    total = 0.0
    for rows in weight.split(256):
        total += layer_error(rows, rtn.quantize_layer(rows, **settings).weight, H)
    return total


def _walk_columns(
    weight: Tensor, H: Tensor, bits: int, size: int, symmetric: bool, damping: float, block_size: int,
    act_order: bool, static_groups: bool,
) -> LayerResult:  # fmt: skip
    rows, columns = weight.shape
    order = torch.argsort(H.diagonal(), descending=True) if act_order else torch.arange(columns, device=H.device)
    group_of = order // size if static_groups else torch.arange(columns, device=H.device) // size
    dead = H.diagonal()[order] == 0
    U = inverse_cholesky(damped(H[order][:, order] if act_order else H, damping))

    W = weight.T[order].contiguous() if act_order else weight.T.clone(memory_format=torch.contiguous_format)
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
                scale[first // size], zero[first // size] = scale_and_zero(group.amin(0), group.amax(0), bits, symmetric)
        errors = torch.empty_like(W[start:end])
        for i in range(start, end):
            s, z = scale[group_of[i]], zero[group_of[i]]
            q = torch.div(W[i], s).round_().add_(z).clamp_(0, largest)
            codes[i] = q
            q.sub_(z).mul_(s)
            error = torch.sub(W[i], q, out=errors[i - start]).div_(U[i, i])
            W[i] = q  # this column is done: from here on its row of W holds ŵ
            W[i + 1 : end].addr_(U[i, i + 1 : end], error, alpha=-1)
        W[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)
    del U

    if act_order:
        back = torch.argsort(order)
        codes, W, group_of = codes[back], W[back], group_of[back]
    grid = Grid(scale.T.contiguous(), zero.T.contiguous(), group_of, bits, symmetric)
    return LayerResult(codes.T.contiguous(), grid, W.T.contiguous())


def quantize_layer_spec(weight: Tensor, H: Tensor, *, grid: Grid, damping: float = 0.01) -> Tensor:
    """The same mathematics written slowly, in float64, for a fixed grid: returns Ŵ (out, in).

    At each column the inverse Hessian of the columns that are left is computed afresh:
    δ = −(w_i − ŵ_i) / [H_F⁻¹]_ii · [H_F⁻¹]_i,:  with F the columns i … in−1 (optimal brain surgeon, eq. 3 of the paper).
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
    static_groups: bool = False, never_worse: bool = True, quantize_layer=quantize_layer,
) -> Compressed:  # fmt: skip
    """GPTQ of every linear layer in the blocks of a causal language model.

    `calibration` holds token ids (sequences, context). Blocks are done in order; each sees inputs that went
    through the blocks already quantized. Another `quantize_layer` with the same arguments may be given.
    Works on a copy; `model` is unchanged. Embeddings, norms and the output head stay as they are.
    `details["layer_error"]` holds each layer's `layer_error`, `details["rounded"]` the layers that kept rounding.
    Raises CompressionError as `quantize_layer` does, naming the layer, or for calibration that does not fit the model.
    """
    began = time.perf_counter()
    walk.blocks(model)
    calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    model = copy.deepcopy(model).eval()
    names = {id(module): name for name, module in walk.compressible(model).items()}
    settings = {
        "bits": bits, "group_size": group_size, "symmetric": symmetric, "damping": damping, "block_size": block_size,
        "act_order": act_order, "static_groups": static_groups, "never_worse": never_worse,
    }  # fmt: skip
    errors: dict[str, float] = {}
    rounded: list[str] = []
    loud: list[str] = []
    warn_of_few_tokens(calibration, {name: module for name, module in walk.compressible(model).items()})
    for block, states in walk.through_blocks(model, calibration, "GPTQ"):
        for module, H in block_hessians(block, states).items():
            name, weight = names[id(module)], walk.weight_of(module).float()
            loud += [name] * is_loud(H)
            with naming(name):
                result = quantize_layer(weight, H, **settings)
            errors[name] = layer_error(weight, result.weight, H)
            rounded += [name] * result.rounded
            walk.replace(model, name, QuantizedLinear.of(result, module.bias))
    if loud:
        warnings.warn(
            f"damping: in {len(loud)} layers ({loud[0]} …) a few inputs are so loud that 1 % of the mean of diag H exceeds its "
            f"median; the mean was bounded by {LOUD} medians there. Try damping=0.001, or AWQ, which scales such inputs.",
            CompressionWarning, stacklevel=2,
        )  # fmt: skip
    settings = {"method": "gptq", **settings, "calibration": list(calibration.shape)}
    details = {"layer_error": errors, "rounded": rounded, "loud": loud}
    return Compressed(model, settings, time.perf_counter() - began, details)


def warn_of_few_tokens(calibration: Tensor, layers: dict[str, nn.Module]) -> None:
    """Warn where a layer has more inputs than there are tokens: its H is singular, and errors go where it sees none."""
    tokens = calibration.numel()
    short = {name: walk.weight_of(m).shape[1] for name, m in layers.items() if walk.weight_of(m).shape[1] > tokens}
    if short:
        widest = max(short, key=short.__getitem__)
        warnings.warn(
            f"calibration: {tokens} tokens, but {len(short)} of {len(layers)} layers have more inputs ({widest}: {short[widest]}). "
            f"The result then fits these tokens and may be worse than plain rounding on others; give {8 * max(short.values())} or more.",
            CompressionWarning, stacklevel=3,
        )  # fmt: skip


def block_hessians(block: nn.Module, states: list) -> dict[nn.Module, Tensor]:
    """For each linear layer of a block: H = (2/N) XᵀX over the inputs that `states` bring to it.

    Layers that are fed the same tensor (query, key and value) share one product.
    """
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}
    latest: list[Tensor] = [torch.empty(0), torch.empty(0)]  # the latest input and its XᵀX

    def collect(module, args):
        if args[0] is not latest[0]:
            x = args[0].reshape(-1, args[0].shape[-1]).float()
            latest[:] = args[0], x.T @ x
        sums[module] = sums[module] + latest[1] if module in sums else latest[1]
        counts[module] = counts.get(module, 0) + args[0].shape[:-1].numel()

    handles = [m.register_forward_pre_hook(collect) for m in walk.linears(block).values()]
    try:
        for hidden, kwargs in states:
            walk.run_block(block, hidden, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {module: sums[module] * (2.0 / counts[module]) for module in sums}
