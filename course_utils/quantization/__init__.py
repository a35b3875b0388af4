"""Fewer bits for each number: grids and formats, methods for weights, activations and caches, packed models on disk."""

from course_utils.kernels.packing import pack, unpack

from . import (
    approximate,
    awq,
    codebooks,
    decoding,
    entropy_coded,
    extreme,
    floats,
    folding,
    formats,
    gptq,
    grids,
    hqq,
    kv_cache,
    llm_int8,
    logarithmic,
    microscaling,
    nf4,
    observers,
    posit,
    qat,
    rtn,
    smoothquant,
    value_tables,
    w8a8,
)
from .compressed import Compressed, load
from .grids import Grid, dequantize, fake_quantize, make_grid, quantize
from .layer import LayerResult, QuantizedLinear

__all__ = [
    "Compressed", "Grid", "LayerResult", "QuantizedLinear", "approximate", "awq", "codebooks", "decoding", "dequantize", "entropy_coded",
    "extreme", "fake_quantize", "floats", "folding", "formats", "gptq", "grids", "hqq", "kv_cache", "llm_int8", "load", "logarithmic",
    "make_grid", "microscaling", "nf4", "observers", "pack", "posit", "qat", "quantize", "rtn", "smoothquant", "unpack",
    "value_tables", "w8a8",
]  # fmt: skip
