"""GPTQ's relatives: LDLQ, which is the same walk in other words, and Qronos, which also mends what came before.

LDLQ (QuIP, Chee et al., 2023) rounds column k after adding what the *original* errors so far ask for,

    ŵ_k = Q(w_k + Σ_{j<k} (w_j − ŵ_j) A_jk),     H = (I + A) D (I + A)ᵀ,  A strictly upper triangular, D diagonal.

GPTQ moves the weights and forgets the errors. With its factor, H⁻¹ = UᵀU, the same is I + A = U⁻¹ diag(U), D = diag(U)⁻²: both round
the same numbers, whatever Q is. `ldlq_layer` is there to show it.

Qronos (Zhang et al., 2025): GPTQ asks for X Ŵᵀ ≈ X Wᵀ with the inputs X that the blocks quantized so far give. But X itself is off by
then; wanted is the original's output, X̃ Wᵀ with the original's inputs X̃. Among all real V the best answer to X Vᵀ ≈ X̃ Wᵀ is

    V = W (C + λI) (H + λI)⁻¹,     C = (2/N) X̃ᵀX,  H = (2/N) XᵀX,  λ GPTQ's damping (λI pulls V towards W),

and (Ŵ − V) (H + λI) (Ŵ − V)ᵀ is what a rounding costs above it: so GPTQ, walking from V in W's place, is the answer. That is the
published algorithm but for the first column: there Qronos rounds the best value with all others held at W, not at V. `target` does so.
GPTAQ (Li et al., 2025) has the same aim, with another way to hand on the mismatch.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer

from . import gptq, rtn
from .compressed import Compressed
from .grids import Grid, check_matrix
from .hessians import check_hessian, damped, inverse_cholesky
from .layer import LayerResult, QuantizedLinear, naming


def ldlq_layer(weight: Tensor, H: Tensor, grid: Grid, *, damping: float = 0.01) -> Tensor:
    """Ŵ (out, in) by LDLQ on a fixed grid, in float64: `gptq.quantize_layer` with static groups ends at the same weights.

    A is taken from a Cholesky factor of H itself, in the reversed order of columns, and not from `gptq`'s factor of H⁻¹.
    """
    W = check_matrix(weight).double()
    L = torch.linalg.cholesky(damped(H.double(), damping).flip(0, 1)).flip(0, 1)  # upper triangular, L Lᵀ = H
    A = L / L.diagonal() - torch.eye(len(L), dtype=L.dtype)
    errors, result = torch.zeros_like(W), torch.empty_like(W)
    for k in range(W.shape[1]):
        g = grid.group_index[k]
        s, z = grid.scale[:, g].double(), grid.zero_point[:, g].double()
        wanted = W[:, k] + errors[:, :k] @ A[:k, k]
        result[:, k] = s * ((wanted / s).round().add(z).clamp(0, grid.largest) - z)
        errors[:, k] = W[:, k] - result[:, k]
    return result


def target(weight: Tensor, H: Tensor, C: Tensor, *, damping: float = 0.01, first: str = "held") -> Tensor:
    """V (out, in), what GPTQ shall walk from, for H = (2/N) XᵀX and C = (2/N) X̃ᵀX (in, in) of the same tokens; in float64.

    first="held": the published start, column 0 at its best value while the others are W; "free": V itself as above. With C = H
    both are W. Raises CompressionError for shapes that do not match, NaN or infinity.
    """
    W = check_matrix(weight).double()
    for name, moment in (("H", H), ("C", C)):
        try:
            check_hessian(moment, W.shape[1])
        except CompressionError as error:
            raise CompressionError(str(error).replace("H", name, 1)) from None
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


@torch.no_grad()
def quantize(
    model: PreTrainedModel, calibration: Tensor, *, bits: int = 4, group_size: int | None = 64, symmetric: bool = False,
    damping: float = 0.01, first: str = "held", ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Qronos of every linear layer in the blocks of a causal language model in memory. Arguments as in `gptq.quantize`.

    The original runs beside the copy that is being quantized, block by block, and gives X̃. Experts whose tokens differ between the two
    (a router that decides otherwise) have no C: they are quantized by GPTQ, those that too few tokens reach by rounding; `details["symmetric"]`
    names both. Works on a copy. Raises CompressionError as `gptq.quantize` does.
    """
    began = time.perf_counter()
    walk.check_finite(model)
    calibration = walk.check_calibration(calibration, model)
    given, original = model, experts.listed(model)
    training = original.training
    original.eval()
    model = sharing.structure(model).eval()
    settings: dict[str, Any] = {"bits": bits, "group_size": group_size, "symmetric": symmetric, "damping": damping, "first": first}
    chosen = selection.choose(model, settings, ignore, per_layer)
    names = chosen.names
    plain: list[str] = []
    both = zip(walk.through_blocks(model, calibration, "Qronos"), walk.through_blocks(original, calibration, "original"), strict=True)
    try:
        for (block, states), (before, exact) in both:
            moments = _moments(block, states, before, exact)
            for short, module in walk.linears(block).items():
                if (name := names.get(id(module))) is None:
                    continue
                weight, (H, C, tokens) = walk.weight_of(module).float(), moments.get(short, (None, None, 0))
                own = chosen.own[name]
                with naming(name):
                    if H is None or tokens < min(len(H), calibration.numel()):
                        result = rtn.quantize_layer(weight, **{k: own[k] for k in ("bits", "group_size", "symmetric")})
                        plain.append(name)
                    else:
                        plain += [name] * (C is None)
                        result = quantize_layer(weight, H, H if C is None else C, **own)
                walk.replace(model, name, QuantizedLinear.of(result, module.bias))  # type: ignore[arg-type]
    finally:
        original.train(training)
    settings = {"method": "qronos", **settings, "calibration": list(calibration.shape), **chosen.told}
    return Compressed(sharing.own(experts.fuse(model), given), settings, time.perf_counter() - began, {"symmetric": plain})


def quantize_layer(weight: Tensor, H: Tensor, C: Tensor, *, damping: float = 0.01, first: str = "held", **settings: Any) -> LayerResult:
    """GPTQ's walk from `target`, which never falls back on rounding. `settings`: bits, group_size and the rest of `gptq.quantize_layer`."""
    return gptq.quantize_layer(target(weight, H, C, damping=damping, first=first).to(weight), H, damping=damping, never_worse=False, **settings)


def _moments(block: nn.Module, states: walk.States, before: nn.Module, exact: walk.States) -> dict[str, tuple[Tensor, Tensor | None, int]]:
    """For each linear layer, by its name in the block: H = (2/N) XᵀX, C = (2/N) X̃ᵀX (None where the tokens differ), and N."""
    sums: dict[str, list[Any]] = {}
    for one, other in zip(states, exact, strict=True):
        x, y = _inputs(block, one), _inputs(before, other)
        for name, seen in x.items():
            held = sums.setdefault(name, [0, 0, 0])
            held[0], held[2] = held[0] + seen.T @ seen, held[2] + len(seen)
            same = held[1] is not None and name in y and y[name].shape == seen.shape
            held[1] = held[1] + y[name].T @ seen if same else None
    return {name: (H * (2 / n), None if C is None else C * (2 / n), n) for name, (H, C, n) in sums.items()}


def _inputs(block: nn.Module, state: tuple) -> dict[str, Tensor]:
    """What enters each linear layer of a block, (tokens, in), for one batch."""
    layers = walk.linears(block)
    names = {module: name for name, module in layers.items()}
    seen: dict[str, list[Tensor]] = {}
    walk.watch_inputs(block, [state], lambda module, x: seen.setdefault(names[module], []).append(x.clone()), list(layers.values()))  # type: ignore[arg-type]
    return {name: torch.cat(parts) for name, parts in seen.items()}
