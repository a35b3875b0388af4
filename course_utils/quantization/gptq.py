"""GPTQ (Frantar et al., 2023): quantize column by column, and let the columns to come absorb each error.

For a layer with weight W (out, in) and inputs X (tokens, in) it lowers

    ‖X Wᵀ − X Ŵᵀ‖² ∝ tr((W − Ŵ) H (W − Ŵ)ᵀ),     H = (2/N) XᵀX.

With H⁻¹ = UᵀU (U upper triangular), column i is rounded and the columns to its right move by

    W[:, j] −= (w_i − ŵ_i) / U_ii · U_ij,    j > i,

which is the optimal brain surgeon's update with the inverse Hessian of the columns that are left.
"""

import copy
import time

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from .compressed import Compressed
from .grids import Grid, check_bits, check_group_size, check_matrix, make_grid, scale_and_zero
from .layer import LayerResult, QuantizedLinear


def hessian(x: Tensor) -> Tensor:
    """H = (2/N) XᵀX for inputs X (…, in); N counts the tokens."""
    x = x.reshape(-1, x.shape[-1])
    if len(x) == 0:
        raise CompressionError("x: no inputs; give at least one token.")
    return (2.0 / len(x)) * (x.T @ x)


def damped(H: Tensor, damping: float) -> Tensor:
    """H + damping · mean(diag H) · I; an input that is always zero gets the diagonal entry 1 first."""
    H = H.clone()
    diagonal = H.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    return H


def inverse_cholesky(H: Tensor) -> Tensor:
    """The upper triangular U with H⁻¹ = UᵀU.

    With J the reversal of order and JHJ = LLᵀ, U = J L⁻¹ J: one Cholesky factor and one triangular inverse.
    Raises CompressionError if H is not positive definite.
    """
    L, failed = torch.linalg.cholesky_ex(H.flip(0, 1))
    if failed:
        raise CompressionError("H is not positive definite; use more calibration data or a larger damping (try 0.1).")
    identity = torch.eye(len(H), dtype=H.dtype, device=H.device)
    return torch.linalg.solve_triangular(L, identity, upper=False).flip(0, 1)


def layer_error(weight: Tensor, quantized: Tensor, H: Tensor) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ): the mean squared error of the layer's output, times 2."""
    difference = (weight - quantized).to(H.dtype)
    return float(((difference @ H) * difference).sum())


def _check(weight: Tensor, H: Tensor, bits: int, damping: float) -> Tensor:
    weight = check_matrix(weight)
    check_bits(bits)
    if H.shape != (weight.shape[1],) * 2:
        raise CompressionError(f"H: shape {tuple(H.shape)}, but the weight has {weight.shape[1]} inputs.")
    if not torch.isfinite(H).all():
        raise CompressionError("H: contains NaN or infinity; check the calibration inputs.")
    if not 0 <= damping <= 1:
        raise CompressionError(f"damping={damping}: choose a number from 0 to 1, usually 0.01.")
    return weight


def quantize_layer(
    weight: Tensor, H: Tensor, *, bits: int = 4, group_size: int | None = 64, symmetric: bool = False,
    damping: float = 0.01, block_size: int = 128, act_order: bool = False, static_groups: bool = False,
) -> LayerResult:  # fmt: skip
    """GPTQ of one weight (out, in) for the Hessian H (in, in).

    Errors within a block of columns are handed on at once, those to later blocks in one matrix product. Scales
    are taken from the weights as they stand when a group begins; `static_groups` takes them beforehand.
    `act_order` visits the inputs with the largest H_ii first, so that groups are formed in that order unless
    they are static. Work is done in the weight's precision (float32 at least).

    Raises CompressionError for NaN, infinity, shapes that do not match, a group size that does not divide the
    inputs, or a Hessian that is not positive definite after damping.
    """
    weight = _check(weight, H, bits, damping)
    rows, columns = weight.shape
    size = check_group_size(group_size, columns)
    H = H.to(weight)
    dead = H.diagonal() == 0
    order = torch.argsort(H.diagonal(), descending=True) if act_order else torch.arange(columns, device=H.device)
    group_of = order // size if static_groups else torch.arange(columns, device=H.device) // size
    U = inverse_cholesky(damped(H, damping)[order][:, order])

    W = weight.T[order].contiguous()  # (in, out): a column of the weight is a row here
    W[dead[order]] = 0
    codes = torch.empty(columns, rows, dtype=torch.uint8, device=W.device)
    quantized = torch.empty_like(W)
    if static_groups:
        grid = make_grid(weight, bits=bits, symmetric=symmetric, group_size=size)
        scale, zero = grid.scale.T.contiguous(), grid.zero_point.T.contiguous()
    else:
        scale, zero = W.new_empty(2, columns // size, rows)
    largest = 2**bits - 1
    block = size * max(1, block_size // size) if size <= block_size or size % block_size else block_size

    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = torch.empty_like(W[start:end])
        for i in range(start, end):
            if not static_groups and i % size == 0:
                group = W[i : i + size]
                scale[i // size], zero[i // size] = scale_and_zero(group.amin(0), group.amax(0), bits, symmetric)
            g = group_of[i]
            q = torch.round(W[i] / scale[g]).add_(zero[g]).clamp_(0, largest)
            codes[i] = q
            quantized[i] = (q - zero[g]) * scale[g]
            error = torch.sub(W[i], quantized[i], out=errors[i - start]).div_(U[i, i])
            W[i + 1 : end].addr_(U[i, i + 1 : end], error, alpha=-1)
        W[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)

    back = torch.argsort(order)
    grid = Grid(scale.T.contiguous(), zero.T.contiguous(), group_of[back], bits, symmetric)
    return LayerResult(codes[back].T.contiguous(), grid, quantized[back].T.contiguous())


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
    static_groups: bool = False, quantize_layer=quantize_layer,
) -> Compressed:  # fmt: skip
    """GPTQ of every linear layer in the blocks of a causal language model.

    `calibration` holds token ids (sequences, context). Blocks are done in order; each sees inputs that went
    through the blocks already quantized. Another `quantize_layer` with the same arguments may be given.
    Works on a copy; `model` is unchanged. Embeddings, norms and the output head stay as they are.
    """
    began = time.perf_counter()
    calibration = walk.check_calibration(calibration)
    model = copy.deepcopy(model).eval()
    names = {id(module): name for name, module in walk.compressible(model).items()}
    states = list(walk.first_block_inputs(model, calibration.to(model.device)))
    settings = {
        "bits": bits, "group_size": group_size, "symmetric": symmetric, "damping": damping,
        "block_size": block_size, "act_order": act_order, "static_groups": static_groups,
    }  # fmt: skip
    errors: dict[str, float] = {}
    for block in tqdm(walk.blocks(model), desc="GPTQ", unit="block", leave=False):
        hessians = block_hessians(block, states)
        for module, H in hessians.items():
            weight = walk.weight_of(module).float()
            result = quantize_layer(weight, H, **settings)
            name = names[id(module)]
            errors[name] = layer_error(weight, result.weight, H)
            walk.replace(model, name, QuantizedLinear.of(result, module.bias))
        states = [(walk.run_block(block, hidden, kwargs), kwargs) for hidden, kwargs in states]
    settings = {"method": "gptq", **settings, "calibration": list(calibration.shape)}
    return Compressed(model, settings, time.perf_counter() - began, {"layer_error": errors})


def block_hessians(block: nn.Module, states: list) -> dict[nn.Module, Tensor]:
    """For each linear layer of a block: H = (2/N) XᵀX over the inputs that `states` bring to it."""
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def collect(module, args):
        x = args[0].reshape(-1, args[0].shape[-1]).float()
        sums[module] = sums.get(module, 0) + x.T @ x
        counts[module] = counts.get(module, 0) + len(x)

    handles = [m.register_forward_pre_hook(collect) for m in walk.linears(block).values()]
    try:
        for hidden, kwargs in states:
            walk.run_block(block, hidden, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {module: sums[module] * (2.0 / counts[module]) for module in sums}
