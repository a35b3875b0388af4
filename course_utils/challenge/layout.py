"""Which models a file may hold: Llama's architecture with our tokenizer; sizes within limits,
shapes from them.
"""

import math
from typing import Any

from course_utils.errors import CompressionError

LARGEST = 8 << 20  # bytes of a file
HEADER = 64 << 10  # bytes of its header, unpacked
PARAMETERS = 1 << 23  # of a model, at most
VOCABULARY = 1024  # the bundled tokenizer's
SIZES = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 64, "num_key_value_heads": 64,
    "head_dim": 256,
}  # fmt: skip
QUERIES = 1 << 13  # heads · head_dim, in all layers: what attention costs; the original has 1,280
NUMBERS = {"rms_norm_eps": (1e-12, 1e-1), "rope_theta": (1.0, 1e8)}
ALSO = "tie_word_embeddings"


def check_config(config: Any) -> dict[str, Any]:
    """The same sizes, of the right types and within limits.

    Raises CompressionError that names what is not.
    """
    if not isinstance(config, dict) or set(config) != {*SIZES, *NUMBERS, ALSO}:
        raise CompressionError(f"config: expected exactly {', '.join([*SIZES, *NUMBERS, ALSO])}.")
    for name, most in SIZES.items():
        if type(config[name]) is not int or not 1 <= config[name] <= most:
            raise CompressionError(f"config: {name} must be a whole number from 1 to {most:,}.")
    for name, (low, high) in NUMBERS.items():
        value = config[name]
        if type(value) not in (int, float) or not low <= value <= high:
            raise CompressionError(f"config: {name} must be a number from {low:g} to {high:g}.")
    if type(config[ALSO]) is not bool:
        raise CompressionError(f"config: {ALSO} must be true or false.")
    if config["head_dim"] % 2 or config["num_attention_heads"] % config["num_key_value_heads"]:
        raise CompressionError(
            "config: head_dim must be even, and key-value heads must divide the attention heads."
        )
    if config["hidden_size"] % config["num_attention_heads"]:
        raise CompressionError(
            "config: the attention heads must divide hidden_size, as transformers asks."
        )
    queries = config["num_hidden_layers"] * config["num_attention_heads"] * config["head_dim"]
    if queries > QUERIES:
        raise CompressionError(
            f"config: {queries:,} numbers of queries in all layers, more than {QUERIES:,}: "
            "take fewer heads, or smaller ones."
        )
    count = sum(math.prod(shape) for shape in shapes(config).values())
    if count > PARAMETERS:
        raise CompressionError(f"config: {count:,} parameters, more than {PARAMETERS:,}.")
    return dict(config)


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that the file must hold, in the names of transformers."""
    d, m = config["hidden_size"], config["intermediate_size"]
    queries, keys = (
        config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value")
    )
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, d)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        found |= {
            f"{at}self_attn.q_proj.weight": (queries, d),
            f"{at}self_attn.k_proj.weight": (keys, d),
        }
        found |= {
            f"{at}self_attn.v_proj.weight": (keys, d),
            f"{at}self_attn.o_proj.weight": (d, queries),
        }
        found |= {
            f"{at}mlp.gate_proj.weight": (m, d),
            f"{at}mlp.up_proj.weight": (m, d),
            f"{at}mlp.down_proj.weight": (d, m),
        }
        found |= {f"{at}input_layernorm.weight": (d,), f"{at}post_attention_layernorm.weight": (d,)}
    found["model.norm.weight"] = (d,)
    if not config[ALSO]:
        found["lm_head.weight"] = (VOCABULARY, d)
    return found
