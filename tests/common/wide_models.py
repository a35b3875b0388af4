"""Random models wide enough for groups of 128, for the tests of checkpoint layouts."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

WIDE = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE, intermediate_size=256, num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDE, intermediate_size=256, num_key_value_heads=2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**WIDE, ffn_dim=256, word_embed_proj_dim=128, max_position_embeddings=64)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=128, n_layer=2, n_head=4, n_positions=64)),
}


def tiny(kind="llama"):
    torch.manual_seed(0)
    return MODELS[kind]().eval()
