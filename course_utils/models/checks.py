"""What a method asks of a model and of calibration data before it computes anything."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError

from .calibration import for_model
from .source import source_of


def check_model(model: Any, *, by_block: bool = False) -> None:
    """Raises CompressionError, with the remedy, for what is no model, is wrapped by an adapter, or
    holds no finite values.

    `by_block`: for a method that goes through `walk.each_block`; a model whose blocks lie elsewhere
    is checked when they are read.
    """
    if not isinstance(model, nn.Module):
        inner = getattr(model, "model", None)
        remedy = (
            "give its .model"
            if isinstance(inner, nn.Module)
            else "load one with models.load, or transformers' from_pretrained"
        )
        raise CompressionError(f"model: expected a model, got {type(model).__name__}; {remedy}.")
    if (
        hasattr(model, "merge_and_unload")
        or getattr(model, "_hf_peft_config_loaded", False)
        or _adapters(model)
    ):
        raise CompressionError(
            "model: carries an adapter (LoRA); merge it first, model = model.merge_and_unload(), "
            "or unload it."
        )
    if by_block and source_of(model) is not None:
        return
    check_loaded(model)
    for path, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            module, _, name = path.rpartition(".")
            raise CompressionError(
                f"{module or 'model'}: {name}: contains NaN or infinity; "
                "repair it before compressing the model."
            )


check_finite = check_model


def check_loaded(model: nn.Module) -> None:
    """Raises CompressionError if weights have no values here: offloaded, or made on the meta
    device.
    """
    for path, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CompressionError(
                f"{path}: is on the meta device, without values; load the weights before "
                "compressing the model."
            )


def _adapters(model: nn.Module) -> bool:
    """Whether layers of the `peft` package stand in the model."""
    return any(type(m).__module__.startswith("peft.") for m in model.modules())


def longest_context(model: nn.Module) -> int | None:
    """How many tokens the model can read at once, as far as its config says."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "max_position_embeddings", None)


def check_context(name: str, tokens: int, model: nn.Module) -> None:
    """Raises CompressionError if sequences are longer than the model reads."""
    longest = longest_context(model)
    if longest is not None and tokens > longest:
        raise CompressionError(
            f"{name}: sequences of {tokens} tokens, but the model reads at most {longest}; "
            "cut them shorter."
        )


def check_calibration(calibration: Any, model: nn.Module, *, whole: bool = False) -> Any:
    """Calibration in any form of `calibration.of`, as token ids (sequences, context) or, of several
    lengths, as a `Calibration`.

    `whole`: one tensor is wanted. Raises CompressionError when there are none, or some that `model`
    has no row or no place for.
    """
    ids = for_model(calibration, model)
    if whole and not isinstance(ids, Tensor):
        raise CompressionError(
            "calibration: its sequences have different lengths, which are not trained on here; "
            "cut them to one length."
        )
    if isinstance(model, PreTrainedModel):
        embeddings: Any = model.get_input_embeddings()
        vocabulary = len(embeddings.weight)
        for part in ids.split(64):
            if int(part.min()) < 0 or int(part.max()) >= vocabulary:
                raise CompressionError(
                    f"calibration: holds token ids outside 0 to {vocabulary - 1}; "
                    "use the model's own tokenizer."
                )
        check_context("calibration", ids.shape[1], model)
    return ids
