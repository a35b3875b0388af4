import pytest
import tiny_models
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)  # fmt: skip

from course_utils.errors import CompressionError
from course_utils.models import experts
from course_utils.quantization import awq, folding, smoothquant

WIDE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KV = {**WIDE, "intermediate_size": 48, "num_key_value_heads": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**KV, attention_bias=True, mlp_bias=True)),
    "llama-mha": lambda: LlamaForCausalLM(LlamaConfig(**{**KV, "num_key_value_heads": 4})),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**KV)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**KV)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**KV, head_dim=8)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_folding_keeps_the_function_and_changes_every_part(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    ids = torch.randint(60, (2, 9))
    before = model(input_ids=ids).logits
    found = folding.folds(model)
    assert len(found) == 2 and all(len(block) == (3 if kind == "gpt2" else 4) for block in found)
    for fold in (fold for block in found for fold in block):
        weights = [t.weight.clone() for t in fold.targets]
        folding.apply(fold, torch.rand(fold.channels).double() * 3 + 0.2)
        assert all(
            not torch.equal(old, t.weight) for old, t in zip(weights, fold.targets, strict=True)
        )
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-9, atol=1e-9)


def test_gather_and_spread_follow_the_heads_that_share_values():
    model = MODELS["llama"]()
    fold = next(f for f in folding.folds(model)[0] if f.name == "self_attn.v_proj")
    assert fold.channels == 16
    spread = fold.spread(torch.arange(16.0))
    assert spread.tolist() == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
    statistic = torch.arange(32.0)
    assert fold.gather(statistic)[:8].tolist() == [(i + i + 8) / 2 for i in range(8)]
    assert fold.gather(statistic)[8:].tolist() == [(i + 16 + i + 24) / 2 for i in range(8)]


def test_errors():
    model = MODELS["llama"]()
    fold = folding.folds(model)[0][0]
    for bad in (torch.ones(31), torch.zeros(32), torch.full((32,), torch.inf)):
        with pytest.raises(CompressionError, match="positive scales"):
            folding.apply(fold, bad)
    with pytest.raises(
        CompressionError, match="no norm stands directly before the layers of a 'olmo2' block"
    ):
        folding.norms_before(tiny_models.model_of("olmo2"))
    with pytest.raises(CompressionError, match=r"mlp.experts: its experts share tensors"):
        folding.folds(tiny_models.model_of("mixtral"))


def test_norms_behind_the_layers_take_up_no_scale():
    """OPT with its norms last: values and the ReLU's layer can be scaled, nothing else."""
    post = OPTForCausalLM(
        OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False)
    )
    assert [f.name for f in folding.folds(post)[0]] == ["self_attn.v_proj", "fc1"]


# architecture: what can be scaled in a block, by source and the number of its targets
LLAMA = {
    "input_layernorm": 3,
    "self_attn.v_proj": 1,
    "post_attention_layernorm": 2,
    "mlp.up_proj": 1,
}
GEMMA = {
    "input_layernorm": 3,
    "self_attn.v_proj": 1,
    "pre_feedforward_layernorm": 2,
    "mlp.up_proj": 1,
}
OLMO = {"self_attn.v_proj": 1, "mlp.up_proj": 1}
FUSED = {"input_layernorm": 1, "post_attention_layernorm": 1}
EXPERTS = {"input_layernorm": 3, "self_attn.v_proj": 1, "post_attention_layernorm": 4,
           **{f"mlp.experts.listed.{i}.gate_up_proj": 1 for i in range(4)}}  # fmt: skip
FOUND = {
    "gemma": LLAMA, "granite": LLAMA, "gemma2": GEMMA, "gemma3_text": GEMMA, "olmo2": OLMO,
    "olmo3": OLMO, "mixtral": EXPERTS, "qwen3_moe": EXPERTS,
    "phi3": {**FUSED, "self_attn.qkv_proj": 1, "mlp.gate_up_proj": 1},
    "bloom": {**FUSED, "self_attention.query_key_value": 1},
    "gpt_neox": {**FUSED, "attention.query_key_value": 1},
    "falcon": {"input_layernorm": 2, "self_attention.query_key_value": 1},
    "gptj": {"ln_1": 4, "attn.v_proj": 1},
    "starcoder2": {"input_layernorm": 3, "self_attn.v_proj": 1, "post_attention_layernorm": 1},
    "glm4": {"input_layernorm": 3, "self_attn.v_proj": 1, "post_attention_layernorm": 1,
             "mlp.gate_up_proj": 1},
}  # fmt: skip
PROBED = torch.randint(
    3, tiny_models.VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(5)
)


@pytest.mark.parametrize("kind", FOUND)
def test_any_architecture_is_scaled_without_changing_its_function(kind):
    """All folds of all blocks with scales from 0.2 to 5, on other tokens than those that found
    them: logits equal to 1e-4.
    """
    model = tiny_models.stirred(kind, 0.05, layers=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    listed = experts.copy_listed(model)
    found = folding.folds(listed)
    assert all({f.name: len(f.target_names) for f in block} == FOUND[kind] for block in found)
    wanted = model(input_ids=PROBED, use_cache=False).logits
    # put back
    torch.testing.assert_close(
        listed(input_ids=PROBED, use_cache=False).logits, wanted, rtol=1e-6, atol=1e-6
    )
    draws = torch.Generator().manual_seed(0)
    for fold in (fold for block in found for fold in block):
        folding.apply(fold, torch.exp(1.6 * (2 * torch.rand(fold.channels, generator=draws) - 1)))
    torch.testing.assert_close(
        listed(input_ids=PROBED, use_cache=False).logits, wanted, rtol=1e-4, atol=1e-4
    )
    if any(f.is_norm for f in found[0]):
        smoothed = smoothquant.smooth(model, PROBED)
        torch.testing.assert_close(
            smoothed(input_ids=PROBED, use_cache=False).logits, wanted, rtol=1e-4, atol=1e-4
        )
        assert smoothed.state_dict().keys() == before.keys()
    result = awq.quantize(model, PROBED, bits=8, group_size=8, alphas=(0.0, 0.5), clip=False)
    change = (
        result.model(input_ids=PROBED, use_cache=False).logits - wanted
    ).norm() / wanted.norm()
    assert change < 0.1 and result.coverage["share_of_blocks"] > 0.8
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_shared_parameters_are_not_scaled():
    model = tiny_models.model_of("llama", layers=4)
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[2].mlp.up_proj.weight
    names = [[f.name for f in block] for block in folding.folds(model)]
    assert [("mlp.up_proj" in block, "post_attention_layernorm" in block) for block in names] == [
        (True, True)
    ] * 2 + [(False, False)] * 2
    smoothed = smoothquant.smooth(model, PROBED)
    torch.testing.assert_close(
        smoothed(input_ids=PROBED).logits, model(input_ids=PROBED).logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same(dtype):
    model = tiny_models.model_of("gemma", layers=2).to(dtype)
    assert [f.name for f in folding.folds(model)[1]] == list(LLAMA)


def test_gelu_is_not_folded_through():
    gelu = OPTForCausalLM(
        OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, activation_function="gelu")
    )
    assert [f.name for f in folding.folds(gelu)[0]] == [
        "self_attn_layer_norm",
        "self_attn.v_proj",
        "final_layer_norm",
    ]
