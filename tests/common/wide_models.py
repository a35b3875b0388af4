"""Random models of four architectures: wide enough for groups of 128, for the tests of checkpoint
layouts; and small ones.
"""

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
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**WIDE, intermediate_size=256, num_key_value_heads=2, tie_word_embeddings=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**WIDE, intermediate_size=256, num_key_value_heads=2)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**WIDE, ffn_dim=256, word_embed_proj_dim=128, max_position_embeddings=64)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=128, n_layer=2, n_head=4, n_positions=64)
    ),
}


def tiny(kind="llama"):
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def small(hidden: int, layers: int) -> dict:
    """{architecture: function that makes it}, with 60 tokens and four heads."""
    sizes = {
        "vocab_size": 60,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    grouped = {**sizes, "num_key_value_heads": 2, "intermediate_size": 48}
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**grouped)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**grouped)),
        "opt": lambda: OPTForCausalLM(
            OPTConfig(**sizes, ffn_dim=48, max_position_embeddings=64, word_embed_proj_dim=hidden)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=60, n_embd=hidden, n_layer=layers, n_head=4, n_positions=64)
        ),
    }
