"""A small model in every codec, and what each of its tensors must be when it is read."""

import numpy as np

from course_utils.challenge import encoders, layout

CONFIG = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}  # fmt: skip


def parts(seed=0):
    """({name: part}, {name: expected, float64}): the expected numbers come from the definitions,
    entry by entry.
    """
    draw, made, wanted = np.random.default_rng(seed), {}, {}
    at = "model.layers.0."
    for name, shape in layout.shapes(CONFIG).items():
        weight = draw.normal(size=shape).astype("f2").astype("f4")
        made[name], wanted[name] = encoders.f16(weight), weight.astype(float)

    def half(*shape):
        return draw.uniform(0.1, 1, shape).astype("f2").astype(float)

    q = draw.integers(-9, 20, (1024, 8))
    made["model.embed_tokens.weight"], wanted["model.embed_tokens.weight"] = (
        encoders.coded(q, np.float32(0.25), classes=3),
        q * 0.25,
    )
    name = f"{at}self_attn.q_proj.weight"
    codes, s, z = draw.integers(0, 8, (8, 8)), half(8, 3), draw.integers(0, 8, (8, 3))
    made[name] = encoders.grid(codes, s, z, bits=3, group=3)
    wanted[name] = np.array(
        [[s[r, c // 3] * (codes[r, c] - z[r, c // 3]) for c in range(8)] for r in range(8)]
    )
    name = f"{at}self_attn.k_proj.weight"
    codes, s = draw.integers(0, 32, (4, 8)), half(4, 1)
    made[name], wanted[name] = encoders.grid(codes, s, bits=5, group=8), s * (codes - 16)
    name = f"{at}self_attn.v_proj.weight"
    t, s = draw.integers(-1, 2, (4, 8)), half(4, 2)
    made[name] = encoders.ternary(t, s, group=4)
    wanted[name] = np.array([[s[r, c // 4] * t[r, c] for c in range(8)] for r in range(4)])
    name = f"{at}self_attn.o_proj.weight"
    left, right = half(8, 2), half(2, 8)
    made[name] = encoders.product(encoders.f16(left), encoders.f16(right), rank=2)
    wanted[name] = left @ right
    name = f"{at}mlp.gate_proj.weight"
    vectors, index = half(5, 2), draw.integers(0, 5, (12, 4))
    made[name] = encoders.table(vectors, index)
    wanted[name] = np.stack([np.concatenate([vectors[i] for i in row]) for row in index])
    name = f"{at}mlp.up_proj.weight"
    keep, inside = np.arange(12) % 3 != 1, half(8, 8)
    made[name] = encoders.masked(keep, encoders.f16(inside), axis="rows")
    wanted[name] = np.zeros((12, 8))
    wanted[name][np.flatnonzero(keep)] = inside
    name = f"{at}mlp.down_proj.weight"
    mask, values = draw.random((8, 12)) < 0.3, half(3)
    some, q = draw.integers(0, 3, (1, int(mask.sum()))), draw.integers(-2, 3, (8, 12))
    steps = half(12)
    made[name] = encoders.total(
        [encoders.masked(mask, encoders.table(values, some, coded=True)), encoders.coded(q, steps)]
    )
    wanted[name] = q * steps
    wanted[name][mask] += values[some[0]]
    return made, wanted
