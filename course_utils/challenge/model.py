"""From a Hugging Face model to a file of the challenge, and back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import BUNDLED

from . import encoders, file, layout

FLOATS = {"rms_norm_eps", "rope_theta"}


def sizes(model: PreTrainedModel) -> dict[str, Any]:
    """The part of a model's config that a file holds.

    Raises CompressionError for what is not Llama's architecture with our vocabulary.
    """
    config = model.config
    same = {
        "model_type": "llama",
        "vocab_size": layout.VOCABULARY,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }
    for name, value in same.items():
        if getattr(config, name, None) != value:
            raise CompressionError(
                f"model: {name} is {getattr(config, name, None)!r}; the challenge takes {value!r}."
            )
    found = {name: getattr(config, name) for name in [*layout.SIZES, "rms_norm_eps", layout.ALSO]}
    return layout.check_config(found | {"rope_theta": float(config.rope_parameters["rope_theta"])})


def pack(
    model: PreTrainedModel,
    parts: dict[str, encoders.Part] | None = None,
    path: Path | str | None = None,
) -> bytes:
    """The bytes of a file: `parts` by the names of tensors, the model's own in BF16 for all others;
    written to `path` if given.
    """
    config, own = sizes(model), model.state_dict()
    wanted = layout.shapes(config)
    if unknown := sorted(set(parts or {}) - set(wanted)):
        raise CompressionError(
            f"parts: {unknown[0]} is no tensor of this model; names are such as "
            f"{next(iter(wanted))}."
        )
    return file.write(
        config,
        {name: (parts or {}).get(name) or encoders.bf16(own[name].float()) for name in wanted},
        path,
    )


def build(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> LlamaForCausalLM:
    """The model with these tensors (`file.read`), float32, in evaluation mode."""
    given = LlamaConfig.from_pretrained(BUNDLED).to_dict() | {
        k: v for k, v in config.items() if k != "rope_theta"
    }
    given |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
        "dtype": "float32",
    }
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**given))
    model = model.to_empty(device="cpu").float()
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config)
    with torch.no_grad():
        own = dict(model.named_parameters())
        for name, values in tensors.items():
            own[name].copy_(torch.from_numpy(values))
    model.tie_weights()
    return model.eval()


def load(path: bytes | Path | str) -> LlamaForCausalLM:
    """The model of a file, or of its bytes.

    Raises CompressionError for whatever is no such file.
    """
    return build(*file.read(path))
