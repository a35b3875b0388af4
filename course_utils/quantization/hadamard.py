"""Hadamard matrices of any width, their fast product, and the layer that rotates its input while
the model runs.

A Hadamard matrix has entries ±1 and orthogonal rows; divided by √n it is a rotation (or a
reflection) that spreads any single number evenly over all n. Sylvester's are H_2n = [[H_n, H_n],
[H_n, −H_n]], for n = 2^k, with a product of n log2 n additions. For other widths n = m · 2^p the
matrix is B_m ⊗ H of 2^p with a Hadamard matrix B_m of Paley's (1933): m = q + 1 for a prime q ≡ 3
(mod 4), m = 2 (q + 1) for q ≡ 1 (mod 4). Where the odd part of n has none of these, B_m is a random
rotation of a fixed seed, which spreads as well on average and has entries of unlike size.
"""

import copy
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, selected

from .convert import FixedBuffers
from .layer import storable
from .turboquant import rotation


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def paley(order: int) -> Tensor | None:
    """A Hadamard matrix of this order with entries ±1, float64, where one of Paley's two
    constructions for primes has it.
    """
    first, second = order - 1, order // 2 - 1
    if order % 4 == 0 and first % 4 == 3 and _is_prime(first):
        q, symmetric = first, False
    elif order % 4 == 0 and second % 4 == 1 and _is_prime(second):
        q, symmetric = second, True
    else:
        return None
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor(
        [0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)], dtype=torch.float64
    )
    at = torch.arange(q)
    core = torch.ones(q + 1, q + 1, dtype=torch.float64)
    core[1:, 1:] = character[(at[:, None] - at[None, :]) % q]
    core[0, 0] = 0
    eye = torch.eye(q + 1, dtype=torch.float64)
    if not symmetric:
        core[1:, 0] = -1
        return core + eye
    return torch.kron(core, torch.tensor([[1.0, 1], [1, -1]]).double()) + torch.kron(
        eye, torch.tensor([[1.0, -1], [-1, -1]]).double()
    )


def random(width: int, seed: int = 0) -> Tensor:
    """`turboquant.rotation`, orthogonal to double precision: the nearest rotation to it, U Vᵀ of
    its singular vectors.
    """
    U, _, Vt = torch.linalg.svd(rotation(width, seed).double())
    return U @ Vt


@functools.lru_cache(maxsize=64)
def block(width: int) -> Tensor:
    """B (m, m), orthogonal, float64: the part of the matrix of `width` = m · 2^p that is not
    Sylvester's; (1, 1) for powers of two.

    Raises CompressionError unless the width is a positive whole number.
    """
    if width < 1:
        raise CompressionError(f"width={width}: choose at least 1.")
    odd = width // (width & -width)
    if odd == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    order = odd
    while width % order == 0:
        if (found := paley(order)) is not None:
            return found / math.sqrt(order)
        order *= 2
    return random(odd)


def transform(x: Tensor, inner: Tensor | None = None) -> Tensor:
    """H x for the vectors x (…, n) in the last dimension, H orthogonal (n, n), in x's dtype. n log2
    n additions for powers of two.

    `inner`: the matrix `block(n)`, if it is at hand.
    """
    n, dtype = x.shape[-1], x.dtype
    B = (block(n) if inner is None else inner).to(
        x.device, torch.float64 if dtype == torch.float64 else torch.float32
    )
    m = len(B)
    y = x.to(B.dtype).reshape(-1, m, n // m)
    half = 1
    while half < n // m:
        pairs = y.view(-1, m, n // m // (2 * half), 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = torch.stack([a + b, a - b], dim=-2).view(-1, m, n // m)
        half *= 2
    if m > 1:
        y = B @ y
    return (y / math.sqrt(n // m)).reshape(x.shape).to(dtype)


def matrix(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """H (n, n) itself: `transform` of the unit vectors."""
    return transform(torch.eye(width, dtype=dtype)).T.contiguous()


def randomized(width: int, seed: int = 0) -> Tensor:
    """H diag(±1) (n, n), float64, the signs drawn from the seed: another rotation for each seed,
    that spreads as well.
    """
    signs = (
        torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(seed)).double() * 2
        - 1
    )
    return matrix(width) * signs


@storable
class OnlineHadamard(FixedBuffers):
    """y = W Hᵀ (H x) + b: a linear layer `inner`, whose weight is W Hᵀ, behind a Hadamard product
    of its input.

    For inputs that nothing before can rotate (behind an activation function). Quantizers find
    `inner` and compress it. Files of `Compressed.save` keep it; `block` (m, m) float32, the part
    that is not Sylvester's, is among the buffers.
    """

    block: Tensor
    inner: Any

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        conv1d: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        if conv1d:
            self.inner = Conv1D(out_features, in_features).to(dtype)
        else:
            self.inner = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
        self.register_buffer("block", block(in_features).float())

    def shape(self) -> dict:
        """The constructor's arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.inner.bias is not None,
            "conv1d": isinstance(self.inner, Conv1D),
        }

    @classmethod
    @torch.no_grad()
    def of(cls, layer: Any) -> "OnlineHadamard":
        """This layer with rotated inputs: the same function."""
        rows, columns = walk.weight_of(layer).shape
        made = cls(
            columns,
            rows,
            bias=layer.bias is not None,
            conv1d=isinstance(layer, Conv1D),
            dtype=layer.weight.dtype,
        )
        made.inner = copy.deepcopy(layer)
        walk.weight_of(made.inner).copy_(transform(walk.weight_of(layer).double()).to(layer.weight))
        made.block = made.block.to(layer.weight.device)
        return made

    @property
    def weight(self) -> Tensor:
        """W (out, in): one matrix that does the same,
        for files that have no place for the product.
        """
        return transform(walk.weight_of(self.inner), self.block.T)  # H = B ⊗ S with a symmetric S

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer inside."""
        return self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(transform(x, self.block))


def before(model: PreTrainedModel, layers: Patterns) -> None:
    """Put an online Hadamard product before the layers of the blocks in whose names a regular
    expression of `layers` is found, in place.

    Raises CompressionError for an expression that is found nowhere.
    """
    names = set(selected(model)) - _others(model, layers)
    for name in sorted(names):
        walk.replace(model, name, OnlineHadamard.of(model.get_submodule(name)))


def _others(model: PreTrainedModel, layers: Patterns) -> set[str]:
    try:
        return set(selected(model, layers))
    except CompressionError as error:
        if "leaves no layer" in str(error):
            return set()
        raise CompressionError(str(error).replace("ignore", "online", 1)) from None
