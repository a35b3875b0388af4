"""What lesson 5.9 measures on the spot: the channels of a block, small planted problems, sparse
digits and what they promise.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.distillation import digits
from course_utils.models import walk
from course_utils.pruning import mlp, qubo, regrowth, structured
from course_utils.theory import generalization


def layer_of(model: PreTrainedModel, ids: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(W, H) of the layer that reads the MLP's channels in one block of any model that
    `structured.prune_mlp` knows.
    """
    out = mlp.of(model).out
    for number, (module, states) in enumerate(walk.through_blocks(model, ids)):
        if number == block:
            layer = module.get_submodule(out)
            return walk.weight_of(layer).float(), structured.second_moment(
                module, states, layer, f"block {block}: {out}"
            )
    raise ValueError(f"block={block}: the model has {len(walk.blocks(model))} blocks.")


def planted(factor: float, *, channels: int = 8, twice: int = 4, seed: int = 0) -> Tensor:
    """Q of a layer of `channels` inputs, `twice` of which come in two parts (`qubo.split`): small
    enough for brute force.
    """
    rng = torch.Generator().manual_seed(seed)
    W = torch.randn(6, channels, generator=rng, dtype=torch.float64)
    X = torch.randn(200, channels, generator=rng, dtype=torch.float64)
    W[:, :twice] *= 0.5  # those in two parts are worth little: the best subset removes them
    W, H = qubo.split(W, 2 * X.T @ X / len(X), torch.arange(twice), factor)
    return qubo.matrix(W, H)


def over_optimum(search: str, factor: float, seed: int, remove: int = 6, **settings: Any) -> float:
    """The energy that a search finds on `planted`, divided by the least one of all subsets."""
    Q = planted(factor, seed=seed)
    return qubo.energy(Q, qubo.SEARCHES[search](Q, remove, **settings)) / qubo.energy(
        Q, qubo.brute_force(Q, remove)
    )


def sparse_digits(
    method: str,
    sparsity: float,
    seed: int,
    *,
    widths: Sequence[int] = (64, 128, 64, 10),
    steps: int = 400,
    peak: float = 3e-2,
) -> tuple[regrowth.Grown, digits.Digits]:
    """A perceptron on digits that is sparse from its first step; its first masks depend on the seed
    alone.
    """
    data = digits.load(seed)
    net = digits.network(*widths, seed=seed)

    def fit(model: nn.Module) -> None:
        digits.train(model, data.train_x, data.train_y, steps=steps, peak=peak, seed=seed)

    return regrowth.train(
        net, fit, regrowth.begin(net, sparsity, seed=7), steps=steps, method=method, seed=seed
    ), data


def message_bits(masks: dict[str, Tensor], bits: int, biases: int, *, mask_known: bool) -> float:
    """Bits that name a sparse network: `bits` for each weight and bias, log₂ C(n, k) for each mask
    unless it was fixed beforehand, and the bits and the step of the grid
    (`generalization.prefix_free_bits`), one of 32 steps.
    """
    values = bits * (sum(int(m.sum()) for m in masks.values()) + biases)
    places = (
        0.0 if mask_known else sum(_log2_choose(m.numel(), int(m.sum())) for m in masks.values())
    )
    return values + math.ceil(places) + generalization.prefix_free_bits(bits) + 5


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def promise(
    method: str,
    sparsity: float,
    seed: int,
    *,
    widths: Sequence[int] = (64, 16, 10),
    bits: int = 4,
    steps: int = 400,
) -> dict[str, float]:
    """A sparse network on one grid for all its numbers: train and test error, its message, and
    Occam's bound (95 %).
    """
    grown, data = sparse_digits(method, sparsity, seed, widths=widths, steps=steps)
    net, most = grown.model, 2 ** (bits - 1)
    kept = {f"{name}.weight": mask for name, mask in grown.masks.items()}
    exact = {name: p.detach().clone() for name, p in net.named_parameters()}
    best = (2.0, 2.0)
    for k in range(32):
        step = 2.0 ** (1 - k / 4)
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(
                    ((exact[name] / step).floor().clamp(-most, most - 1) + 0.5)
                    * step
                    * kept.get(name, 1)
                )
        error = 1 - digits.accuracy(net, data.train_x, data.train_y)
        if error < best[0]:
            best = (error, 1 - digits.accuracy(net, data.test_x, data.test_y))
    length = message_bits(grown.masks, bits, sum(widths[1:]), mask_known=method == "static")
    bound = generalization.occam_bound(best[0], len(data.train_x), length)
    return {"train error": best[0], "test error": best[1], "bits": length, "bound": bound}
