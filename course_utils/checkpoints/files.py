"""Folders that appear whole or not at all, with checksums; and what the formats for Hugging Face
folders share.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from course_utils.errors import CompressionError
from course_utils.models import experts, walk
from course_utils.models.checkpointing import file_digest
from course_utils.quantization import compressed
from course_utils.quantization.compressed import Compressed, digests
from course_utils.quantization.grids import Grid, exact_half
from course_utils.quantization.layer import KINDS, naming

CHECKSUMS = "checksums.json"
WEIGHTS = "model.safetensors"


def model_of(what: Compressed | PreTrainedModel) -> PreTrainedModel:
    """The model of a result, or a model itself."""
    model = what.model if isinstance(what, Compressed) else what
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            "model: expected a compressed Hugging Face model, or what a method returned."
        )
    walk.check_loaded(model)
    return model


def layers_of(model: PreTrainedModel, kind: type | tuple[type, ...], wanted: str) -> dict[str, Any]:
    """The layers of a class, by name.

    Raises CompressionError if there are none, or compressed ones of other classes too.
    """
    experts.fuse(model)  # experts that were left as they are
    if listed := experts.names_of_listed(model):
        raise CompressionError(
            f"model: the experts of {listed[0]} are compressed one by one; "
            "other tools look for them under other names, so that this format is not written. "
            "Use Compressed.save, or leave the experts as they are: ignore='experts'."
        )
    packed = {
        name: module for name, module in model.named_modules() if type(module).__name__ in KINDS
    }
    found = {name: module for name, module in packed.items() if isinstance(module, kind)}
    if not found:
        raise CompressionError(
            f"model: holds no layers of this format; compress it with {wanted} first."
        )
    others = [
        f"{name} ({type(module).__name__})" for name, module in packed.items() if name not in found
    ]
    if others:
        raise CompressionError(
            f"model: besides layers of this format it holds {others[0]}; "
            f"compress all of it with {wanted}."
        )
    return found


def write_folder(folder: str | Path, fill: Callable[[Path], None]) -> int:
    """Let `fill` write into a new folder, add checksums, put it in place, and return its bytes.

    Raises CompressionError if `folder` holds something that was not written here.
    """

    def fill_and_sum(work: Path) -> None:
        fill(work)
        (work / CHECKSUMS).write_text(json.dumps(digests(work), indent=1))

    return compressed.write_folder(Path(folder), CHECKSUMS, fill_and_sum)


def tensors_by_layer(
    layers: Mapping[str, Any], tensors_of: Callable[[Any], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `tensors_of` makes of each layer, under the layer's name.

    Its errors are given that name.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        with naming(name):
            tensors.update({f"{name}.{key}": value for key, value in tensors_of(layer).items()})
    return tensors


def half_scales(grid: Grid) -> Tensor:
    """The scales of a grid in float16.

    Raises CompressionError where that would move one by more than 1/1000.
    """
    if not torch.equal(exact_half(grid.scale), grid.scale.half().float()):
        raise CompressionError("layer: its scales do not fit float16, which the layout prescribes.")
    return grid.scale.half()


def verify(folder: Path) -> None:
    """Compare every file with checksums.json where there is one; folders made by other tools have
    none.

    Raises CompressionError for a missing, truncated or altered file.
    """
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise CompressionError(f"{folder}: no config.json there; give the folder of a checkpoint.")
    if not (folder / CHECKSUMS).is_file():
        return
    try:
        sums = dict(json.loads((folder / CHECKSUMS).read_text()))
    except (ValueError, TypeError) as error:
        raise CompressionError(
            f"{folder / CHECKSUMS}: not readable ({error}); copy the checkpoint again."
        ) from error
    for name, wanted in sums.items():
        file = folder / name
        if not file.is_file() or file_digest(file) != wanted:
            raise CompressionError(
                f"{file}: checksum differs; the file is damaged, truncated or missing. "
                "Copy it again."
            )


def write_model(
    model: PreTrainedModel, quantized: dict[str, Tensor], layers: Mapping[str, Any],
    quantization_config: dict[str, Any], work: Path, dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase | None=None, *, keep_tied: bool = False,
) -> None:  # fmt: skip
    """config.json with `quantization_config`, and model.safetensors: `quantized`, and all that is
    not in `layers`.

    `keep_tied` stores an output head that shares the embedding's weight as well, for readers that
    do not tie.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    tensors = dict(quantized)
    for name, tensor in model.state_dict().items():
        if (name in tied and not keep_tied) or name.rpartition(".")[0] in layers:
            continue
        tensor = tensor.clone() if name in tied else tensor  # a file holds no tensor twice
        tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    for name, module in layers.items():
        if module.bias is not None:
            tensors[f"{name}.bias"] = module.bias.detach().to(dtype)
    for name, tensor in tensors.items():
        if (
            tensor.is_floating_point()
            and not torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()
        ):
            raise CompressionError(
                f"{name}: NaN, infinity, or too large for {dtype}; "
                "repair it, or give dtype=torch.bfloat16."
            )
    # the hub's names, and its one tensor for each expert
    tensors = revert_weight_conversion(model, tensors)
    save_file(
        {k: v.contiguous().cpu() for k, v in tensors.items()},
        work / WEIGHTS,
        metadata={"format": "pt"},
    )
    model.config.save_pretrained(work)
    config = json.loads((work / "config.json").read_text())
    config.update(
        {"dtype": str(dtype).removeprefix("torch."), "quantization_config": quantization_config}
    )
    config["torch_dtype"] = config["dtype"]  # the name older readers look for
    (work / "config.json").write_text(json.dumps(config, indent=2))
    compressed.save_generation(model, work)
    if tokenizer is not None:
        tokenizer.save_pretrained(work)


def hub_names(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Our name → the hub's, where transformers has renamed what checkpoints hold (GPT-NeoX's
    `embed_out`).
    """
    # those are not renamed but taken apart
    names = [name for name in names if ".experts." not in name]
    marked = {name: torch.tensor(float(i), dtype=torch.float64) for i, name in enumerate(names)}
    renamed = {
        names[int(t)]: theirs
        for theirs, t in revert_weight_conversion(model, marked).items()
        if t.dim() == 0
    }
    return {name: renamed.get(name, name) for name in names}


def by_our_names(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under the names of the model's own modules."""
    ours = {
        theirs: mine
        for mine, theirs in hub_names(model, model.state_dict()).items()
        if mine != theirs
    }
    if not ours:
        return tensors
    modules = {theirs.rpartition(".")[0]: mine.rpartition(".")[0] for theirs, mine in ours.items()}

    def name(key: str) -> str:
        module = next((m for m in modules if key.startswith(f"{m}.")), None)
        return ours.get(key, key if module is None else modules[module] + key.removeprefix(module))

    return {name(key): tensor for key, tensor in tensors.items()}


def dense_outside(model: PreTrainedModel, layers: Mapping[str, Any]) -> list[str]:
    """Linear layers that are not in `layers`: a configuration names them, or readers would expect
    them quantized.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in layers
    ]


def read_settings(folder: Path, method: str) -> dict[str, Any]:
    """The quantization_config of a verified folder, which must be for `method`."""
    verify(folder)
    try:
        settings = json.loads((folder / "config.json").read_text()).get("quantization_config")
        if settings is None and (folder / "quantize_config.json").is_file():
            settings = json.loads((folder / "quantize_config.json").read_text())
        found = (settings or {}).get("quant_method", method if settings else "none")
    except (
        ValueError,
        AttributeError,
    ) as error:  # AttributeError: not an object of names and values
        raise CompressionError(
            f"{folder}: config is not readable ({error}); copy the checkpoint again."
        ) from error
    if found != method:
        raise CompressionError(
            f"{folder}: quantization method {found!r}, expected {method!r}; "
            "use the reader of that format."
        )
    return settings or {}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files.

    Raises CompressionError if one cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CompressionError(
            f"{folder}: holds no .safetensors file; pickled weights are not read."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise CompressionError(
                f"{file}: not readable as safetensors ({error}); copy it again."
            ) from error
    return tensors


def empty_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the folder's config, without its quantization.

    Raises CompressionError if the config makes none.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise CompressionError(
            f"{folder}: its config.json makes no model ({reason}); copy the checkpoint again."
        ) from error


def place(model: PreTrainedModel, folder: Path, name: str, make: Callable[[], nn.Module]) -> None:
    """Put make() where the layer `name` is.

    Raises CompressionError, naming it, if it fails or has another shape.
    """
    try:
        layer: Any = make()
        expected = tuple(walk.weight_of(model.get_submodule(name)).shape)
    except (CompressionError, AttributeError) as error:
        raise CompressionError(f"{folder}: {name}: {error}") from error
    if expected != (layer.out_features, layer.in_features):
        raise CompressionError(
            f"{folder}: {name} is {layer.out_features}×{layer.in_features}, "
            f"the config says {expected}."
        )
    walk.replace(model, name, layer)


def parts_of(
    tensors: dict[str, Tensor], name: str, needed: tuple[str, ...], folder: Path
) -> dict[str, Tensor]:
    """The tensors below `name`, by what follows it.

    Raises CompressionError if a needed one is missing.
    """
    found = {
        key.removeprefix(f"{name}."): tensor
        for key, tensor in tensors.items()
        if key.startswith(f"{name}.")
    }
    missing = [key for key in needed if key not in found]
    if missing:
        raise CompressionError(f"{folder}: {name} lacks {', '.join(missing)}.")
    return found


def read_packed(
    folder: Path,
    dtype: torch.dtype,
    wanted: str,
    layer_from: Callable[[dict[str, Tensor], Tensor | None], nn.Module],
) -> PreTrainedModel:
    """The model of a folder whose layers are stored as qweight, qzeros and scales:
    layer_from(parts, bias) makes each.
    """
    model = empty_model(folder, dtype)
    tensors = by_our_names(model, read_tensors(folder))
    names = {key.rpartition(".")[0] for key in tensors if key.endswith(".qweight")}
    if not names:
        raise CompressionError(f"{folder}: holds no qweight; is it {wanted} checkpoint?")
    for name in sorted(names):
        parts = parts_of(tensors, name, ("qweight", "qzeros", "scales"), folder)
        place(model, folder, name, partial(layer_from, parts, bias_of(parts, dtype)))
    return load_others(model, tensors, names, folder)


def check_packed(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> None:
    """Raises CompressionError unless these are matrices with int32 words, int32 words and finite
    real numbers in them.
    """
    for name, tensor, fits in (
        ("qweight", qweight, qweight.dtype == torch.int32),
        ("qzeros", qzeros, qzeros.dtype == torch.int32),
        ("scales", scales, scales.is_floating_point()),
    ):
        if not fits or tensor.dim() != 2 or tensor.numel() == 0:
            wanted = "real numbers" if name == "scales" else "32-bit words"
            raise CompressionError(
                f"{name}: expected a matrix of {wanted}, got {tuple(tensor.shape)} {tensor.dtype}."
            )
    if not torch.isfinite(scales).all():
        raise CompressionError("scales: NaN or infinity; the file is damaged.")


def bias_of(parts: dict[str, Tensor], dtype: torch.dtype) -> Tensor | None:
    """A layer's bias in `dtype`, None if the file has none."""
    return parts["bias"].to(dtype) if "bias" in parts else None


def load_others(
    model: PreTrainedModel, tensors: dict[str, Tensor], layers: set[str], folder: Path
) -> PreTrainedModel:
    """Load what is not in the quantized `layers`, which are in place already; tie, and check that
    nothing is missing.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    mine = {
        k: v for k, v in tensors.items() if k.rpartition(".")[0] not in layers and k not in tied
    }
    try:
        found = model.load_state_dict(mine, strict=False)
    except RuntimeError as error:
        raise CompressionError(f"{folder}: weights and config disagree ({error}).") from error
    missing = [
        k for k in found.missing_keys if k not in tied and k.rpartition(".")[0] not in layers
    ]
    unexpected = [k for k in found.unexpected_keys if not k.endswith(".rotary_emb.inv_freq")]
    if missing or unexpected:
        raise CompressionError(
            f"{folder}: weights and config disagree about "
            f"{', '.join(sorted(missing + unexpected)[:3])}."
        )
    model.tie_weights()
    return model.eval()
