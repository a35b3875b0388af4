"""The layout of the package compressed-tensors for MXFP4 and NVFP4 weights, as transformers, vLLM
and SGLang read it.

For a layer with `in` inputs and `out` outputs:

    weight_packed        (out, in / 2)    uint8: two E2M1 patterns in a byte, the first in the low
                                          four bits
    weight_scale         (out, in / 32)   MXFP4: uint8, E8M0 patterns; a block is 32 inputs
                         (out, in / 16)   NVFP4: float8_e4m3fn; a block is 16 inputs
    weight_global_scale  (1,)             NVFP4: float32, 1 / t

ŵ = t · s · element (t = 1 in MXFP4). The config names the linear layers that are not compressed
under `ignore`.
transformers computes ŵ in BF16: exact for MXFP4, rounded to 8 bits of mantissa for NVFP4.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.quantization import Compressed, unpack
from course_utils.quantization.microscaling import Blocks, MicroscaledLinear, find

from . import files

FORMATS = {"MXFP4": "mxfp4-pack-quantized", "NVFP4": "nvfp4-pack-quantized"}
METHOD = "compressed-tensors"


def tensors_of(layer: MicroscaledLinear) -> dict[str, Tensor]:
    """weight_packed, weight_scale and weight_global_scale of a layer.

    Raises CompressionError where the layout cannot hold it.
    """
    if layer.scheme not in FORMATS:
        raise CompressionError(
            f"layer: {layer.scheme}; this layout is written for {' and '.join(FORMATS)}. "
            "compressed-tensors has other layouts for MXFP8 and MXFP6 (E2M3), which are not "
            "written here, and none for MXINT8; keep the model in the course's own format."
        )
    block = find(layer.scheme).block
    if layer.in_features % block:
        raise CompressionError(
            f"layer: {layer.in_features} inputs are no multiple of {block}, a block of "
            f"{layer.scheme}; leave the layer as it is (ignore=…)."
        )
    if layer.tensor_scale is None:
        return {"weight_packed": layer.packed, "weight_scale": layer.scales}
    inverse = layer.tensor_scale.reciprocal()
    if not torch.equal(inverse.reciprocal(), layer.tensor_scale):
        raise CompressionError(
            "layer: the scale of its tensor is no reciprocal of a number in FP32; "
            "quantize it with microscaling.quantize."
        )
    scales = layer.scales.view(torch.float8_e4m3fn)
    return {
        "weight_packed": layer.packed,
        "weight_scale": scales,
        "weight_global_scale": inverse.view(1),
    }


def layer_from(parts: dict[str, Tensor], scheme: str, bias: Tensor | None) -> MicroscaledLinear:
    """The layer that these tensors describe.

    Raises CompressionError if they do not fit each other or the scheme.
    """
    packed, scales, block = parts["weight_packed"], parts["weight_scale"], find(scheme).block
    wanted = torch.uint8 if scheme == "MXFP4" else torch.float8_e4m3fn
    if packed.dtype != torch.uint8 or scales.dtype != wanted or packed.dim() != 2:
        raise CompressionError(
            f"weight_packed {packed.dtype}, weight_scale {scales.dtype}: "
            f"expected bytes and {wanted} for {scheme}."
        )
    rows, inputs = packed.shape[0], 2 * packed.shape[1]
    if inputs % block or scales.shape != (rows, inputs // block):
        raise CompressionError(
            f"shapes: weight_packed {tuple(packed.shape)} and weight_scale {tuple(scales.shape)} "
            f"are no layer of {scheme}, whose blocks hold {block}."
        )
    if scheme == "MXFP4":
        whole, damaged = torch.ones(()), bool((scales == 255).any())
    else:
        whole = 1 / parts["weight_global_scale"].float().reshape(-1)[0]
        damaged = not bool(
            torch.isfinite(scales.float()).all() and torch.isfinite(whole) and whole > 0
        )
    if damaged:
        raise CompressionError(
            "weight_scale, weight_global_scale: NaN, infinity or no positive number; "
            "the file is damaged."
        )
    return MicroscaledLinear.of(
        Blocks(unpack(packed, 4, inputs), scales.view(torch.uint8), whole, scheme), bias
    )


def config_of(scheme: str, ignore: list[str]) -> dict[str, Any]:
    """What stands under quantization_config: every linear layer but those of `ignore`, weights
    only.
    """
    tensor = find(scheme).scale == "E4M3"
    kind = "torch.float8_e4m3fn" if tensor else "torch.uint8"
    weights = {
        "num_bits": 4, "type": "float", "symmetric": True,
        "strategy": "tensor_group" if tensor else "group", "group_size": find(scheme).block,
        "dynamic": False, "scale_dtype": kind, "zp_dtype": kind,
    }  # fmt: skip
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": FORMATS[scheme],
    }
    return {
        "quant_method": METHOD, "format": FORMATS[scheme], "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ignore, "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }  # fmt: skip


def write(
    what: Compressed | PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Write a model of `MicroscaledLinear` layers, all MXFP4 or all NVFP4; returns the bytes
    written.

    All other tensors are stored in `dtype`. Raises CompressionError, naming the layer, for other
    schemes or inputs that do not fill whole blocks; and for a model that holds both schemes.
    """
    model = files.model_of(what)
    layers: dict[str, MicroscaledLinear] = files.layers_of(
        model, MicroscaledLinear, "microscaling.quantize"
    )
    tensors = files.tensors_by_layer(layers, tensors_of)
    schemes = sorted({layer.scheme for layer in layers.values()})
    if len(schemes) > 1:
        raise CompressionError(
            f"model: its layers are {' and '.join(schemes)}; this layout is written for "
            "one of them at a time."
        )
    settings = config_of(schemes[0], files.dense_outside(model, layers))
    return files.write_folder(
        folder,
        lambda work: files.write_model(model, tensors, layers, settings, work, dtype, tokenizer),
    )


def scheme_of(settings: dict[str, Any], folder: Path) -> str:
    """ "MXFP4" or "NVFP4". Raises CompressionError for what is not read here."""
    found = {name: form for name, form in FORMATS.items() if form == settings.get("format")}
    if not found:
        raise CompressionError(
            f"{folder}: the format {settings.get('format')!r}; "
            f"supported are {', '.join(FORMATS.values())}."
        )
    groups = settings.get("config_groups") or {}
    if any(
        group.get("input_activations") for group in groups.values() if isinstance(group, dict)
    ) or settings.get("kv_cache_scheme"):
        raise CompressionError(
            f"{folder}: activations or the cache are quantized too, which is not read here; "
            "use a file of weights only (A16)."
        )
    return next(iter(found))


def read(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in this layout, written here or by another tool, with `MicroscaledLinear` layers, bit
    for bit.

    Raises CompressionError for a damaged file, tensors that do not fit each other, or an
    unsupported setting.
    """
    folder = Path(folder)
    scheme = scheme_of(files.read_settings(folder, METHOD), folder)
    model = files.empty_model(folder, dtype)
    tensors = files.by_our_names(model, files.read_tensors(folder))
    names = {key.rpartition(".")[0] for key in tensors if key.endswith(".weight_packed")}
    if not names:
        raise CompressionError(
            f"{folder}: holds no weight_packed; is it a compressed-tensors checkpoint?"
        )
    needed = (
        "weight_packed",
        "weight_scale",
        *(("weight_global_scale",) if scheme == "NVFP4" else ()),
    )
    for name in sorted(names):
        parts = files.parts_of(tensors, name, needed, folder)

        def layer(parts: dict[str, Tensor] = parts) -> nn.Module:
            return layer_from(parts, scheme, files.bias_of(parts, dtype))

        files.place(model, folder, name, layer)
    return files.load_others(model, tensors, names, folder)
