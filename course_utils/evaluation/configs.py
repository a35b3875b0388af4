"""Shapes of well-known public models, as their config.json files on the Hugging Face
hub give them.
"""

from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    "GPT-2": {
        "source": "openai-community/gpt2",
        "model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_embd": 768,
        "n_layer": 12, "n_head": 12,
    },
    "OPT-125M": {
        "source": "facebook/opt-125m",
        "model_type": "opt", "vocab_size": 50272, "hidden_size": 768, "num_hidden_layers": 12,
        "ffn_dim": 3072, "num_attention_heads": 12, "max_position_embeddings": 2048,
        "word_embed_proj_dim": 768,
    },
    "Qwen2.5-0.5B": {
        "source": "Qwen/Qwen2.5-0.5B",
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
    "Llama-3.2-1B": {
        "source": "meta-llama/Llama-3.2-1B",
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
    "Llama-2-7B": {
        "source": "meta-llama/Llama-2-7b-hf",
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "Mistral-7B": {
        "source": "mistralai/Mistral-7B-v0.1",
        "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-7B": {
        "source": "Qwen/Qwen2.5-7B",
        "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584,
        "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    "Llama-3-8B": {
        "source": "meta-llama/Meta-Llama-3-8B",
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    "Llama-2-13B": {
        "source": "meta-llama/Llama-2-13b-hf",
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824,
        "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "Llama-2-70B": {
        "source": "meta-llama/Llama-2-70b-hf",
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
