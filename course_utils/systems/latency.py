"""A latency table: seconds of a model's parts, each measured once, whose sum forecasts whole models
of those parts.

    T(model) = t(ends) + Σ_blocks (t(attention) + t(MLP))

A part is told by its shape; "ends" are the embedding, the last norm and the head. The table holds
for one machine, one batch and one context. A width that was not measured takes the time of the next
larger one that was: times climb in steps, and a line drawn between two points would cut the steps
off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import timing

# ("attention", hidden size, query heads), ("mlp", hidden size, channels), ("ends", hidden size,
# vocabulary)
Part = tuple[str, int, int]


def parts(model: PreTrainedModel) -> list[Part]:
    """The parts of a Llama-like model as it is, block by block: their own layers are looked at,
    which may differ between blocks.

    Raises CompressionError for a model whose blocks are built otherwise.
    """
    hidden, vocabulary = model.config.hidden_size, model.config.vocab_size
    found: list[Part] = [("ends", hidden, vocabulary)]
    for block in walk.blocks(model):
        attention: Any = getattr(block, "self_attn", None)
        mlp: Any = getattr(block, "mlp", None)
        if not hasattr(attention, "o_proj") or not hasattr(mlp, "down_proj"):
            raise CompressionError(
                f"model: blocks of {type(model).__name__} are not those of Llama; "
                "tables are made for Llama-like models."
            )
        found.append(
            ("attention", hidden, walk.weight_of(attention.o_proj).shape[1] // attention.head_dim)
        )
        found.append(("mlp", hidden, walk.weight_of(mlp.down_proj).shape[1]))
    return found


def flops(model: PreTrainedModel, tokens: int) -> int:
    """2 operations for each weight of the linear layers, the head included, and each token; what a
    count of operations goes by.
    """
    layers = [*walk.compressible(model).values(), model.get_output_embeddings()]
    return 2 * tokens * sum(walk.weight_of(m).numel() for m in layers)


@dataclass(frozen=True)
class LatencyTable:
    """`seconds` {part: seconds}, for inputs of `batch` × `context` tokens."""

    seconds: dict[Part, float]
    batch: int
    context: int

    def of(self, part: Part) -> float:
        """The time of a part: its own, or that of the next larger width.

        Raises CompressionError where none is as large.
        """
        kind, hidden, width = part
        wide = [w for k, h, w in self.seconds if (k, h) == (kind, hidden) and w >= width]
        if not wide:
            raise CompressionError(
                f"part={part}: no {kind} of hidden size {hidden} and a width of {width} or more "
                "was measured; measure it."
            )
        return self.seconds[kind, hidden, min(wide)]

    def total(self, model: PreTrainedModel | Sequence[Part]) -> float:
        """Σ of the parts of a model, or of a list of parts."""
        return sum(map(self.of, parts(model) if isinstance(model, PreTrainedModel) else model))


def llama(
    heads: int,
    channels: int,
    blocks: int,
    *,
    hidden: int = 256,
    vocabulary: int = 1024,
    head_size: int = 32,
    seed: int = 0,
) -> PreTrainedModel:
    """A Llama with random weights; every two query heads share a key-value head, as in the bundled
    model.
    """
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=channels,
        num_hidden_layers=blocks, num_attention_heads=1, num_key_value_heads=1, head_dim=head_size,
        max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    # the constructor wants a divisor of `hidden`
    config.num_attention_heads, config.num_key_value_heads = heads, max(1, heads // 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@torch.no_grad()
def measure(
    wanted: Sequence[Part],
    *,
    batch: int = 8,
    context: int = 64,
    models: Mapping[str, PreTrainedModel] | None = None,
    turns: int = 7,
) -> tuple[LatencyTable, dict[str, float]]:
    """The table of the parts, and the seconds of whole `models` measured in the same turns.

    Parts are those of random Llamas: a time does not depend on the numbers in a weight.
    """
    ids = torch.randint(4, (batch, context), generator=torch.Generator().manual_seed(0))
    jobs: dict[str, Callable[[], object]] = {
        f"{i}": _job(part, ids) for i, part in enumerate(dict.fromkeys(wanted))
    }
    for name, model in (models or {}).items():
        jobs[f"model {name}"] = partial(_run, model, ids)
    found = timing.best(jobs, turns=turns)
    table = LatencyTable(
        {part: found[f"{i}"] for i, part in enumerate(dict.fromkeys(wanted))}, batch, context
    )
    return table, {name: found[f"model {name}"] for name in models or {}}


@torch.no_grad()
def _run(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def _job(part: Part, ids: Tensor) -> Callable[[], object]:
    kind, hidden, width = part
    if kind == "ends":
        model = llama(2, 32, 0, hidden=hidden, vocabulary=width)
        return lambda: _run(model, ids)
    model = llama(
        width if kind == "attention" else 2,
        width if kind == "mlp" else 32,
        1,
        hidden=hidden,
        vocabulary=8,
    )
    block: Any = walk.blocks(model)[0]
    states = torch.randn(*ids.shape, hidden, generator=torch.Generator().manual_seed(1))
    if kind == "mlp":
        return _without_gradients(
            lambda: states + block.mlp(block.post_attention_layernorm(states))
        )
    angles = model.model.rotary_emb(states, torch.arange(ids.shape[1])[None])
    return _without_gradients(
        lambda: (
            states
            + block.self_attn(
                block.input_layernorm(states), position_embeddings=angles, attention_mask=None
            )[0]
        )
    )


def _without_gradients(job: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(job)
