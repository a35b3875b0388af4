"""ONNX: the model as a graph that other runtimes execute, in float32, dynamic INT8, or with 4-bit weights.

The exported graph takes token ids (batch, sequence) and gives logits (batch, sequence, vocabulary), without a cache.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
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
    sizes = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=model.config.max_position_embeddings)}}
    try:
        program = torch.onnx.export(
            _Logits(with_real_weights(model)).eval(), (ids,), dynamo=True, input_names=["input_ids"],
            output_names=["logits"], dynamic_shapes=sizes, verbose=False,
        )  # fmt: skip
    except Exception as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CompressionError(f"model: could not be exported to ONNX ({reason}).") from error
    assert program is not None  # dynamo=True returns a program
    program.save(file, external_data=False)
    return file.stat().st_size


def with_real_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in which every quantized layer is an nn.Linear with the weight that its codes stand for."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
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

    Raises CompressionError for a block size that MatMulNBits does not have.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    if block_size not in BLOCK_SIZES:
        raise CompressionError(f"block_size={block_size}: choose one of {', '.join(map(str, BLOCK_SIZES))}.")
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=block_size, is_symmetric=False)
    quantizer.process()
    quantizer.model.save_model_to_file(str(file), use_external_data_format=False)
    return Path(file).stat().st_size


def run(file: str | Path, input_ids: Tensor) -> Tensor:
    """Logits of an exported file for token ids (batch, sequence), by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"input_ids": input_ids.long().numpy()})[0])
