"""What lesson 5.3 measures of rotations: how far channels stand out, models with rounded inputs, a
rotation without folding.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.models import walk
from course_utils.quantization import cayley, hadamard, rotations
from course_utils.quantization.grids import fake_quantize


def peak(x: Tensor) -> Tensor:
    """max|x| over the root mean square, for each row (rows, channels)."""
    x = x.double()
    return x.abs().amax(-1) / x.square().mean(-1).sqrt()


@contextmanager
def rounded_inputs(model: nn.Module, bits: int) -> Iterator[None]:
    """What enters each linear layer of the blocks, and each layer in the place of one, is rounded:
    an affine grid for each token.
    """

    def hook(_: Any, args: tuple) -> tuple:
        x = args[0]
        return (
            fake_quantize(x.reshape(-1, x.shape[-1]), bits=bits, group_size=-1).view_as(x),
            *args[1:],
        )

    inside = [
        m
        for m in walk.blocks(model).modules()
        if hasattr(m, "weight") and getattr(m.weight, "dim", int)() == 2
    ]
    layers = [m for m in inside if not isinstance(m, nn.Embedding | hadamard.OnlineHadamard)]
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stream(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The residual stream in front of each block, each state divided by its root mean square:
    (tokens of all blocks, width).
    """
    found = [
        states[0][0].flatten(0, 1) for _, states in walk.through_blocks(model, ids, batch=len(ids))
    ]
    x = torch.cat(found).double()
    return x / x.square().mean(-1, keepdim=True).sqrt()


def principal_axes(x: Tensor) -> Tensor:
    """The eigenvectors of XᵀX (width, width) as rows, the largest eigenvalue first: Q with Q x the
    principal components.
    """
    _, vectors = torch.linalg.eigh(x.T @ x)
    return vectors.flip(1).T.contiguous()


@torch.no_grad()
def without_folding(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The wrong way: readers W Qᵀ, writers Q W, but each norm keeps its gain, which then meets
    other channels than its own.
    """
    made: Any = copy.deepcopy(model)
    rotations.untie(made)
    Q = hadamard.randomized(made.config.hidden_size, seed)
    norms = rotations.norms_of_stream(made)
    rotations.rotate_writers(made, norms, Q)
    for norm in norms:
        for name in norm.readers:
            weight = walk.weight_of(made.get_submodule(name))  # a view, also of a Conv1D's
            weight.copy_(weight.double() @ Q.T)
    return made


def learned_rows(
    x: Tensor, unseen: Tensor, weight: Tensor, *, bits: int, steps: int, seeds: tuple[int, ...]
) -> tuple[dict[str, Any], dict[int, tuple[float, float]]]:  # fmt: skip
    """For `compare`: no rotation, a random Hadamard rotation of each seed, and the same after so
    many Cayley steps on inputs x.

    One number for each part of the unseen inputs (parts, tokens, n): the error of the rounded
    product, relative. And for each seed that error on x itself, at the start and at the best step.
    """
    starts = {seed: hadamard.randomized(x.shape[1], seed) for seed in seeds}
    learned = {
        seed: cayley.learn(lambda R: cayley.product_error(x, weight, R, bits), R, steps=steps)
        for seed, R in starts.items()
    }

    def errors(R: Tensor) -> Tensor:
        return torch.stack([cayley.product_error(part, weight, R, bits) for part in unseen])

    rows = {
        "as it is": errors(torch.eye(x.shape[1], dtype=x.dtype)),
        "random Hadamard": lambda seed: errors(starts[seed]),
        "learned from it": lambda seed: errors(learned[seed][0]),
    }
    return rows, {seed: (losses[0], min(losses)) for seed, (_, losses) in learned.items()}
