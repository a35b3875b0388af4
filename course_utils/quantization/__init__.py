"""Fewer bits for each number: grids and formats, methods for weights, activations and caches,
packed models on disk.
"""

from course_utils.kernels.packing import pack, unpack

from . import (
    additive,
    approximate,
    awq,
    cayley,
    codebooks,
    decoding,
    e8,
    entropy_coded,
    extreme,
    floats,
    folding,
    formats,
    gptaq,
    gptq,
    grids,
    hadamard,
    hqq,
    kv_cache,
    llm_int8,
    logarithmic,
    low_rank,
    microscaling,
    nf4,
    observers,
    paired,
    posit,
    qat,
    qronos,
    rotations,
    rtn,
    smoothquant,
    trellis,
    value_tables,
    vectors,
    w8a8,
)
from .compressed import Compressed, load
from .grids import Grid, dequantize, fake_quantize, make_grid, quantize
from .layer import LayerResult, QuantizedLinear

__all__ = [
    "Compressed", "Grid", "LayerResult", "QuantizedLinear", "additive", "approximate", "awq",
    "cayley", "codebooks", "decoding", "dequantize", "e8", "entropy_coded", "extreme",
    "fake_quantize", "floats", "folding", "formats", "gptaq", "gptq", "grids", "hadamard", "hqq",
    "kv_cache", "llm_int8", "load", "logarithmic", "low_rank", "make_grid", "microscaling", "nf4",
    "observers", "pack", "paired", "posit", "qat", "qronos", "quantize", "rotations", "rtn",
    "smoothquant", "trellis", "unpack", "value_tables", "vectors", "w8a8",
]  # fmt: skip
