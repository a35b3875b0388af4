"""Calibration with two models side by side, the one that is being quantized and the original: what
Qronos and GPTAQ share.

For a layer with inputs X in the first and X̃ in the second, of the same N tokens, both want

    H = (2/N) XᵀX,     C = (2/N) X̃ᵀX     (in, in).
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.models.source import source_of

from . import rtn
from .compressed import Compressed
from .grids import settings_of_grid
from .hessians import chance, check_hessian, too_few, warn_of_few_tokens
from .layer import LayerResult, QuantizedLinear, naming

ENOUGH = 2  # tokens for each input from which H and C are taken as they are


def check_moments(H: Tensor, C: Tensor, inputs: int) -> None:
    """Raises CompressionError, naming the one, unless both are finite and (inputs, inputs)."""
    for name, moment in (("H", H), ("C", C)):
        try:
            check_hessian(moment, inputs)
        except CompressionError as error:
            raise CompressionError(str(error).replace("H", name, 1)) from None


@torch.no_grad()
def quantize(
    model: PreTrainedModel, calibration: Tensor, quantize_layer: Callable[..., LayerResult],
    settings: dict[str, Any], ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """quantize_layer(weight, H, C, **settings but for the method's name) of every linear layer in
    the blocks, one block after the other.

    The original runs beside the copy and gives X̃. Experts whose tokens differ between the two (a
    router that decides otherwise) have no C;
    for them C = H, which makes both methods GPTQ. Those that too few tokens reach are rounded;
    `details["symmetric"]` names both.
    Works on a copy. Raises CompressionError as `gptq.quantize` does, and for a model whose blocks
    are read from disk.
    """
    began, method = time.perf_counter(), settings["method"]
    if source_of(model) is not None:
        raise CompressionError(
            f"{method}: runs the original beside the copy, so both must be in memory; "
            "load the model, or take gptq, which goes block by block."
        )
    walk.check_finite(model)
    calibration = walk.check_calibration(calibration, model)
    given, original = model, experts.listed(model)
    training = original.training
    original.eval()
    model = sharing.structure(model).eval()
    chosen = selection.choose(
        model,
        {name: value for name, value in settings.items() if name != "method"},
        ignore,
        per_layer,
    )
    names = chosen.names
    warn_of_few_tokens(calibration, chosen.layers)
    plain: list[str] = []
    both = zip(
        walk.through_blocks(model, calibration, method),
        walk.through_blocks(original, calibration, "original"),
        strict=True,
    )
    try:
        for (block, states), (before, exact) in both:
            moments = _moments(block, states, before, exact)
            for short, module in walk.linears(block).items():
                if (name := names.get(id(module))) is None:
                    continue
                weight, (H, C, tokens) = (
                    walk.weight_of(module).float(),
                    moments.get(short, (None, None, 0)),
                )
                own = chosen.own[name]
                with naming(name):
                    if too_few(H, tokens, calibration):
                        result = rtn.quantize_layer(weight, **settings_of_grid(own))
                        plain.append(name)
                    else:
                        plain += [name] * (C is None)
                        result = quantize_layer(
                            weight, *without_chance(H, H if C is None else C, tokens), **own
                        )
                walk.replace(model, name, QuantizedLinear.of(result, module.bias))  # type: ignore[arg-type]
    finally:
        original.train(training)
    settings = {**settings, "calibration": list(calibration.shape), **chosen.told}
    return Compressed(
        sharing.own(experts.fuse(model), given),
        settings,
        time.perf_counter() - began,
        {"symmetric": plain},
    )


def without_chance(H: Tensor, C: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """H and C of few tokens, both drawn towards the diagonal of H by `hessians.chance`: what tells
    X̃ from X is then taken in part, too.
    """
    share = chance(H, tokens, ENOUGH)
    alone = torch.diag(H.diagonal())
    return (torch.lerp(H, alone, share), torch.lerp(C, alone, share)) if share else (H, C)


def _moments(
    block: nn.Module, states: walk.States, before: nn.Module, exact: walk.States
) -> dict[str, tuple[Tensor, Tensor | None, int]]:
    """For each linear layer, by its name in the block:
    H, C (None where the tokens differ), and N.
    """
    sums: dict[str, list[Any]] = {}
    for one, other in zip(states, exact, strict=True):
        x, y = _inputs(block, one), _inputs(before, other)
        for name, seen in x.items():
            held = sums.setdefault(name, [0, 0, 0])
            held[0], held[2] = held[0] + seen.T @ seen, held[2] + len(seen)
            same = held[1] is not None and name in y and y[name].shape == seen.shape
            held[1] = held[1] + y[name].T @ seen if same else None
    return {
        name: (H * (2 / n), None if C is None else C * (2 / n), n)
        for name, (H, C, n) in sums.items()
    }


def _inputs(block: nn.Module, state: tuple) -> dict[str, Tensor]:
    """What enters each linear layer of a block, (tokens, in), for one batch."""
    layers = walk.linears(block)
    names = {module: name for name, module in layers.items()}
    seen: dict[str, list[Tensor]] = {}
    walk.watch_inputs(
        block,
        [state],
        lambda module, x: seen.setdefault(names[module], []).append(x.clone()),
        list(layers.values()),
    )  # type: ignore[arg-type]
    return {name: torch.cat(parts) for name, parts in seen.items()}
