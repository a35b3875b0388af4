"""A compressed model: runnable, saved with its integers packed, refused when the file is damaged."""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from .layer import QuantizedLinear

MANIFEST = "compression.json"
WEIGHTS = "weights.safetensors"


@dataclass
class Compressed:
    """`model` runs and generates; `settings` say how it was made; `seconds` how long that took."""

    model: torch.nn.Module
    settings: dict[str, Any]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, tokenizer=None) -> int:
        """Write the model and return the bytes written. An interrupted write leaves an existing folder whole."""
        return save(self, Path(folder), tokenizer)

    @functools.cached_property
    def bytes_on_disk(self) -> int:
        """Bytes of the folder that `save` writes, measured by writing it."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save(Path(folder) / "model")


def narrow(tensor: Tensor) -> Tensor:
    """A float tensor in bfloat16 if that loses nothing."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.bfloat16()
    return half if torch.equal(half.float(), tensor) else tensor


def save(compressed: Compressed, folder: Path, tokenizer=None) -> int:
    model = compressed.model
    if not isinstance(model, PreTrainedModel):
        raise CompressionError("save: only Hugging Face models can be saved; save other modules with their state_dict.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        tied = set(getattr(model, "all_tied_weights_keys", None) or {})
        tensors = {k: narrow(v).contiguous() for k, v in model.state_dict().items() if k not in tied}
        save_file(tensors, work / WEIGHTS)
        layers = {
            name: {
                "in_features": m.in_features, "out_features": m.out_features, "bits": m.bits, "groups": m.groups,
                "symmetric": m.symmetric, "bias": m.bias is not None, "scattered": m.group_index is not None,
                "scale_dtype": str(m.scale.dtype).removeprefix("torch."),
            }
            for name, m in model.named_modules() if isinstance(m, QuantizedLinear)
        }  # fmt: skip
        manifest = {
            "format": 1, "settings": compressed.settings, "dtype": str(model.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256((work / WEIGHTS).read_bytes()).hexdigest(), "layers": layers,
        }  # fmt: skip
        (work / MANIFEST).write_text(json.dumps(manifest))
        model.config.save_pretrained(work)
        if tokenizer is not None:
            tokenizer.save_pretrained(work)
        for file in work.iterdir():
            file.chmod(0o644)
        work.chmod(0o755)
        size = sum(f.stat().st_size for f in work.iterdir())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(work, folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return size


def load(folder: str | Path) -> PreTrainedModel:
    """A model that `Compressed.save` wrote, ready to generate.

    Raises CompressionError if a file is missing, truncated, altered, or does not belong to the others.
    """
    folder = Path(folder)
    for name in (MANIFEST, WEIGHTS, "config.json"):
        if not (folder / name).is_file():
            raise CompressionError(f"{folder}: {name} is missing; save the compressed model again.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        wanted, layers, dtype = manifest["sha256"], manifest["layers"], getattr(torch, manifest["dtype"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompressionError(f"{folder / MANIFEST}: not readable ({error}); save the compressed model again.") from error
    if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != wanted:
        raise CompressionError(f"{folder / WEIGHTS}: checksum differs; the file is damaged or truncated. Copy it again.")
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CompressionError(f"{folder / WEIGHTS}: not a safetensors file ({error}).") from error
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False), dtype=dtype)
    for name, shape in layers.items():
        scale_dtype = getattr(torch, shape.pop("scale_dtype"))
        walk.replace(model, name, QuantizedLinear(**shape, scale_dtype=scale_dtype, dtype=dtype))
    found = model.load_state_dict(tensors, strict=False)
    missing = set(found.missing_keys) - set(getattr(model, "all_tied_weights_keys", None) or {})
    if missing or found.unexpected_keys:
        wrong = sorted(missing | set(found.unexpected_keys))[:3]
        raise CompressionError(f"{folder}: weights and config disagree about {', '.join(wrong)}; save the model again.")
    model.tie_weights()
    return model.eval()
