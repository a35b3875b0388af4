"""Tiny random models of each architecture, as objects and as folders with a tokenizer."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from course_utils import models

SHAPES = {
    "llama": lambda: LlamaConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64,
        tie_word_embeddings=True,
    ),
    "qwen2": lambda: Qwen2Config(
        vocab_size=1024, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    ),
    "gpt2": lambda: GPT2Config(vocab_size=1024, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "bert": lambda: BertConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    ),
}  # fmt: skip
CAUSAL = ("llama", "qwen2", "opt", "gpt2")


def make(name: str):
    config = SHAPES[name]()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 0
    torch.manual_seed(0)
    model = (
        BertForMaskedLM(config) if name == "bert" else AutoModelForCausalLM.from_config(config)
    ).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" not in key.lower() and "ln_" not in key:
                parameter.normal_(0, 0.2)
    return model


@pytest.fixture(name="make")
def make_fixture():
    return make


@pytest.fixture(params=CAUSAL)
def tiny(request):
    return make(request.param)


@pytest.fixture(scope="session")
def tokenizer():
    return models.load_tokenizer("bundled")


@pytest.fixture
def folder_of(tmp_path, tokenizer):
    """name → a folder that holds this model."""

    def write(name: str):
        folder = tmp_path / f"tiny-{name}"
        make(name).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def ids():
    return torch.randint(2, 1024, (3, 20), generator=torch.Generator().manual_seed(1))
