"""What is evaluated: a model, or a Compressed that holds one."""

from pathlib import Path

from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import BUNDLED
from course_utils.quantization.compressed import Compressed

Subject = PreTrainedModel | Compressed


def runnable(subject: Subject, context: int | None = None) -> PreTrainedModel:
    """The causal language model itself. Raises CompressionError if it is none or cannot read `context` tokens."""
    model = subject.model if isinstance(subject, Compressed) else subject
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise CompressionError(f"model: expected a causal language model with its head, got {type(model).__name__}.")
    longest = longest_context(model)
    if context is not None and longest is not None and context > longest:
        raise CompressionError(f"context={context}: {name_of(subject)} reads at most {longest} tokens; choose fewer.")
    return model


def longest_context(model: PreTrainedModel) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)


def name_of(subject: Subject) -> str:
    """'bundled', a hub id, or the last part of a folder; with the method's settings if it was compressed."""
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
    """Settings in one line: 'gptq, bits 4, group_size 64'. Flags that are off and empty settings are left out."""
    shown = [str(settings.get("method", "compressed"))]
    for key, value in settings.items():
        if key == "method" or value is None or value is False:
            continue
        shown.append(key if value is True else f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(shown)
