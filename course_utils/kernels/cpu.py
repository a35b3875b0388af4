"""The compiled products: y = x Ŵᵀ + b from packed bytes, for a few tokens at a time."""

import ctypes
import functools

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from .build import library
from .formats import BlockWeight, PackedWeight
from .packing import packed_width, planes

WORK_PER_THREAD = 2**18  # weights times tokens for which another thread pays


COUNTS = ("rows", "columns", "groups", "row_bytes", "zero_bytes", "group_size", "group_bytes")
KINDS = ("bits", "scales")
SCALES = ("float", "half", "E8M0", "E4M3")  # numbers of `enum Scales`


class _Weight(ctypes.Structure):
    """`struct Weight` of cpp/kernels.h; addresses as plain numbers."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("codes", "scale", "zero", "factor")),
        *((name, ctypes.c_int64) for name in COUNTS),
        *((name, ctypes.c_int32) for name in KINDS),
    ]


@functools.cache
def _functions() -> tuple | None:
    """The library's packed_product and integer_product."""
    loaded = library()
    if loaded is None:
        return None
    address, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    loaded.kernel_name.restype = ctypes.c_char_p
    packed, integer = loaded.packed_product, loaded.integer_product
    packed.restype = integer.restype = None
    packed.argtypes = [address, address, count, address, address, number, number, number]
    integer.argtypes = [address, address, count, count, count, address, number, number]
    return packed, integer


@functools.cache
def variants() -> tuple[str, ...]:
    """What this processor can run, fastest first, out of "avx512", "avx2" and "portable"; ()
    without a compiler.
    """
    loaded = library()
    if loaded is None or _functions() is None:
        return ()
    names: list[str] = []
    while (name := loaded.kernel_name(len(names))) is not None:
        names.append(name.decode())
    return tuple(names)


def index_of(variant: str | None) -> int:
    """The number of a variant of the kernels.

    Raises CompressionError if this processor cannot run it.
    """
    if variant is None:
        return 0
    if variant not in variants():
        raise CompressionError(
            f"variant={variant!r}: this machine runs "
            f"{', '.join(variants()) or 'none (no compiler)'}."
        )
    return variants().index(variant)


def describe(weight: PackedWeight | BlockWeight) -> _Weight:
    """What the products are told of a weight: addresses, so its tensors have to stay where they
    are.
    """
    if isinstance(weight, BlockWeight):
        factor = 0 if weight.tensor_scale is None else weight.tensor_scale.data_ptr()
        return _Weight(
            weight.codes.data_ptr(), weight.scale.data_ptr(), 0, factor, weight.rows,
            weight.columns, weight.groups, weight.codes.shape[1], 0, weight.block,
            weight.block // 2, 4, SCALES.index(weight.kind),
        )  # fmt: skip
    groups, columns, zero = weight.groups, weight.columns, weight.zero_point
    size, (first, _) = columns // groups, planes(weight.bits)[0]
    return _Weight(
        weight.codes.data_ptr(), weight.scale.data_ptr(), 0 if zero is None else zero.data_ptr(), 0,
        weight.rows, columns, groups, weight.codes.shape[1], 0 if zero is None else zero.shape[1],
        size, packed_width(size, first), weight.bits,
        SCALES.index("half" if weight.scale.dtype == torch.float16 else "float"),
    )  # fmt: skip


def threads_for(work: int) -> int:
    """How many threads pay for `work` multiplications."""
    return min(torch.get_num_threads(), 1 + work // WORK_PER_THREAD)


def product(
    x: Tensor, weight: _Weight, bias: Tensor | None = None, *, int8: bool = False, kernel: int = 0
) -> Tensor:  # fmt: skip
    """X (…, columns) times Ŵᵀ, plus b, in the dtype of x, with Ŵ from `describe`.

    Of the shapes nothing is checked.

    Sums are in float32, of codes that start at 0: the error of y is some 1e-7 of Σ |x| · scale ·
    2^bits (12 for E2M1), also where Ŵ itself is much smaller than its scale allows.
    """
    functions = _functions()
    assert functions is not None, "ask `variants` first"
    rows, columns = weight.rows, weight.columns
    flat = x.reshape(-1, columns).float().contiguous()
    bias = None if bias is None else bias.detach().float().contiguous()
    y = torch.empty(len(flat), rows)
    threads = threads_for(len(flat) * rows * columns)
    add = None if bias is None else bias.data_ptr()
    functions[0](
        ctypes.addressof(weight),
        flat.data_ptr(),
        len(flat),
        add,
        y.data_ptr(),
        int8,
        kernel,
        threads,
    )
    return y.view(*x.shape[:-1], rows).to(x.dtype)


def integer_product(q: Tensor, weight: Tensor, *, variant: str | None = None) -> Tensor:
    """Q (tokens, columns) int8 times weightᵀ, weight (rows, columns) int8: (tokens, rows) int32,
    exact.

    Raises CompressionError for other dtypes or shapes, and above 65536 columns, where a sum could
    overflow.
    """
    if (
        q.dtype != torch.int8
        or weight.dtype != torch.int8
        or q.dim() != 2
        or weight.dim() != 2
        or q.shape[1] != weight.shape[1]
    ):
        found = f"{tuple(q.shape)} {q.dtype} and {tuple(weight.shape)} {weight.dtype}"
        raise CompressionError(f"q, weight: expected int8 matrices of the same width, got {found}.")
    if q.shape[1] > 65536:
        raise CompressionError(
            f"q: {q.shape[1]} columns; sums of more than 65536 products may overflow; split them."
        )
    index, functions = index_of(variant), _functions()
    assert functions is not None
    q, weight = q.contiguous(), weight.contiguous()
    (tokens, columns), rows = q.shape, len(weight)
    y = torch.empty(tokens, rows, dtype=torch.int32)
    functions[1](
        weight.data_ptr(), q.data_ptr(), tokens, rows, columns, y.data_ptr(), index,
        threads_for(tokens * rows * columns)
    )  # fmt: skip
    return y
