"""A compressed model: runnable, saved with its integers packed,
refused when the file is damaged.
"""

import functools
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, walk
from course_utils.models.checkpointing import file_digest
from course_utils.models.empty import compute_buffers, empty_like

from .layer import KINDS
from .ternary_files import narrowed, widened

MANIFEST = "compression.json"
WEIGHTS = "weights.safetensors"
FORMAT = 2  # 1 kept codes of 3, 5, 6 and 7 bits, and those of act-order, in another order


@dataclass
class Compressed:
    """`model` runs and generates; `settings` say how it was made; `seconds` how long that took."""

    model: torch.nn.Module
    settings: dict[str, Any]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
        """Write the model and return the bytes written.

        An interrupted write leaves an existing folder whole.
        """
        return save(self, Path(folder), tokenizer)

    @functools.cached_property
    def coverage(self) -> dict[str, Any]:
        """What part of the parameters was compressed, and what was left alone and why: see
        `models.selection.coverage`.

        Reached are the layers that are stored in another form, and those that a pruning method gave
        zeros.
        """
        packed = {
            name: m
            for name, m in self.model.named_modules()
            if type(m).__name__ in KINDS and not any(m.children())
        }
        sizes = {name: m.in_features * m.out_features for name, m in packed.items()}
        return selection.coverage(self.model, {*sizes, *self.details.get("sparsity", {})}, sizes)

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


def save(
    compressed: Compressed, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> int:
    """Write a result as a folder; its bytes. See `Compressed.save`."""
    model = compressed.model
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            "save: only Hugging Face models can be saved; save other modules with their state_dict."
        )
    walk.check_loaded(model)
    check_shapes(model)
    return write_folder(folder, MANIFEST, lambda work: _write(compressed, model, work, tokenizer))


def check_shapes(model: PreTrainedModel) -> None:
    """Raises CompressionError if the model's config makes tensors of other shapes: a file of it
    could not be loaded.
    """
    skeleton = empty_like(type(model), model.config).state_dict()
    for name, tensor in model.state_dict().items():
        expected = skeleton.get(name)
        if expected is not None and expected.shape != tensor.shape and not _is_packed(model, name):
            raise CompressionError(
                f"model: {name} has the shape {tuple(tensor.shape)}, by its config it "
                f"is {tuple(expected.shape)}; change the config too (after a change of the "
                "vocabulary: model.config.vocab_size), so that the file can be loaded."
            )


def _is_packed(model: PreTrainedModel, name: str) -> bool:
    return type(model.get_submodule(name.rpartition(".")[0])).__name__ in KINDS


def write_folder(folder: Path, mark: str, fill: Callable[[Path], None]) -> int:
    """Let `fill` write into a new folder, put it in place of `folder`, and return its bytes.

    Raises CompressionError if `folder` holds something without the file `mark`, which says that it
    was written here.
    """
    check_folder(folder, mark)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        fill(work)
        for path in (work, *work.rglob("*")):  # a tokenizer may bring folders
            path.chmod(0o755 if path.is_dir() else 0o644)
        size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
        swap_in(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return size


def check_folder(folder: Path, mark: str) -> None:
    """Raises CompressionError if `folder` holds something without the file `mark`."""
    if (
        folder.exists()
        and not (folder / mark).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise CompressionError(
            f"folder: {folder} holds something else; choose a new folder, or one that "
            "was written here before."
        )


def _write(
    compressed: Compressed,
    model: PreTrainedModel,
    work: Path,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    tensors, shared = without_copies({k: v for k, v in model.state_dict().items() if k not in tied})
    save_file(
        {k: narrow(v).contiguous() for k, v in narrowed(model, tensors).items()}, work / WEIGHTS
    )
    write_rest(compressed, work, tokenizer, [WEIGHTS], shared)


def write_rest(
    compressed: Compressed,
    work: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    weights: list[str],
    shared: dict[str, str],
    ignore: tuple[str, ...] = (),
) -> None:
    """What stands beside the weights: config, generation settings, tokenizer, and last the manifest
    with all digests.
    """
    model: Any = compressed.model
    model.config.save_pretrained(work)
    save_generation(model, work)
    if tokenizer is not None:
        tokenizer.save_pretrained(work)
    manifest: dict[str, Any] = {
        "format": FORMAT, "settings": compressed.settings,
        "dtype": str(model.dtype).removeprefix("torch."), "layers": layers_of(model),
        "architecture": type(model).__name__, "module": type(model).__module__,
        "experts": experts.names_of_listed(model), "shared": shared, "weights": weights,
        "sha256": {file: found for file, found in digests(work).items() if file not in ignore},
    }  # fmt: skip
    manifest["self"] = digest(_canonical(manifest))
    (work / MANIFEST).write_text(json.dumps(manifest, default=_plain))


def layers_of(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """What must be known to build the compressed layers of a model anew, by name."""
    return {
        name: {"kind": type(module).__name__, **module.shape()}  # type: ignore[operator]
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module).__name__ in KINDS
    }


def build_layers(
    model: torch.nn.Module, layers: dict[str, dict[str, Any]], dtype: torch.dtype, where: Path
) -> None:
    """Put empty layers of these kinds and shapes in their places.

    Raises CompressionError for a kind that is not known.
    """
    for name, shape in layers.items():
        kind = shape["kind"]
        if kind not in KINDS:
            raise CompressionError(
                f"{where}: layers of kind {kind!r} are not known here; "
                f"known are {', '.join(KINDS)}."
            )
        walk.replace(
            model, name, KINDS[kind](**{k: v for k, v in shape.items() if k != "kind"}, dtype=dtype)
        )


def save_generation(model: PreTrainedModel, work: Path) -> None:
    """generation_config.json as the model has it, if it has one: also settings that transformers
    would not write itself.
    """
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        (work / "generation_config.json").write_text(settings.to_json_string(use_diff=True))


def without_copies(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, each memory once, and {name left out: name under which it is stored}: blocks
    that a model uses twice.
    """
    first: dict[tuple, str] = {}
    shared = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(place, name) != name:
            shared[name] = first[place]
    return {name: tensor for name, tensor in tensors.items() if name not in shared}, shared


def swap_in(work: Path, folder: Path) -> None:
    """Put the finished folder `work` in the place of `folder`: whatever interrupts it, one of the
    two is there whole.
    """
    aside = work.with_name(f"{work.name}-old")
    if folder.exists():
        os.replace(folder, aside)
    try:
        os.replace(work, folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder, by its path from there."""
    return {
        str(f.relative_to(folder)): file_digest(f) for f in sorted(folder.rglob("*")) if f.is_file()
    }


def _plain(number: Any) -> int | float:
    return number.item()  # settings may be numpy's numbers


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(
        {k: v for k, v in manifest.items() if k != "self"}, sort_keys=True, default=_plain
    ).encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after every file that it lists was found unaltered."""
    aside = sorted(folder.parent.glob(f".{folder.name}-*-old"))
    if aside and not folder.exists():
        raise CompressionError(
            f"{folder}: a write was interrupted; the model from before it is {aside[-1]}. "
            "Rename it back."
        )
    _present(folder, MANIFEST)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        intact = manifest["self"] == digest(_canonical(manifest))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompressionError(
            f"{folder / MANIFEST}: not readable ({error}); save the compressed model again."
        ) from error
    if not intact or manifest.get("format") != FORMAT:
        raise CompressionError(
            f"{folder / MANIFEST}: altered, or of another version; save the compressed model again."
        )
    _present(folder, "config.json", *weights_of(manifest))
    for name, wanted in manifest["sha256"].items():
        file = folder / name
        if not file.is_file() or file_digest(file) != wanted:
            raise CompressionError(
                f"{file}: checksum differs; the file is damaged, truncated or missing. "
                "Copy it again."
            )
    return manifest


def weights_of(manifest: dict[str, Any]) -> list[str]:
    """The files that hold the tensors: one, or several where the model was compressed block by
    block.
    """
    return manifest.get("weights", [WEIGHTS])


def _present(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise CompressionError(f"{folder}: {name} is missing; save the compressed model again.")


def _class_of(manifest: dict[str, Any]) -> Any:
    """The class of a saved model: one of transformers' own."""
    module, name = manifest.get("module", "transformers"), manifest.get("architecture", "")
    home: Any = (
        importlib.import_module(module) if module.split(".")[0] == "transformers" else transformers
    )
    return getattr(home, name, AutoModelForCausalLM)


def load(folder: str | Path) -> PreTrainedModel:
    """A model that `Compressed.save` wrote, ready to generate: bit for bit the one that was saved.

    What no file holds, such as rotary frequencies, is computed anew: in float32, even where
    `half()` had rounded it.
    Raises CompressionError if a file is missing, truncated, altered, or does not belong to the
    others.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    dtype = getattr(torch, manifest["dtype"])
    model = empty_like(
        _class_of(manifest), AutoConfig.from_pretrained(folder, trust_remote_code=False), dtype
    )
    if manifest.get("experts"):
        experts.list_in_place(model)
    build_layers(model, manifest["layers"], dtype, folder)
    try:
        tensors = {
            name: tensor
            for file in weights_of(manifest)
            for name, tensor in load_file(folder / file).items()
        }
        tensors = widened(tensors, manifest["layers"])
        tensors |= {name: tensors[stored] for name, stored in manifest.get("shared", {}).items()}
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        for name in tensors:  # one at a time, so that never more than one tensor is there twice
            tensors[name] = tensors[name].to(dtypes.get(name, tensors[name].dtype))
        found = model.load_state_dict(tensors, strict=False, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise CompressionError(
            f"{folder}: weights and config disagree ({error}); save the model again."
        ) from error
    missing = set(found.missing_keys) - set(getattr(model, "all_tied_weights_keys", None) or {})
    if missing or found.unexpected_keys:
        wrong = sorted(missing | set(found.unexpected_keys))[:3]
        raise CompressionError(
            f"{folder}: weights and config disagree about {', '.join(wrong)}; save the model again."
        )
    model.tie_weights()
    compute_buffers(model)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()
