"""A model by name: one of the course's, a Hugging Face folder, one that was compressed here or by
another tool, a GGUF file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import checkpoints, models
from course_utils.errors import CompressionError
from course_utils.quantization import Compressed, compressed

READ = {
    name: getattr(checkpoints, name.replace("-", "_")).read
    for name in ("gptq", "awq", "bitsandbytes", "compressed-tensors")
}

Opened = tuple[Compressed, PreTrainedTokenizerBase]


def opened(name: str, tokenizer: str | None = None) -> Opened:
    """A model by name: 'bundled', a Hugging Face folder, one that was compressed here or by another
    tool (READ), a GGUF file.

    `tokenizer` is the folder of one, where the model has none of its own. Raises CompressionError
    as the readers do.
    """
    place = Path(name).expanduser()
    settings: dict[str, Any] = {"method": "none"}
    read: Callable[[Path], PreTrainedModel] | None = None
    if place.suffix == ".gguf" and tokenizer:
        read = checkpoints.gguf.read
    elif (place / compressed.MANIFEST).is_file():
        read = compressed.load
        settings = json.loads((place / compressed.MANIFEST).read_text(encoding="utf-8")).get(
            "settings", settings
        )
    elif (method := packed_by(place)) is not None:
        read, settings = READ[method], {"method": method}
    if read is None:
        network, words = models.load(name)
        return Compressed(network, settings, 0.0), models.load_tokenizer(
            tokenizer
        ) if tokenizer else words
    if not tokenizer and not (place / "tokenizer_config.json").is_file():
        raise CompressionError(
            f"model {name!r}: it comes without a tokenizer; name the folder "
            "of one with --tokenizer."
        )
    return Compressed(read(place), settings, 0.0), models.load_tokenizer(tokenizer or place)


def packed_by(folder: Path) -> str | None:
    """A key of READ if the folder's config says so. Raises CompressionError for another method."""
    if not (folder / "config.json").is_file():
        return None
    try:
        method = (
            json.loads((folder / "config.json").read_text(encoding="utf-8")).get(
                "quantization_config"
            )
            or {}
        ).get("quant_method")
    except (ValueError, AttributeError) as error:
        raise CompressionError(
            f"{folder / 'config.json'}: not readable ({error}); copy the model again."
        ) from error
    if method is None:
        return None
    if method not in READ:
        raise CompressionError(
            f"model {str(folder)!r}: quantized by {method!r}, which is not read here; "
            f"known are {', '.join(READ)}."
        )
    return method
