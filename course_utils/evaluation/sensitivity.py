"""How much does each layer matter?

The damage of small noise in one layer, and from it the damage of quantizing all.

    α_l = KL(original ‖ layer l with noise of relative energy t²) / t²,
    KL(all layers) ≈ Σ_l α_l t_l²

with t_l² = ‖Ŵ_l − W_l‖² / ‖W_l‖² (HIGGS' linearity, Malinovskii et al., 2025). It holds while
changes are small: KL is ½ δᵀFδ, and errors of different layers are nearly uncorrelated.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.theory import noise

from . import by_window, one_view


@contextmanager
def kept_weight(module: Any) -> Iterator[Tensor]:
    """The weight of a layer, as it is stored; at the end it is back, whatever tensor was put in its
    place.
    """
    weight = module.weight.data
    try:
        yield weight
    finally:
        module.weight.data = weight


def noise_sensitivities(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    level: float = 0.05,
    kind: str = "additive",
    seeds: Sequence[int] = (0,),
    layers: Sequence[str] | None = None,
) -> dict[str, float]:
    """α of every linear layer of the blocks (or of `layers` alone), the mean over draws of noise;
    `ids` (windows, context).

    `model` stays as it is.

    `level`: relative size of the noise, 0.05 by default. Too small and float32 hides it, too large
    and KL is no longer quadratic. Raises CompressionError for a level that is not positive.
    """
    if not level > 0 or not seeds:
        raise CompressionError(
            f"level={level}, seeds={tuple(seeds)}: give a positive level and at least one seed."
        )
    original = by_window.predictions(model, ids)
    found = {}
    for i, (name, module) in enumerate(
        tqdm(walk.compressible(model).items(), desc="sensitivities", leave=False)
    ):
        if layers is not None and name not in layers:
            continue
        alphas = []
        with kept_weight(module) as weight:
            for seed in seeds:
                rng = torch.Generator().manual_seed(1000 * seed + i)
                module.weight.data = noise.noisy(weight.float(), level, kind, rng).to(weight.dtype)
                t2 = noise.relative_error(weight.float(), module.weight.data.float())
                alphas.append(float(by_window.kl_by_window(original, model, ids).mean()) / t2)
        found[name] = sum(alphas) / len(alphas)
    return found


def relative_errors(model: nn.Module, compressed: nn.Module) -> dict[str, float]:
    """t_l² of every linear layer of the blocks of `model`, from the weights that `compressed`
    computes with.

    Raises CompressionError for a layer of which `compressed` has no weight of the same shape.
    """
    layers = walk.compressible(model)
    return {
        name: float(delta.pow(2).sum() / walk.weight_of(layers[name]).float().pow(2).sum())
        for name, delta in one_view.change(model, compressed).items()
    }


@torch.no_grad()
def streams(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    """The residual stream behind each block, (windows, context, width) each."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in walk.blocks(model)
    ]
    try:
        model(input_ids=ids.long().to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def stream_errors(
    model: PreTrainedModel, compressed: PreTrainedModel, ids: Tensor, only: int | None = None
) -> list[float]:
    """‖x̂ − x‖ / ‖x‖ of the residual stream behind each block; with `only`, when that block alone
    is the compressed one.
    """
    exact = streams(model, ids)
    if only is None:
        changed = streams(compressed, ids)
    else:
        blocks = walk.blocks(model)
        kept, blocks[only] = blocks[only], walk.blocks(compressed)[only]
        try:
            changed = streams(model, ids)
        finally:
            blocks[only] = kept
    return [float((a - b).norm() / b.norm()) for a, b in zip(changed, exact, strict=True)]


def part_way(
    original: Tensor, model: PreTrainedModel, compressed: nn.Module, ids: Tensor, share: float
) -> Tensor:
    """(windows,) KL from `original` (`by_window.predictions`) of the weights W + share · (Ŵ − W):
    the same error, smaller.

    KL / share² is the same for all shares as long as KL is quadratic in the error. `model` stays as
    it is.
    """
    with ExitStack() as stack:
        for name, module in walk.compressible(model).items():
            weight = stack.enter_context(kept_weight(module))
            error = walk.weight_of(compressed.get_submodule(name)).to(
                weight.dtype
            ) - walk.weight_of(module)
            module.weight.data = weight + share * (error.T if isinstance(module, Conv1D) else error)
        return by_window.kl_by_window(original, model, ids)
