"""Tiny random models of each architecture, calibration ids, and the bundled model with its text."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM as Auto
from transformers import GPT2Config, LlamaConfig, OPTConfig, Qwen2Config

SIZES = {
    "llama": lambda: LlamaConfig(
        vocab_size=96, hidden_size=48, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=3, head_dim=8, intermediate_size=64, max_position_embeddings=64,
        tie_word_embeddings=True,
    ),
    "qwen2": lambda: Qwen2Config(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4, intermediate_size=48, max_position_embeddings=64,
        tie_word_embeddings=False,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=64,
        max_position_embeddings=64, dropout=0.0,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip


def make_tiny(name: str):
    """Random weights large enough that every part matters; biases and norms are random too."""
    torch.manual_seed(1)
    config = SIZES[name]()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 0
    model = Auto.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            norm = "norm" in key or "ln_" in key
            parameter.copy_(
                torch.randn_like(parameter) * 0.3 + (1 if norm and key.endswith("weight") else 0)
            )
    return model


@pytest.fixture(params=list(SIZES))
def tiny(request):
    return make_tiny(request.param)


@pytest.fixture
def tiny_llama():
    return make_tiny("llama")


@pytest.fixture
def tiny_gpt2():
    return make_tiny("gpt2")


@pytest.fixture
def ids():
    return torch.randint(2, 96, (6, 20), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def make():
    return make_tiny


@pytest.fixture
def small():
    """A two-layer network in float64, its data and its loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 3, (12,))
    return model, (x, y), lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1])
