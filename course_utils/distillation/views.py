"""What a model shows of itself on a batch: logits, hidden states, attention maps, values."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk

FINAL_NORMS = (
    "model.norm",
    "model.decoder.final_layer_norm",
    "transformer.ln_f",
    "gpt_neox.final_layer_norm",
)
INSIDE = ("hidden", "attention", "values")


@dataclass
class View:
    """What `model` showed; empty tuples are what was not asked for.

    logits (batch, tokens, vocabulary); hidden: what enters the first block, then what leaves each
    block, (batch, tokens, width); attention: a map for each block, (batch, heads, tokens, tokens);
    values: the value projection of each block, (batch, tokens, key-value heads × head width).
    """

    model: PreTrainedModel
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    attention: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()


def value_projection(block: nn.Module) -> tuple[nn.Module, bool]:
    """The layer that makes a block's values, and whether it makes queries and keys before them too
    (GPT-2).
    """
    for name, module in walk.linears(block).items():
        if name.endswith((".v_proj", ".value")):
            return module, False
        if name.endswith(".c_attn") and isinstance(module, Conv1D):
            return module, True
    raise CompressionError(
        f"model: no value projection found in {type(block).__name__}; use another loss."
    )


@contextmanager
def _listening(model: PreTrainedModel, needs: Collection[str]) -> Iterator[dict[str, list[Tensor]]]:
    heard: dict[str, list[Tensor]] = {"hidden": [], "values": []}
    handles = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        heard["hidden"].append(args[0] if args else kwargs["hidden_states"])

    def leave(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        heard["hidden"].append(out[0] if isinstance(out, tuple) else out)

    def value(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        heard["values"].append(out)

    def fused(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        heard["values"].append(out.chunk(3, -1)[2])

    stack: list[nn.Module] = list(walk.blocks(model)) if needs else []
    if "hidden" in needs:
        handles.append(stack[0].register_forward_pre_hook(enter, with_kwargs=True))
        handles += [block.register_forward_hook(leave) for block in stack]
    if "values" in needs:
        for block in stack:
            layer, with_queries = value_projection(block)
            handles.append(layer.register_forward_hook(fused if with_queries else value))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def view(
    model: PreTrainedModel, ids: Tensor, real: Tensor | None = None, needs: Collection[str] = ()
) -> View:
    """Run `model` on token ids (batch, tokens); `real` (batch, tokens) is False at padding, `needs`
    names from INSIDE.

    The model is as it was afterwards. Attention maps need `model.set_attn_implementation("eager")`
    before.
    """
    with _listening(model, [need for need in needs if need != "attention"]) as heard:
        options: dict[str, Any] = {"output_attentions": True} if "attention" in needs else {}
        if real is not None:
            options["attention_mask"] = real.long()
        out = model(input_ids=ids, use_cache=False, **options)
    maps = tuple(out.attentions) if "attention" in needs else ()
    return View(model, out.logits, tuple(heard["hidden"]), maps, tuple(heard["values"]))


def read_out(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The logits that the final norm and the output head make of a block's output:
    an early exit.
    """
    for name in FINAL_NORMS:
        try:
            norm = model.get_submodule(name)
        except AttributeError:
            continue
        return model.get_output_embeddings()(norm(hidden))
    raise CompressionError(
        f"model: the final norm of {type(model).__name__} was not found; "
        f"known are {', '.join(FINAL_NORMS)}."
    )


@torch.no_grad()
def teacher_view(
    model: PreTrainedModel, ids: Tensor, real: Tensor | None = None, needs: Collection[str] = ()
) -> View:
    """`view` without gradient."""
    return view(model, ids, real, needs)
