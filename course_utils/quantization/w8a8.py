"""Weights and activations in integers, and a product of integers.

With x ≈ s_x (q_x − z) and w ≈ s_w q_w the product of a row and a column is

    y = s_x s_w (Σ q_x q_w − z Σ q_w) + b,

so that the sum runs over INT8 products in INT32, and real numbers come in once for each output
(Jacob et al., 2018, eq. 7). Dynamic: each call measures its activations' range (per token or per
tensor). Static: the range was fixed with calibration data beforehand, which saves the measuring but
clips whatever is larger.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from course_utils import kernels
from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer

from . import observers
from .compressed import Compressed
from .convert import FixedBuffers, frozen, layer_by_layer
from .grids import Grid, check_bits, make_grid
from .grids import quantize as to_codes
from .layer import storable

WEIGHTS = ("per_channel", "per_tensor")
ACTIVATIONS = ("per_token", "per_tensor")
FEW, FEW_WITHOUT = 4, 32  # tokens for which our kernel is the fastest, with VNNI and without
EXACT = 1024  # inputs whose 2^14 · 1024 = 2^24 a float32 still counts by ones
MOST_INPUTS = 2**16


def to_int8(x: Tensor, **grid_settings) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix (rows, columns) as signed integers: q int8, scale (rows or 1, 1), zero point (rows
    or 1, 1) int32.

    x̂ = scale · (q − zero point). Settings as in `grids.make_grid`, one group in a row; symmetric
    grids have the zero point 0 and the narrow range, ±127 with 8 bits, as bitsandbytes, SmoothQuant
    and torchao's activations have;
    narrow=False takes all 2^b codes.
    """
    grid = make_grid(x, **{"narrow": True, **grid_settings})
    offset = 2 ** (grid.bits - 1)
    return (
        (to_codes(x, grid).short() - offset).to(torch.int8),
        grid.scale,
        (grid.zero_point - offset).int(),
    )


def integer_product(x: Tensor, weight: Tensor) -> Tensor:
    """X (tokens, in) int8 times weightᵀ, weight (out, in) int8: (tokens, out) int32, exact up to
    MOST_INPUTS inputs.

    For a few tokens on a CPU the compiled kernel is the fastest. For more, torch's own product
    where the processor multiplies INT8 (VNNI); elsewhere it takes 20 times as long as one of FP32,
    whose sums of EXACT inputs are exact, too.
    """
    plain = (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    )
    if plain and (tokens := len(x)) and x.shape[1] <= MOST_INPUTS:
        few = FEW if multiplies_int8() else FEW_WITHOUT
        if tokens <= few and kernels.cpu.variants():
            return kernels.cpu.integer_product(x, weight)
        if not multiplies_int8():
            runs = zip(x.split(EXACT, 1), weight.split(EXACT, 1), strict=True)
            products = [(part.float() @ own.float().T).int() for part, own in runs]
            return functools.reduce(Tensor.add_, products)
    if x.shape[1] == 1:  # torch 2.13 on a CPU gives wrong sums for a single input
        x, weight = nn.functional.pad(x, (0, 1)), nn.functional.pad(weight, (0, 1))
    return torch._int_mm(x.contiguous(), weight.T)


@functools.cache
def multiplies_int8() -> bool:
    """Whether torch's `_int_mm` has instructions for INT8 here."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", bool)())


@storable
class Int8Linear(FixedBuffers):
    """y = s_x s_w (Q_x Q_wᵀ − z rowsum(Q_w)) + b.

    Buffers: `weight_codes` (out, in) int8; `weight_scale` (out or 1, 1) float32; `weight_sum`
    (out,) int32;
    `input_scale`, `input_zero` (1, 1) when static.
    """

    weight_codes: Tensor
    weight_scale: Tensor
    weight_sum: Tensor
    input_scale: Tensor
    input_zero: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, per_channel: bool = True, bias: bool = False,
        static: bool = False, activations: str = "per_token", activation_bits: int = 8,
        symmetric: bool = True, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        if in_features > MOST_INPUTS:
            raise CompressionError(
                f"in_features={in_features}: INT32 sums of more than {MOST_INPUTS} products "
                "may overflow; use `rtn`."
            )
        self.in_features, self.out_features = in_features, out_features
        self.per_channel, self.static, self.activations = per_channel, static, activations
        self.activation_bits, self.symmetric = activation_bits, symmetric
        self.register_buffer(
            "weight_codes", torch.zeros(out_features, in_features, dtype=torch.int8)
        )
        self.register_buffer("weight_scale", torch.ones(out_features if per_channel else 1, 1))
        self.register_buffer("weight_sum", torch.zeros(out_features, dtype=torch.int32))
        self.register_buffer("input_scale", torch.ones(1, 1) if static else None)
        self.register_buffer("input_zero", torch.zeros(1, 1, dtype=torch.int32) if static else None)
        self.bias = frozen(torch.zeros(out_features, dtype=dtype)) if bias else None

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features, "out_features": self.out_features,
            "per_channel": self.per_channel, "bias": self.bias is not None, "static": self.static,
            "activations": self.activations, "activation_bits": self.activation_bits,
            "symmetric": self.symmetric,
        }  # fmt: skip

    def set_weight(self, weight: Tensor, bits: int = 8) -> None:
        """Round a weight (out, in) into the layer's codes and scales."""
        granularity = "per_channel" if self.per_channel else "per_tensor"
        codes, scale, _ = to_int8(
            weight, bits=bits, symmetric=True, granularity=granularity, narrow=bits == 8
        )
        self.weight_codes, self.weight_scale, self.weight_sum = (
            codes,
            scale.float(),
            codes.sum(1, dtype=torch.int32),
        )

    @property
    def weight(self) -> Tensor:
        """Ŵ (out, in), float32."""
        return self.weight_codes.float() * self.weight_scale

    def quantize_input(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X (tokens, in) as int8, with scale and zero point."""
        if not self.static:
            return to_int8(
                x, bits=self.activation_bits, symmetric=self.symmetric, granularity=self.activations
            )
        if torch.isnan(x).any():  # as a whole number it would be any
            raise CompressionError("x: contains NaN; repair what comes before this layer.")
        half = 2 ** (self.activation_bits - 1)
        q = (x.float() / self.input_scale).round() + self.input_zero
        return q.clamp(-half, half - 1).to(torch.int8), self.input_scale, self.input_zero

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if len(flat) == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        codes, scale, zero = self.quantize_input(flat)
        total = integer_product(codes, self.weight_codes)
        if not self.symmetric:
            total = total - zero * self.weight_sum
        y = total.float() * scale * self.weight_scale.T
        y = y.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        kind = "static" if self.static else "dynamic"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{kind}, {self.activations}"
        )


def quantize(
    model: nn.Module, calibration: Tensor | None = None, *, observer: str | None = None,
    weights: str = "per_channel", activations: str = "per_token", weight_bits: int = 8,
    activation_bits: int = 8, symmetric: bool = True, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Integer weights and activations in every linear layer of the blocks.

    observer None: dynamic, no calibration needed. Otherwise static with one range for each layer's
    input, found by that observer (`observers.OBSERVERS`) on `calibration`, token ids (sequences,
    context); `activations` must then be 'per_tensor'. Weights are symmetric; `symmetric` is about
    the activations. `ignore`, `per_layer` as in `rtn.quantize`.
    Works on a copy.

    Raises CompressionError for unknown names, bad bits, or a missing calibration set.
    """
    common: dict[str, Any] = {
        "observer": observer, "weights": weights, "activations": activations,
        "weight_bits": weight_bits, "activation_bits": activation_bits, "symmetric": symmetric,
    }  # fmt: skip
    walk.check_finite(model)
    calibration = None if calibration is None else walk.check_calibration(calibration, model)
    model = sharing.structure(model) if experts.fused(model) else model
    chosen = selection.choose(model, common, ignore, per_layer)
    for own in chosen.different():
        _check(own, calibration)
    grids = _static(model, calibration, chosen)

    def make(name: str, module: nn.Module, own: dict[str, Any]) -> nn.Module:
        weight, bits = walk.weight_of(module), own["activation_bits"]
        layer = Int8Linear(
            weight.shape[1], weight.shape[0], per_channel=own["weights"] == "per_channel",
            static=name in grids, activations=own["activations"], activation_bits=bits,
            symmetric=own["symmetric"],
        )  # fmt: skip
        layer.set_weight(weight, own["weight_bits"])
        if name in grids:
            layer.input_scale = grids[name].scale.float()
            layer.input_zero = (grids[name].zero_point - 2 ** (bits - 1)).int()
        layer.bias = frozen(module.bias)  # type: ignore[arg-type]
        return layer.to(weight.device)

    told = {"calibration": None if calibration is None else list(calibration.shape)}
    return layer_by_layer(model, make, {"method": "w8a8", **common}, ignore, per_layer, told)


def _check(own: dict[str, Any], calibration: Tensor | None) -> None:
    check_bits(own["weight_bits"])
    check_bits(own["activation_bits"])
    for name, known in (("weights", WEIGHTS), ("activations", ACTIVATIONS)):
        if own[name] not in known:
            raise CompressionError(f"{name}={own[name]!r}: choose one of {', '.join(known)}.")
    if own["observer"] is None:
        return
    if own["activations"] != "per_tensor":
        raise CompressionError(
            "observer: a static range is per tensor; give activations='per_tensor'."
        )
    if calibration is None:
        raise CompressionError(
            "calibration: a static range needs token ids to observe; give some, or observer=None."
        )
    observers.make(own["observer"])  # an unknown name is an error before any work


def _static(
    model: nn.Module, calibration: Tensor | None, chosen: selection.Chosen
) -> dict[str, Grid]:
    """The fixed grid of each layer's input that has an observer.

    An expert that no token went to has none: its range is measured at each call.
    """
    grids: dict[str, Grid] = {}
    static = {name: own for name, own in chosen.own.items() if own["observer"] is not None}
    if not static or calibration is None:
        return grids
    made = {
        name: observers.make(
            own["observer"], bits=own["activation_bits"], symmetric=own["symmetric"]
        )
        for name, own in static.items()
    }
    observers.observe(model, calibration, made)
    for name, watched in made.items():
        if watched.low is not None:
            columns, own = walk.weight_of(chosen.layers[name]).shape[1], static[name]
            grids[name] = observers.grid(
                watched, columns, bits=own["activation_bits"], symmetric=own["symmetric"]
            )
    return grids
