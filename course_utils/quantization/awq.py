"""AWQ (Lin et al., 2024): protect the weights that large activations meet.

Rounding W costs Σ_j x_j Δw_j, so weights behind large inputs matter most. Multiplying the columns
of salient inputs by s > 1 before rounding and dividing the inputs by it makes their relative error
smaller by about s, as long as the group's step does not grow as much. Scales are searched over one
number for each layer,

    s = m^α,  m_j = mean|x_j|,  α ∈ [0, 1],      minimizing  ‖X Wᵀ − (X diag(s)⁻¹) Q(W diag(s))ᵀ‖²,

then each group's range is shrunk where that lowers the output's error (clipping). The division by s
is folded into the norm or the linear layer before.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer

from . import folding
from .compressed import Compressed
from .gptq import check_hessian, layer_error
from .grids import (
    Grid,
    check_bits,
    check_group_size,
    check_matrix,
    dequantize,
    make_grid,
    scale_and_zero,
    settings_of_grid,
)
from .grids import quantize as to_codes
from .layer import LayerResult, QuantizedLinear, naming

ALPHAS = tuple(i / 20 for i in range(20))
SHRINK = tuple(1 - i / 20 for i in range(10))
# their product meets a softmax, where a layer's squared error misleads
NOT_CLIPPED = ("q_proj", "k_proj", "c_attn")


@dataclass(frozen=True)
class AWQResult:
    """`scale` (in,) multiplies the weight's columns; `result` stands for Q(W diag(s)), so Ŵ =
    result.weight / scale.
    """

    scale: Tensor
    alpha: float
    errors: tuple[float, ...]
    result: LayerResult


def scale_for(magnitude: Tensor, alpha: float) -> Tensor:
    """m^α, divided by √(max · min) so that the scales lie around 1.

    An input that is always zero counts as tiny.
    """
    scale = magnitude.float().clamp(min=1e-4) ** alpha
    return scale / (scale.max() * scale.min()).sqrt()


def rounded(weight: Tensor, scale: Tensor, **settings: Any) -> Tensor:
    """Q(W diag(s)) diag(s)⁻¹: what the layer's weight amounts to after rounding the scaled one."""
    grid = make_grid(weight * scale, **settings)
    return dequantize(to_codes(weight * scale, grid), grid) / scale


def search_scale(
    weights: Sequence[Tensor], H: Tensor, magnitude: Tensor, *, bits: int = 4,
    group_size: int | None = 64, symmetric: bool = False, alphas: Sequence[float] = ALPHAS,
    spread: Callable[[Tensor], Tensor]=lambda scale: scale,
    each: Sequence[dict[str, Any]] | None = None,
) -> tuple[Tensor, float, list[float]]:  # fmt: skip
    """The best s = m^α for layers that share an input: (scale, α, the error at each α).

    `weights` are (out, in), H = (2/N) XᵀX (in, in), `magnitude` m (channels,) with `spread` from
    channels to inputs.
    The error is the summed `gptq.layer_error`. α = 0, no scaling, should be among `alphas`. `each`:
    bits, group size and symmetry of each weight, where they differ.
    """
    each = each or [{"bits": bits, "group_size": group_size, "symmetric": symmetric}] * len(weights)
    scales = [scale_for(magnitude, alpha) for alpha in alphas]
    errors = [
        sum(
            layer_error(w, rounded(w, spread(s), **own), H)
            for w, own in zip(weights, each, strict=True)
        )
        for s in scales
    ]
    best = min(range(len(errors)), key=errors.__getitem__)
    return scales[best], alphas[best], errors


def search_clip(
    weight: Tensor, H: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False,
    shrink: Sequence[float] = SHRINK,
) -> Grid:  # fmt: skip
    """For each group of each row, the range c · [min, max] with the least output error δᵀ H_gg δ
    (other groups exact).
    """
    rows, columns = weight.shape
    size = check_group_size(group_size, columns)
    groups = columns // size
    w = weight.view(rows, groups, size)
    blocks = torch.stack([H[g : g + size, g : g + size] for g in range(0, columns, size)]).to(w)
    best = torch.full((rows, groups), torch.inf, dtype=w.dtype, device=w.device)
    scale, zero = torch.ones_like(best), torch.zeros_like(best)
    for c in shrink:
        s, z = scale_and_zero(c * w.amin(-1), c * w.amax(-1), bits, symmetric)
        q = torch.round(w / s[..., None]).add_(z[..., None]).clamp_(0, 2**bits - 1)
        delta = w - s[..., None] * (q - z[..., None])
        error = torch.einsum("rgi,gij,rgj->rg", delta, blocks, delta)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, s, scale), torch.where(better, z, zero)
    return Grid(scale, zero, torch.arange(columns, device=w.device) // size, bits, symmetric)


def _round(weight: Tensor, H: Tensor, clip: bool, settings: dict) -> LayerResult:
    grid = search_clip(weight, H, **settings) if clip else make_grid(weight, **settings)
    codes = to_codes(weight, grid)
    return LayerResult(codes, grid, dequantize(codes, grid))


def quantize_layer(
    weight: Tensor, H: Tensor, magnitude: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, alphas: Sequence[float] = ALPHAS, clip: bool = True,
) -> AWQResult:  # fmt: skip
    """AWQ of one weight (out, in) for H = (2/N) XᵀX (in, in) and m = mean|x| (in,).

    Raises CompressionError for NaN, infinity, shapes that do not match, bad bits or group size.
    """
    weight = check_matrix(weight)
    check_bits(bits)
    check_hessian(H, weight.shape[1])
    if magnitude.shape != (weight.shape[1],) or not torch.isfinite(magnitude).all():
        raise CompressionError(
            f"magnitude: expected {weight.shape[1]} finite numbers, one for "
            "each input of the weight."
        )
    settings = {"bits": bits, "group_size": group_size, "symmetric": symmetric}
    scale, alpha, errors = search_scale([weight], H, magnitude, alphas=alphas, **settings)
    result = _round(weight * scale, H / torch.outer(scale, scale), clip, settings)
    return AWQResult(scale, alpha, tuple(errors), result)


@torch.no_grad()
def quantize(
    model: PreTrainedModel, calibration: Tensor, *, bits: int = 4, group_size: int | None = 64,
    symmetric: bool = False, alphas: Sequence[float] = ALPHAS, clip: bool = True,
    scale: bool = True, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """AWQ of every linear layer in the blocks of a causal language model. Works on a copy.

    Layers that `ignore` names are scaled with those that share their input, but not rounded;
    `per_layer` (of bits, group_size, symmetric, clip) as in `rtn.quantize`.

    `calibration` holds token ids (sequences, context). Every block sees the activations of the
    full-precision model.
    scale=False leaves the scaling out, clip=False the clipping, to see what each is worth. Query
    and key layers are scaled but not clipped. What can be scaled is found by `folding.folds`;
    layers that nothing can scale are clipped only.
    `details`: `alpha`, the chosen α of each group of layers by its first; `unscaled`; `unreached`,
    experts that no calibration token reached, which are rounded.
    Raises CompressionError for bad settings, an empty calibration set, or an architecture in which
    nothing can be scaled.
    """
    began = time.perf_counter()
    calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    original, model = model, sharing.structure(model).eval()
    theirs = sharing.memory_of(original)
    settings = {"bits": bits, "group_size": group_size, "symmetric": symmetric, "clip": clip}
    names = {id(module): name for name, module in walk.compressible(model).items()}
    choice = selection.choose(model, settings, ignore, per_layer)
    for own in choice.different():
        check_bits(own["bits"])
    kept, told = choice.own, choice.told
    del choice  # its layers are let go one by one
    last = {
        name: number
        for number, block in enumerate(walk.blocks(model))
        for name in (names[id(m)] for m in walk.linears(block).values())
    }
    chosen: dict[str, float] = {}
    scaled: set[str] = set()
    done: set[str] = set()
    unreached: list[str] = []
    ready: list[tuple[str, QuantizedLinear]] = []

    def put(before: int) -> None:
        """Layers of blocks that have run for the last time give way to their quantized ones."""
        for name, layer in [each for each in ready if last[each[0]] < before]:
            walk.replace(model, name, layer)
        ready[:] = [each for each in ready if last[each[0]] >= before]

    plan: list[list[folding.Fold]] = (
        folding.folds(model) if scale else [[] for _ in walk.blocks(model)]
    )
    for number, (folds, (block, states)) in enumerate(
        zip(plan, walk.through_blocks(model, calibration, "AWQ"), strict=True)
    ):
        put(number)
        hessians, magnitudes, counts = _statistics(block, states)
        for module, H in hessians.items():
            with naming(names[id(module)]):
                check_hessian(H, walk.weight_of(module).shape[1])
        clean = states[0][0].device
        for fold in folds:
            reached = [t for t in fold.targets if t in hessians]
            # what is not rounded has no error
            scored = [t for t in fold.targets if names[id(t)] in kept]
            if not reached or not scored:
                continue
            first = reached[0]
            H, seen = _together(reached, hessians, counts), _together(reached, magnitudes, counts)
            magnitude = fold.gather(seen).to(clean)
            weights = [check_matrix(walk.weight_of(t)) for t in scored]
            each = [settings_of_grid(kept[names[id(t)]]) for t in scored]
            s, alpha, _ = search_scale(
                weights, H, magnitude, alphas=alphas, spread=fold.spread, each=each
            )
            for part in (fold.source, *fold.targets, *fold.others):
                sharing.apart(part, theirs)
            folding.apply(fold, s)
            chosen[names[id(first)]] = alpha
            inverse = 1 / fold.spread(s)
            scaled |= {names[id(target)] for target in fold.targets}
            for target in reached:
                hessians[target] = hessians[target] * torch.outer(inverse, inverse)
        for module in walk.linears(block).values():
            name = names[id(module)]
            if name not in kept or name in done:
                continue
            done.add(name)
            unreached += [name] * (module not in hessians)
            with naming(name):
                weight = check_matrix(walk.weight_of(module))
                H = hessians.get(module, torch.eye(weight.shape[1]).to(weight))
                own = kept[name]
                result = _round(
                    weight,
                    H,
                    own["clip"] and module in hessians and not name.endswith(NOT_CLIPPED),
                    settings_of_grid(own),
                )
            ready.append((name, QuantizedLinear.of(result, module.bias)))
        folds.clear()  # they hold on to layers that will be replaced
    put(len(plan))
    details = {
        "alpha": chosen,
        "unscaled": [name for name in kept if name not in scaled],
        "unreached": unreached,
    }
    settings = {
        "method": "awq",
        **settings,
        "scale": scale,
        "calibration": list(calibration.shape),
        **told,
    }
    return Compressed(sharing.own(model, original), settings, time.perf_counter() - began, details)


def _together(layers: Sequence, statistic: dict, counts: dict) -> Tensor:
    """A mean over the tokens of several layers.

    Layers with one input (query, key and value) have equal ones; experts do not.
    """
    first = layers[0]
    if all(
        counts[layer] == counts[first] and torch.equal(statistic[layer], statistic[first])
        for layer in layers
    ):
        return statistic[first]
    return sum(statistic[layer] * counts[layer] for layer in layers) / sum(
        counts[layer] for layer in layers
    )


def _statistics(block: nn.Module, states: Any) -> tuple[dict, dict, dict]:
    """For each linear layer of a block: H = (2/N) XᵀX and m = mean|x| of its inputs, and how many
    those were.
    """
    products: dict = {}
    sums: dict = {}
    counts: dict = {}

    def see(module: nn.Module, x: Tensor) -> None:
        products[module] = products.get(module, 0) + x.T @ x
        sums[module] = sums.get(module, 0) + x.abs().sum(0)
        counts[module] = counts.get(module, 0) + len(x)

    walk.watch_inputs(block, states, see)
    return (
        {m: products[m] * (2 / counts[m]) for m in products},
        {m: sums[m] / counts[m] for m in sums},
        counts,
    )
