"""What heads of attention do: look back a fixed number of tokens, or look for what came after the
same token before.

The two together copy (induction heads: Olsson et al., 2022): one head writes "the token before me
was A" into the stream, a later one looks for such a place when it reads A. Where the same pair of
tokens stood earlier in a window, copying could have predicted the second of them (`seen_before`):
there such heads matter most, and there their loss shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import by_window
from .subject import Subject


def seen_before(ids: Tensor) -> Tensor:
    """(windows, tokens − 1) bool: the pair of tokens t, t + 1 stands earlier in the window, so that
    t + 1 could be copied.
    """
    first, second = ids[:, :-1], ids[:, 1:]
    same = (first[:, :, None] == first[:, None]) & (second[:, :, None] == second[:, None])
    return (same & torch.ones_like(same[0]).tril(-1)).any(-1)


def kl_where(original: Tensor, model: Subject | Tensor, ids: Tensor, where: Tensor) -> Tensor:
    """(windows,) mean KL, in nats, from `original` (`by_window.predictions`) over the tokens t
    where `where` (windows, tokens − 1) holds.

    `model` may be its predictions, too.
    Raises CompressionError where a window has no such token: take longer windows.
    """
    if where.shape != (len(ids), ids.shape[1] - 1) or not where.any(1).all():
        raise CompressionError(
            f"where: shape {tuple(where.shape)}; give (windows, tokens − 1) with at least "
            "one token in each window."
        )
    changed = (model if isinstance(model, Tensor) else by_window.predictions(model, ids))[:, :-1]
    terms = (original[:, :-1].exp() * (original[:, :-1] - changed)).sum(-1, dtype=torch.float64)
    return (terms * where).sum(1) / where.sum(1)


@torch.no_grad()
def attention_maps(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    """Who looks where: (windows, heads, tokens, tokens) for each block; row t holds the weights of
    token t.

    Raises CompressionError for a model that does not give its attention weights.
    """
    before = getattr(model.config, "_attn_implementation", None)
    try:
        model.set_attn_implementation("eager")
        maps = model(
            input_ids=ids.long().to(model.device), use_cache=False, output_attentions=True
        ).attentions
    except (ValueError, AttributeError, TypeError) as error:
        raise CompressionError(
            f"model: {type(model).__name__} does not give its attention weights ({error})."
        ) from error
    finally:
        if before is not None:
            model.set_attn_implementation(before)
    if not maps or any(m is None or m.dim() != 4 for m in maps):
        raise CompressionError(
            f"model: {type(model).__name__} has blocks without attention weights; "
            "heads cannot be read."
        )
    return [m.float().cpu() for m in maps]


def looking_back(maps: list[Tensor], distance: int) -> Tensor:
    """(blocks, heads): the mean weight that tokens give to the one `distance` before them."""
    return torch.stack([m.diagonal(-distance, 2, 3).mean((0, 2)) for m in maps])


def matching(maps: list[Tensor], ids: Tensor) -> Tensor:
    """(blocks, heads): the mean weight on places that follow an earlier token like the one read,
    over tokens that have such places.
    """
    before = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], 1)
    same = (ids[:, :, None] == before[:, None]) & torch.ones(
        ids.shape[1], ids.shape[1], dtype=torch.bool
    ).tril(-1)
    count = same.any(-1).sum()
    if not count:
        raise CompressionError("ids: no token occurs twice in a window; take longer windows.")
    return torch.stack([(m * same[:, None]).sum(-1).sum((0, 2)) / count for m in maps])


@contextmanager
def without_head(model: PreTrainedModel, block: int, head: int) -> Iterator[None]:
    """While this is open, what one head of attention gives to the output projection is zero.

    Raises CompressionError for a head that is not there, and for models whose attention is not
    known (`pruning.anatomy`).
    """
    from course_utils.pruning import anatomy

    heads, blocks = model.config.num_attention_heads, walk.blocks(model)
    if not (0 <= block < len(blocks) and 0 <= head < heads):
        raise CompressionError(
            f"block={block}, head={head}: {type(model).__name__} has {len(blocks)} "
            f"blocks of {heads} heads."
        )
    out = blocks[block].get_submodule(anatomy.of(model).attention_out)
    size = walk.weight_of(out).shape[1] // heads

    def silence(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0].clone()
        x[..., head * size : (head + 1) * size] = 0
        return (x, *args[1:])

    handle = out.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()
