"""Structured pruning: ordinary smaller models, checked against masking, closed forms and brute
force.
"""

import itertools

import pytest
import tiny_models
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
)

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import anatomy, groups, structured, width


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * b.abs().max()


def roundtrips(model, ids, folder):
    """Saved and loaded by transformers alone, the model computes the same and generates with its
    cache.
    """
    model.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype).eval()
    assert type(again) is type(model)
    assert torch.equal(logits(again, ids), logits(model, ids))
    out = again.generate(ids[:2, :5], max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert out.shape == (2, 13)
    slow = ids[:2, :5]
    for _ in range(8):
        nxt = logits(again, slow)[:, -1]
        nxt[:, again.config.eos_token_id] = -torch.inf
        slow = torch.cat([slow, nxt.argmax(-1, keepdim=True)], 1)
    assert torch.equal(out, slow), "the cache gives what running everything again gives"


def untouched(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.fixture
def before(tiny):
    return {k: v.clone() for k, v in tiny.state_dict().items()}


def test_mlp_equals_zeroed_channels(tiny, before, ids, tmp_path):
    """Without compensation the smaller model computes what the large one computes with those
    channels at zero.
    """
    result = structured.prune_mlp(tiny, ids, keep=0.25, compensate=False)
    parts = anatomy.of(tiny)
    for block, kept in zip(walk.blocks(tiny), result.details["kept"], strict=True):
        out = walk.weight_of(block.get_submodule(parts.mlp_out))
        assert len(kept) == out.shape[1] // 4 == result.settings["channels"]
        gone = torch.ones(out.shape[1], dtype=torch.bool)
        gone[kept] = False
        out[:, gone] = 0
    assert close(logits(result.model, ids), logits(tiny, ids))
    tiny.load_state_dict(before)
    assert getattr(result.model.config, parts.width) == result.settings["channels"]
    assert result.model.num_parameters() < tiny.num_parameters()
    roundtrips(result.model, ids, tmp_path)


def test_mlp_keeping_everything_changes_nothing(tiny, before, ids):
    for compensate in (False, True):
        result = structured.prune_mlp(tiny, ids, keep=1.0, compensate=compensate)
        assert close(logits(result.model, ids), logits(tiny, ids), 1e-2 if compensate else 0)
    assert untouched(tiny, before)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("unit", ["group", "query"])
def test_heads_equal_zeroed_heads(make, ids, name, unit, tmp_path):
    model = make(name)
    config = model.config
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    keep = heads // 2 if name == "qwen2" else {"group": 2, "query": 3}[unit]
    result = structured.prune_heads(model, ids, keep=keep, unit=unit, compensate=False)
    new = result.model.config
    assert new.num_attention_heads == keep
    assert new.num_key_value_heads == (kv * keep // heads if unit == "group" else kv)
    assert new.head_dim == size and new.hidden_size == config.hidden_size
    for block, kept in zip(walk.blocks(model), result.details["kept"], strict=True):
        weight = walk.weight_of(block.self_attn.o_proj)
        for head in set(range(heads)) - set(kept):
            weight[:, head * size : (head + 1) * size] = 0
        per_kv = [sum(h // (heads // kv) == g for h in kept) for g in range(kv)]
        assert set(per_kv) == ({0, heads // kv} if unit == "group" else {keep // kv})
    assert close(logits(result.model, ids), logits(model, ids))
    roundtrips(result.model, ids, tmp_path)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_configs_of_opt_and_gpt2_cannot_say_that_heads_are_gone(make, ids, name):
    """Half the heads in the config changes no shape, the heads become larger: why `prune_heads`
    refuses.
    """
    model = make(name)
    fewer = anatomy.smaller_config(model.config, **{width.FIELDS[name][0]: 2})
    again = type(model)(fewer)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    with pytest.raises(CompressionError, match=r"hidden size / heads.*pruning\.width\.prune_heads"):
        structured.prune_heads(model, ids)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
@pytest.mark.parametrize("compensate", [False, True])
def test_heads_with_the_width_give_an_ordinary_smaller_model(make, ids, name, compensate, tmp_path):
    model = make(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = width.prune_heads(model, ids, keep=2, compensate=compensate)
    assert untouched(model, before)
    config = result.model.config
    assert (config.num_attention_heads, config.hidden_size) == (2, 16) and result.settings[
        "heads"
    ] == 2
    size = 8
    for block, kept in zip(walk.blocks(result.model), result.details["kept"], strict=True):
        parts = anatomy.of(result.model)
        assert len(kept) == 2 and walk.weight_of(
            block.get_submodule(parts.attention_out)
        ).shape == (16, 2 * size)
        assert walk.weight_of(block.get_submodule(parts.mlp_out)).shape == (
            16,
            walk.weight_of(walk.blocks(model)[0].get_submodule(parts.mlp_out)).shape[1],
        )
    roundtrips(result.model, ids, tmp_path)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_dead_heads_and_dead_coordinates_cost_nothing(make, ids, name):
    """If the stream uses half its coordinates and half the heads write nothing, the small model is
    the large one.

    What stays of the stream has half the sum of squares: the norm over it must be made √½ smaller.
    """
    model = make(name)
    parts, stay = anatomy.of(model), torch.arange(1, 32, 2)
    gone = torch.arange(0, 32, 2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "emb" in key or "wte" in key or "wpe" in key:
                parameter[:, gone] = 0
                parameter[:, stay] -= parameter[:, stay].mean(1, keepdim=True)
            if "norm" in key or "ln_" in key:
                parameter[gone] = 0
        for block in walk.blocks(model):
            for out in (parts.attention_out, parts.mlp_out):
                module = block.get_submodule(out)
                weight = walk.weight_of(module)
                weight[gone] = 0
                weight[stay] -= weight[stay].mean(0, keepdim=True)  # the mean of the stream stays 0
                module.bias[gone] = 0
                module.bias[stay] -= module.bias[stay].mean()
            walk.weight_of(block.get_submodule(parts.attention_out))[:, 8:24] = 0
    result = width.prune_heads(model, ids, keep=0.5, compensate=False)
    assert result.details["coordinates"] == stay.tolist() and result.details["kept"] == [[0, 3]] * 3
    assert close(logits(result.model, ids), logits(model, ids), 1e-3)


def test_width_keeping_everything_changes_nothing(make, ids):
    for name in ("opt", "gpt2"):
        model = make(name)
        assert close(
            logits(width.prune_heads(model, ids, keep=1.0, compensate=False).model, ids),
            logits(model, ids),
        )
    with pytest.raises(CompressionError, match="structured.prune_heads"):
        width.prune_heads(make("llama"), ids)
    with pytest.raises(CompressionError, match="keep=0"):
        width.prune_heads(make("opt"), ids, keep=0)
    plain = make("opt").config
    plain.layer_norm_elementwise_affine = False
    with pytest.raises(CompressionError, match="norms have no weights"):
        width.prune_heads(AutoModelForCausalLM.from_config(plain), ids)


def test_head_counts_that_do_not_fit_are_refused(tiny_llama, ids):
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=1,
    )
    # Llama wants divisors of 32
    with pytest.raises(CompressionError, match=r"choose from \[2, 4, 8\]"):
        structured.prune_heads(LlamaForCausalLM(config), ids, keep=6)
    with pytest.raises(CompressionError, match="multiple of 3"):
        structured.prune_heads(tiny_llama, ids, keep=4, unit="query")
    with pytest.raises(CompressionError, match="unit='head'"):
        structured.prune_heads(tiny_llama, ids, unit="head")


def test_layers_are_those_of_the_formula(tiny, before, ids, tmp_path):
    states: list = []
    handles = [b.register_forward_hook(lambda m, a, k, out: states.append(
        ((a[0] if a else k["hidden_states"]), out[0] if isinstance(out, tuple) else out)),
        with_kwargs=True)
        for b in walk.blocks(tiny)]  # fmt: skip
    logits(tiny, ids)
    for handle in handles:
        handle.remove()
    wanted = []
    for x, y in states:
        cos = [
            float(a @ b / (a.norm() * b.norm()))
            for a, b in zip(x.double().flatten(0, 1), y.double().flatten(0, 1), strict=True)
        ]
        wanted.append(1 - sum(cos) / len(cos))
    assert structured.block_influence(tiny, ids) == pytest.approx(wanted, abs=1e-6)
    result = structured.prune_layers(tiny, ids, keep=2)
    assert result.details["kept"] == sorted(sorted(range(3), key=lambda i: -wanted[i])[:2])
    assert result.model.config.num_hidden_layers == len(walk.blocks(result.model)) == 2
    assert untouched(tiny, before)
    roundtrips(result.model, ids, tmp_path)


def test_layers_equal_a_model_without_those_blocks(tiny, ids):
    small = structured.keep_layers(tiny, [0, 2])
    inside = walk.blocks(tiny)
    del inside[1]
    assert close(logits(small, ids), logits(tiny, ids))


def test_blocks_are_the_run_that_turns_least(tiny, ids):
    result = structured.prune_blocks(tiny, ids, keep=1)
    states = list(structured.residual_stream(tiny, ids))
    angles = []
    for start in range(2):
        a, b = states[start], states[start + 2]
        cos = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        angles.append(float(torch.acos(cos).mean() / torch.pi))
    assert result.details["distance"] == pytest.approx(angles, abs=1e-9)
    assert result.details["kept"] == ([2] if angles[0] <= angles[1] else [0])


def test_an_identity_block_goes_first(tiny, ids):
    parts = anatomy.of(tiny)
    dead = walk.blocks(tiny)[1]
    for name in (parts.attention_out, parts.mlp_out):
        for parameter in dead.get_submodule(name).parameters():
            nn.init.zeros_(parameter)
    for prune in (structured.prune_layers, structured.prune_blocks):
        result = prune(tiny, ids, keep=2)
        assert result.details["kept"] == [0, 2]
        assert close(logits(result.model, ids), logits(tiny, ids))


def test_qwen2_layer_types_follow(make, ids):
    model = make("qwen2")
    config = model.config
    config.layer_types, config.sliding_window, config.use_sliding_window = (
        ["full_attention", "sliding_attention", "full_attention"], 4, True)  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    small = structured.keep_layers(model, [1, 2])
    assert small.config.layer_types == ["sliding_attention", "full_attention"]
    del walk.blocks(model)[0]
    model.config.layer_types, model.config.num_hidden_layers = small.config.layer_types, 2
    assert close(logits(small, ids), logits(model, ids))


def other(model_type, **changes):
    """A tiny model of another architecture, with head_dim · heads = hidden size."""
    config = AutoConfig.for_model(
        model_type, vocab_size=96, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, max_position_embeddings=64,
        pad_token_id=1, bos_token_id=0, eos_token_id=0, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_blocks_without_positions_stay_without_them(ids):
    """SmolLM3's config says for each block whether it rotates queries and keys."""
    model = other("smollm3")
    assert model.config.no_rope_layers == [1, 1, 1, 0]
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.mul_(5)
    small = structured.keep_layers(model, [0, 3])
    assert small.config.no_rope_layers == [1, 0]
    del walk.blocks(model)[1:3]
    assert close(logits(small, ids), logits(model, ids))


EXPERTS = {  # as each config says it: changes, blocks that stay, what the smaller config then says
    "deepseek_v3": ({"first_k_dense_replace": 2}, [1, 2, 4], {"first_k_dense_replace": 1}),
    "glm4_moe": ({"first_k_dense_replace": 1}, [3, 4, 5], {"first_k_dense_replace": 0}),
    "qwen2_moe": ({"mlp_only_layers": [3], "decoder_sparse_step": 2}, [0, 1, 3, 5],
                  {"mlp_only_layers": [0, 2], "decoder_sparse_step": 1}),
    "ernie4_5_moe": ({"moe_layer_start_index": 1, "moe_layer_end_index": 4}, [0, 2, 3, 5],
                     {"moe_layer_start_index": 1, "moe_layer_end_index": 2}),
    "gpt_neo": ({}, [1, 2, 5], {"attention_layers": ["local", "global", "local"]}),
    "recurrent_gemma": ({"block_types": ["recurrent", "attention"]}, [1, 2, 5],
                        {"block_types": ["attention", "recurrent", "attention"]}),
    "bamba": ({"attn_layer_indices": [2, 4]}, [2, 3, 4], {"attn_layer_indices": [0, 2]}),
    "jamba": ({"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 3,
               "expert_layer_offset": 0}, [0, 3],
              {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 1,
               "expert_layer_offset": 0}),
}  # fmt: skip


def with_experts_where(kind, changes):
    config = tiny_models.config_of(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", EXPERTS)
def test_blocks_of_several_kinds_stay_what_they_are(kind, ids):
    changes, chosen, said = EXPERTS[kind]
    model = with_experts_where(kind, changes)
    small = structured.keep_layers(model, chosen)
    assert {name: getattr(small.config, name) for name in said} == said
    inside = walk.blocks(model)
    for gone in sorted(set(range(6)) - set(chosen), reverse=True):
        del inside[gone]
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
    assert close(logits(small, ids), wanted)


@pytest.mark.parametrize(("kind", "chosen"), [("deepseek_v3", [3, 0]), ("ernie4_5_moe", [2, 0, 3])])
def test_an_order_of_experts_that_the_config_cannot_say_is_refused(kind, chosen):
    with pytest.raises(CompressionError, match=f"{kind}'s config can only say"):
        structured.keep_layers(with_experts_where(kind, EXPERTS[kind][0]), chosen)


UNFIT = {  # structured pruning of blocks that cannot go: what is said, and what is to do instead
    "gemma3n_text": (
        "last 5 blocks .* keys and values of blocks before them.* use wanda or sparsegpt"
    ),
    "gemma4_text": (
        "last 6 blocks .* keys and values of blocks before them.* use wanda or sparsegpt"
    ),
    "gemma4_unified_text": (
        "something of single blocks in a way that is not known here.* use wanda or sparsegpt"
    ),
    "jamba": (
        "by a rhythm of 8 blocks.* use prune_blocks and remove a multiple of 8, "
        "or use wanda or sparsegpt"
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_blocks_that_cannot_go_are_refused_before_any_work(kind, ids, monkeypatch):
    model = tiny_models.model_of(kind)
    monkeypatch.setattr(walk, "through_blocks", lambda *_: pytest.fail("it ran"))
    with pytest.raises(CompressionError, match=UNFIT[kind]) as told:
        structured.prune_layers(model, ids)
    assert len(str(told.value)) < 230


class WithATable(LlamaForCausalLM):
    """A part for each block outside of the blocks, as Gemma 3n's `embed_tokens_per_layer`."""

    def __init__(self, config):
        super().__init__(config)
        self.parts = nn.Embedding(4, 2 * config.num_hidden_layers)


def test_a_table_with_a_part_for_each_block_is_met(ids):
    model = WithATable(other("llama").config).eval()
    with pytest.raises(CompressionError, match=r"parts\.weight holds something for each block"):
        structured.prune_blocks(model, ids)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_a_rhythm_only_runs_go_that_leave_one(n, ids):
    model = with_experts_where("jamba", EXPERTS["jamba"][0])
    total = len(walk.blocks(model))

    def left(first):
        return [i for i in range(total) if not first <= i < first + n]

    open_to = anatomy.runs_that_may_go(model, n, [])
    assert total - n in open_to, "what is left of a rhythm without its end is in time"
    for first in range(total - n + 1):
        if first in open_to:
            assert len(walk.blocks(structured.keep_layers(model, left(first)))) == total - n
        else:
            with pytest.raises(CompressionError, match="rhythm"):
                structured.keep_layers(model, left(first))
    pruned = structured.prune_blocks(model, ids, keep=total - n)
    assert pruned.details["kept"] in [left(first) for first in open_to]
    with pytest.raises(CompressionError, match="names; keep more"):
        anatomy.runs_that_may_go(model, n, range(total))


def test_runs_that_break_the_rhythm_are_refused_before_any_work(ids, monkeypatch):
    model = with_experts_where("jamba", EXPERTS["jamba"][0])
    total = len(walk.blocks(model))
    assert 1 not in anatomy.runs_that_may_go(model, 1, [])
    others = "|".join(str(i) for i in range(total) if i != 1)
    monkeypatch.setattr(walk, "through_blocks", lambda *_: pytest.fail("it ran"))
    with pytest.raises(CompressionError, match="rhythm"):
        structured.prune_blocks(model, ids, keep=total - 1, ignore=[rf".*layers\.({others})\..*"])


def test_a_rhythm_that_is_broken_is_said(ids):
    model = with_experts_where("jamba", EXPERTS["jamba"][0])
    with pytest.raises(
        CompressionError, match="rhythm .attn_layer_period.*keep others, or use wanda"
    ):
        structured.keep_layers(model, [0, 1, 3])


@pytest.mark.parametrize(
    "model_type, changes",
    [
        ("olmo2", {}),
        ("cohere", {"use_qk_norm": True}),
        ("stablelm", {"qk_layernorm": True}),
        ("helium", {}),
    ],
)
def test_heads_that_cannot_go_alone_are_refused(ids, model_type, changes):
    """Norms over all heads or one for each, and an output projection that is always square."""
    model = other(model_type, **changes)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CompressionError, match=f"model: {model_type}'s"):
        structured.prune_heads(model, ids, keep=2)
    assert untouched(model, before)
    assert structured.prune_mlp(model, ids).model.config.intermediate_size == 24


def test_norms_within_a_head_stay(ids):
    """Qwen3 normalizes queries and keys by head."""
    model = other("qwen3")
    small = structured.prune_heads(model, ids, keep=2, compensate=False)
    for block, kept in zip(walk.blocks(model), small.details["kept"], strict=True):
        for head in set(range(4)) - set(kept):
            walk.weight_of(block.self_attn.o_proj)[:, head * 8 : head * 8 + 8] = 0
    assert close(logits(small.model, ids), logits(model, ids))


def test_influence_is_measured_without_dropout(ids):
    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    model = AutoModelForCausalLM.from_config(config).eval()
    wanted = structured.block_influence(model, ids)
    model.train()
    assert structured.block_influence(model, ids) == wanted and model.training


# --- the layer-level formulas
# ------------------------------------------------------------------------------------


@pytest.fixture
def layer():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(50, 12, generator=g, dtype=torch.float64) @ torch.randn(
        12, 12, generator=g, dtype=torch.float64
    )
    return torch.randn(7, 12, generator=g, dtype=torch.float64), X, 2 / 50 * X.T @ X


@pytest.mark.parametrize("size", [1, 2, 3])
def test_energy_is_what_a_group_adds(layer, size):
    W, X, H = layer
    found = groups.score(W, H, size)
    for g in range(12 // size):
        part = slice(g * size, (g + 1) * size)
        assert found[g] == pytest.approx(
            2 / 50 * (X[:, part] @ W[:, part].T).square().sum().item(), rel=1e-10
        )
    assert groups.score(W, H, size, "magnitude") == pytest.approx(
        W.view(7, -1, size).square().sum((0, 2))
    )


@pytest.mark.parametrize("size", [1, 3])
def test_surgeon_is_the_error_after_least_squares(layer, size):
    W, X, H = layer
    found = groups.score(W, H, size, "surgeon", damping=0.0)
    for g in range(12 // size):
        rest = [j for j in range(12) if j // size != g]
        fit = torch.linalg.lstsq(X[:, rest], X @ W.T).solution
        assert found[g] == pytest.approx(
            2 / 50 * (X[:, rest] @ fit - X @ W.T).square().sum().item(), rel=1e-8
        )


def test_compensation_is_least_squares(layer):
    W, X, H = layer
    columns = torch.tensor([0, 3, 4, 7, 11])
    fit = torch.linalg.lstsq(X[:, columns], X @ W.T).solution.T
    assert close(groups.compensated(W, H, columns, damping=0.0), fit, 1e-9)


def test_kept_groups_are_the_best_subset_by_brute_force():
    score = torch.tensor([3.0, 1.0, 3.0, 2.0, 1.0])
    for keep in range(1, 6):
        best = max(
            itertools.combinations(range(5), keep),
            key=lambda c: (sum(score[list(c)]), [-i for i in c]),
        )
        assert groups.kept(score, keep).tolist() == list(best)
    assert groups.members(torch.tensor([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]


def test_dead_channels_cost_nothing(tiny, ids):
    """Channels whose way out is zero are the ones that go, and nothing changes."""
    parts = anatomy.of(tiny)
    for block in walk.blocks(tiny):
        walk.weight_of(block.get_submodule(parts.mlp_out))[:, ::2] = 0
    for compensate in (False, True):
        result = structured.prune_mlp(tiny, ids, keep=0.5, compensate=compensate)
        assert all(k % 2 == 1 for kept in result.details["kept"] for k in kept)
        assert close(logits(result.model, ids), logits(tiny, ids), 1e-2 if compensate else 1e-5)


def test_half_precision_stays_half(make, ids):
    model = make("llama").bfloat16()
    result = structured.prune_mlp(model, ids)
    assert result.model.dtype == torch.bfloat16


@pytest.mark.parametrize("keep", [0, 0.0, 1.5, -0.5, 1000, True, "half"])
def test_bad_keep_is_named(tiny_llama, ids, keep):
    for prune in (
        structured.prune_mlp,
        structured.prune_heads,
        structured.prune_layers,
        structured.prune_blocks,
    ):
        with pytest.raises(CompressionError, match="keep="):
            prune(tiny_llama, ids, keep=keep)


def test_other_bad_input_is_named(tiny_llama, ids):
    with pytest.raises(CompressionError, match="calibration"):
        structured.prune_mlp(tiny_llama, ids[:0])
    with pytest.raises(CompressionError, match="score='taylor'"):
        structured.prune_mlp(tiny_llama, ids, score="taylor")
    with pytest.raises(CompressionError, match="nn.Sequential"):
        structured.prune_mlp(nn.Sequential(nn.Linear(2, 2)), ids)
    with pytest.raises(CompressionError, match="layers="):
        structured.keep_layers(tiny_llama, [3])
    from course_utils.quantization import rtn

    with pytest.raises(CompressionError, match="before quantizing"):
        structured.prune_mlp(rtn.quantize(tiny_llama, group_size=-1).model, ids)
