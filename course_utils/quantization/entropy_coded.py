"""Entropy-coded quantization: no clipping, no codes of fixed length; bytes follow the entropy of
the codes.

    q_ij = round(w_ij / Δ_j)     ŵ_ij = Δ_j q_ij     rate = entropy of q  (+ tables)

`steps="one"`: one Δ for the whole model. With every distortion alike, this is reverse
water-filling: a matrix of small weights gets few bits by itself. `steps="sigma"`: Δ ∝ the standard
deviation of each matrix, equal rates instead.
`steps="watersic"`: Δ_j ∝ U_jj of the layer's H⁻¹ = UᵀU, so that every column of the walk adds the
same damage (Lifar et al., 2026). The latter needs calibration. With calibration, columns are walked
as in GPTQ: the later ones make up for the errors of the earlier.

Columns are sorted into `classes` by the spread of their codes; each class has its own table of
frequencies, and all codes go through rANS (`course_utils.theory.coding`). The file holds codes,
tables, classes and steps: all are counted.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.theory import coding

from . import gptq
from .coded_layer import EntropyCodedLinear, column_classes
from .compressed import Compressed
from .grids import check_matrix, exact_half
from .layer import naming

__all__ = [
    "EntropyCodedLinear",
    "bits_per_weight",
    "code_bits",
    "column_classes",
    "find_step",
    "quantize",
    "relative_steps",
    "round_to",
    "walk_columns",
]

STEPS = ("one", "sigma", "watersic")
CLOSE, ATTEMPTS = 0.004, 4  # bits a weight; how often the step is corrected at most


def round_to(weight: Tensor, steps: Tensor) -> Tensor:
    """Codes round(w / Δ_j), int32, unbounded; `steps` (in,) or a scalar."""
    return torch.round(weight / steps).to(torch.int32)


def walk_columns(
    weight: Tensor, H: Tensor, steps: Tensor, *, damping: float = 0.01, block_size: int = 128
) -> Tensor:
    """Codes (out, in) of GPTQ's walk with fixed `steps` (in,) and no limits: q_i = round(w_i /
    Δ_i), then the columns after i move by −(w_i − Δ_i q_i) / U_ii · U_ij.
    """
    steps = steps.expand(weight.shape[1])
    U = gptq.inverse_cholesky(gptq.damped(H, damping))
    W = weight.T.clone(memory_format=torch.contiguous_format)
    W[H.diagonal() == 0] = 0
    codes = torch.empty_like(W)
    for start in range(0, len(W), block_size):
        end = min(start + block_size, len(W))
        errors = torch.empty_like(W[start:end])
        for i in range(start, end):
            torch.round(W[i] / steps[i], out=codes[i])
            torch.sub(W[i], codes[i] * steps[i], out=errors[i - start]).div_(U[i, i])
            W[i + 1 : end].addr_(U[i, i + 1 : end], errors[i - start], alpha=-1)
        W[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)
    return codes.T.contiguous().to(torch.int32)


def code_bits(codes: Tensor, classes: int = 1) -> float:
    """Bits that the codes cost at the entropy of each class of columns, tables not counted."""
    which = column_classes(codes, classes)
    return sum(
        coding.ideal_bits(torch.unique(codes[:, which == k], return_counts=True)[1].cpu().numpy())
        for k in range(int(which.max()) + 1)
    )


def bits_per_weight(model: nn.Module) -> float:
    """Bits of the coded layers, with their tables, for each of their weights."""
    layers = [m for m in model.modules() if isinstance(m, EntropyCodedLinear)]
    if not layers:
        raise CompressionError("model: no layer of it is entropy-coded.")
    return _rate(layers)


def _rate(layers: Sequence[Any]) -> float:
    return (
        8
        * sum(m.coded_bytes() for m in layers)
        / sum(m.in_features * m.out_features for m in layers)
    )


def relative_steps(
    weights: dict[str, Tensor], steps: str, diagonals: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """Each layer's steps up to the common factor: 1, its standard deviation, or U_jj over its
    geometric mean.
    """
    if steps == "sigma":
        return {
            n: w.float().std(correction=0).reshape(1).clamp(min=1e-3 * float(w.abs().max()) or 1.0)
            for n, w in weights.items()
        }
    return diagonals or {name: torch.ones(1, device=w.device) for name, w in weights.items()}


def find_step(
    weights: dict[str, Tensor], relative: dict[str, Tensor], bits: float, classes: int = 1
) -> float:
    """The common factor at which plain rounding costs `bits` a weight at the entropy, found by
    bisection to 0.2 %.
    """
    total = sum(w.numel() for w in weights.values())

    def rate(factor: float) -> float:
        return (
            sum(
                code_bits(round_to(w, factor * relative[name]), classes)
                for name, w in weights.items()
            )
            / total
        )

    spread = max(
        float((w.float() / relative[name]).square().mean().sqrt()) for name, w in weights.items()
    )
    if spread == 0:
        raise CompressionError("model: every weight of its layers is 0; there is nothing to round.")
    low, high = spread * 2.0**-12, spread * 64
    while high / low > 1.002:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if rate(middle) > bits else (low, middle)
    return (low * high) ** 0.5


@dataclass
class _Part:
    """Layers that share one factor of their steps, because they are asked for the same bits in the
    same way.
    """

    names: list[str]
    bits: float
    classes: int
    relative: dict[str, Tensor]
    tried: list[float] = field(default_factory=list)  # log2 of the factor
    took: list[float] = field(default_factory=list)

    @property
    def off(self) -> float:
        """By how many bits a weight the last attempt missed."""
        return abs(self.took[-1] - self.bits)

    def next_try(self) -> None:
        """Correct the factor by what was taken: a step twice as large saves one bit at high rates,
        less near zero bits.
        """
        saved = 1.0
        if len(self.tried) > 1 and self.tried[-1] != self.tried[-2]:
            saved = min(
                1.5, max(0.3, (self.took[-2] - self.took[-1]) / (self.tried[-1] - self.tried[-2]))
            )
        self.tried.append(self.tried[-1] + (self.took[-1] - self.bits) / saved)


@torch.no_grad()
def quantize(
    model: nn.Module, calibration: Tensor | None = None, *, bits: float = 2.0, steps: str = "one",
    classes: int = 1, damping: float = 0.01, ignore: selection.Patterns = (),
    per_layer: selection.PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Entropy-code every linear layer of the blocks at about `bits` bits a weight, everything
    counted.

    Without `calibration` weights are rounded; with it (token ids, (sequences, context)) columns are
    walked as in GPTQ.
    The step is found by rounding; a walk and the tables cost more than that, so it is corrected
    from what was really taken, until that is within .004 bit of `bits` or four steps were tried
    (the nearest stays). `ignore`, `per_layer` as in `rtn.quantize`: layers of other bits, steps or
    classes than the rest share a factor of their own.
    `details["bits_per_weight"]` is what the layers really take. Works on a copy; errors name the
    layer.
    Raises CompressionError for bits outside 0.1 to 12, unknown `steps`, or watersic without
    calibration.
    """
    began = time.perf_counter()
    if calibration is not None:
        calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    model = sharing.structure(model) if experts.fused(model) else model
    common: dict[str, Any] = {"bits": bits, "steps": steps, "classes": classes, "damping": damping}
    chosen = selection.choose(model, common, ignore, per_layer)
    for own in chosen.different():
        _check(own, calibration)
    weights = {}
    for name, module in chosen.layers.items():
        with naming(name):
            weights[name] = check_matrix(walk.weight_of(module)).float()
    parts = _parts(model, weights, chosen, calibration)
    least = math.inf
    while True:
        step = {
            name: _stored(2.0 ** part.tried[-1] * r)
            for part in parts
            for name, r in part.relative.items()
        }
        attempt = coded(model, weights, step, calibration, chosen.own)
        for part in parts:
            part.took.append(_rate([attempt.get_submodule(name) for name in part.names]))
        if (off := max(part.off for part in parts)) < least:
            result, least = attempt, off
        if least <= CLOSE or len(parts[0].took) == ATTEMPTS:
            break
        for part in parts:
            part.next_try()
    settings: dict[str, Any] = {
        "method": "entropy_coded",
        "bits": bits,
        "steps": steps,
        "classes": classes,
        **chosen.told,
    }
    if calibration is not None:
        settings |= {"damping": damping, "calibration": list(calibration.shape)}
    return Compressed(
        result, settings, time.perf_counter() - began, {"bits_per_weight": bits_per_weight(result)}
    )


def _check(own: dict[str, Any], calibration: Tensor | None) -> None:
    if not 0.1 <= own["bits"] <= 12:
        raise CompressionError(f"bits={own['bits']}: choose a rate from 0.1 to 12 bits a weight.")
    if own["steps"] not in STEPS:
        raise CompressionError(f"steps={own['steps']!r}: choose one of {', '.join(STEPS)}.")
    if own["steps"] == "watersic" and calibration is None:
        raise CompressionError(
            "steps='watersic' follows the inputs of each layer: give calibration."
        )


def _parts(
    model: nn.Module,
    weights: dict[str, Tensor],
    chosen: selection.Chosen,
    calibration: Tensor | None,
) -> list[_Part]:
    """Layers by what they share, each part with the factor to try first."""
    together: dict[tuple, list[str]] = {}
    for name, own in chosen.own.items():
        together.setdefault((own["bits"], own["steps"], own["classes"]), []).append(name)
    follow = [name for name, own in chosen.own.items() if own["steps"] == "watersic"]
    diagonals = (
        _diagonals(model, calibration, {name: chosen.own[name]["damping"] for name in follow})
        if calibration is not None and follow
        else {}
    )
    parts = []
    for (bits, steps, classes), names in together.items():
        own = {name: weights[name] for name in names}
        relative = relative_steps(
            own, steps, {name: diagonals[name] for name in names} if steps == "watersic" else None
        )
        part = _Part(names, bits, classes, relative)
        part.tried.append(math.log2(find_step(own, relative, bits, classes)))
        parts.append(part)
    return parts


def coded(
    model: nn.Module,
    weights: dict[str, Tensor],
    step: dict[str, Tensor],
    calibration: Tensor | None,
    own: Mapping[str, Mapping[str, Any]],
) -> nn.Module:
    """A copy of `model` whose layers are coded with these steps: rounded, or with `calibration`
    walked, each block behind those before it.

    By the names of layers: `weights` (out, in), `step` (in,) or (1,), and `own` with "classes" and
    "damping".
    """
    original, model = model, sharing.structure(model, experts_apart=False).eval()
    names = {
        id(module): name for name, module in walk.compressible(model).items() if name in weights
    }

    def put(module: nn.Module, codes: Tensor) -> None:
        name = names[id(module)]
        walk.replace(
            model,
            name,
            EntropyCodedLinear.of(codes, step[name], module.bias, classes=own[name]["classes"]),
        )

    if calibration is None:
        for name, module in walk.compressible(model).items():
            if name in weights:
                put(module, round_to(weights[name], step[name]))
        return sharing.own(model, original)
    for block, states in walk.through_blocks(model, calibration, "entropy-coded"):
        wanted = [module for module in walk.linears(block).values() if id(module) in names]
        hessians = gptq.block_hessians(block, states, wanted)
        for module in wanted:
            name = names[id(module)]
            if module not in hessians:  # an expert that no token reached
                put(module, round_to(weights[name], step[name]))
                continue
            with naming(name):
                codes = walk_columns(
                    weights[name], hessians[module], step[name], damping=own[name]["damping"]
                )
            put(module, codes)
    return sharing.own(model, original)


def _stored(steps: Tensor) -> Tensor:
    """Steps as the file holds them: float16 for many, where that moves none by over 1/1000; one
    alone keeps float32.
    """
    return exact_half(steps) if len(steps) > 1 else steps.float()


def _diagonals(
    model: nn.Module, calibration: Tensor, damping: dict[str, float]
) -> dict[str, Tensor]:
    """U_jj of each layer of the model as it is, divided by their geometric mean: the common factor
    says the rest. 1 where no token comes.
    """
    layers = walk.compressible(model)
    names = {id(layers[name]): name for name in damping}
    found = {name: torch.ones_like(walk.weight_of(layers[name])[0], dtype=torch.float32)
             for name in damping}  # fmt: skip
    for block, states in walk.through_blocks(model, calibration, "Hessians"):
        wanted = [module for module in walk.linears(block).values() if id(module) in names]
        for module, H in gptq.block_hessians(block, states, wanted).items():
            name = names[id(module)]
            with naming(name):
                U = gptq.inverse_cholesky(gptq.damped(H, damping[name])).diagonal()
            found[name] = U / U.log().mean().exp()
    return found
