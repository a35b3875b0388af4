"""A start from which a small model learns to copy: heads that look back and heads that match, set
by hand.

A transformer finds copying late: the first layer must move a token's identity along before a second
layer can look for it (induction heads: Olsson et al., 2022), and neither helps alone. A model of a
few million parameters trained on a few million tokens never gets there. Setting the start of two
layers (mimetic initialization: Trockman and Kolter, 2023) gives gradient descent a circuit to
refine instead of one to discover.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from course_utils.errors import CompressionError

LOOK_BACK = (1, 3, 1, 3, 2, 4, 2, 4)  # how many tokens back each head of the first layer looks
# what each group of heads in the second layer looks for, and the first-layer head it relies on
FOLLOWS, SAME = "what came after this token before", "where the token so far back was the same"
MATCH = ((FOLLOWS, 0), (SAME, 1), (SAME, 3), (FOLLOWS, 2))
# the embeddings' first channel, in standard deviations: what purely positional heads read
CONSTANT = 6.0
# nats that each of the fastest RoPE frequencies can add to a look-back score
SHARPNESS = (6.0, 4.0, 3.0, 2.0)
SLOW = 0.02  # radians a token: RoPE channels slower than this compare content
WRITTEN = 0.03  # the size of what the first layer writes
MATCHED = 2.0  # of the queries and keys that compare it
COPIED = 0.04  # of what the second layer writes


def rotated(vector: Tensor, tokens: int, frequencies: Tensor) -> Tensor:
    """RoPE's rotation of a head's vector by so many tokens (Su et al., 2021), halves paired as in
    Llama.
    """
    angle, half = tokens * frequencies, len(frequencies)
    first, second = vector[:half], vector[half:]
    return torch.cat(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()]
    )


def _projections(
    layer: LlamaDecoderLayer, heads: int, groups: int, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views by head: queries (heads, size, width), keys and values (groups, size, width), output
    (width, heads, size).
    """
    a = layer.self_attn
    q, k, v = (
        m.weight.view(n, size, -1)
        for m, n in ((a.q_proj, heads), (a.k_proj, groups), (a.v_proj, groups))
    )
    return q, k, v, a.o_proj.weight.view(-1, heads, size)


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns), generator=generator)


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM, *, seed: int = 1) -> None:
    """Set the attention of the first two layers of a fresh model so that it can copy; everything
    stays trainable.

    Layer one, head h: the query is the key rotated back by LOOK_BACK[h] tokens, both read from a
    channel that is the same for every token, so that the score peaks at that distance; it writes
    the token found there into directions of its own. Layer two, group g: queries and keys compare
    such directions on slow RoPE channels and copy the token found.
    Raises CompressionError for a model with fewer than two layers, or heads that do not fill the
    width.
    """
    config = model.config
    width, heads, groups = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    size = width // heads
    if config.num_hidden_layers < 2 or size * heads != width or size % 2:
        raise CompressionError(
            "model: copying is planted in two layers or more, with heads of even "
            "size that fill the width."
        )
    generator = torch.Generator().manual_seed(seed)
    rope: Any = config.rope_parameters
    frequencies = rope["rope_theta"] ** (-torch.arange(size // 2) * 2 / size)
    slow = (frequencies < SLOW).repeat(2).nonzero().flatten()
    read = _orthogonal(groups * size, width, generator).view(groups, size, width)
    written = _orthogonal(width, width, generator).view(width, heads, size)
    copied = _orthogonal(groups * size, width, generator).view(groups, size, width)
    read[..., 0], written[0], copied[..., 0] = 0, 0, 0

    embeddings = model.get_input_embeddings().weight
    embeddings[:, 0] = CONSTANT * config.initializer_range
    constant = CONSTANT / math.sqrt(1 + CONSTANT**2 / width)  # that channel after the norm

    q, k, v, o = _projections(model.model.layers[0], heads, groups, size)
    key = torch.zeros(size)
    for frequency, nats in enumerate(SHARPNESS[: size // 2]):
        key[frequency] = math.sqrt(nats * math.sqrt(size))
    k[..., 0], v[:] = key / constant, read
    for head in range(heads):
        q[head, :, 0] = rotated(key, -LOOK_BACK[head % len(LOOK_BACK)], frequencies) / constant
        o[:, head] = WRITTEN * written[:, head]

    q, k, v, o = _projections(model.model.layers[1], heads, groups, size)
    for group in range(groups):
        sought, source = MATCH[group % len(MATCH)]
        source %= heads
        here = written[:, source].T
        wanted = here if sought == SAME else 1.5 * read[source * groups // heads]
        k[group, slow] += MATCHED * here[slow]
        v[group] = copied[group]
        for head in range(group * heads // groups, (group + 1) * heads // groups):
            q[head, slow] += MATCHED * wanted[slow]
            o[:, head] = COPIED * copied[group].T
