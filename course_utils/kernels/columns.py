"""GPTQ's walk over a block of columns: compiled, and in torch, with the same bits as result."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from .build import library
from .cpu import threads_for


@functools.cache
def _function() -> Any:
    loaded = library()
    if loaded is None:
        return None
    function = loaded.gptq_columns
    function.restype = None
    function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_int64] * 4 + [ctypes.c_int] * 2
    return function


def walk(
    W: Tensor,
    U: Tensor,
    scale: Tensor,
    zero: Tensor,
    group_of: Tensor,
    codes: Tensor,
    start: int,
    end: int,
    largest: int,
) -> Tensor:
    """Round the columns start … end − 1 of a weight, one after the other; each hands its error to
    those behind it up to `end`.

    W (in, out) holds a column of the weight in each row and is changed in place, like `codes` (in,
    out). U (in, in) upper triangular, scale and zero (groups, out), group_of (in,). Returns the
    errors (w − ŵ) / U_ii (end − start, out), which the columns from `end` on still have to be
    given. float32 on a CPU runs compiled where a compiler is (COURSE_KERNELS=torch: never).
    """
    held = (W, U, scale, zero, group_of, codes)
    compiled = W.dtype == torch.float32 and all(
        t.device.type == "cpu" and t.is_contiguous() for t in held
    )
    function = _function() if compiled else None
    if function is None:
        return walk_in_torch(W, U, scale, zero, group_of, codes, start, end, largest)
    errors = torch.empty_like(W[start:end])
    columns, rows = W.shape
    threads = threads_for(rows * (end - start) ** 2)
    function(*(t.data_ptr() for t in (*held, errors)), columns, rows, start, end, largest, threads)
    return errors


def walk_in_torch(
    W: Tensor,
    U: Tensor,
    scale: Tensor,
    zero: Tensor,
    group_of: Tensor,
    codes: Tensor,
    start: int,
    end: int,
    largest: int,
) -> Tensor:
    """`walk`, to be read: the loop of the algorithm."""
    errors = torch.empty_like(W[start:end])
    for i in range(start, end):
        s, z = scale[group_of[i]], zero[group_of[i]]
        q = torch.div(W[i], s).round_().add_(z).clamp_(0, largest)
        codes[i] = q
        q.sub_(z).mul_(s)
        error = torch.sub(W[i], q, out=errors[i - start]).div_(U[i, i])
        W[i] = q  # this column is done: from here on its row of W holds ŵ
        W[i + 1 : end].addr_(U[i, i + 1 : end], error, alpha=-1)
    return errors
