"""Second moments of a layer's inputs, H = (2/N) XᵀX, and what the methods that correct errors make of them."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.models import parallel, walk

from .grids import check_matrix

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


def block_hessians(
    block: nn.Module, states: Iterable, layers: Iterable[nn.Module] | None = None, counts: dict[nn.Module, int] | None = None
) -> dict[nn.Module, Tensor]:
    """For each linear layer of a block: H = (2/N) XᵀX over the inputs that `states` bring to it.

    Layers that are fed the same tensor (query, key and value) share one sum, which they must not change. `layers`: only these; one that no token
    reaches is not in the answer. `counts`, if given, is filled with the tokens that each of them saw.
    """
    sums: dict[nn.Module, Tensor] = {}
    counts = {} if counts is None else counts
    latest: list[Any] = [None, None, {}]  # the latest input, its XᵀX, and the sums that it was added to: id → (before, after)

    def collect(module, args):
        if args[0] is not latest[0]:
            x = args[0].reshape(-1, args[0].shape[-1]).float()
            latest[:] = args[0], x.T @ x, {}
        before = sums.get(module)
        if before is None:
            sums[module] = latest[1]
        else:
            if id(before) not in latest[2]:
                latest[2][id(before)] = before, before + latest[1]
            sums[module] = latest[2][id(before)][1]
        counts[module] = counts.get(module, 0) + args[0].shape[:-1].numel()

    watched = list(walk.linears(block).values() if layers is None else layers)
    handles = [m.register_forward_pre_hook(collect) for m in watched]
    try:
        for hidden, kwargs in states:
            walk.run_block(block, hidden, kwargs)
            latest[:] = None, None, {}
    finally:
        for handle in handles:
            handle.remove()
    parallel.add_up(sums, counts, watched)
    means: dict[int, Tensor] = {}
    for module, total in sums.items():  # layers that share a sum saw the same inputs
        if id(total) not in means:
            means[id(total)] = total.mul_(2.0 / counts[module])
    return sums
