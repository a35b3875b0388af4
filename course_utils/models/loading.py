"""Load the bundled model, a folder, or a model from the hub."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from course_utils.errors import CompressionError

from . import gguf_files, shipped
from .quiet import no_bars

BUNDLED = Path(__file__).parent / "bundled"


def _source(name_or_path: str | Path) -> tuple[str, bool]:
    """What to hand to transformers, and whether it is on this disk."""
    if str(name_or_path) == "bundled":
        return str(BUNDLED), True
    path = Path(name_or_path).expanduser()
    looks_like_path = (
        path.is_absolute() or str(name_or_path).startswith((".", "~")) or path.exists()
    )
    if not looks_like_path:
        return str(name_or_path), False
    if not path.is_dir():
        raise CompressionError(
            f"model {str(name_or_path)!r}: there is no such folder; "
            "give a model folder or 'bundled'."
        )
    if not (path / "config.json").is_file():
        raise CompressionError(
            f"model {str(name_or_path)!r}: the folder holds no config.json; "
            "give a Hugging Face model folder."
        )
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        raise CompressionError(
            f"model {str(name_or_path)!r}: its weights are pickled (.bin), which can run code when "
            "loaded; convert them to safetensors where you trust them."
        )
    return str(path), True


def _load(what: Any, name_or_path: str | Path, **options: Any) -> Any:
    source, local = _source(name_or_path)
    try:
        with no_bars():
            return what(source, trust_remote_code=False, local_files_only=True, **options)
    except Exception as error:
        if local:
            reason = str(error).strip().split("\n")[0]
            raise CompressionError(
                f"model {str(name_or_path)!r}: could not be read ({reason})."
            ) from error
    if not _hub_answers():
        raise CompressionError(
            f"model {str(name_or_path)!r}: the hub cannot be reached and no copy is on this "
            "machine; use 'bundled' or the folder of a model you have."
        )
    try:
        return what(source, trust_remote_code=False, **options)
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise CompressionError(
            f"model {str(name_or_path)!r}: the hub does not give it ({reason})."
        ) from error


def _hub_answers() -> bool:
    """One connection attempt of at most three seconds; none when the hub is switched off."""
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def load_tokenizer(name_or_path: str | Path = "bundled") -> PreTrainedTokenizerBase:
    """The tokenizer of a model; see `load` for names and errors.

    One that is made without any vocabulary is one of them.
    """
    name_or_path = shipped.resolved(name_or_path)
    if is_gguf(name_or_path):
        return gguf_files.read_tokenizer(name_or_path)
    lacking = CompressionError(
        f"model {str(name_or_path)!r}: comes without the vocabulary of a tokenizer (tokenizer.json "
        "or the like); copy it into the folder, or load another's with models.load_tokenizer."
    )
    try:
        tokenizer = _load(AutoTokenizer.from_pretrained, name_or_path)
    except CompressionError as error:
        raise lacking if "instantiate the backend tokenizer" in str(error) else error from error
    # transformers makes up an empty one where files are missing
    if len(tokenizer) - len(tokenizer.all_special_ids) < 2:
        raise lacking
    return tokenizer


def load(
    name_or_path: str | Path = "bundled", *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """(model in evaluation mode, tokenizer) of 'bundled', 'smollm2' (`shipped`), a local folder, a
    GGUF file, or a hub id.

    Causal language models load with their head, anything else (an encoder) as its bare model. Only
    safetensors are read and no code that comes with a model is run. Raises CompressionError with a
    way out when the folder is missing or damaged, or the hub cannot be reached.
    """
    if is_gguf(name_or_path):
        return gguf_files.read(name_or_path, dtype=dtype).to(device), gguf_files.read_tokenizer(
            name_or_path
        )
    name_or_path = shipped.resolved(name_or_path)
    config = _load(AutoConfig.from_pretrained, name_or_path)
    model = _load(
        auto_class(config).from_pretrained, name_or_path, dtype=dtype, use_safetensors=True
    )
    return model.to(device).eval(), load_tokenizer(name_or_path)


def is_gguf(name_or_path: str | Path) -> bool:
    """Whether the name is that of a GGUF file, there or not."""
    return str(name_or_path).endswith(".gguf")


def auto_class(config: Any) -> Any:
    """The auto class that makes a model of this config: with its head for causal language models,
    bare for all others.
    """
    return (
        AutoModelForCausalLM
        if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and _has_head(config)
        else AutoModel
    )


def _has_head(config: Any) -> bool:
    """Encoders such as BERT have a causal variant too; the architecture that was saved decides."""
    saved = config.architectures or ["CausalLM"]
    return any(name.endswith(("CausalLM", "LMHeadModel")) for name in saved)
