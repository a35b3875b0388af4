"""Right and wrong answers to the exercises of memory."""

import math
from fractions import Fraction


def by_tensors(vocab, hidden, intermediate, layers, kv_heads, head_dim):
    kv = kv_heads * head_dim
    block = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden)]
    block += [(intermediate, hidden)] * 2 + [(hidden, intermediate)] + [(hidden, 1)] * 2
    outside = [(vocab, hidden), (vocab, hidden), (hidden, 1)]
    return sum(math.prod(shape) for shape in block * layers + outside)


def by_formula(**c):
    h = c["hidden"]
    each = h * (2 * h + 2 * c["kv_heads"] * c["head_dim"] + 3 * c["intermediate"] + 2)
    return each * c["layers"] + h * (2 * c["vocab"] + 1)


def in_floats(**c):
    return float(by_formula(**c))


def minus(part):
    return lambda **c: by_formula(**c) - part(**c)


def by_search(memory, weights, layers, kv_heads, head_dim, batch, bits):
    def fits(context):
        return weights + context * batch * layers * kv_heads * head_dim * bits // 4 <= memory

    low, high = 0, 10**7
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def by_floor(memory, weights, layers, kv_heads, head_dim, batch, bits):
    per_layer = kv_heads * head_dim * bits / 8
    return math.floor((memory - weights) / (batch * layers * (per_layer + per_layer)))


def bits_by_fraction(bits, group_size, scale_bits, zero_bits):
    return float(Fraction(bits) + Fraction(scale_bits + zero_bits, group_size))


def by_stepping(memory, weights, layers, kv_heads, head_dim, batch, bits):
    """Steps of falling size, as many of each as fit."""
    left, context = 8 * (memory - weights), 0
    for step in (10**9, 10**6, 10**3, 1):
        need = step * batch * layers * kv_heads * head_dim * bits * 2
        context, left = context + step * (left // need), left % need
    return context


def config_by_torch(config):
    """The model of the configuration with shapes and no memory."""
    from course_utils.evaluation import memory

    return memory.parameter_counts({"tie_word_embeddings": False, **config})["total"]


def config_by_shapes(config, tied=None, kv=None, d=None, query=None, norms=2):
    h, n, L = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    k = config.get("num_key_value_heads") or n if kv is None else kv(n)
    width = (config.get("head_dim") or h // n) if d is None else d(h // n)
    q = n * width if query is None else query(h)
    shapes = L * (
        [(q, h), (k * width, h), (k * width, h), (h, q)] + 3 * [(h, config["intermediate_size"])]
    )
    tied = config.get("tie_word_embeddings") if tied is None else tied
    shapes += [(config["vocab_size"], h)] * (1 if tied else 2)
    return sum(a * b for a, b in shapes) + (norms * L + bool(norms)) * h


def config_by_formula(config):
    h, heads = config["hidden_size"], config["num_attention_heads"]
    d = config.get("head_dim", h / heads)
    kv = config.get("num_key_value_heads", heads)
    block = 2 * h * d * (heads + kv) + 3 * h * config["intermediate_size"] + 2 * h
    ends = 1 if config.get("tie_word_embeddings", False) else 2
    return float(config["num_hidden_layers"] * block + h + ends * config["vocab_size"] * h)


RIGHT = {
    "memory.from_config": [config_by_torch, config_by_shapes, config_by_formula],
    "memory.parameters": [by_tensors, by_formula, in_floats],
    "memory.bits_per_weight": [
        bits_by_fraction,
        lambda bits, group_size, scale_bits, zero_bits: (
            bits + scale_bits / group_size + zero_bits / group_size
        ),
        lambda **k: (
            sum([k["bits"]] * k["group_size"] + [k["scale_bits"], k["zero_bits"]]) / k["group_size"]
        ),
    ],
    "memory.longest_context": [by_stepping, by_search, by_floor],
}
WRONG = {
    "memory.from_config": [
        (lambda config: config_by_shapes(config, tied=False), "head_twice"),
        (lambda config: config_by_shapes(config, tied=True), "head_never"),
        (lambda config: config_by_shapes(config, kv=lambda n: n), "kv_heads_ignored"),
        (lambda config: config_by_shapes(config, d=lambda usual: usual), "head_dim_ignored"),
        (lambda config: config_by_shapes(config, query=lambda h: h), "square_attention"),
        (lambda config: config_by_shapes(config, norms=0), "norms_forgotten"),
        (lambda config: config_by_shapes({**config, "num_hidden_layers": 1}), "one_layer"),
        (lambda config: config_by_shapes(config) * 2, None),
        (lambda config: config["num_key_value_heads"] * config["head_dim"], None),
    ],
    "memory.parameters": [
        (minus(lambda vocab, hidden, **_: vocab * hidden), "head_forgotten"),
        (
            minus(lambda layers, hidden, intermediate, **_: layers * hidden * intermediate),
            "gate_forgotten",
        ),
        (minus(lambda layers, hidden, **_: hidden + 2 * hidden * layers), "norms_forgotten"),
        (minus(lambda hidden, **_: hidden), "last_norm_forgotten"),
        (minus(lambda layers, hidden, **_: layers * hidden), "one_norm"),
        (
            minus(
                lambda layers, hidden, kv_heads, head_dim, **_: (
                    layers * hidden * kv_heads * head_dim
                )
            ),
            "value_forgotten",
        ),
        (
            lambda **c: by_formula(**{**c, "kv_heads": c["hidden"] // c["head_dim"]}),
            "grouping_ignored",
        ),
        (lambda **c: by_formula(**{**c, "layers": 1}), "one_layer"),
        (minus(lambda layers, hidden, **_: layers * hidden**2), "output_forgotten"),
        (minus(lambda vocab, **_: vocab), None),
        (lambda **c: 2 * by_formula(**c), None),
        (lambda **c: 12 * c["layers"] * c["hidden"] ** 2, None),
        (lambda **c: by_formula(**c) / 1e9, None),
    ],
    "memory.bits_per_weight": [
        (lambda bits, **_: bits, "codes_only"),
        (lambda bits, scale_bits, zero_bits, **_: bits + zero_bits + scale_bits, "per_weight"),
        (
            lambda bits, group_size, scale_bits, **_: (bits * group_size + scale_bits) / group_size,
            "zero_forgotten",
        ),
        (
            lambda bits, group_size, scale_bits, zero_bits: (
                bits * group_size + zero_bits + scale_bits
            ),
            "whole_group",
        ),
        (
            lambda bits, group_size, scale_bits, zero_bits: (
                (bits + (scale_bits + zero_bits) / group_size) / 8
            ),
            "in_bytes",
        ),
        (
            lambda bits, group_size, scale_bits, zero_bits: (
                bits + group_size / (scale_bits + zero_bits)
            ),
            None,
        ),
        (
            lambda bits, group_size, scale_bits, zero_bits: (
                bits + (scale_bits + zero_bits) / (2 * group_size)
            ),
            None,
        ),
        (lambda bits, group_size, scale_bits, zero_bits: bits + 16 / group_size, None),
        (
            lambda bits, group_size, scale_bits, zero_bits: bits * (1 + scale_bits / group_size),
            None,
        ),
    ],
    "memory.longest_context": [
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: (
                (memory - weights) // (2 * layers * kv_heads * batch * bits // 8)
            ),
            "head_dim_forgotten",
        ),
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: (
                (memory - weights) // (2 * layers * head_dim * batch * bits // 8)
            ),
            "kv_heads_forgotten",
        ),
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: (
                (memory - weights) // (4 * layers * kv_heads * head_dim * batch)
            ),
            "sixteen_bits",
        ),
        (lambda **k: by_floor(**{**k, "weights": 0}), "weights_forgotten"),
        (lambda **k: by_search(**{**k, "batch": 1}), "batch_forgotten"),
        (lambda **k: by_floor(**{**k, "layers": 1}), "layers_forgotten"),
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: (
                8 * (memory - weights) // (layers * kv_heads * head_dim * batch * bits)
            ),
            "keys_only",
        ),
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: (
                (memory - weights) // (2 * layers * kv_heads * head_dim * batch * bits)
            ),
            "bits_for_bytes",
        ),
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: math.ceil(
                4 * (memory - weights) / (layers * kv_heads * head_dim * batch * bits)
            ),
            "rounded_up",
        ),
        (
            lambda memory, weights, layers, kv_heads, head_dim, batch, bits: (
                (memory - weights) * 4 / (layers * kv_heads * head_dim * batch * bits)
            ),
            "not_whole",
        ),
        (lambda **k: k["memory"] - k["weights"], None),
        (lambda **k: by_floor(**{**k, "bits": 16}), "sixteen_bits"),
        (lambda **k: 4096, None),
    ],
}
