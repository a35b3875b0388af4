"""Lesson 1.1: parameters of a shape and of a config.json, bits of a weight with its scale, the
longest context that fits.
"""

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

# --- parameters of a Llama-like model ---


def shape(rng: torch.Generator) -> dict:
    """Grouped-query attention, a head of its own; no two sizes are equal, so that none can stand
    for another.
    """
    kv_heads = pick(rng, 2, 4, 8)
    heads = kv_heads * pick(rng, 2, 3, 4)
    head_dim = pick(rng, 32, 64, 128)
    hidden = heads * head_dim
    return {
        "vocab": pick(rng, 32000, 50000, 128256), "hidden": hidden,
        "intermediate": hidden * 5 // 2 + 64, "layers": pick(rng, 12, 16, 28, 32),
        "kv_heads": kv_heads, "head_dim": head_dim,
    }  # fmt: skip


def parameters(
    vocab: int, hidden: int, intermediate: int, layers: int, kv_heads: int, head_dim: int
) -> int:
    """The numbers of every tensor, added one tensor after another."""
    total = vocab * hidden  # embeddings
    for _ in range(layers):
        total += hidden * hidden  # query
        total += hidden * kv_heads * head_dim  # key
        total += hidden * kv_heads * head_dim  # value
        total += hidden * hidden  # attention output
        total += hidden * intermediate  # gate
        total += hidden * intermediate  # up
        total += intermediate * hidden  # down
        total += hidden  # norm before attention
        total += hidden  # norm before the MLP
    total += hidden  # last norm
    total += vocab * hidden  # head
    return total


def without(part: str):
    """Parameters with one part left out or counted wrongly."""

    def wrong(vocab, hidden, intermediate, layers, kv_heads, head_dim):
        taken = {
            "head": vocab * hidden,
            "gate": layers * hidden * intermediate,
            "norms": (2 * layers + 1) * hidden,
            "last_norm": hidden,
            "one_norm": layers * hidden,
            "value": layers * hidden * kv_heads * head_dim,
            "grouping": -2 * layers * hidden * (hidden - kv_heads * head_dim),
            "layers": (layers - 1)
            * (
                2 * hidden * (hidden + kv_heads * head_dim) + 3 * hidden * intermediate + 2 * hidden
            ),
            "output": layers * hidden * hidden,
        }[part]
        return parameters(vocab, hidden, intermediate, layers, kv_heads, head_dim) - taken

    return wrong


# --- parameters of a config.json ---


def config_inputs(rng: torch.Generator) -> dict:
    """What a Llama-like config.json holds; keys that may be missing are missing now and then."""
    kv_heads = pick(rng, 2, 4, 8)
    heads = kv_heads * pick(rng, 2, 3)
    head_dim = pick(rng, 32, 64, 128)
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "hidden_size": heads * head_dim, "intermediate_size": heads * head_dim * 5 // 2 + 64,
        "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": heads,
        "num_hidden_layers": pick(rng, 12, 16, 28, 32), "rms_norm_eps": 1e-06,
        "vocab_size": pick(rng, 32000, 50000, 128256),
    }  # fmt: skip
    if pick(rng, True, True, False):
        config["num_key_value_heads"] = kv_heads
    if pick(rng, True, False):
        config["head_dim"] = pick(rng, head_dim, 2 * head_dim, 96)
    tied = pick(rng, True, False, None)
    if tied is not None:
        config["tie_word_embeddings"] = tied
    return {"config": config}


def parameters_of(config: dict, *, kv=None, head_dim=None, tied=None, norms: bool = True) -> int:
    """Tensor by tensor; absent keys: as many key-value heads as heads, head_dim = hidden / heads,
    not tied.
    """
    h, f, V, heads = (
        config[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")
    )
    kv = config.get("num_key_value_heads", heads) if kv is None else kv(heads)
    d = config.get("head_dim", h // heads) if head_dim is None else head_dim(h, heads)
    tied = config.get("tie_word_embeddings", False) if tied is None else tied
    attention = h * heads * d + 2 * h * kv * d + heads * d * h
    block = attention + 3 * h * f + (2 * h if norms else 0)
    return (
        V * h + config["num_hidden_layers"] * block + (h if norms else 0) + (0 if tied else V * h)
    )


def config_without(**wrong):
    return lambda config: parameters_of(config, **wrong)


def square_attention(config: dict) -> int:
    """Query and output as hidden × hidden, though their width is heads · head_dim."""
    h, heads = config["hidden_size"], config["num_attention_heads"]
    d = config.get("head_dim", h // heads)
    return parameters_of(config) - config["num_hidden_layers"] * 2 * h * (heads * d - h)


# --- bits of a weight ---


def group_inputs(rng: torch.Generator) -> dict:
    return {
        "bits": pick(rng, 2, 3, 4, 5, 8), "group_size": pick(rng, 16, 32, 64, 128),
        "scale_bits": pick(rng, 16, 32), "zero_bits": turn(rng, 3, 0, 8, 2),
    }  # fmt: skip


def bits_per_weight(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    """All bits of one group, divided by its weights."""
    in_all = group_size * bits + scale_bits + zero_bits
    return in_all / group_size


# --- the longest context ---


def machine(rng: torch.Generator) -> dict:
    """Memory that leaves room for some thousands of tokens,
    and never for a whole number of them.
    """
    layers, kv_heads, head_dim = pick(rng, 16, 28, 32), pick(rng, 4, 8, 32), pick(rng, 64, 128)
    batch, bits = pick(rng, 2, 3, 4), turn(rng, 4, 8, 16)
    token = 2 * layers * kv_heads * head_dim * bits // 8 * batch
    fits = int(torch.randint(2000, 40000, (), generator=rng))
    weights = int(torch.randint(3 * 10**9, 2 * 10**10, (), generator=rng))
    rest = token * 3 // 5 + int(torch.randint(0, token // 4, (), generator=rng))
    return {
        "memory": weights + fits * token + rest, "weights": weights, "layers": layers,
        "kv_heads": kv_heads, "head_dim": head_dim, "batch": batch, "bits": bits,
    }  # fmt: skip


def longest_context(
    memory: int, weights: int, layers: int, kv_heads: int, head_dim: int, batch: int, bits: int
) -> int:
    """The largest c with weights + c · (2 · layers · kv_heads · head_dim · bits / 8) · batch ≤
    memory.
    """
    one_token = 2 * layers * kv_heads * head_dim * bits // 8
    return (memory - weights) // (one_token * batch)


def assuming(**instead: int):
    """The longest context with some arguments replaced, such as batch=1 where the batch was
    forgotten.
    """
    return lambda **given: longest_context(**{**given, **instead})


def room(memory, weights, layers, kv_heads, head_dim, batch, bits) -> float:
    return (memory - weights) / (layers * kv_heads * head_dim * batch * bits)


EXERCISES = [
    Exercise(
        id="memory.parameters", kind="formula", difficulty=1, minutes=10,
        inputs=shape, spec=parameters, tolerance=0, lesson="1.1-why-compress", trials=6,
        mistakes={
            "head_forgotten": without("head"), "gate_forgotten": without("gate"),
            "norms_forgotten": without("norms"), "last_norm_forgotten": without("last_norm"),
            "one_norm": without("one_norm"), "value_forgotten": without("value"),
            "grouping_ignored": without("grouping"), "one_layer": without("layers"),
            "output_forgotten": without("output"),
        },
    ),
    Exercise(
        id="memory.from_config", kind="design", difficulty=3, minutes=15,
        inputs=config_inputs, spec=parameters_of, tolerance=0, lesson="1.1-why-compress", trials=24,
        mistakes={
            "head_twice": config_without(tied=False), "head_never": config_without(tied=True),
            "kv_heads_ignored": config_without(kv=lambda heads: heads),
            "head_dim_ignored": config_without(head_dim=lambda h, heads: h // heads),
            "square_attention": square_attention, "norms_forgotten": config_without(norms=False),
            "one_layer": lambda config: parameters_of({**config, "num_hidden_layers": 1}),
        },
    ),
    Exercise(
        id="memory.bits_per_weight", kind="step", difficulty=1, minutes=5,
        inputs=group_inputs, spec=bits_per_weight, tolerance=1e-6, trials=6,
        lesson="1.1-why-compress",
        mistakes={
            "codes_only": lambda bits, group_size, scale_bits, zero_bits: bits,
            "per_weight": lambda bits, group_size, scale_bits, zero_bits:
                bits + scale_bits + zero_bits,
            "zero_forgotten": lambda bits, group_size, scale_bits, zero_bits:
                bits + scale_bits / group_size,
            "whole_group": lambda bits, group_size, scale_bits, zero_bits:
                group_size * bits + scale_bits + zero_bits,
            "in_bytes": lambda **k: bits_per_weight(**k) / 8,
        },
    ),
    Exercise(
        id="memory.longest_context", kind="step", difficulty=2, minutes=8,
        inputs=machine, spec=longest_context, tolerance=0, lesson="1.1-why-compress",
        trials=6,
        mistakes={
            "weights_forgotten": assuming(weights=0), "batch_forgotten": assuming(batch=1),
            "layers_forgotten": assuming(layers=1), "head_dim_forgotten": assuming(head_dim=1),
            "kv_heads_forgotten": assuming(kv_heads=1), "sixteen_bits": assuming(bits=16),
            "keys_only": lambda **k: int(room(**k) * 8),
            "bits_for_bytes": lambda **k: int(room(**k) / 2),
            "rounded_up": lambda **k: longest_context(**k) + 1,
            "not_whole": lambda **k: room(**k) * 4,
        },
    ),
]  # fmt: skip
