"""Quantization-aware training: train through the rounding.

Forward, a layer uses ŵ = s (clamp(round(w / s) + z, 0, 2^b − 1) − z). Rounding has the derivative 0
nearly everywhere, so backward it is taken for the identity (straight-through estimator, Bengio et
al., 2013): dL/dw = dL/dŵ inside the grid's range, 0 outside, where the clamp holds (Hubara,
Courbariaux et al., 2016). LSQ (Esser et al., 2020) trains the step s as well, with

    dŵ/ds = round(w/s) − w/s   inside,    −z or 2^b − 1 − z   at the ends,

and multiplies that gradient by 1 / √(n · q_max) for the n weights that share a step.
"""

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import selection, walk

from . import rtn
from .compressed import Compressed
from .grids import Grid, dequantize, exact_half
from .grids import quantize as to_codes
from .layer import LayerResult, QuantizedLinear, naming

# Adam moves every number by about its rate, whatever the gradient's size; a step moves whole groups
STEP_RATE = 0.1


def round_ste(x: Tensor) -> Tensor:
    """round(x), with the derivative of x."""
    return x + (x.round() - x).detach()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, with its gradient multiplied by `factor`."""
    return x * factor + (x * (1 - factor)).detach()


def fake_quantize(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """ŵ = s (clamp(round(w/s) + z, 0, 2^b − 1) − z), differentiable in w and in s; tensors
    broadcast.

    The clamp comes before the rounding, which gives the same ŵ and LSQ's gradients: 0 for w outside
    the grid.
    """
    inside = (w / scale).clamp(-zero, 2**bits - 1 - zero)
    return round_ste(inside) * scale


class QATLinear(nn.Module):
    """A linear layer that trains its weight (out, in), and its steps (out, groups), through the
    grid.
    """

    zero_point: Tensor
    group_index: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, grid: Grid, learned_step: bool = True
    ) -> None:
        super().__init__()
        self.bits, self.symmetric = grid.bits, grid.symmetric
        self.weight = nn.Parameter(weight.detach().clone().contiguous())
        self.step = nn.Parameter(grid.scale.to(weight.dtype).clone(), requires_grad=learned_step)
        self.register_buffer("zero_point", grid.zero_point.to(weight.dtype).clone())
        self.register_buffer("group_index", grid.group_index)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        sharing = weight.shape[1] / grid.scale.shape[1]
        self.step_factor = (sharing * max(1, 2 ** (grid.bits - 1) - 1)) ** -0.5

    def quantized(self) -> Tensor:
        """Ŵ (out, in), differentiable."""
        groups = self.weight.view(*self.step.shape, -1)
        step = scale_gradient(self.step, self.step_factor).abs().clamp(min=1e-8)
        return fake_quantize(
            groups, step[..., None], self.zero_point[..., None], self.bits
        ).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.quantized(), self.bias)

    def result(self) -> LayerResult:
        """Codes and grid of the trained layer, its steps rounded to the precision in which they are
        stored.
        """
        scale = exact_half(self.step.detach().abs().clamp(min=1e-8)).to(self.weight.dtype)
        grid = Grid(scale, self.zero_point, self.group_index, self.bits, self.symmetric)
        codes = to_codes(self.weight.detach(), grid)
        return LayerResult(codes, grid, dequantize(codes, grid))


def quantize(
    model: PreTrainedModel, data: Tensor, *, bits: int = 2, group_size: int | None = 64,
    symmetric: bool = False, steps: int = 200, batch: int = 8, learning_rate: float = 1e-3,
    learned_step: bool = True, distill: float = 1.0, seed: int = 0, ignore: selection.Patterns = (),
    per_layer: selection.PerLayer | None = None, teacher: PreTrainedModel | None = None,
) -> Compressed:  # fmt: skip
    """Train the blocks of a causal language model with quantized weights, then pack them.

    Works on a copy, which is trained in float32 and then given the model's own precision.

    `data`: token ids (sequences, context); each step takes `batch` of them at random. The loss is
    (1 − distill) · cross-entropy of the next token + distill · KL(original ‖ quantized). The
    original is `model`, or another `teacher` with the same tokens: the one from before a pruning,
    for a model that is pruned and quantized. Grids start as round-to-nearest;
    AdamW, the learning rate falling linearly to zero; the grids' steps learn at a tenth of it.
    Embeddings and head stay as they are.
    `ignore`, `per_layer` (of bits, group_size, symmetric, learned_step) as in `rtn.quantize`.
    `details["loss"]` holds the loss of each step.
    Raises CompressionError for bad settings or data, or when the loss stops being finite.
    """
    began = time.perf_counter()
    data = walk.check_calibration(data, model, whole=True)
    walk.check_finite(model)
    if steps < 1 or batch < 1 or learning_rate <= 0 or not 0 <= distill <= 1:
        raise CompressionError(
            "steps and batch must be at least 1, learning_rate above 0, distill from 0 to 1."
        )
    # in half precision small steps are lost, and Adam's ε is 0
    original, model = model, copy.deepcopy(model).float().eval()
    grid_settings = {"bits": bits, "group_size": group_size, "symmetric": symmetric}
    layers: dict[str, QATLinear] = {}
    learns: dict[str, bool] = {}
    chosen = selection.choose(
        model, {**grid_settings, "learned_step": learned_step}, ignore, per_layer
    )
    left = [
        module for name, module in walk.compressible(model).items() if name not in chosen.layers
    ]
    for name, module in chosen.layers.items():
        own = dict(chosen.own[name])
        learns[name] = own.pop("learned_step")
        weight = walk.weight_of(module).float()
        with naming(name):
            grid = rtn.quantize_layer(weight, **own).grid
        layers[name] = QATLinear(weight, module.bias, grid, learns[name])
        walk.replace(model, name, layers[name])
    model.requires_grad_(False)
    for parameter in walk.blocks(model).parameters():
        parameter.requires_grad_(True)
    for module in left:
        module.requires_grad_(False)
    for name, layer in layers.items():
        layer.step.requires_grad_(learns[name])
    teacher = original if teacher is None else teacher
    if teacher.config.get_text_config().vocab_size != model.config.get_text_config().vocab_size:
        raise CompressionError(
            "teacher: its vocabulary is not the model's; take the original that "
            "the model was made from."
        )
    was_training = teacher.training
    try:
        losses = _train(model, teacher.eval(), data, steps, batch, learning_rate, distill, seed)
    finally:
        teacher.train(was_training)
    for name, layer in layers.items():
        walk.replace(model, name, QuantizedLinear.of(layer.result(), layer.bias))
    model.requires_grad_(False).zero_grad(set_to_none=True)
    walk.as_precise_as(original, model)
    settings = {
        "method": "qat", **grid_settings, "steps": steps, "batch": batch,
        "learning_rate": learning_rate, "learned_step": learned_step, "distill": distill,
        "seed": seed, "data": list(data.shape),
        **chosen.told,
    }  # fmt: skip
    return Compressed(model.eval(), settings, time.perf_counter() - began, {"loss": losses})


def _train(
    model: nn.Module,
    teacher: Any,
    data: Tensor,
    steps: int,
    batch: int,
    learning_rate: float,
    distill: float,
    seed: int,
) -> list[float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    steps_of_grids = {id(m.step) for m in model.modules() if isinstance(m, QATLinear)}
    rates = {id(p): learning_rate * (STEP_RATE if id(p) in steps_of_grids else 1) for p in trained}
    groups = [
        {"params": [p for p in trained if rates[id(p)] == rate], "rate": rate}
        for rate in sorted(set(rates.values()))
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    bar = tqdm(range(steps), desc="QAT", leave=False)
    for step in bar:
        ids = data[torch.randint(len(data), (batch,), generator=generator)].to(model.device)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (1 - step / steps)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        loss = logits.new_zeros(())
        if distill < 1:
            loss = loss + (1 - distill) * nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        if distill > 0:
            with torch.no_grad():
                goal = (
                    teacher(input_ids=ids, use_cache=False)
                    .logits[:, :-1]
                    .flatten(0, 1)
                    .float()
                    .log_softmax(-1)
                )
            loss = loss + distill * nn.functional.kl_div(
                logits.log_softmax(-1), goal, log_target=True, reduction="batchmean"
            )
        if not torch.isfinite(loss):
            raise CompressionError(
                f"learning_rate={learning_rate}: the loss is not finite at step {step}; "
                "use a smaller one."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
