"""What is evaluated: a model, or a Compressed that holds one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from course_utils.errors import CompressionError
from course_utils.models import BUNDLED, walk
from course_utils.quantization.compressed import Compressed
from course_utils.quantization.layer import QuantizedLinear
from course_utils.quantization.microscaling import MicroscaledLinear

Subject = PreTrainedModel | Compressed


def model_in(subject: Subject) -> PreTrainedModel:
    """The model itself. Raises CompressionError if it is none of Hugging Face."""
    model = subject.model if isinstance(subject, Compressed) else subject
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            f"model: expected a Hugging Face model or a Compressed, got {type(subject).__name__}."
        )
    return model


def is_encoder(subject: Subject) -> bool:
    """Whether this reads tokens, or pictures, both ways and predicts no next token, as BERT, ViT
    and T5's stacks do.
    """
    model = model_in(subject)
    if model.main_input_name != "input_ids":
        return True
    embeds = isinstance(
        getattr(model.base_model, "get_input_embeddings", lambda: None)(), nn.Embedding
    )
    decodes = model.config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and getattr(
        model.config, "is_decoder", True
    )
    return (
        embeds
        and not model.can_generate()
        and (model.get_encoder() is model or not model.config.is_encoder_decoder)
        and not decodes
    )


def runnable(subject: Subject, context: int | None = None) -> PreTrainedModel:
    """The causal language model itself.

    Raises CompressionError if it is none or cannot read `context` tokens.
    """
    model = model_in(subject)
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise CompressionError(
            f"model: expected a causal language model with its head, got {type(model).__name__}."
        )
    longest = walk.longest_context(model)
    if context is not None and longest is not None and context > longest:
        raise CompressionError(
            f"context={context}: {name_of(subject)} reads at most {longest} tokens; choose fewer."
        )
    return model


@contextlib.contextmanager
def scoring(subject: Subject, context: int | None = None) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode, its packed layers standing as dense ones with the same weight
    Ŵ.

    So each layer is unpacked once, not at each call; the numbers are the same. Layers that round
    their activations stay, and layers with hooks. Afterwards all is as before.
    """
    model = runnable(subject, context)
    modes = {module: module.training for module in model.modules()}
    hooks = ("_forward_pre_hooks", "_forward_hooks")

    def plain(m: nn.Module) -> bool:
        known = type(m) in (QuantizedLinear, MicroscaledLinear)
        return known and m.activations == "float" and not any(getattr(m, h) for h in hooks)

    packed = {name: module for name, module in model.named_modules() if plain(module)}
    try:
        for name, module in packed.items():
            dense = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            dense.weight = nn.Parameter(module.weight.to(model.dtype), requires_grad=False)
            dense.register_parameter("bias", module.bias)
            walk.replace(model, name, dense)
        yield model.eval()
    finally:
        for name, module in packed.items():
            walk.replace(model, name, module)
        for part, mode in modes.items():
            part.training = mode


def name_of(subject: Subject) -> str:
    """'bundled', a hub id, or the last part of a folder; with the method's settings if it was
    compressed.
    """
    model = subject.model if isinstance(subject, Compressed) else subject
    known = getattr(model, "name_or_path", "") or type(model).__name__
    if Path(known) == BUNDLED:
        known = "bundled"
    elif Path(known).is_dir():
        known = Path(known).resolve().name
    if not isinstance(subject, Compressed):
        return known
    return f"{known} ({describe(subject.settings)})"


def describe(settings: dict) -> str:
    """Settings in one line: 'gptq, bits 4, group_size 64'.

    Flags that are off and empty settings are left out.
    """
    shown = [str(settings.get("method", "compressed"))]
    for key, value in settings.items():
        if key == "method" or value is None or value is False:
            continue
        shown.append(
            key
            if value is True
            else f"{key} {value:.4g}"
            if isinstance(value, float)
            else f"{key} {value}"
        )
    return ", ".join(shown)
