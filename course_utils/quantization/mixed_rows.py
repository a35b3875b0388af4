"""Bits for each row (output channel) of a matrix: HQQ grids as in `hqq`, rows of several widths in
one layer.

A row r of a linear layer makes one number y_r. If rows are rounded to b_r bits,

    KL ≈ ½ Σ_r E[g_r²] · e_rᵀ H e_r,     e_r = ŵ_r(b_r) − w_r,   H = E[x xᵀ],
    g_r = ∂(−ln p(drawn tokens)) / ∂y_r

with tokens drawn from the model's own distribution: the Fisher information of y_r, errors of rows
and of tokens taken as uncorrelated, and sizes of g and x as independent (K-FAC's assumption,
Martens and Grosse, 2015). `row_damages` gives the terms;
`allocate_rows` spends bits on them at one price λ: every row takes the b that makes damage + λ · b
least.
Beside scales and zero points a layer stores the width of each row, a byte.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, packed_width, unpack
from course_utils.models import selection, walk

from . import hqq
from .compressed import Compressed
from .convert import ExpandedLinear, frozen, layer_by_layer
from .grids import is_half
from .layer import storable


@storable
class MixedRowsLinear(ExpandedLinear):
    """y = x Ŵᵀ + b, rows of Ŵ (out, in) with bits of their own.

    Buffers: `packed` (bytes,) uint8, row after row, each as in `kernels.pack`; `bits` (out,) uint8;
    `scale` (out, groups), float16 where that is exact; `zero_point` (out, groups) float16.
    """

    packed: Tensor
    bits: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, packed: int, groups: int,
        scale_dtype: str = "float16", bias: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        self.register_buffer("packed", torch.zeros(packed, dtype=torch.uint8))
        self.register_buffer("bits", torch.zeros(out_features, dtype=torch.uint8))
        self.register_buffer(
            "scale", torch.ones(out_features, groups, dtype=getattr(torch, scale_dtype))
        )
        self.register_buffer("zero_point", torch.zeros(out_features, groups, dtype=torch.float16))
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "packed": len(self.packed),
            "groups": self.groups,
            "scale_dtype": str(self.scale.dtype).removeprefix("torch."),
            "bias": self.bias is not None,
        }

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bits: Tensor,
        bias: Tensor | None,
        group_size: int | None = 64,
        **grid: bool,
    ) -> "MixedRowsLinear":
        """HQQ of weight (out, in), each row in `bits` (out,) bits.

        `grid`: `fit_scale`, `unbiased` of `hqq.quantize_layer`.
        """
        if bits.shape != weight.shape[:1]:
            raise CompressionError(
                f"bits: shape {tuple(bits.shape)}; give one width for each of "
                f"the {len(weight)} rows."
            )
        parts = {
            int(b): hqq.quantize_layer(weight, bits=int(b), group_size=group_size, **grid)
            for b in bits.unique()
        }
        streams = {b: pack(part.codes, b) for b, part in parts.items()}
        rows = [streams[int(b)][i] for i, b in enumerate(bits)]
        scale = torch.stack([parts[int(b)].scale[i] for i, b in enumerate(bits)])
        layer = cls(
            weight.shape[1], len(weight), packed=sum(map(len, rows)), groups=scale.shape[1],
            scale_dtype="float16" if is_half(scale) else "float32",
        ).to(weight.device)  # fmt: skip
        layer.packed.copy_(torch.cat(rows))
        layer.bits.copy_(bits)
        layer.scale.copy_(scale)
        layer.zero_point.copy_(
            torch.stack([parts[int(b)].zero_point[i] for i, b in enumerate(bits)])
        )
        layer.bias = frozen(bias)
        return layer

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32, unpacked now."""
        codes = torch.empty(
            self.out_features, self.in_features, dtype=torch.uint8, device=self.packed.device
        )
        widths = torch.tensor(
            [packed_width(self.in_features, int(b)) for b in self.bits], device=self.packed.device
        )
        starts = widths.cumsum(0) - widths
        for b in self.bits.unique().tolist():
            rows = torch.nonzero(self.bits == b).flatten()
            places = starts[rows, None] + torch.arange(
                packed_width(self.in_features, b), device=self.packed.device
            )
            codes[rows] = unpack(self.packed[places], b, self.in_features)
        return hqq.RealZero(codes, self.scale.float(), self.zero_point.float(), 8).weight

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits per "
            f"weight={float(self.bits.float().mean()):.3f}"
        )


def quantize(
    model: nn.Module, bits: Mapping[str, Tensor], *, group_size: int | None = 64,
    ignore: selection.Patterns = (), per_layer: selection.PerLayer | None = None,
    fit_scale: bool = False, unbiased: bool = False,
) -> Compressed:  # fmt: skip
    """HQQ of every linear layer of the blocks, rows of layer `name` in `bits[name]` (out,) bits.

    Works on a copy.

    `fit_scale`, `unbiased` as in `hqq`; `ignore`, `per_layer` (not of bits, which are by layer
    anyway) as in `rtn.quantize`. `details["bits_per_weight"]`: what the layers take with scales,
    zero points and widths. Raises CompressionError for a layer without bits, and as `hqq.quantize`,
    with the layer's name.
    """
    missing = sorted(set(selection.selected(model, ignore)) - set(bits))
    if missing:
        raise CompressionError(
            f"bits: nothing is said of {', '.join(missing[:3])}; give widths for every "
            "layer, or ignore some."
        )

    def make(name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        return MixedRowsLinear.of(walk.weight_of(module), bits[name], module.bias, **own)

    settings = {
        "method": "mixed_rows",
        "group_size": group_size,
        "fit_scale": fit_scale,
        "unbiased": unbiased,
    }
    made = layer_by_layer(model, make, settings, ignore, per_layer)
    layers = [m for m in made.model.modules() if isinstance(m, MixedRowsLinear)]
    stored = sum(b.nbytes for m in layers for b in (m.packed, m.bits, m.scale, m.zero_point))
    made.details["bits_per_weight"] = (
        8 * stored / sum(m.in_features * m.out_features for m in layers)
    )
    return made


@torch.enable_grad()
def row_damages(
    model: PreTrainedModel, ids: Tensor, options: Sequence[int] = (2, 3, 4), *,
    group_size: int | None = 64, seed: int = 0, batch: int = 4,
    **grid: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """{layer: damages (out, options)} in nats a token, from ids (windows, context) and one draw of
    tokens at each place; `grid` as in `quantize`.
    """
    ids = walk.check_calibration(ids, model, whole=True)
    layers = walk.compressible(model)
    second = {
        name: torch.zeros(walk.weight_of(m).shape[0], dtype=torch.float64)
        for name, m in layers.items()
    }
    H = {
        name: torch.zeros(walk.weight_of(m).shape[1], walk.weight_of(m).shape[1])
        for name, m in layers.items()
    }
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple, output: Tensor) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            H[name] += (x.T @ x).cpu()
            output.requires_grad_(True)
            output.retain_grad()
            seen[name] = output

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    rng = torch.Generator().manual_seed(seed)
    try:
        for part in ids.split(batch):
            logits = (
                model(input_ids=part.to(model.device), use_cache=False).logits.flatten(0, 1).float()
            )
            drawn = (
                torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=rng)
                .flatten()
                .to(logits.device)
            )
            nn.functional.cross_entropy(logits, drawn, reduction="sum").backward(
                inputs=list(seen.values())
            )
            for name, output in seen.items():
                assert output.grad is not None
                second[name] += output.grad.flatten(0, -2).double().square().sum(0).cpu()
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    found, tokens = {}, ids.numel()
    for name, module in layers.items():
        w = walk.weight_of(module).detach().float().cpu()
        terms = []
        for b in options:
            error = hqq.quantize_layer(w, bits=b, group_size=group_size, **grid).weight - w
            terms.append(
                0.5 * second[name] / tokens * ((error @ (H[name] / tokens)) * error).sum(1).double()
            )
        found[name] = torch.stack(terms, 1)
    return found


def allocate_rows(
    damage: Mapping[str, Tensor],
    size: Mapping[str, Tensor],
    budget: float,
    options: Sequence[int] = (2, 3, 4),
) -> tuple[dict[str, Tensor], float]:
    """({layer: bits (out,)}, least that any choice within the budget can cost) for damages and
    sizes (out, options).

    At a price λ ≥ 0 each row minimizes damage + λ · size alone. λ is the least at which the total
    fits. For every λ, Σ min(damage + λ size) − λ · budget is below the cost of all choices that fit
    (Lagrange): with many small rows the two nearly meet. Raises CompressionError if the smallest
    sizes exceed the budget.
    """
    d, s = torch.cat(list(damage.values())).double(), torch.cat(list(size.values())).double()
    if float(s.min(1).values.sum()) > budget:
        raise CompressionError(
            f"budget={budget:,}: the smallest options take {float(s.min(1).values.sum()):,.0f} "
            "already; raise it."
        )
    rows = torch.arange(len(d))

    def at(price: float) -> Tensor:
        return (d + price * s).argmin(1)

    low, high = 0.0, 1e-12
    while float(s[rows, at(high)].sum()) > budget:
        low, high = high, high * 4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if float(s[rows, at(middle)].sum()) <= budget else (middle, high)
    high = 0.0 if float(s[rows, at(0.0)].sum()) <= budget else high
    chosen = at(high)
    bound = float((d + high * s).min(1).values.sum()) - high * budget
    parts = torch.tensor(list(options), dtype=torch.uint8)[chosen].split(
        [len(v) for v in damage.values()]
    )
    return dict(zip(damage, parts, strict=True)), bound
