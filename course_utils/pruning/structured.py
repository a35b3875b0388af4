"""Structured pruning: whole channels, heads, layers and residual dimensions go, and the tensors get
smaller.

What comes out is an ordinary model of the same class with a smaller config: it saves, loads and
generates with nothing from this package. Every layer keeps the same number of channels and heads,
since the config has one number for all.
"""

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed, empty_like

from . import anatomy, groups, mlp
from .refit import narrow, second_moment, warn_of_few_tokens


@torch.no_grad()
def prune_mlp(
    model: PreTrainedModel, calibration: Tensor, *, keep: int | float = 0.5,
    score: str | Callable[[Tensor, Tensor, int], Tensor] = "energy", compensate: bool = True,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Remove MLP channels: rows of the projections into the MLP (gate and up, or one), columns of
    the one out of it.

    `keep`: a fraction of the channels (float) or their number (int), the same in every block.
    `score`: 'energy', 'surgeon' or 'magnitude' (`groups.score`), or a function of (W, H, count)
    that gives the channels that stay (`qubo.chooser`). `compensate`: refit the output projection to
    the channels that stay, by least squares. Blocks are done in order; each sees inputs that went
    through the pruned ones.
    `calibration` holds token ids (sequences, context). Works on a copy.
    Raises CompressionError for an unknown architecture, empty calibration data or a bad `keep`, and
    for `ignore` and `per_layer`:
    the config has one number for all blocks.
    """
    began = time.perf_counter()
    selection.none_here(anatomy.ONE_NUMBER, ignore, per_layer)
    anatomy.check_model(model)
    parts, calibration = mlp.of(model), walk.check_calibration(calibration, model)
    if isinstance(getattr(model.config.get_text_config(), parts.width, None), list | tuple):
        raise CompressionError(
            f"model: {model.config.model_type} has a number of channels for each block; "
            "use wanda or sparsegpt."
        )
    before = walk.weight_of(walk.blocks(model)[0].get_submodule(parts.out)).shape[1]
    count = groups.how_many(before, keep, "channels")
    config = anatomy.smaller_config(model.config, **{parts.width: count})
    skeleton = walk.blocks(empty_like(type(model), config))
    warn_of_few_tokens(calibration.numel(), before, parts.out, compensate)
    work = sharing.structure(model, experts_apart=False).eval()
    chosen = []
    for block, states in walk.through_blocks(work, calibration, "MLP channels"):
        out = block.get_submodule(parts.out)
        H = second_moment(block, states, out, f"block {len(chosen)}: {parts.out}")
        weight = walk.weight_of(out).float()
        columns = (
            score(weight, H, count)
            if callable(score)
            else groups.kept(groups.score(weight, H, 1, score), count)
        )
        narrow(out, H, columns, compensate, calibration.numel())
        for name, made in parts.made.items():
            anatomy.take(
                block.get_submodule(name),
                rows=made[columns].T.flatten()
                if made[0, -1] >= before
                else made[columns].flatten(),
            )
        for name, module in skeleton[len(chosen)].named_modules():
            _same_numbers(block.get_submodule(name), module)
        chosen.append(columns.tolist())
    named = getattr(score, "__name__", type(score).__name__) if callable(score) else score
    settings = {
        "method": "prune_mlp",
        "channels": count,
        "of": before,
        "score": named,
        "compensate": compensate,
    }
    return _finish(model, config, work.state_dict(), settings, began, {"kept": chosen})


def _finish(
    model: PreTrainedModel,
    config: Any,
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    began: float,
    details: dict[str, Any],
) -> Compressed:
    return Compressed(
        anatomy.rebuild(model, config, tensors), settings, time.perf_counter() - began, details
    )


def query_heads(
    weight: Tensor, H: Tensor, kv: int, ratio: int, size: int, keep: int, unit: str, score: str
) -> Tensor:
    """The query heads that stay, ascending. weight (out, heads · size) is the output projection.

    unit 'group': key-value heads go with all the `ratio` query heads that share them; 'query':
    every key-value head keeps the same number of its query heads. `keep` counts query heads.
    """
    if unit == "group":
        best = groups.kept(groups.score(weight, H, size * ratio, score), keep // ratio)
        return groups.members(best, ratio)
    each = groups.score(weight, H, size, score).view(kv, ratio)
    return torch.cat([groups.kept(row, keep // kv) + i * ratio for i, row in enumerate(each)])


@torch.no_grad()
def prune_heads(
    model: PreTrainedModel, calibration: Tensor, *, keep: int | float = 0.5, unit: str = "group",
    score: str = "energy", compensate: bool = True, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Remove attention heads: rows of q, k and v, columns of the output projection.

    With grouped-query attention several query heads share a key-value head. `unit='group'` removes
    key-value heads with all their query heads (the KV cache shrinks too); `unit='query'` removes
    the same number of query heads from each key-value head. `keep` is a fraction or number of query
    heads; the rest as in `prune_mlp`.
    Raises CompressionError for counts that the groups or the model type's config do not allow, and
    for models whose config ties the head size to the hidden size (OPT, GPT-2; see `pruning.width`).
    """
    began = time.perf_counter()
    selection.none_here(anatomy.ONE_NUMBER, ignore, per_layer)
    anatomy.check_model(model)
    parts, calibration, config = (
        anatomy.of(model),
        walk.check_calibration(calibration, model),
        model.config.get_text_config(),
    )
    if not hasattr(config, "num_key_value_heads"):
        raise CompressionError(_no_head_size(config.model_type))
    if getattr(config, "num_kv_shared_layers", 0):
        raise CompressionError(
            f"model: blocks of {config.model_type} use each other's keys and values; "
            f"{anatomy.ALL_STAY}"
        )
    try:
        heads, kv = config.num_attention_heads, config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
    except Exception as error:  # transformers' own, for numbers that differ from block to block
        raise CompressionError(
            f"model: heads of {config.model_type} differ from block to block; "
            "use prune_mlp or prune_layers."
        ) from error
    ratio = heads // kv
    anatomy.check_heads(model, parts, size)
    count = groups.how_many(heads, keep, "heads")
    step = {"group": ratio, "query": kv}.get(unit)
    if step is None:
        raise CompressionError(
            f"unit={unit!r}: choose 'group' (key-value heads with their queries) or 'query'."
        )
    if count % step:
        raise CompressionError(
            f"keep={keep}: {count} query heads are not a multiple of {step}; "
            f"with unit={unit!r} choose one."
        )
    new_kv = count // ratio if unit == "group" else kv
    config = _config_with_heads(model.config, count, new_kv, size, step)
    skeleton = empty_like(type(model), config)
    rows = [
        walk.weight_of(walk.blocks(skeleton)[0].get_submodule(name)).shape[0]
        for name in parts.attention_in
    ]
    if rows != [count * size, new_kv * size, new_kv * size]:
        raise CompressionError(_no_head_size(config.model_type))
    warn_of_few_tokens(calibration.numel(), heads * size, parts.attention_out, compensate)
    work = sharing.structure(model, experts_apart=False).eval()
    chosen = []
    for block, states in walk.through_blocks(work, calibration, "attention heads"):
        out = block.get_submodule(parts.attention_out)
        H = second_moment(block, states, out, f"block {len(chosen)}: {parts.attention_out}")
        stay = query_heads(walk.weight_of(out).float(), H, kv, ratio, size, count, unit, score)
        narrow(out, H, groups.members(stay, size), compensate, calibration.numel())
        shared = torch.unique(stay // ratio)
        for name, which in zip(parts.attention_in, (stay, shared, shared), strict=True):
            anatomy.take(block.get_submodule(name), rows=groups.members(which, size))
        inside = parts.attention_out.partition(".")[0]
        _same_numbers(
            block.get_submodule(inside), walk.blocks(skeleton)[len(chosen)].get_submodule(inside)
        )
        chosen.append(stay.tolist())
    settings = {
        "method": "prune_heads",
        "heads": count,
        "of": heads,
        "unit": unit,
        "score": score,
        "compensate": compensate,
    }
    return _finish(model, config, work.state_dict(), settings, began, {"kept": chosen})


def _no_head_size(kind: str) -> str:
    narrower = (
        "pruning.width.prune_heads, which narrows the residual stream by as much, or "
        if kind in ("opt", "gpt2")
        else ""
    )
    return (
        f"model: {kind}'s config has no head size: it is hidden size / heads, so with fewer heads "
        f"each would be larger and no tensor smaller. Use {narrower}prune_mlp or prune_layers."
    )


def _same_numbers(module: nn.Module, other: nn.Module) -> None:
    """Give a module the numbers that another of its class keeps, such as its count of heads."""
    for name, value in vars(other).items():
        if type(value) is int and name in vars(module):
            setattr(module, name, value)


def _config_with_heads(config: Any, count: int, kv: int, size: int, step: int) -> Any:
    """The smaller config, or an error that lists the counts which the model type accepts (Llama
    wants divisors).
    """
    allowed = []
    for heads in range(step, config.get_text_config().num_attention_heads + 1, step):
        try:
            new = anatomy.smaller_config(
                config, num_attention_heads=heads, num_key_value_heads=kv, head_dim=size
            )
        except CompressionError:
            continue
        if heads == count:
            return new
        allowed.append(heads)
    raise CompressionError(
        f"keep: {config.model_type} cannot have {count} query heads here; choose from {allowed}."
    )


@torch.no_grad()
def block_influence(model: PreTrainedModel, calibration: Tensor) -> list[float]:
    """1 − E[cos(x_l, x_{l+1})] of the residual stream before and after each block (Men et al.,
    2024, eq. 1).

    0 for a block that only rescales its input, up to 2.
    """
    states = residual_stream(model, walk.check_calibration(calibration, model))
    return [
        float(1 - torch.cosine_similarity(a, b, dim=-1).mean())
        for a, b in itertools.pairwise(states)
    ]


def residual_stream(model: PreTrainedModel, calibration: Tensor) -> Iterator[Tensor]:
    """What enters each block and what leaves the last, one after the other, each (tokens, hidden)
    in float64, without dropout.

    Nothing is kept of those that have been given. Raises CompressionError where one is not finite.
    """
    outputs: list[Tensor] = []
    training = model.training
    model.eval()
    try:
        for number, (block, states) in enumerate(
            walk.through_blocks(model, calibration, "residual stream")
        ):
            yield _joined([h for h, _ in states], number - 1, model)
            outputs = [walk.run_block(block, hidden, kwargs) for hidden, kwargs in states]
        yield _joined(outputs, number, model)
    finally:
        model.train(training)


def _joined(states: list[Tensor], number: int, model: PreTrainedModel) -> Tensor:
    x = torch.cat([h.flatten(0, -2) for h in states]).double()
    if not torch.isfinite(x).all():
        raise CompressionError(
            f"block {number}: its output holds NaN or infinity in {model.dtype}; "
            "load the model in float32."
        )
    return x


def keep_layers(model: PreTrainedModel, layers: Iterable[int]) -> PreTrainedModel:
    """A copy of the model with only these blocks, in the order given.

    Raises CompressionError for unknown blocks, and as `anatomy.config_of_blocks`.
    """
    anatomy.check_model(model)
    chosen, total = list(layers), len(walk.blocks(model))
    if not chosen or not all(0 <= layer < total for layer in chosen):
        raise CompressionError(
            f"layers={chosen}: name at least one of the blocks 0 to {total - 1}."
        )
    config = anatomy.config_of_blocks(model.config, chosen)
    inside = walk.blocks(model)
    prefix = walk.place_of_blocks(model)
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith(prefix)}
    for new, old in enumerate(chosen):
        tensors |= {f"{prefix}{new}.{k}": v for k, v in inside[old].state_dict().items()}
    return anatomy.rebuild(model, config, tensors)


@torch.no_grad()
def prune_layers(
    model: PreTrainedModel,
    calibration: Tensor,
    *,
    keep: int | float = 0.5,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """Remove the blocks with the lowest influence (ShortGPT; `block_influence`).

    `keep`: fraction or number of blocks.

    Blocks of which `ignore` names a layer (`selection.choose`) stay, and are counted. A block goes
    or stays, so `per_layer` is refused.
    """
    began = time.perf_counter()
    selection.none_here(anatomy.WHOLE_BLOCKS, (), per_layer)
    anatomy.check_model(model)
    count = groups.how_many(len(walk.blocks(model)), keep, "blocks")
    anatomy.check_fewer_blocks(model, free=True)
    stay = selection.blocks_named(model, ignore)
    if len(stay) > count:
        raise CompressionError(
            f"ignore: names {len(stay)} blocks, but {count} are to stay (keep={keep}); "
            "keep more, or name fewer."
        )
    influence = block_influence(model, calibration)
    worth = torch.tensor(influence, dtype=torch.float64)
    worth[stay] = torch.inf
    chosen = groups.kept(worth, count).tolist()
    settings = {
        "method": "prune_layers",
        "layers": count,
        "of": len(influence),
        **selection.kept(ignore),
    }
    details = {"kept": chosen, "influence": influence}
    return Compressed(keep_layers(model, chosen), settings, time.perf_counter() - began, details)


@torch.no_grad()
def prune_blocks(
    model: PreTrainedModel,
    calibration: Tensor,
    *,
    keep: int | float = 0.5,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """Remove one run of neighbouring blocks: the run over which the residual stream turns least.

    Its angular distance is E[arccos(cos(x_l, x_{l+n}))] / π (Gromov et al., 2024, eq. 7), from 0 to
    1. `ignore`, `per_layer` as in `prune_layers`: no run with such a block is taken, nor one
    without which the config cannot say of which kind the others are (Jamba).
    """
    began = time.perf_counter()
    selection.none_here(anatomy.WHOLE_BLOCKS, (), per_layer)
    anatomy.check_model(model)
    total = len(walk.blocks(model))
    count = groups.how_many(total, keep, "blocks")
    anatomy.check_fewer_blocks(model, free=False)
    n = total - count
    open_to = anatomy.runs_that_may_go(model, n, selection.blocks_named(model, ignore))
    # a run of n blocks: what enters it, …, what leaves it
    last: collections.deque[Tensor] = collections.deque(maxlen=n + 1)
    angles = []
    for x in residual_stream(model, walk.check_calibration(calibration, model)):
        last.append(x)
        if len(last) > n:
            angles.append(
                float(
                    torch.arccos(torch.cosine_similarity(last[0], x, dim=-1).clamp(-1, 1)).mean()
                    / torch.pi
                )
            )
    first = min(open_to, key=angles.__getitem__)
    chosen = [i for i in range(total) if not first <= i < first + n]
    settings = {"method": "prune_blocks", "layers": count, "of": total, **selection.kept(ignore)}
    details = {"kept": chosen, "distance": angles}
    return Compressed(keep_layers(model, chosen), settings, time.perf_counter() - began, details)
