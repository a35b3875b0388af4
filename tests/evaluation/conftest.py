"""The bundled model, and small random ones of four architectures that read the bundled tokenizer's
ids.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config

from course_utils import models

CONTEXT = 256
SHAPES = {
    "llama": lambda: LlamaConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    ),
    "qwen2": lambda: Qwen2Config(
        vocab_size=1024, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        word_embed_proj_dim=32, max_position_embeddings=CONTEXT,
    ),
    "gpt2": lambda: GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=4,
                               n_positions=CONTEXT),
}  # fmt: skip


def make(name: str, seed: int = 0):
    """Random weights large enough that the next token is far from uniform."""
    config = SHAPES[name]()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 0
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" not in key and "ln_" not in key:
                parameter.normal_(0, 0.15)
    return model


@pytest.fixture(params=SHAPES)
def tiny(request):
    return make(request.param)


@pytest.fixture
def llama():
    return make("llama")


@pytest.fixture(name="make")
def make_fixture():
    return make


@pytest.fixture(scope="session")
def bundled():
    """(model, tokenizer). Tests leave the model as it is."""
    return models.load("bundled")


@pytest.fixture(scope="session")
def tokenizer(bundled):
    return bundled[1]


@pytest.fixture(scope="session")
def bare_tokenizer():
    """Another vocabulary, with neither a beginning nor an end nor padding."""
    import itertools

    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    from course_utils.world import documents

    bpe = Tokenizer(kinds.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = (d.text for d in itertools.islice(documents("train", seed=9), 300))
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe)
