"""SmoothQuant (Xiao et al., 2023): move the difficulty of quantizing activations into the weights.

Activations of large models have a few channels that are a hundred times larger than the others;
they set the step of a per-tensor grid, and the other channels vanish. Weights have no such
channels. With

    s_j = max|X_j|^α / max|W_j|^(1−α)                                     (eq. 4)

for each input channel j, X diag(s)⁻¹ and W diag(s) share the spread between them, and the division
by s is folded into the norm before the layer.
"""

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk

from . import folding, w8a8
from .compressed import Compressed


def smoothing_scale(activations: Tensor, weights: Tensor, alpha: float = 0.5) -> Tensor:
    """S (in,) from the largest magnitude of each channel in the activations (in,) and in the
    weights (in,).

    A channel that is zero in either gets 1. α = 1 makes all activations alike, α = 0 all weights.
    """
    if not 0 <= alpha <= 1:
        raise CompressionError(f"alpha={alpha}: choose a number from 0 to 1, usually 0.5.")
    used = (activations > 0) & (weights > 0)
    scale = activations.clamp(min=1e-8) ** alpha / weights.clamp(min=1e-8) ** (1 - alpha)
    return torch.where(used, scale, 1.0).clamp(1e-5, 1e5)


@torch.no_grad()
def smooth(model: PreTrainedModel, calibration: Tensor, *, alpha: float = 0.5) -> PreTrainedModel:
    """A copy of the model that computes the same function with smoothed inputs behind every norm of
    the blocks.
    """
    made, scales = _scales(model, calibration, alpha)
    theirs = sharing.memory_of(model)
    for fold, scale in scales:
        for part in (fold.source, *fold.targets, *fold.others):
            sharing.apart(part, theirs)
        folding.apply(fold, scale)
    return sharing.own(experts.fuse(made), model)


@torch.no_grad()
def _scales(
    model: PreTrainedModel, calibration: Tensor, alpha: float
) -> tuple[Any, list[tuple[folding.Fold, Tensor]]]:
    """A copy that shares the model's numbers, and what to fold into its norms and layers."""
    calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    walk.compressible(model)  # a compressed model is an error before any work
    listed = sharing.structure(model).eval()
    chosen = folding.norms_before(listed)
    largest: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        found = x.detach().float().flatten(0, -2).abs().amax(0)
        largest[name] = torch.maximum(largest[name], found) if name in largest else found

    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    names = [f"{fold.name}.{i}" for i, fold in enumerate(chosen)]
    handles = [
        target.register_forward_pre_hook(lambda _, args, name=name: see(name, args[0]))
        for name, fold in zip(names, chosen, strict=True)
        for target in (
            fold.targets
            if any(".listed." in name for name in fold.target_names)
            else fold.targets[:1]
        )
    ]
    try:
        for ids in calibration.split(8):
            listed(input_ids=ids.to(model.device), **options)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for name, fold in zip(names, chosen, strict=True):
        weights = torch.stack([walk.weight_of(t).float().abs().amax(0) for t in fold.targets]).amax(
            0
        )
        if not torch.isfinite(largest[name]).all() or not torch.isfinite(weights).all():
            raise CompressionError(
                f"{fold.name}: NaN or infinity in its outputs or in the weights behind it."
            )
        found.append((fold, smoothing_scale(largest[name], weights, alpha)))
    return listed, found


# a kind of linear layer → the same with its weight scaled at each use
_SCALED: dict[type, type] = {}


class _Scaled:
    """A linear layer whose weight is multiplied by `spread` (in,) whenever it is looked at, so that
    no second one is kept.
    """

    @property
    def weight(self: Any) -> Tensor:
        weight = self._parameters["weight"].detach()
        spread: Any = self.spread
        return weight * (spread[:, None] if isinstance(self, Conv1D) else spread).to(weight)


def _scale_when_used(layer: Any, spread: Tensor) -> None:
    kind = type(layer)
    layer.spread = spread
    layer.__class__ = _SCALED.setdefault(kind, type(f"Scaled{kind.__name__}", (_Scaled, kind), {}))


def _settle(model: torch.nn.Module) -> None:
    """Layers that still are scaled at each use become ordinary ones with that weight."""
    scaled: list[Any] = [module for module in model.modules() if isinstance(module, _Scaled)]
    for layer in scaled:
        weight = layer.weight
        layer.__class__ = type(layer).__mro__[2]
        layer.weight = torch.nn.Parameter(weight, layer.weight.requires_grad)
        del layer.spread


def quantize(
    model: PreTrainedModel, calibration: Tensor, *, alpha: float = 0.5, observer: str | None = None,
    activations: str = "per_tensor", weights: str = "per_channel", ignore: selection.Patterns = (),
    per_layer: selection.PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Smooth, then INT8 weights and activations as in `w8a8.quantize`. Works on a copy.

    Layers that `ignore` names are smoothed with those that share their input, and not rounded.
    `per_layer` (of what `w8a8.quantize` sets, not of alpha: layers with one input share its scales)
    as in `rtn.quantize`.
    """
    began = time.perf_counter()
    common: dict[str, Any] = {
        "observer": observer, "activations": activations, "weights": weights, "weight_bits": 8,
        "activation_bits": 8, "symmetric": True,
    }  # fmt: skip
    calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    choice = selection.choose(
        sharing.structure(model) if experts.fused(model) else model, common, ignore, per_layer
    )
    smoothed, scales = _scales(model, calibration, alpha)
    theirs = sharing.memory_of(model)
    for fold, scale in scales:  # of norms: their weights are small
        for part in (fold.source, *fold.others):
            sharing.apart(part, theirs)
        folding.apply(dataclasses.replace(fold, targets=()), scale)
        for target in fold.targets:
            _scale_when_used(target, fold.spread(scale))
    observed = calibration if any(own["observer"] for own in choice.different()) else None
    result = w8a8.quantize(smoothed, observed, **common, ignore=ignore, per_layer=per_layer)
    _settle(result.model)
    settings = {
        **result.settings,
        "method": "smoothquant",
        "alpha": alpha,
        "calibration": list(calibration.shape),
    }
    return Compressed(result.model, settings, time.perf_counter() - began)
