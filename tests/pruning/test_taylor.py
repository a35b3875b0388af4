"""Brute force on small networks against autograd's own Hessian and against masks
applied for real.
"""

import copy

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.pruning import apply, statistics, taylor


def test_hessian_equals_autograds(small):
    model, batch, loss = small

    def run(theta):
        a, b = theta.split([20, 15])
        state = {
            "0.weight": a.view(5, 4),
            "2.weight": b.view(3, 5),
            "0.bias": model[0].bias,
            "2.bias": model[2].bias,
        }
        return loss(lambda x: torch.func.functional_call(model, state, (x,)), batch)

    theta = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    H = taylor.hessian(model, batch, loss)
    assert torch.allclose(H, torch.autograd.functional.hessian(run, theta), atol=1e-12)
    diagonal = taylor.flat(statistics.hessian_diagonal(model, batch, loss))
    assert torch.allclose(H.diagonal(), diagonal, atol=1e-12)


def test_costs_are_those_of_masks_applied(small):
    model, batch, loss = small
    before = copy.deepcopy(model.state_dict())
    costs = taylor.removal_costs(model, batch, loss)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for name, cost in costs.items():
        for i, j in ((0, 0), (1, 3), (2, 2)):
            masks = {n: torch.ones_like(c, dtype=torch.bool) for n, c in costs.items()}
            masks[name][i, j] = False
            pruned = copy.deepcopy(model)
            apply.apply(pruned, masks)
            real = float(loss(pruned, batch) - loss(model, batch))
            assert float(cost[i, j]) == pytest.approx(real, abs=1e-14)
            assert taylor.masked_cost(model, masks, batch, loss) == pytest.approx(real, abs=1e-14)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_linear_layer_is_exactly_quadratic():
    """Squared error of a linear layer at its minimum: the cost of a set of weights is ½ δHδ, with
    no rest.
    """
    torch.manual_seed(1)
    model, x = (
        nn.Sequential(nn.Linear(6, 3, bias=False)).double(),
        torch.randn(20, 6, dtype=torch.float64),
    )
    batch = (x, model(x).detach())

    def loss(m, b):
        return (m(b[0]) - b[1]).square().sum() / len(b[0])

    masks = {"0": torch.rand(3, 6) < 0.5}
    delta = -(model[0].weight.detach() * ~masks["0"]).flatten()
    predicted = float(0.5 * delta @ taylor.hessian(model, batch, loss) @ delta)
    assert taylor.masked_cost(model, masks, batch, loss) == pytest.approx(predicted, rel=1e-12)


def test_large_networks_are_refused():
    model, batch = nn.Sequential(nn.Linear(200, 200)), torch.zeros(1, 200)
    with pytest.raises(CompressionError, match="40000 weights"):
        taylor.removal_costs(model, batch, lambda m, b: m(b).sum())
    with pytest.raises(CompressionError, match="40000 weights"):
        taylor.hessian(model, batch, lambda m, b: m(b).sum())
