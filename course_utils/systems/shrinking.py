"""Pruning to a latency: each block's attention and MLP may keep another number of heads and
channels.

    minimize Σ damage[part][width]     subject to     Σ seconds[part][width] ≤ target

`candidates` refits each part for every width, `damages` measures what it costs alone,
`evaluation.allocation.allocate` chooses exactly, and `build` makes the smaller model. After HALP
(Shen et al., 2021), with an exact knapsack in place of its greedy start.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.evaluation import by_window
from course_utils.evaluation.sensitivity import kept_weight
from course_utils.models import walk
from course_utils.pruning import anatomy, groups, structured

from .latency import LatencyTable

# {layer: {width: (units that stay, refitted weight with zeros elsewhere)}}
Options = dict[str, dict[int, tuple[Tensor, Tensor]]]


@torch.no_grad()
def candidates(
    model: PreTrainedModel, calibration: Tensor, *, heads: Sequence[int], channels: Sequence[int]
) -> Options:
    """For each block's `o_proj` and `down_proj` the units that stay at each width, by energy, and
    the weight refitted to them.

    `heads` counts query heads; key-value heads go with all the query heads that share them. Each
    part is fitted on the inputs that the *whole* model gives it. Raises CompressionError for widths
    that a block does not have.
    """
    calibration, found = walk.check_calibration(calibration, model), {}
    ratio = model.config.num_attention_heads // model.config.num_key_value_heads
    for i, (block, states) in enumerate(
        walk.through_blocks(copy.deepcopy(model), calibration, "parts")
    ):
        for name, widths, unit in (
            ("self_attn.o_proj", heads, _unit(model, "o_proj")),
            ("mlp.down_proj", channels, 1),
        ):
            layer = block.get_submodule(name)
            weight, H = (
                walk.weight_of(layer).float(),
                structured.second_moment(block, states, layer, name),
            )
            together = ratio if unit > 1 else 1
            whole, options = weight.shape[1] // unit, {}
            for width in widths:
                if not 0 < width <= whole or width % together:
                    raise CompressionError(
                        f"{name}: {width} of {whole} units, in steps of {together}; "
                        "choose other widths."
                    )
                stay = groups.members(
                    groups.kept(
                        groups.score(weight, H, unit * together, "energy"), width // together
                    ),
                    together,
                )
                columns, new = groups.members(stay, unit), torch.zeros_like(weight)
                new[:, columns] = (
                    weight if width == whole else groups.compensated(weight, H, columns)
                )
                options[width] = (stay, new)
            found[f"model.layers.{i}.{name}"] = options
    return found


@torch.no_grad()
def damages(model: PreTrainedModel, ids: Tensor, options: Options) -> dict[str, dict[int, float]]:
    """KL from the original, nats a token, when one part alone has each width; `ids` of another text
    than the final judge.
    """
    original = by_window.predictions(model, ids)
    found: dict[str, dict[int, float]] = {}
    for name, widths in options.items():
        module = model.get_submodule(name)
        with kept_weight(module) as weight:
            found[name] = {}
            for width, (stay, new) in widths.items():
                module.weight.data = new.to(weight.dtype)
                whole = len(stay) * _unit(model, name) == weight.shape[1]
                found[name][width] = (
                    0.0 if whole else float(by_window.kl_by_window(original, model, ids).mean())
                )
    return found


def times(
    model: PreTrainedModel, options: Options, table: LatencyTable
) -> dict[str, dict[int, float]]:
    """Seconds of each part at each width, from the table."""
    hidden = model.config.hidden_size
    return {
        n: {w: table.of(("attention" if "attn" in n else "mlp", hidden, w)) for w in widths}
        for n, widths in options.items()
    }


def weights(model: PreTrainedModel, options: Options) -> dict[str, dict[int, int]]:
    """Weights of each part at each width, a count that does not know the machine:
    what FLOPs go by.
    """
    found: dict[str, dict[int, int]] = {}
    for name, widths in options.items():
        block = model.get_submodule(name.rsplit(".", 1)[0])
        every = sum(walk.weight_of(m).numel() for m in walk.linears(block).values())
        whole = walk.weight_of(model.get_submodule(name)).shape[1] // _unit(model, name)
        found[name] = {w: every * w // whole for w in widths}
    return found


@torch.no_grad()
def build(model: PreTrainedModel, options: Options, chosen: Mapping[str, int]) -> PreTrainedModel:
    """A copy with really smaller layers.

    Its config still names the old widths, so it runs here and is not to be saved as it is.
    """
    made = copy.deepcopy(model).eval()
    for name, width in chosen.items():
        stay, new = options[name][width]
        parent = made.get_submodule(name.rsplit(".", 1)[0])
        unit = _unit(model, name)
        columns = groups.members(stay, unit)
        anatomy.set_weight(made.get_submodule(name), new[:, columns])
        if name.endswith("down_proj"):
            for before in (parent.gate_proj, parent.up_proj):
                anatomy.take(before, rows=columns)
        else:
            shared = model.config.num_attention_heads // model.config.num_key_value_heads
            anatomy.take(parent.q_proj, rows=columns)
            for before in (parent.k_proj, parent.v_proj):
                anatomy.take(before, rows=groups.members((stay[::shared] // shared), unit))
    return made


def _unit(model: PreTrainedModel, name: str) -> int:
    """Inputs of a layer that belong to one unit: a head's, or one."""
    attention: Any = walk.blocks(model)[0].self_attn
    return attention.head_dim if name.endswith("o_proj") else 1


def uniform(
    options: Options, cost: Mapping[str, Mapping[int, float]], budget: float
) -> dict[str, int]:
    """The same share of every part: the widest step of widths, counted from the whole, whose cost
    fits the budget.

    Raises CompressionError if even the narrowest does not fit.
    """
    steps = {name: sorted(widths, reverse=True) for name, widths in options.items()}
    for share in sorted(
        {w / max(widths) for widths in options.values() for w in widths}, reverse=True
    ):
        chosen = {
            name: next((w for w in widths if w <= share * widths[0] + 1e-9), widths[-1])
            for name, widths in steps.items()
        }
        if sum(cost[n][w] for n, w in chosen.items()) <= budget:
            return chosen
    raise CompressionError(
        f"budget={budget:.3g}: the narrowest widths take more; raise it, or offer narrower ones."
    )
