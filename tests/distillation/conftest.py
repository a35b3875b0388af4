"""Tiny random models of four architectures, made on the spot."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config

torch.set_num_threads(1)
SMALL = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
CONFIGS = {
    "llama": lambda layers=4, hidden=32: LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, tie_word_embeddings=True, max_position_embeddings=64, **SMALL,
    ),
    "qwen2": lambda layers=4, hidden=32: Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, **SMALL,
    ),
    "opt": lambda layers=4, hidden=32: OPTConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4, ffn_dim=48,
        word_embed_proj_dim=hidden, max_position_embeddings=64, **SMALL,
    ),
    "gpt2": lambda layers=4, hidden=32: GPT2Config(
        n_embd=hidden, n_layer=layers, n_head=4, n_positions=64, **SMALL
    ),
}  # fmt: skip


def tiny(kind: str = "llama", seed: int = 0, **shape):
    """A random model in evaluation mode whose weights are larger than usual, so that its outputs
    are not flat.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model


@pytest.fixture
def make():
    return tiny


@pytest.fixture
def ids() -> torch.Tensor:
    """(24, 12) token ids."""
    return torch.randint(2, 50, (24, 12), generator=torch.Generator().manual_seed(1))
