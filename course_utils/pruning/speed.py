"""Time of sparse products against dense ones, as ratios of medians in one run."""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from . import masks


def ratio(
    slow: Callable[[], object],
    fast: Callable[[], object],
    *,
    rounds: int = 15,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Median time of `slow` over that of `fast`; they take turns, after one round that does not
    count.
    """
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for function, found in zip((slow, fast), times, strict=True):
            began = clock()
            function()
            found.append(clock() - began)
    first, second = (statistics.median(found[1:]) for found in times)
    return first / second


def random_weight(width: int, sparsity: float, pattern: str | None = None) -> Tensor:
    """A square weight with zeros in random places."""
    g = torch.Generator().manual_seed(0)
    score = torch.rand(width, width, generator=g)
    return torch.randn(width, width, generator=g) * masks.make(score, sparsity, pattern)


def csr_over_dense(weight: Tensor, tokens: int, *, rounds: int = 15) -> float:
    """How many times faster torch's CSR product W xᵀ is than the dense one, x (tokens, in) in
    float32; below 1 it is slower.

    Processor seconds: set one thread first. Raises CompressionError if the two products differ.
    """
    with warnings.catch_warnings():  # torch says that its CSR tensors are in beta
        warnings.simplefilter("ignore", UserWarning)
        sparse = weight.to_sparse_csr()
    x = torch.randn(weight.shape[1], tokens, generator=torch.Generator().manual_seed(1))
    if not torch.allclose(sparse @ x, weight @ x, atol=1e-2):
        raise CompressionError("weight: the sparse and the dense product disagree.")
    return ratio(lambda: weight @ x, lambda: sparse @ x, rounds=rounds)
