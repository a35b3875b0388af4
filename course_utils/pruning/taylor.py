"""What removing weights really costs, beside its quadratic approximation: brute force, for networks
small enough.

Around the trained weights θ, for a change δ of all the weights of the linear layers together (LeCun
et al., 1990, eq. 1):

    L(θ + δ) − L(θ) = gᵀδ + ½ δᵀHδ + O(‖δ‖³)

`loss(model, batch)` gives a scalar, as in `pruning.statistics`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.errors import CompressionError
from course_utils.models import walk

from .apply import Masks, check_masks
from .statistics import LARGEST_EXACT, Loss, _parameters, _turned

LARGEST_HESSIAN = 4_000


def flat(values: dict[str, Tensor]) -> Tensor:
    """The entries of all the layers as one vector, in the order of `walk.compressible`."""
    return torch.cat([value.flatten() for value in values.values()])


@torch.no_grad()
def removal_costs(model: nn.Module, batch: Any, loss: Loss) -> dict[str, Tensor]:
    """L(θ with weight i at zero) − L(θ) for every weight, one at a time: (out, in) by name.

    Raises CompressionError for more than 20,000 weights, each of which takes a forward pass.
    """
    weights = list(_parameters(model).values())
    if (count := sum(w.numel() for w in weights)) > LARGEST_EXACT:
        raise CompressionError(
            f"model: {count} weights take as many forward passes; choose a network of at "
            f"most {LARGEST_EXACT}."
        )
    before, costs = loss(model, batch), []
    for weight in weights:
        entries, cost = weight.data.view(-1), torch.empty(weight.numel(), dtype=before.dtype)
        for i in range(len(entries)):
            kept = entries[i].clone()
            entries[i] = 0
            cost[i] = loss(model, batch) - before
            entries[i] = kept
        costs.append(cost.view_as(weight))
    return _turned(model, costs)


@torch.no_grad()
def masked_cost(model: nn.Module, masks: Masks, batch: Any, loss: Loss) -> float:
    """L(θ ⊙ M) − L(θ): what the masks (True = kept) cost together. The model stays as it is."""
    masked = {
        f"{name}.weight": walk.weight_of(m) * masks[name]
        for name, m in check_masks(model, masks).items()
    }
    return float(
        loss(lambda *a, **k: functional_call(model, masked, a, k), batch) - loss(model, batch)
    )  # type: ignore[arg-type]


def hessian(model: nn.Module, batch: Any, loss: Loss) -> Tensor:
    """∂²L/∂θ_i∂θ_j of all the weights of nn.Linear layers, (n, n), in the order of `flat`.

    Raises CompressionError for more than 4,000 weights.
    """
    weights = list(_parameters(model).values())
    if (count := sum(w.numel() for w in weights)) > LARGEST_HESSIAN:
        raise CompressionError(
            f"model: the Hessian of {count} weights has {count}² entries; "
            f"choose a network of at most {LARGEST_HESSIAN}."
        )
    first = torch.autograd.grad(loss(model, batch), weights, create_graph=True)
    rows = []
    for entry in torch.cat([g.flatten() for g in first]):
        second = torch.autograd.grad(entry, weights, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([s.flatten() for s in second]))
    return torch.stack(rows).detach()
