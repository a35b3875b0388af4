"""SmoothQuant (Xiao et al., 2023): move the difficulty of quantizing activations into the weights.

Activations of large models have a few channels that are a hundred times larger than the others; they set the step of
a per-tensor grid, and the other channels vanish. Weights have no such channels. With

    s_j = max|X_j|^α / max|W_j|^(1−α)                                     (eq. 4)

for each input channel j, X diag(s)⁻¹ and W diag(s) share the spread between them, and the division by s is folded
into the norm before the layer.
"""

import time

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, walk

from . import folding, w8a8
from .compressed import Compressed


def smoothing_scale(activations: Tensor, weights: Tensor, alpha: float = 0.5) -> Tensor:
    """s (in,) from the largest magnitude of each channel in the activations (in,) and in the weights (in,).

    A channel that is zero in either gets 1. α = 1 makes all activations alike, α = 0 all weights.
    """
    if not 0 <= alpha <= 1:
        raise CompressionError(f"alpha={alpha}: choose a number from 0 to 1, usually 0.5.")
    used = (activations > 0) & (weights > 0)
    scale = activations.clamp(min=1e-8) ** alpha / weights.clamp(min=1e-8) ** (1 - alpha)
    return torch.where(used, scale, 1.0).clamp(1e-5, 1e5)


@torch.no_grad()
def smooth(model: PreTrainedModel, calibration: Tensor, *, alpha: float = 0.5) -> PreTrainedModel:
    """A copy of the model that computes the same function with smoothed inputs behind every norm of the blocks."""
    calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    walk.compressible(model)  # a compressed model is an error before any work
    listed = experts.copy_listed(model).eval()
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
        for target in (fold.targets if any(".listed." in name for name in fold.target_names) else fold.targets[:1])
    ]
    try:
        for ids in calibration.split(8):
            listed(input_ids=ids.to(model.device), **options)
    finally:
        for handle in handles:
            handle.remove()
    for name, fold in zip(names, chosen, strict=True):
        weights = torch.stack([walk.weight_of(t).float().abs().amax(0) for t in fold.targets]).amax(0)
        if not torch.isfinite(largest[name]).all() or not torch.isfinite(weights).all():
            raise CompressionError(f"{fold.name}: NaN or infinity in its outputs or in the weights behind it.")
        folding.apply(fold, smoothing_scale(largest[name], weights, alpha))
    return experts.fuse(listed)


def quantize(
    model: PreTrainedModel, calibration: Tensor, *, alpha: float = 0.5, observer: str | None = None,
    activations: str = "per_tensor", weights: str = "per_channel", ignore: selection.Patterns = (),
) -> Compressed:  # fmt: skip
    """Smooth, then INT8 weights and activations as in `w8a8.quantize`. Works on a copy.

    Layers in whose names a regular expression of `ignore` is found are smoothed with those that share their input, and not rounded.
    """
    began = time.perf_counter()
    calibration = walk.check_calibration(calibration, model)
    smoothed = smooth(model, calibration, alpha=alpha)
    observed = calibration if observer else None
    result = w8a8.quantize(smoothed, observed, observer=observer, activations=activations, weights=weights, ignore=ignore)
    settings = {**result.settings, "method": "smoothquant", "alpha": alpha, "calibration": list(calibration.shape)}
    return Compressed(result.model, settings, time.perf_counter() - began)
