"""Products with weights that stay packed: one reference in torch, compiled ones for a few tokens on
a CPU, and Triton.

`linear` takes whichever runs here. The Triton kernels (`kernels.gpu`) need the extra `gpu` and are
called by name.
"""

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from . import build, cpu, reference
from .formats import BITS, BLOCKS, BlockWeight, PackedWeight, from_codes
from .packing import pack, pack_planes, unpack, unpack_planes

__all__ = [
    "ACTIVATIONS", "BITS", "BLOCKS", "BlockWeight", "MOST_TOKENS", "PackedWeight", "build",
    "compiled_for", "cpu", "from_codes", "linear", "pack", "pack_planes", "reference", "unpack",
    "unpack_planes",
]  # fmt: skip

ACTIVATIONS = ("float", "int8")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_TOKENS = 32  # with more, unpacking once and multiplying densely is faster


def compiled_for(x: Tensor, columns: int) -> bool:
    """Whether the compiled products can take this input: a plain CPU tensor (…, columns) of 1 to 32
    tokens, no gradient wanted.

    Not while torch traces or compiles, because they are not torch operators.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.dtype in DTYPES
        and x.device.type == "cpu"
        and x.shape[-1:] == (columns,)
        and 0 < x.numel() <= MOST_TOKENS * columns
        and not (x.requires_grad and torch.is_grad_enabled())
        and type(x) in (Tensor, torch.nn.Parameter)
        and bool(cpu.variants())
    )


def linear(
    x: Tensor, weight: PackedWeight | BlockWeight, bias: Tensor | None = None, *,
    activations: str = "float",
    variant: str | None = None,
) -> Tensor:  # fmt: skip
    """Y = x Ŵᵀ + b without unpacking Ŵ where that is faster; x (…, columns), y (…, rows) in the
    dtype of x.

    activations "float": the sums are those of `reference.linear` up to float32 rounding. "int8":
    each token is rounded to INT8 first (`reference.round_tokens`), which is faster and changes the
    result. `variant` names one of `cpu.variants()` and then nothing else runs; None takes the
    fastest that can, down to the reference.

    Raises CompressionError for an unknown name, and for shapes, dtypes or devices that do not fit
    together.
    """
    if activations not in ACTIVATIONS:
        raise CompressionError(
            f"activations={activations!r}: choose one of {', '.join(ACTIVATIONS)}."
        )
    if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != weight.columns:
        raise CompressionError(
            f"x: expected real numbers (…, {weight.columns}), got {tuple(x.shape)} {x.dtype}."
        )
    if x.device != weight.codes.device:
        raise CompressionError(
            f"x: on {x.device}, but the weight is on {weight.codes.device}; move one of them."
        )
    if bias is not None and bias.shape != (weight.rows,):
        raise CompressionError(f"bias: shape {tuple(bias.shape)}; expected ({weight.rows},).")
    if variant is None and not compiled_for(x, weight.columns):
        return reference.linear(x, weight, bias, activations=activations)
    if variant is not None and (x.dtype not in DTYPES or x.device.type != "cpu"):
        raise CompressionError(
            f"x: {x.dtype} on {x.device}; variants take float32, bfloat16 and float16 on the CPU."
        )
    return cpu.product(
        x, cpu.describe(weight), bias, int8=activations == "int8", kernel=cpu.index_of(variant)
    )
