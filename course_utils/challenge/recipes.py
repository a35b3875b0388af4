"""Baselines of the challenge: plans that turn the bundled model into the parts of a file."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.models import walk
from course_utils.quantization import entropy_coded, gptq, rtn
from course_utils.quantization.layer import QuantizedLinear

from . import encoders

EMBEDDING = "model.embed_tokens.weight"
Parts = dict[str, encoders.Part]


def matrices(model: PreTrainedModel) -> dict[str, Tensor]:
    """Name of the tensor → weight (out, in), float32, of every linear layer of the blocks."""
    return {
        f"{name}.weight": walk.weight_of(layer).detach().float()
        for name, layer in walk.compressible(model).items()
    }


def embedding_of(model: PreTrainedModel) -> Tensor:
    """The embedding (tokens, width), float32."""
    layer: Any = model.get_input_embeddings()
    return layer.weight.detach().float()


def on_grid(weight: Tensor, *, bits: int, group_size: int = 64) -> encoders.Part:
    """Plain rounding: min-max grids of groups of `group_size`."""
    made = rtn.quantize_layer(weight, bits=bits, group_size=group_size)
    return encoders.grid(
        made.codes, made.grid.scale, made.grid.zero_point, bits=bits, group=group_size
    )


def by_gptq(
    model: PreTrainedModel, calibration: Tensor, *, bits: int = 4, group_size: int = 64
) -> Parts:
    """GPTQ's codes for every linear layer of the blocks."""
    made = gptq.quantize(model, calibration, bits=bits, group_size=group_size).model
    found = {}
    for name, layer in made.named_modules():
        if isinstance(layer, QuantizedLinear):
            grid = layer.grid()
            found[f"{name}.weight"] = encoders.grid(
                layer.codes, grid.scale, grid.zero_point, bits=bits, group=group_size
            )
    return found


def step_for(weights: dict[str, Tensor], bits: float) -> float:
    """The one step at which plain rounding of all these weights costs `bits` bits a weight at the
    entropy.
    """
    return entropy_coded.find_step(weights, {name: torch.ones(1) for name in weights}, bits)


def coded(weight: Tensor, step: float, *, classes: int = 4) -> encoders.Part:
    """Round to whole steps, and code what comes out."""
    return encoders.coded(
        entropy_coded.round_to(weight.float(), torch.tensor(step)),
        torch.tensor(step),
        classes=classes,
    )


@torch.no_grad()
def walked(
    model: PreTrainedModel,
    calibration: Tensor,
    step: float,
    *,
    classes: int = 8,
    damping: float = 0.01,
) -> Parts:
    """GPTQ's walk with one step for all linear layers of the blocks, each layer after the ones
    before it, and its codes coded.

    `calibration` (sequences, context) token ids. The model is not changed.
    """
    weights = {name.removesuffix(".weight"): weight for name, weight in matrices(model).items()}
    steps = {name: torch.tensor([step]) for name in weights}
    made = entropy_coded.coded(
        model,
        weights,
        steps,
        calibration,
        {name: {"classes": 1, "damping": damping} for name in weights},
    )
    layers: dict[str, Any] = {name: made.get_submodule(name) for name in weights}
    return {
        f"{name}.weight": encoders.coded(layer.codes, torch.tensor(step), classes=classes)
        for name, layer in layers.items()
    }


def mixed(
    model: PreTrainedModel,
    calibration: Tensor,
    *,
    blocks: float,
    embedding: float,
    classes: int = 8,
) -> Parts:
    """The walk at about `blocks` bits a weight, and the tied embedding rounded and coded at about
    `embedding` bits.
    """
    table = embedding_of(model)
    parts = walked(model, calibration, step_for(matrices(model), blocks), classes=classes)
    return parts | {EMBEDDING: coded(table, step_for({EMBEDDING: table}, embedding))}
