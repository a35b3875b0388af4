import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
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
from course_utils.quantization import folding

WIDE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KV = {**WIDE, "intermediate_size": 48, "num_key_value_heads": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**KV, attention_bias=True, mlp_bias=True)),
    "llama-mha": lambda: LlamaForCausalLM(LlamaConfig(**{**KV, "num_key_value_heads": 4})),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**KV)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**KV)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**KV, head_dim=8)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
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
        assert all(not torch.equal(old, t.weight) for old, t in zip(weights, fold.targets, strict=True))
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
    other = GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE, intermediate_size=48))
    with pytest.raises(CompressionError, match="gpt_neox.*llama, mistral"):
        folding.folds(other)
    post = OPTForCausalLM(OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False))
    with pytest.raises(CompressionError, match="norms before"):
        folding.folds(post)


def test_gelu_is_not_folded_through():
    gelu = OPTForCausalLM(OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, activation_function="gelu"))
    assert [f.name for f in folding.folds(gelu)[0]] == ["self_attn_layer_norm", "self_attn.v_proj", "final_layer_norm"]
