"""Checkpoints of a training run: weights, optimizer moments and notes in one safetensors file."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_utils.errors import CompressionError

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def file_digest(file: Path) -> str:
    """The SHA-256 of a file, read a piece at a time."""
    found = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(2**20):
            found.update(piece)
    return found.hexdigest()


def write_tensors(
    path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None
) -> None:
    """Write one safetensors file in one move: an interrupted or failed write leaves the old file as
    it was.
    """
    _in_one_move(path, lambda half_done: save_file(tensors, half_done, metadata=notes))


def write_text(path: Path, text: str) -> None:
    """The same for a text file."""
    _in_one_move(path, lambda half_done: half_done.write_text(text, encoding="utf-8"))


def _in_one_move(path: Path, write: Callable[[Path], object]) -> None:
    half_done = path.with_suffix(".tmp")
    try:
        write(half_done)
        os.replace(half_done, path)
    except (OSError, SafetensorError) as error:
        half_done.unlink(missing_ok=True)
        raise CompressionError(
            f"{path}: could not be written ({error}); an older file there is intact. "
            "Free some space and run again."
        ) from error


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, **notes: str
) -> None:
    """Weights, buffers, AdamW's moments, the step and `notes`."""
    kept = model.state_dict().keys()
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.named_parameters()}
    tensors |= {f"buffer.{k}": v for k, v in model.named_buffers() if k in kept}
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            if key in optimizer.state.get(parameter, {}):
                tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    write_tensors(
        path, {k: v.detach().contiguous() for k, v in tensors.items()}, {"step": str(step), **notes}
    )


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, str]:
    """Put a checkpoint's weights and moments in place and return its notes, `step` among them."""
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            saved = tensors.get(f"model.{name}")
            if saved is None or saved.shape != parameter.shape:
                raise CompressionError(
                    f"{path}: made by a run of another width or depth; choose another folder."
                )
            parameter.copy_(saved)
            moments = {
                k: tensors[f"{k}.{name}"].to(parameter.device)
                for k in MOMENTS
                if f"{k}.{name}" in tensors
            }
            if moments:
                optimizer.state[parameter] = moments
        for name, buffer in model.named_buffers():
            if f"buffer.{name}" in tensors:
                buffer.copy_(tensors[f"buffer.{name}"])
    return read_notes(path)


def read_notes(path: Path) -> dict[str, str]:
    """The notes of a checkpoint. Raises CompressionError if the file is damaged."""
    try:
        with safe_open(path, "pt") as f:
            return f.metadata() or {}
    except SafetensorError as error:
        raise CompressionError(
            f"{path}: not a readable checkpoint ({error}); delete it to start again."
        ) from error
