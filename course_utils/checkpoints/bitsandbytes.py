"""bitsandbytes' layout, which `AutoModelForCausalLM.from_pretrained` loads into its Linear4bit and
Linear8bitLt layers.

4 bits: `weight` (⌈n / 2⌉, 1) uint8, `weight.absmax`, `weight.quant_map`, with double quantization
also `weight.nested_absmax` and `weight.nested_quant_map`; the rest (block sizes, shape, offset) is
JSON, stored as the bytes of `weight.quant_state.bitsandbytes__nf4`. LLM.int8(): `weight` (out, in)
int8 and `SCB` (out,), the rows' largest magnitudes, ŵ = q · SCB / 127.
"""

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.quantization import Compressed
from course_utils.quantization.llm_int8 import LLMInt8Linear
from course_utils.quantization.nf4 import NESTED_BLOCK, BlockwiseLinear, table

from . import files

STATE = "weight.quant_state.bitsandbytes__"


def tensors_of(layer: BlockwiseLinear | LLMInt8Linear, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that bitsandbytes keeps for a layer whose weight it is to restore in `dtype`."""
    if isinstance(layer, LLMInt8Linear):
        return {
            "weight": layer.weight_codes, "SCB": (layer.weight_scale * 127).flatten(),
            "weight_format": torch.tensor(0, dtype=torch.uint8),
        }  # fmt: skip
    state = {
        "quant_type": layer.format,
        "blocksize": layer.block_size,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": [layer.out_features, layer.in_features],
    }
    tensors = {
        "weight": layer.packed.view(-1, 1),
        "weight.absmax": layer.absmax,
        "weight.quant_map": table(layer.format).clone(),
    }
    if layer.nested:
        tensors.update(
            {
                "weight.nested_absmax": layer.nested_absmax,
                "weight.nested_quant_map": table("int8").clone(),
            }
        )
        state.update(
            {
                "nested_blocksize": NESTED_BLOCK,
                "nested_dtype": "float32",
                "nested_offset": float(layer.offset),
            }
        )
    tensors[STATE + layer.format] = torch.tensor(
        list(json.dumps(state).encode()), dtype=torch.uint8
    )
    return tensors


def write(
    what: Compressed | PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Write what `nf4.quantize` (NF4, FP4) or `llm_int8.quantize` made; returns the bytes written.

    Everything else is stored in `dtype`, in which bitsandbytes then computes.
    Raises CompressionError for other layers, among them block-wise INT8, which no Hugging Face
    model class reads, or layers in different formats.
    """
    model = files.model_of(what)
    layers = files.layers_of(
        model, (BlockwiseLinear, LLMInt8Linear), "nf4.quantize or llm_int8.quantize"
    )
    kinds = {
        (m.format, m.block_size, m.nested) if isinstance(m, BlockwiseLinear) else m.threshold
        for m in layers.values()
    }
    if len(kinds) > 1:
        raise CompressionError(
            "model: its layers differ in format; bitsandbytes' configuration has one."
        )
    first = next(iter(layers.values()))
    settings: dict = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}
    if isinstance(first, LLMInt8Linear):
        settings.update({"load_in_8bit": True, "llm_int8_threshold": first.threshold})
    elif first.format == "int8":
        raise CompressionError(
            "model: bitsandbytes keeps models in nf4, fp4 or LLM.int8(); "
            "block-wise int8 is not among them."
        )
    else:
        settings.update({
            "load_in_4bit": True, "bnb_4bit_quant_type": first.format,
            "bnb_4bit_use_double_quant": first.nested,
            "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."),
            "bnb_4bit_quant_storage": "uint8",
        })  # fmt: skip
    settings["llm_int8_skip_modules"] = files.dense_outside(model, layers)
    tensors = {
        f"{name}.{key}": t
        for name, layer in layers.items()
        for key, t in tensors_of(layer, dtype).items()
    }
    return files.write_folder(
        folder,
        lambda work: files.write_model(model, tensors, layers, settings, work, dtype, tokenizer),
    )


def layer_from(
    tensors: dict[str, Tensor], bias: Tensor | None, threshold: float
) -> BlockwiseLinear | LLMInt8Linear:
    """The layer that bitsandbytes' tensors of one layer describe.

    Raises CompressionError if they do not fit.
    """
    layer: BlockwiseLinear | LLMInt8Linear
    if "SCB" in tensors:
        codes = tensors["weight"]
        if (
            codes.dtype != torch.int8
            or codes.dim() != 2
            or tensors["SCB"].shape != codes.shape[:1]
            or not torch.isfinite(tensors["SCB"]).all()
        ):
            raise CompressionError(
                "weight and SCB: expected int8 (out, in) and finite numbers (out,)."
            )
        layer = LLMInt8Linear(codes.shape[1], codes.shape[0], threshold=threshold)
        layer.weight_codes, layer.weight_scale = codes, tensors["SCB"].float()[:, None] / 127
        layer.weight_sum = codes.sum(1, dtype=torch.int32)
    else:
        key = next((k for k in tensors if k.startswith(STATE)), None)
        try:
            state = json.loads(bytes(tensors[key].tolist())) if key else {}
            out, inputs = state["shape"]
            layer = BlockwiseLinear(
                inputs,
                out,
                format=state["quant_type"],
                block_size=state["blocksize"],
                nested="nested_offset" in state,
            )
            parts = {"packed": tensors["weight"].view(-1), "absmax": tensors["weight.absmax"]}
            maps = {"quant_map": layer.format}
            if layer.nested:
                parts["nested_absmax"] = tensors["weight.nested_absmax"]
                maps["nested_quant_map"] = "int8"
                layer.offset.fill_(state["nested_offset"])
            found = {name: tensors[f"weight.{name}"].float() for name in maps}
        except (KeyError, ValueError, TypeError) as error:
            raise CompressionError(f"quant_state: missing or not readable ({error}).") from error
        for name, values in found.items():
            published = table(maps[name])
            if values.shape != published.shape or not torch.allclose(values, published, atol=1e-6):
                raise CompressionError(f"{name}: not the published table of {maps[name]}.")
        for name, tensor in parts.items():
            buffer = getattr(layer, name)
            same_kind = (
                tensor.is_floating_point()
                if buffer.is_floating_point()
                else tensor.dtype == buffer.dtype
            )
            if tensor.shape != buffer.shape or not same_kind:
                found_kind = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise CompressionError(
                    f"{name}: {found_kind}, expected {tuple(buffer.shape)} {buffer.dtype}."
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CompressionError(f"{name}: NaN or infinity; the file is damaged.")
            buffer.copy_(tensor)
    layer.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
    return layer


def read(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in bitsandbytes' layout, with the layers of `nf4` or `llm_int8`.

    Raises CompressionError for a damaged file or tensors that do not fit each other.
    """
    folder = Path(folder)
    settings = files.read_settings(folder, "bitsandbytes")
    model = files.empty_model(folder, dtype)
    tensors = files.by_our_names(model, files.read_tensors(folder))
    marks = (".SCB", ".weight.absmax")
    names = {key.removesuffix(mark) for mark in marks for key in tensors if key.endswith(mark)}
    if not names:
        raise CompressionError(
            f"{folder}: holds no SCB and no absmax; is it a bitsandbytes checkpoint?"
        )
    threshold, used = settings.get("llm_int8_threshold", 6.0), set()
    for name in sorted(names):
        parts = files.parts_of(tensors, name, ("weight",), folder)
        used |= {f"{name}.{key}" for key in parts}
        files.place(
            model, folder, name, partial(layer_from, parts, files.bias_of(parts, dtype), threshold)
        )
    return files.load_others(
        model, {k: v for k, v in tensors.items() if k not in used}, names, folder
    )
