"""ONNX: the model as a graph that other runtimes execute, in float32, dynamic INT8, or with 4-bit
weights.

The exported graph takes token ids (batch, sequence) and gives logits (batch, sequence, vocabulary),
without a cache.
"""

import copy
import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.models import walk
from course_utils.quantization import Compressed
from course_utils.quantization.layer import KINDS, QuantizedLinear

from . import files

BLOCK_SIZES = (16, 32, 64, 128, 256)


class _Logits(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def write(what: Compressed | PreTrainedModel, file: str | Path) -> int:
    """Export a causal language model to one ONNX file; returns its bytes.

    Quantized layers are exported as the real weights they stand for. Raises CompressionError if the
    export fails.
    """
    model, file = files.model_of(what), Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = torch.zeros(2, 8, dtype=torch.long)
    sizes = {
        "input_ids": {
            0: torch.export.Dim("batch"),
            1: torch.export.Dim("sequence", max=walk.longest_context(model)),
        }
    }
    try:
        program = torch.onnx.export(
            _Logits(with_real_weights(model)).eval(), (ids,), dynamo=True,
            input_names=["input_ids"], output_names=["logits"], dynamic_shapes=sizes, verbose=False,
        )  # fmt: skip
    except Exception as error:
        raise CompressionError(
            f"model: PyTorch's exporter cannot write a {type(model).__name__} as ONNX "
            f"({_cause(error)}); write another layout, such as gptq or gguf."
        ) from error
    assert program is not None  # dynamo=True returns a program
    # for what is above the 2 GB that one file of this format holds
    beside = file.with_name(f"{file.name}.data")
    beside.unlink(missing_ok=True)  # of a larger model that stood here before
    program.save(file, external_data=False)
    return file.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _cause(error: BaseException) -> str:
    """The first line of what was raised first, without terminal colours."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def with_real_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in which every quantized layer is an nn.Linear with the weight that its codes stand
    for.
    """
    model = copy.deepcopy(model)
    for name, module in reversed(list(model.named_modules())):  # what is inside another layer first
        if type(module).__name__ in KINDS:
            linear = nn.Linear(
                module.in_features, module.out_features, bias=module.bias is not None
            )
            linear.weight.data = module.weight.to(model.dtype)
            if module.bias is not None:
                linear.bias.data = module.bias.data.to(model.dtype)
            walk.replace(model, name, linear)
    return model


def quantize_dynamic(source: str | Path, file: str | Path) -> int:
    """ONNX Runtime's dynamic INT8 version of an exported file; returns its bytes."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as convert

    convert(source, file, weight_type=QuantType.QInt8)
    return Path(file).stat().st_size


def quantize_4bit(source: str | Path, file: str | Path, *, block_size: int = 32) -> int:
    """ONNX Runtime's 4-bit weights (MatMulNBits) for an exported file; returns its bytes.

    Warns of the matrices that it leaves in float: products of other kinds, such as Gemm, which
    GPT-2's Conv1D becomes.
    Raises CompressionError for a block size that MatMulNBits does not have.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    if block_size not in BLOCK_SIZES:
        raise CompressionError(
            f"block_size={block_size}: choose one of {', '.join(map(str, BLOCK_SIZES))}."
        )
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=block_size, is_symmetric=False)
    quantizer.process()
    _warn_of_the_rest(quantizer.model.model.graph)
    quantizer.model.save_model_to_file(str(file), use_external_data_format=False)
    return Path(file).stat().st_size


def _warn_of_the_rest(graph: Any) -> None:
    """Name the products whose matrices are still in float."""
    sizes = {
        t.name: math.prod(t.dims)
        for t in graph.initializer
        if t.data_type == 1 and len(t.dims) == 2
    }
    left = {
        name: node.op_type
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm")
        for name in node.input
        if name in sizes
    }
    if left:
        count = sum(sizes[name] for name in left)
        warnings.warn(
            f"onnx: {len(left)} matrices with {count:,} weights stay in float32, "
            f"such as {next(iter(left))} ({next(iter(left.values()))}); "
            "MatMulNBits replaces products by a constant right factor only.", CompressionWarning,
            stacklevel=3,
        )  # fmt: skip


def with_codes(source: str | Path, file: str | Path, result: Compressed) -> int:
    """An exported file of `result` in which each weight with one scale for an output is its own
    codes; returns its bytes.

    A matrix W^T in float32 becomes DequantizeLinear(codes int8, scale, axis 1), which any runtime
    of ONNX reads. For symmetric grids of 8 bits or fewer; other layers stay in float32. Raises
    CompressionError where the file holds none of the layers' weights.
    """
    import onnx
    from onnx import helper, numpy_helper

    model, found = onnx.load(source), 0
    layers = [
        m
        for m in files.model_of(result).modules()
        if isinstance(m, QuantizedLinear) and m.symmetric and m.groups == 1
    ]
    by_value = {m.weight.T.contiguous().numpy().tobytes(): m for m in layers}
    for tensor in list(model.graph.initializer):
        layer = (
            by_value.get(numpy_helper.to_array(tensor).tobytes()) if len(tensor.dims) == 2 else None
        )
        if layer is None:
            continue
        codes = (layer.codes.short() - 2 ** (layer.bits - 1)).to(torch.int8).T.contiguous()
        parts = {"codes": codes.numpy(), "scale": layer.scale.float().flatten().numpy()}
        model.graph.initializer.extend(
            numpy_helper.from_array(value, f"{tensor.name}.{part}") for part, value in parts.items()
        )
        names = [f"{tensor.name}.{part}" for part in parts]
        model.graph.node.insert(
            0, helper.make_node("DequantizeLinear", names, [tensor.name], axis=1)
        )
        model.graph.initializer.remove(tensor)
        found += 1
    if not found:
        raise CompressionError(
            f"{source}: holds no weight of a symmetric layer with one scale for an output; "
            "write it from this result first."
        )
    onnx.save(model, str(file))
    return Path(file).stat().st_size


def codes_in(file: str | Path) -> list[tuple[Tensor, Tensor]]:
    """(codes (out, in) int8, scale (out,)) of every matrix that an ONNX file keeps as
    DequantizeLinear of constants.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    values = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    nodes = [
        n
        for n in graph.node
        if n.op_type == "DequantizeLinear" and all(name in values for name in n.input[:2])
    ]
    return [
        (values[n.input[0]].T.contiguous(), values[n.input[1]])
        for n in nodes
        if values[n.input[0]].dim() == 2
    ]


def session(file: str | Path) -> Any:
    """An ONNX Runtime session on the CPU. Products with coded weights are added up in float32
    there; by default inputs are rounded to INT8.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(file: str | Path, input_ids: Tensor) -> Tensor:
    """Logits of an exported file for token ids (batch, sequence), by ONNX Runtime on the CPU."""
    return torch.from_numpy(
        session(file).run(["logits"], {"input_ids": input_ids.long().numpy()})[0]
    )
