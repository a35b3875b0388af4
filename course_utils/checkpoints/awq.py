"""The AWQ layout in GEMM order, as AutoAWQ, GPTQModel and vLLM read it. 4 bits.

    qweight (in, out / 8)       int32; the eight 4-bit codes of outputs 8k … 8k + 7 in the order
                                0 2 4 6 1 3 5 7
    qzeros  (groups, out / 8)   int32, the zero points in the same order
    scales  (groups, out)       float16

ŵ_ij = scales[j // group_size, i] · (q_ij − z). The order lets a GPU unpack pairs of half-precision
numbers at once.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.quantization import Compressed, Grid, LayerResult, QuantizedLinear, unpack

from . import files
from .gptq import from_words, to_words

ORDER = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])


def interleave(codes: Tensor) -> Tensor:
    """4-bit codes (rows, columns) as int32 (rows, columns / 8): nibble n of a word holds column
    ORDER[n] of its eight.
    """
    rows, columns = codes.shape
    if columns % 8:
        raise CompressionError(
            f"codes: {columns} outputs are no multiple of 8, which the AWQ layout needs."
        )
    return to_words(codes.reshape(rows, -1, 8)[:, :, ORDER].reshape(rows, columns), 4)


def deinterleave(words: Tensor) -> Tensor:
    """The inverse of `interleave`: codes (rows, columns), uint8."""
    codes = from_words(words, 4)
    return codes.reshape(len(codes), -1, 8)[:, :, ORDER.argsort()].reshape(len(codes), -1)


def tensors_of(layer: QuantizedLinear) -> dict[str, Tensor]:
    """qweight, qzeros, scales of a layer.

    Raises CompressionError where the layout cannot hold it.
    """
    if layer.bits != 4 or layer.group_index is not None:
        raise CompressionError(
            "layer: the AWQ layout holds 4 bits with neighbouring inputs in a group (no act-order)."
        )
    grid = layer.grid()
    scales = files.half_scales(grid)
    return {
        "qweight": interleave(unpack(layer.packed, 4, layer.in_features).T),
        "qzeros": interleave(grid.zero_point.to(torch.uint8).T),
        "scales": scales.T.contiguous(),
    }


def layer_from(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, bias: Tensor | None
) -> QuantizedLinear:
    """The layer that these tensors describe.

    Raises CompressionError if they do not fit each other.
    """
    files.check_packed(qweight, qzeros, scales)
    groups, out = scales.shape
    inputs = len(qweight)
    if qweight.shape[1] * 8 != out or qzeros.shape != (groups, out // 8) or inputs % groups:
        raise CompressionError(
            f"shapes: qweight {tuple(qweight.shape)}, qzeros {tuple(qzeros.shape)} and scales "
            f"{tuple(scales.shape)} do not belong to one layer."
        )
    zero = deinterleave(qzeros)
    index = torch.arange(inputs) // (inputs // groups)
    grid = Grid(
        scales.float().T.contiguous(),
        zero.float().T.contiguous(),
        index,
        4,
        bool((zero == 8).all()),
    )
    return QuantizedLinear.of(LayerResult(deinterleave(qweight).T.contiguous(), grid, scales), bias)


def write(
    what: Compressed | PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: torch.dtype = torch.float16,
) -> int:
    """Write a model of 4-bit `QuantizedLinear` layers in the AWQ GEMM layout; returns the bytes
    written.

    Raises CompressionError, naming the layer, for other bits, act-order, or outputs that are no
    multiple of 8.
    """
    model = files.model_of(what)
    layers: dict[str, QuantizedLinear] = files.layers_of(model, QuantizedLinear, "awq.quantize")
    sizes = {
        layer.in_features // layer.groups if layer.groups > 1 else -1 for layer in layers.values()
    } - {-1} or {-1}
    if len(sizes) > 1:
        raise CompressionError("model: its layers differ in group size; the AWQ layout has one.")
    tensors = files.tensors_by_layer(layers, tensors_of)
    settings = {
        "quant_method": "awq", "bits": 4, "group_size": next(iter(sizes)), "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": files.dense_outside(model, layers) or None,
    }  # fmt: skip
    return files.write_folder(
        folder,
        lambda work: files.write_model(model, tensors, layers, settings, work, dtype, tokenizer),
    )


def read(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in the AWQ GEMM layout, with `QuantizedLinear` layers.

    Raises CompressionError for a damaged file, tensors that do not fit each other, or an
    unsupported setting.
    """
    folder = Path(folder)
    settings = files.read_settings(folder, "awq")
    bits, version = (
        settings.get("bits", settings.get("w_bit")),
        str(settings.get("version", "gemm")).lower(),
    )
    if bits != 4 or version != "gemm":
        raise CompressionError(
            f"{folder}: {bits} bits in the order {version!r}; supported is 4 bits in 'gemm' order."
        )
    return files.read_packed(
        folder,
        dtype,
        "an AWQ",
        lambda parts, bias: layer_from(parts["qweight"], parts["qzeros"], parts["scales"], bias),
    )
