"""Keys before the rotary embedding: turned back by their position, and turned again after they are
read.

    k'_{i} = k_i cos θ_i p − k_{i+d/2} sin θ_i p,   k'_{i+d/2} = k_{i+d/2} cos θ_i p + k_i sin θ_i p
    (RoPE, Su et al., 2021)

A large channel of k is spread by the turning over two channels of k', with weights that change from
token to token; keys that share a scale along the tokens are therefore better quantized before it
(KVQuant, Hooper et al., 2024). The cache holds turned keys; turning by −p gives them back, up to
rounding.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from course_utils.errors import CompressionError

CLOSE = 1e-3  # of the largest key: what rounding may leave of a difference between equal tokens


def turner(model: PreTrainedModel) -> Callable[..., Tensor]:
    """turn(keys, start, back): keys (batch, heads, tokens, head_dim) of positions start, start + 1,
    …, turned by ±their position.

    The angles are those of the model's own rotary embedding. What it turns is tried: in the first
    block the keys of one token repeated must be equal before the turning. Raises CompressionError
    where they are not (no rotary embedding, other pairs of channels, other angles in each layer).
    """
    found = [
        m
        for name, m in model.named_modules()
        if name.rpartition(".")[2] == "rotary_emb" and hasattr(m, "inv_freq")
    ]
    if len(found) != 1:
        raise CompressionError(
            f"before_rope: the model has {len(found)} rotary embeddings, one is needed; "
            "leave it out."
        )
    embed = found[0]

    def turn(keys: Tensor, start: int, back: bool) -> Tensor:
        places = torch.arange(start, start + keys.shape[-2], device=keys.device)[None]
        cos, sin = (t[:, None].float() for t in embed(keys.float(), places))
        # 1, but for YaRN and its relatives
        scaling = float(cos[0, 0, 0, 0] ** 2 + sin[0, 0, 0, 0] ** 2)
        width = cos.shape[-1]
        x, rest = keys[..., :width].float(), keys[..., width:]
        half = torch.cat((-x[..., width // 2 :], x[..., : width // 2]), -1)
        turned = (x * cos - half * sin) / scaling if back else x * cos + half * sin
        return torch.cat((turned.to(keys.dtype), rest), -1)

    _try(model, turn)
    return turn


@torch.no_grad()
def _try(model: PreTrainedModel, turn: Callable[..., Tensor]) -> None:
    cache = DynamicCache()
    model(
        input_ids=torch.ones(1, 4, dtype=torch.long, device=model.device),
        past_key_values=cache,
        use_cache=True,
    )
    keys: Tensor = getattr(cache.layers[0], "keys")  # noqa: B009
    same = turn(keys, 0, back=True) if keys.dim() == 4 else keys
    if float((same - same[..., :1, :]).abs().max()) > max(
        CLOSE, float(torch.finfo(keys.dtype).eps) * 8
    ) * float(keys.abs().max()):
        raise CompressionError(
            "before_rope: turned back by their positions, the keys of one repeated token are "
            "not equal; leave it out."
        )
