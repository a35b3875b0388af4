"""Entropy-coded quantization: no clipping, no codes of fixed length; bytes follow the entropy of the codes.

    q_ij = round(w_ij / Δ_j)     ŵ_ij = Δ_j q_ij     rate = entropy of q  (+ tables)

`steps="one"`: one Δ for the whole model. With every distortion alike, this is reverse water-filling: a matrix of small
weights gets few bits by itself. `steps="sigma"`: Δ ∝ the standard deviation of each matrix, equal rates instead.
`steps="watersic"`: Δ_j ∝ U_jj of the layer's H⁻¹ = UᵀU, so that every column of the walk adds the same damage
(Lifar et al., 2026). The latter needs calibration. With calibration, columns are walked as in GPTQ: the later ones
make up for the errors of the earlier.

Columns are sorted into `classes` by the spread of their codes; each class has its own table of frequencies, and all
codes go through rANS (`course_utils.theory.coding`). The file holds codes, tables, classes and steps: all are counted.
"""

import math
import time
from collections.abc import Container
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing, walk
from course_utils.theory import coding

from . import gptq
from .compressed import Compressed
from .convert import ExpandedLinear, frozen
from .grids import check_matrix, exact_half, is_half
from .layer import naming, storable

STEPS = ("one", "sigma", "watersic")
CLOSE, ATTEMPTS = 0.004, 4  # bits a weight; how often the step is corrected at most


def round_to(weight: Tensor, steps: Tensor) -> Tensor:
    """Codes round(w / Δ_j), int32, unbounded; `steps` (in,) or a scalar."""
    return torch.round(weight / steps).to(torch.int32)


def walk_columns(weight: Tensor, H: Tensor, steps: Tensor, *, damping: float = 0.01, block_size: int = 128) -> Tensor:
    """Codes (out, in) of GPTQ's walk with fixed `steps` (in,) and no limits: q_i = round(w_i / Δ_i), then the columns after
    i move by −(w_i − Δ_i q_i) / U_ii · U_ij."""
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


def column_classes(codes: Tensor, classes: int) -> Tensor:
    """Each column's class (in,) int64: equal parts of the columns in the order of their mean |q|."""
    spread = codes.abs().float().mean(0)
    rank = spread.argsort(stable=True).argsort()
    return rank * min(classes, codes.shape[1]) // codes.shape[1]


def code_bits(codes: Tensor, classes: int = 1) -> float:
    """Bits that the codes cost at the entropy of each class of columns, tables not counted."""
    which = column_classes(codes, classes)
    return sum(
        coding.ideal_bits(torch.unique(codes[:, which == k], return_counts=True)[1].numpy()) for k in range(int(which.max()) + 1)
    )


@storable
class EntropyCodedLinear(ExpandedLinear):
    """y = x Ŵᵀ + b with Ŵ = Δ_j q_ij, its codes kept as one rANS stream; they are decoded at the first product.

    Buffers: `stream` uint8; `table` (classes, K) int16 of frequencies; `lowest` (), the code of the table's first entry;
    `which` (in,) uint8, each column's class; `step` (1 or in,) float16 where that is exact enough, else float32. In
    memory the decoded codes stay, one or two bytes each; the file holds the stream.
    """

    stream: Tensor
    table: Tensor
    lowest: Tensor
    which: Tensor
    step: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, stream: int = 0, classes: int = 1, symbols: int = 1, steps: int = 1,
        step_dtype: str = "float32", bias: bool = False, dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("stream", torch.zeros(stream, dtype=torch.uint8))
        self.register_buffer("table", torch.zeros(classes, symbols, dtype=torch.int16))
        self.register_buffer("lowest", torch.zeros((), dtype=torch.int32))
        self.register_buffer("which", torch.zeros(in_features if classes > 1 else 0, dtype=torch.uint8))
        self.register_buffer("step", torch.ones(steps, dtype=getattr(torch, step_dtype)))
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None
        self._decoded: Tensor | None = None

    def shape(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features, "stream": len(self.stream),
            "classes": len(self.table), "symbols": self.table.shape[1], "steps": len(self.step),
            "step_dtype": str(self.step.dtype).removeprefix("torch."), "bias": self.bias is not None,
        }  # fmt: skip

    @classmethod
    def of(cls, codes: Tensor, steps: Tensor, bias: Tensor | None, *, classes: int = 1) -> "EntropyCodedLinear":
        """The coded form of codes (out, in) and steps (in,) or a scalar."""
        if not 1 <= classes <= 256:
            raise CompressionError(f"classes={classes}: choose 1 to 256.")
        rows, columns = codes.shape
        which = column_classes(codes, classes)
        lowest, highest = int(codes.min()), int(codes.max())
        if highest - lowest >= 1 << coding.PRECISION:
            raise CompressionError(f"codes span {highest - lowest + 1} values, more than {1 << coding.PRECISION}; use a larger step.")
        shifted = (codes - lowest).long().cpu()
        counts = torch.zeros(int(which.max()) + 1, highest - lowest + 1, dtype=torch.int64)
        counts.index_put_((which.cpu().expand(rows, -1), shifted), torch.ones((), dtype=torch.int64), accumulate=True)
        table = np.stack([coding.frequencies(row.numpy()) for row in counts])
        lanes = max(8, min(128, codes.numel() // 2048))
        data = coding.encode(shifted.numpy(), table, which.cpu().expand(rows, -1).numpy(), lanes)
        steps = steps.reshape(-1).float()
        layer = cls(columns, rows, stream=len(data), classes=len(table), symbols=table.shape[1], steps=len(steps))
        layer.stream.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        layer.table.copy_(torch.from_numpy(table))
        layer.lowest.fill_(lowest)
        if len(table) > 1:
            layer.which.copy_(which)
        layer.step = steps.half() if len(steps) > 1 and is_half(steps) else steps
        layer.bias = frozen(bias)
        return layer.to(codes.device)

    @property
    def codes(self) -> Tensor:
        """q (out, in), the smallest integer type that holds them."""
        if self._decoded is None:
            which = self.which.cpu().numpy().astype(np.int64) if len(self.which) else np.zeros(self.in_features, np.int64)
            which = np.broadcast_to(which, (self.out_features, self.in_features))
            flat = coding.decode(self.stream.cpu().numpy().tobytes(), self.table.cpu().numpy(), which)
            codes = torch.from_numpy(flat).view(self.out_features, self.in_features) + int(self.lowest)
            largest = max(-int(codes.min()), int(codes.max()))
            kind = next(kind for kind in (torch.int8, torch.int16, torch.int32) if largest <= torch.iinfo(kind).max)
            self._decoded = codes.to(kind).to(self.stream.device)
        return self._decoded

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32."""
        return self.codes.float() * self.step.float()

    def forget(self) -> None:
        """Let go of the decoded codes; the next product decodes them again."""
        self._decoded = None

    def coded_bytes(self) -> int:
        """Bytes of everything that the weight needs: stream, tables, classes, steps."""
        return sum(b.nbytes for b in (self.stream, self.table, self.lowest, self.which, self.step))

    def extra_repr(self) -> str:
        rate = 8 * self.coded_bytes() / (self.in_features * self.out_features)
        return f"in_features={self.in_features}, out_features={self.out_features}, bits per weight={rate:.3f}"


def bits_per_weight(model: nn.Module) -> float:
    """Bits of the coded layers, with their tables, for each of their weights."""
    layers = [m for m in model.modules() if isinstance(m, EntropyCodedLinear)]
    if not layers:
        raise CompressionError("model: no layer of it is entropy-coded.")
    return 8 * sum(m.coded_bytes() for m in layers) / sum(m.in_features * m.out_features for m in layers)


def relative_steps(weights: dict[str, Tensor], steps: str, diagonals: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Each layer's steps up to the common factor: 1, its standard deviation, or U_jj over its geometric mean."""
    if steps == "sigma":
        return {n: w.float().std(correction=0).reshape(1).clamp(min=1e-3 * float(w.abs().max()) or 1.0) for n, w in weights.items()}
    return diagonals or {name: torch.ones(1) for name in weights}


def find_step(weights: dict[str, Tensor], relative: dict[str, Tensor], bits: float, classes: int = 1) -> float:
    """The common factor at which plain rounding costs `bits` a weight at the entropy, found by bisection to 0.2 %."""
    total = sum(w.numel() for w in weights.values())

    def rate(factor: float) -> float:
        return sum(code_bits(round_to(w, factor * relative[name]), classes) for name, w in weights.items()) / total

    spread = max(float((w.float() / relative[name]).square().mean().sqrt()) for name, w in weights.items())
    if spread == 0:
        raise CompressionError("model: every weight of its layers is 0; there is nothing to round.")
    low, high = spread * 2.0**-12, spread * 64
    while high / low > 1.002:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if rate(middle) > bits else (low, middle)
    return (low * high) ** 0.5


@torch.no_grad()
def quantize(
    model: nn.Module, calibration: Tensor | None = None, *, bits: float = 2.0, steps: str = "one", classes: int = 1,
    damping: float = 0.01, ignore: selection.Patterns = (),
) -> Compressed:  # fmt: skip
    """Entropy-code every linear layer of the blocks at about `bits` bits a weight, everything counted.

    Without `calibration` weights are rounded; with it (token ids, (sequences, context)) columns are walked as in GPTQ.
    The step is found by rounding; a walk and the tables cost more than that, so it is corrected from what was really
    taken, until that is within .004 bit of `bits` or four steps were tried (the nearest stays). Layers in whose names a
    regular expression of `ignore` is found stay as they are. `details["bits_per_weight"]` is what the layers really
    take. Works on a copy; errors name the layer.
    Raises CompressionError for bits outside 0.1 to 12, unknown `steps`, or watersic without calibration.
    """
    began = time.perf_counter()
    if not 0.1 <= bits <= 12:
        raise CompressionError(f"bits={bits}: choose a rate from 0.1 to 12 bits a weight.")
    if steps not in STEPS:
        raise CompressionError(f"steps={steps!r}: choose one of {', '.join(STEPS)}.")
    if steps == "watersic" and calibration is None:
        raise CompressionError("steps='watersic' follows the inputs of each layer: give calibration.")
    if calibration is not None:
        calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    weights = {}
    for name, module in selection.selected(model, ignore).items():
        with naming(name):
            weights[name] = check_matrix(walk.weight_of(module)).float()
    diagonals = _diagonals(model, calibration, damping, weights) if calibration is not None and steps == "watersic" else None
    relative = relative_steps(weights, steps, diagonals)
    tried = [math.log2(find_step(weights, relative, bits, classes))]
    took: list[float] = []
    while True:
        step = {name: _stored(2.0 ** tried[-1] * r) for name, r in relative.items()}
        attempt = _coded(model, weights, step, calibration, classes, damping)
        took.append(bits_per_weight(attempt))
        if abs(took[-1] - bits) <= min(abs(t - bits) for t in took):
            result, found = attempt, took[-1]
        if abs(found - bits) <= CLOSE or len(took) == ATTEMPTS:
            break
        tried.append(tried[-1] + (took[-1] - bits) / _bits_lost(tried, took))
    settings: dict[str, Any] = {"method": "entropy_coded", "bits": bits, "steps": steps, "classes": classes, **selection.kept(ignore)}
    if calibration is not None:
        settings |= {"damping": damping, "calibration": list(calibration.shape)}
    return Compressed(result, settings, time.perf_counter() - began, {"bits_per_weight": found})


def _bits_lost(tried: list[float], took: list[float]) -> float:
    """Bits a weight that a step twice as large saves, from the last two attempts: one at high rates, less near zero bits."""
    if len(tried) < 2 or tried[-1] == tried[-2]:
        return 1.0
    return min(1.5, max(0.3, (took[-2] - took[-1]) / (tried[-1] - tried[-2])))


def _coded(
    model: nn.Module, weights: dict[str, Tensor], step: dict[str, Tensor], calibration: Tensor | None, classes: int, damping: float
) -> nn.Module:
    """A copy of `model` whose layers are coded with these steps."""
    original, model = model, sharing.structure(model, experts_apart=False).eval()
    names = {id(module): name for name, module in walk.compressible(model).items() if name in weights}

    def put(module: nn.Module, codes: Tensor) -> None:
        name = names[id(module)]
        walk.replace(model, name, EntropyCodedLinear.of(codes, step[name], module.bias, classes=classes))

    if calibration is None:
        for name, module in walk.compressible(model).items():
            if name in weights:
                put(module, round_to(weights[name], step[name]))
        return sharing.own(model, original)
    for block, states in walk.through_blocks(model, calibration, "entropy-coded"):
        wanted = [module for module in walk.linears(block).values() if id(module) in names]
        for module, H in gptq.block_hessians(block, states, wanted).items():
            name = names[id(module)]
            with naming(name):
                codes = walk_columns(weights[name], H, step[name], damping=damping)
            put(module, codes)
    return sharing.own(model, original)


def _stored(steps: Tensor) -> Tensor:
    """Steps as the file holds them: float16 for many, where that moves none by over 1/1000; one alone keeps float32."""
    return exact_half(steps) if len(steps) > 1 else steps.float()


def _diagonals(model: nn.Module, calibration: Tensor, damping: float, chosen: Container[str]) -> dict[str, Tensor]:
    """U_jj of each layer of the model as it is, divided by their geometric mean: the common factor says the rest."""
    names = {id(module): name for name, module in walk.compressible(model).items() if name in chosen}
    found = {}
    for block, states in walk.through_blocks(model, calibration, "Hessians"):
        wanted = [module for module in walk.linears(block).values() if id(module) in names]
        for module, H in gptq.block_hessians(block, states, wanted).items():
            with naming(names[id(module)]):
                U = gptq.inverse_cholesky(gptq.damped(H, damping)).diagonal()
            found[names[id(module)]] = U / U.log().mean().exp()
    return found
