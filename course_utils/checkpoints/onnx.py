"""ONNX: the model as a graph that other runtimes execute, in float32, dynamic INT8, or with 4-bit weights.

The exported graph takes token ids (batch, sequence) and gives logits (batch, sequence, vocabulary), without a cache.
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
from course_utils.quantization.layer import KINDS

from . import files

BLOCK_SIZES = (16, 32, 64, 128, 256)


class _Logits(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def write(what: Compressed | PreTrainedModel, file: str | Path) -> int:
    """Export a causal language model to one ONNX file; returns its bytes.

    Quantized layers are exported as the real weights they stand for. Raises CompressionError if the export fails.
    """
    model, file = files.model_of(what), Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = torch.zeros(2, 8, dtype=torch.long)
    sizes = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=walk.longest_context(model))}}
    try:
        program = torch.onnx.export(
            _Logits(with_real_weights(model)).eval(), (ids,), dynamo=True, input_names=["input_ids"],
            output_names=["logits"], dynamic_shapes=sizes, verbose=False,
        )  # fmt: skip
    except Exception as error:
        raise CompressionError(
            f"model: PyTorch's exporter cannot write a {type(model).__name__} as ONNX ({_cause(error)}); write another layout, such as gptq or gguf."
        ) from error
    assert program is not None  # dynamo=True returns a program
    program.save(file, external_data=False)
    beside = file.with_name(f"{file.name}.data")  # above the 2 GB that one file of this format holds
    return file.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _cause(error: BaseException) -> str:
    """The first line of what was raised first, without terminal colours."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def with_real_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in which every quantized layer is an nn.Linear with the weight that its codes stand for."""
    model = copy.deepcopy(model)
    for name, module in reversed(list(model.named_modules())):  # what is inside another layer first
        if type(module).__name__ in KINDS:
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
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

    Warns of the matrices that it leaves in float: products of other kinds, such as Gemm, which GPT-2's Conv1D becomes.
    Raises CompressionError for a block size that MatMulNBits does not have.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    if block_size not in BLOCK_SIZES:
        raise CompressionError(f"block_size={block_size}: choose one of {', '.join(map(str, BLOCK_SIZES))}.")
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=block_size, is_symmetric=False)
    quantizer.process()
    _warn_of_the_rest(quantizer.model.model.graph)
    quantizer.model.save_model_to_file(str(file), use_external_data_format=False)
    return Path(file).stat().st_size


def _warn_of_the_rest(graph: Any) -> None:
    """Name the products whose matrices are still in float."""
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer if t.data_type == 1 and len(t.dims) == 2}
    left = {name: node.op_type for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input if name in sizes}
    if left:
        count = sum(sizes[name] for name in left)
        warnings.warn(
            f"onnx: {len(left)} matrices with {count:,} weights stay in float32, such as {next(iter(left))} ({next(iter(left.values()))}); "
            "MatMulNBits replaces products by a constant right factor only.", CompressionWarning, stacklevel=3,
        )  # fmt: skip


def run(file: str | Path, input_ids: Tensor) -> Tensor:
    """Logits of an exported file for token ids (batch, sequence), by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"input_ids": input_ids.long().numpy()})[0])
