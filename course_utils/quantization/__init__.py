"""Fewer bits for each weight: grids, packing, round-to-nearest, GPTQ, and packed models on disk."""

from . import gptq, grids, packing, rtn
from .compressed import Compressed, load
from .grids import Grid, dequantize, fake_quantize, make_grid, quantize
from .layer import LayerResult, QuantizedLinear
from .packing import pack, unpack

__all__ = [
    "Compressed", "Grid", "LayerResult", "QuantizedLinear", "dequantize", "fake_quantize", "gptq", "grids", "load",
    "make_grid", "pack", "packing", "quantize", "rtn", "unpack",
]  # fmt: skip
