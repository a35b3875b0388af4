"""Tiny random models of four architectures, and token ids for them."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config

ARCHITECTURES = {
    "llama": lambda: LlamaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64,
        tie_word_embeddings=True,
    ),
    "qwen2": lambda: Qwen2Config(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64,
        tie_word_embeddings=False,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=64,
        word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.0,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    ),
}  # fmt: skip


def make_model(architecture: str, dtype: torch.dtype = torch.float32):
    """Weights of a size at which every part matters; biases are random too, so that a lost one
    shows.
    """
    torch.manual_seed(7)
    config = ARCHITECTURES[architecture]()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 0
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = 1.0 if name.endswith("weight") and ("norm" in name or "ln_" in name) else 0.0
            parameter.data = (one + 0.12 * torch.randn_like(parameter)).to(dtype)
    model.tie_weights()
    return model


@pytest.fixture(params=list(ARCHITECTURES))
def tiny(request):
    return make_model(request.param)


@pytest.fixture
def make():
    return make_model


@pytest.fixture
def ids():
    return torch.randint(2, 96, (8, 40), generator=torch.Generator().manual_seed(3))
