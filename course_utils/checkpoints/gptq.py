"""The GPTQ layout, as auto-gptq, GPTQModel, vLLM and others read it.

For a layer with `in` inputs, `out` outputs and b bits, with 32-bit words:

    qweight (in · b / 32, out)      column j is the little-endian bit stream of output j's codes
    qzeros  (groups, out · b / 32)  row g is the bit stream of the group's zero points, one less
                                    than they are
    scales  (groups, out)           float16
    g_idx   (in,)                   the group of each input; with act-order neighbours need not
                                    share one

ŵ_ij = scales[g_idx_j, i] · (q_ij − z). The "one less" belongs to the format 'gptq'; 'gptq_v2'
stores zero points as they are. A zero point of 0 has no place in 'gptq': auto-gptq 0.7.1 reads what
wraps around to 2^b − 1 as 2^b, and GPTQModel borrows from the neighbour in the word. So `write`
takes 'gptq_v2' for a model that has one, and says so in the file;
'gptq' asked for by name is refused, and so is reading one. Symmetric grids never have it. With few
bits it is common.
"""

import json
import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.quantization import Compressed, Grid, LayerResult, QuantizedLinear, pack, unpack

from . import files

BITS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")


def to_words(codes: Tensor, bits: int) -> Tensor:
    """Codes (rows, columns) as 32-bit words (rows, columns · bits / 32): each row one little-endian
    bit stream.
    """
    if codes.shape[1] * bits % 32:
        raise CompressionError(
            f"codes: {codes.shape[1]} codes of {bits} bits do not fill whole 32-bit words."
        )
    return pack(codes, bits).view(torch.int32)


def from_words(words: Tensor, bits: int) -> Tensor:
    """The inverse of `to_words`: codes (rows, columns), uint8."""
    return unpack(words.contiguous().view(torch.uint8), bits, words.shape[1] * 32 // bits)


def fits(layer: QuantizedLinear) -> bool:
    """Whether the layer's sizes fill whole words."""
    return layer.in_features % 32 == 0 and layer.out_features % 32 == 0


def tensors_of(layer: QuantizedLinear, checkpoint_format: str = "gptq") -> dict[str, Tensor]:
    """qweight, qzeros, scales, g_idx of a layer.

    Raises CompressionError where the layout cannot hold it.
    """
    if layer.bits not in BITS:
        raise CompressionError(
            f"bits={layer.bits}: the GPTQ layout holds {', '.join(map(str, BITS))}."
        )
    if not fits(layer):
        raise CompressionError(
            "layer: the GPTQ layout needs inputs and outputs in multiples of 32; "
            "unfit='leave' writes such layers unquantized."
        )
    grid = layer.grid()
    scales = files.half_scales(grid)
    zero = grid.zero_point.to(torch.int16)
    if checkpoint_format == "gptq":
        if (zero == 0).any():
            raise CompressionError(
                "layer: a group has the zero point 0 (no weight lies half a step below 0), "
                "which the format 'gptq' cannot hold; give checkpoint_format='gptq_v2', "
                "or quantize with symmetric=True."
            )
        zero = zero - 1
    return {
        "qweight": to_words(layer.codes, layer.bits).T.contiguous(),
        "qzeros": to_words(zero.T, layer.bits),
        "scales": scales.T.contiguous(),
        "g_idx": grid.group_index.to(torch.int32),
    }


def layer_from(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None, bias: Tensor | None,
    *, bits: int,
    checkpoint_format: str = "gptq",
) -> QuantizedLinear:  # fmt: skip
    """The layer that these tensors describe.

    Raises CompressionError if they do not fit each other.
    """
    files.check_packed(qweight, qzeros, scales)
    groups, out = scales.shape
    inputs = qweight.shape[0] * 32 // bits
    if qweight.shape != (inputs * bits // 32, out) or qzeros.shape != (groups, out * bits // 32):
        raise CompressionError(
            f"shapes: qweight {tuple(qweight.shape)}, qzeros {tuple(qzeros.shape)} and scales "
            f"{tuple(scales.shape)} do not belong to one layer of {bits} bits."
        )
    if g_idx is None:
        g_idx = torch.arange(inputs) // (inputs // groups)
    if g_idx.shape != (inputs,) or int(g_idx.min()) < 0 or int(g_idx.max()) >= groups:
        raise CompressionError(f"g_idx: expected {inputs} group numbers below {groups}.")
    zero = from_words(qzeros, bits)
    if checkpoint_format == "gptq":
        if (zero == 2**bits - 1).any():
            raise CompressionError(
                "qzeros: a zero point of 0, which tools store in different ways in the format "
                "'gptq'; have the checkpoint written as 'gptq_v2', or with a symmetric grid."
            )
        zero = zero + 1
    codes = from_words(qweight.T, bits)
    symmetric = bool((zero == 2 ** (bits - 1)).all())
    grid = Grid(
        scales.float().T.contiguous(), zero.float().T.contiguous(), g_idx.long(), bits, symmetric
    )
    return QuantizedLinear.of(LayerResult(codes, grid, scales), bias)


def write(
    what: Compressed | PreTrainedModel, folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None=None, *, dtype: torch.dtype = torch.float16,
    checkpoint_format: str | None = None, unfit: str = "refuse",
) -> int:  # fmt: skip
    """Write a model of `QuantizedLinear` layers (GPTQ, RTN, AWQ, QAT) in the GPTQ layout; returns
    the bytes written.

    checkpoint_format None: 'gptq', or 'gptq_v2' where a zero point is 0. All other tensors are
    stored in `dtype`, a tied output head a second time. Settings go to config.json and to
    quantize_config.json.
    unfit='leave': layers whose sizes the layout cannot hold are written as the real weights that
    they stand for, and named under `dynamic` (as GPTQModel, vLLM and SGLang read it).
    Raises CompressionError, naming the layer, for bits other than 2, 3, 4, 8, inputs or outputs
    that are no multiple of 32, or a zero point of 0 in the format 'gptq'; and for a model whose
    layers differ in bits.
    """
    if checkpoint_format not in (None, *FORMATS):
        raise CompressionError(
            f"checkpoint_format={checkpoint_format!r}: choose one of {', '.join(FORMATS)}."
        )
    model = files.model_of(what)
    layers: dict[str, QuantizedLinear] = files.layers_of(
        model, QuantizedLinear, "gptq.quantize or rtn.quantize"
    )
    if unfit not in ("refuse", "leave"):
        raise CompressionError(f"unfit={unfit!r}: choose 'refuse' or 'leave'.")
    every, left = (
        layers,
        {n: layer for n, layer in layers.items() if unfit == "leave" and not fits(layer)},
    )
    layers = {n: layer for n, layer in layers.items() if n not in left}
    if not layers:
        raise CompressionError(
            "model: no layer has inputs and outputs in multiples of 32, as the GPTQ layout needs."
        )
    made = what.settings if isinstance(what, Compressed) else {}
    if checkpoint_format is None:
        low = any(
            bool((layer.grid().zero_point == 0).any())
            for layer in layers.values()
            if not layer.symmetric
        )
        checkpoint_format = FORMATS[low]
    kinds = {
        (layer.bits, layer.in_features // layer.groups if layer.groups > 1 else -1)
        for layer in layers.values()
    }
    sizes = {size for _, size in kinds if size != -1} or {-1}
    if len({bits for bits, _ in kinds}) > 1 or len(sizes) > 1:
        raise CompressionError(
            "model: its layers differ in bits or group size; the GPTQ layout has one of each."
        )
    bits, size = next(iter(kinds))[0], next(iter(sizes))
    tensors = files.tensors_by_layer(
        layers, partial(tensors_of, checkpoint_format=checkpoint_format)
    )
    settings = {
        "bits": bits, "group_size": size, "damp_percent": made.get("damping", 0.01),
        "desc_act": any(layer.group_index is not None for layer in layers.values()),
        "static_groups": bool(made.get("static_groups", False)),
        "sym": all(layer.symmetric for layer in layers.values()), "true_sequential": False,
        "model_name_or_path": None, "model_file_base_name": "model", "quant_method": "gptq",
        "checkpoint_format": checkpoint_format,
    }  # fmt: skip

    if left:
        tensors |= {f"{n}.weight": layer.weight.to(dtype) for n, layer in left.items()}
        settings["dynamic"] = {f"-:^{re.escape(n)}$": {} for n in left}

    def fill(work: Path) -> None:
        # auto-gptq 0.7.1 leaves a tied output head uninitialised unless the file holds it
        files.write_model(model, tensors, every, settings, work, dtype, tokenizer, keep_tied=True)
        (work / "quantize_config.json").write_text(json.dumps(settings, indent=2))

    return files.write_folder(folder, fill)


def read(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in the GPTQ layout, written here or by another tool, with `QuantizedLinear` layers.

    Raises CompressionError for a damaged file, tensors that do not fit each other, or an
    unsupported setting.
    """
    folder = Path(folder)
    settings = files.read_settings(folder, "gptq")
    bits, form = settings.get("bits"), settings.get("checkpoint_format", "gptq")
    if bits not in BITS or form not in FORMATS:
        raise CompressionError(
            f"{folder}: {bits} bits in the format {form!r}; "
            f"supported are {', '.join(map(str, BITS))} bits in {', '.join(FORMATS)}."
        )

    def layer(parts: dict[str, Tensor], bias: Tensor | None) -> QuantizedLinear:
        return layer_from(
            parts["qweight"],
            parts["qzeros"],
            parts["scales"],
            parts.get("g_idx"),
            bias,
            bits=bits,
            checkpoint_format=form,
        )

    return files.read_packed(folder, dtype, "a GPTQ", layer)
