"""Which layer gets how many bits: the choice that does the least damage within a budget of bytes.

    minimize Σ_l damage[l][o_l]     subject to     Σ_l bytes[l][o_l] ≤ budget

one option o_l for each layer: a multiple-choice knapsack. Damages add where changes are small
(`sensitivity`); so the optimum is found exactly, and the true damage of the chosen model is
measured afterwards.
"""

import itertools
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import by_window, replay
from .sensitivity import kept_weight

Option = TypeVar("Option", bound=Hashable)
Table = Mapping[str, Mapping[Option, float]]


def allocate(damage: Table, size: Table, budget: float) -> dict[str, Any]:
    """{layer: option} of the least total damage whose total size is at most `budget`; exact.

    damage[layer][option], any real numbers, and size[layer][option], positive (bytes or bits).
    Layer by layer the best damage for each total size is kept, without those that another total
    beats in both: at most one for each size that is possible. Of equal damages the smaller size
    wins, then the option that is listed first.
    Raises CompressionError if the tables do not name the same options, or if even the smallest
    sizes exceed the budget.
    """
    if (
        not damage
        or {k: set(v) for k, v in damage.items()} != {k: set(v) for k, v in size.items()}
        or not all(damage.values())
    ):
        raise CompressionError(
            "damage, size: name the same layers and the same options in both, at least one of each."
        )
    numbers = [
        x for table in (damage, size) for options in table.values() for x in options.values()
    ]
    if (
        not all(torch.isfinite(torch.tensor(numbers, dtype=torch.float64)))
        or min(x for o in size.values() for x in o.values()) <= 0
    ):
        raise CompressionError(
            "damage, size: numbers that are finite, and sizes above 0; measure the layer again."
        )
    least = sum(min(options.values()) for options in size.values())
    if least > budget:
        raise CompressionError(
            f"budget={budget:,}: the smallest options take {least:,} already; "
            "raise it, or offer smaller ones."
        )
    # (size, damage, options so far), sizes rise and damages fall
    front: list[tuple[float, float, tuple]] = [(0.0, 0.0, ())]
    remaining = least
    for layer in damage:
        remaining -= min(size[layer].values())
        grown = [
            (taken + size[layer][option], harm + damage[layer][option], (*chosen, option))
            for taken, harm, chosen in front for option in damage[layer]
            if taken + size[layer][option] + remaining <= budget * (1 + 1e-12)
        ]  # fmt: skip
        grown.sort(key=lambda entry: entry[:2])
        front = []
        for entry in grown:
            if not front or entry[1] < front[-1][1]:
                front.append(entry)
    return dict(zip(damage, front[-1][2], strict=True))


def as_per_layer(chosen: Mapping[str, int], setting: str = "bits") -> dict[str, dict[str, int]]:
    """The `per_layer` argument of a quantizer for chosen bits by layer."""
    return {f"^{re.escape(name)}$": {setting: value} for name, value in chosen.items()}


def measured_damages(
    model: PreTrainedModel,
    ids: Tensor,
    options: Mapping[Option, Callable[[Tensor], Tensor]],
    *,
    progress: bool = True,
) -> dict[str, dict[Option, float]]:
    """KL from the original, nats, when one layer alone is changed: {layer: {option: KL}}.

    `options`: {name: function of a weight (out, in) that gives its compressed form}; `ids`
    (windows, context), of another text than the one that the result is judged on. `model` stays as
    it is.
    """
    original = by_window.predictions(model, ids)
    layers, place = walk.compressible(model), replay.block_of(model)
    names = sorted(layers, key=lambda name: place.get(name, 0))
    found: dict[str, dict[Option, float]] = {name: {} for name in layers}
    done = tqdm(total=len(layers), desc="damages", leave=False, disable=not progress)
    for block, group in itertools.groupby(names, key=lambda name: place.get(name, 0)):
        with replay.before(model, block, ids):
            for name in group:
                original_weight = walk.weight_of(layers[name])
                with kept_weight(layers[name]) as stored:
                    layers[name].weight.data = stored.clone()
                    for option, change in options.items():
                        walk.weight_of(layers[name]).copy_(change(original_weight.float()))
                        found[name][option] = float(
                            by_window.kl_by_window(original, model, ids).mean()
                        )
                done.update()
    done.close()
    return found
