"""A tiny random model of any causal architecture that transformers knows: the list grows with the
library.
"""

import inspect
import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY, WINDOW = 96, 8
LAYERS = 6  # enough for a full and a sliding layer in the patterns that are in use
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48,
    "max_position_embeddings": 128, "sliding_window": WINDOW, "attention_window_size": WINDOW,
    "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, "n_inner": 48, "n_ctx": 128,
    "d_model": 32, "n_heads": 4, "n_layers": LAYERS, "num_layers": LAYERS, "num_heads": 4,
    "ffn_dim": 48, "d_ff": 48, "dff": 48, "max_seq_len": 128, "rotary_dim": 4,
    "decoder_layers": LAYERS, "encoder_layers": 2, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48,
    "word_embed_proj_dim": 32, "attention_heads": 4, "num_decoder_layers": LAYERS, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "n_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_moe_experts": 4, "moe_num_experts": 4, "moe_k": 2, "ffn_hidden_size": 48,
    "max_sequence_length": 128, "block_size": 128, "kv_channels": 8, "mamba_d_state": 8,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8,
    "state_size": 8, "conv_kernel": 4, "time_step_rank": 4, "mamba_dt_rank": 4, "d_kv": 8,
    "n_groups": 1, "chunk_size": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "lru_width": 32,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
    "mlp_hidden_size": 48, "embedding_size": 32, "global_head_dim": 8,
    "num_global_key_value_heads": 2, "expert_ffn_hidden_size": 24, "moe_topk": 2,
    "zero_expert_num": 0, "index_topk": 4, "index_n_heads": 2, "index_head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attention_chunk_size": WINDOW,
    "num_kv_shared_layers": 2,
}  # fmt: skip


OTHER: dict[str, dict[str, Any]] = {  # what one type needs beside the sizes
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]], "window_size": WINDOW},
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 5,
                     "activation_sparsity_pattern": [0.0] * 10, "laurel_rank": 4,
                     "intermediate_size": [48] * 10},
    "gemma4_text": {"num_hidden_layers": 12, "num_kv_shared_layers": 6},
    "gemma4_unified_text": {"num_hidden_layers": 12, "num_kv_shared_layers": 0},
    "mamba2": {"num_heads": 8, "head_dim": 8}, "falcon_h1": {"mamba_d_ssm": 64},
    "reformer": {"is_decoder": True}, "zaya": {"num_experts_per_tok": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
}  # fmt: skip


UNSET = ("num_key_value_heads", "head_dim")  # None in many configs, which the model then cannot use


def _get(config: PretrainedConfig, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # one of the sizes differs from layer to layer: left as it is
        return None


def config_of(kind: str) -> PretrainedConfig:
    """The library's own default config of this model type, made small."""
    made = CONFIG_MAPPING[kind]
    inner = {
        name: config_of(part.model_type)
        for name, part in (getattr(made, "sub_configs", None) or {}).items()
        if name in ("text_config",) and getattr(part, "model_type", "") in CONFIG_MAPPING
    }
    default = made()
    names = set(inspect.signature(made.__init__).parameters) | set(default.to_dict())
    known = {
        k: v
        for k, v in SIZES.items()
        if k in names and (_get(default, k) is not None or k in UNSET)
    }
    # latent attention: every head has its own key
    if "kv_lora_rank" in known and "num_key_value_heads" in known:
        known["num_key_value_heads"] = known["num_attention_heads"]
    return made(**{**known, **OTHER.get(kind, {}), **inner})


LARGEST = 3_000_000


def _build(kind: str, attention: str, layers: int | None = None) -> Any:
    def config() -> PretrainedConfig:
        made = config_of(kind)
        if layers is not None:
            made.num_hidden_layers = layers
            if getattr(made, "layer_types", None):
                made.layer_types = made.layer_types[-layers:]
        return made

    try:
        return AutoModelForCausalLM.from_config(config(), attn_implementation=attention)
    except (ValueError, ImportError):  # not every class has every implementation
        return AutoModelForCausalLM.from_config(config())


def model_of(kind: str, attention: str = "sdpa", layers: int | None = None) -> Any:
    """A random model in float32, of so many layers; raises whatever transformers raises, and
    ValueError if it does not come out small.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            empty = _build(kind, attention, layers)
        size = sum(t.numel() for t in (*empty.parameters(), *empty.buffers()))
        if size > LARGEST:
            raise ValueError(f"{size} numbers: its sizes have other names")
        torch.manual_seed(0)
        return _build(kind, attention, layers).eval()


def stirred(kind: str, by: float, layers: int) -> Any:
    """A model of this kind with so much noise in every parameter: no gain is 1 and no bias 0."""
    model = model_of(kind, layers=layers)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


KINDS = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
