"""Compressed models in the files that other tools read: GPTQ, AWQ, compressed-tensors,
bitsandbytes, GGUF, ONNX.

Each module has `write` and, where the format can be read back, `read`. The formats' own packages
(gguf, onnx, bitsandbytes) are loaded only where they are used.
"""

from . import awq, bitsandbytes, compressed_tensors, gguf, gptq, onnx

__all__ = ["awq", "bitsandbytes", "compressed_tensors", "gguf", "gptq", "onnx"]
