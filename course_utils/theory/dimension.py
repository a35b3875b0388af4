"""How many directions a task needs: training in a random subspace, and the sharp transition of
sparse recovery.

Intrinsic dimension (Li et al., 2018): θ = θ₀ + P z with a fixed random P (D, d) whose columns have
length 1, and only z (d numbers) is trained. d₉₀ is the least d that reaches 90 % of the accuracy of
training all of θ. The network is as large as before; what is stored may be z and the seed of P.

The dimension of data: principal directions (a flat space that holds them), or the ratio of the
distances to the two nearest neighbours (the surface itself; Facco et al., 2017).

Sparse recovery: the least ℓ₁ norm finds k nonzeros of n unknowns from m = δn random measurements
with high probability if k < ρ(δ) m, and fails above it: sharp as n grows (Donoho and Tanner, 2009).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import optimize
from scipy.stats import norm
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.errors import CompressionError


class Subspace(nn.Module):
    """`network` with parameters θ₀ + P z; the only parameter is `z`, which begins at 0."""

    projection: Tensor
    origin: Tensor

    def __init__(self, network: nn.Module, dimension: int, seed: int = 0) -> None:
        super().__init__()
        shapes = {name: p.shape for name, p in network.named_parameters()}
        total = sum(shape.numel() for shape in shapes.values())
        if not 1 <= dimension <= total:
            raise CompressionError(
                f"dimension={dimension}: choose 1 to {total}, the network's parameters."
            )
        # in a list: its parameters are not this module's
        self._network = [network.requires_grad_(False)]
        self._shapes, self._sizes = shapes, [shape.numel() for shape in shapes.values()]
        rng = torch.Generator().manual_seed(seed)
        projection = torch.randn(total, dimension, generator=rng)
        self.register_buffer("projection", projection / projection.norm(dim=0))
        self.register_buffer(
            "origin", torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        )
        self.z = nn.Parameter(torch.zeros(dimension))

    def parameters_of(self, z: Tensor) -> dict[str, Tensor]:
        """θ₀ + P z, by name."""
        parts = (self.origin + self.projection @ z).split(self._sizes)
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self._network[0], self.parameters_of(self.z), (x,))


def dimension_at(
    dimensions: Sequence[float], accuracies: Sequence[float], whole: float, share: float = 0.9
) -> float:
    """Where the accuracy first reaches `share` of `whole`, between measured dimensions by a
    straight line over log d.

    inf if it is never reached. Raises CompressionError unless the dimensions ascend.
    """
    d, a = list(dimensions), list(accuracies)
    if len(d) != len(a) or not d or any(x >= y for x, y in zip(d, d[1:], strict=False)):
        raise CompressionError("dimensions: must ascend, with one accuracy each.")
    goal = share * whole
    for i, found in enumerate(a):
        if found >= goal:
            if i == 0:
                return float(d[0])
            part = (goal - a[i - 1]) / (found - a[i - 1])
            return float(
                math.exp(math.log(d[i - 1]) + part * (math.log(d[i]) - math.log(d[i - 1])))
            )
    return math.inf


def principal(points: Tensor, share: float = 0.9) -> int:
    """How many principal directions hold `share` of the variance of points (n, features): PCA's
    dimension.

    A flat space of so many directions holds the points nearly; a curved surface within it may have
    fewer dimensions.
    """
    if points.dim() != 2 or len(points) < 2 or not 0 < share <= 1:
        raise CompressionError(
            f"points: shape {tuple(points.shape)}, share={share}; "
            "give at least two rows and a share up to 1."
        )
    x = points.double() - points.double().mean(0)
    held = torch.linalg.svdvals(x).square().cumsum(0)
    return int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1


def two_nn(points: Tensor) -> float:
    """The dimension of the surface that points (n, features) lie on, from the distances to their
    two nearest neighbours.

    In d dimensions the ratio μ = r₂/r₁ has P(μ > t) = t^−d, whatever the density (Facco et al.,
    2017); so d = (n − 1) / Σ ln μ, with a relative error of 1/√n. Points that have an equal among
    the others are left out.
    Biased low where d is large and points are few: compare with a control of the same n.
    """
    if points.dim() != 2 or len(points) < 3:
        raise CompressionError(
            f"points: shape {tuple(points.shape)}; give at least three rows of features."
        )
    x = points.double() - points.double().mean(0)
    nearest = (
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").topk(3, largest=False).values
    )
    first, second = nearest[:, 1], nearest[:, 2]
    logs = (second / first)[first > 0].log()
    if not len(logs) or float(logs.sum()) == 0:
        raise CompressionError("points: no two distances differ; give points drawn from a density.")
    return float((len(logs) - 1) / logs.sum())


def recovery_threshold(delta: float) -> float:
    """The weak threshold ρ(δ) = max_z [1 − (2/δ) g(z)] / [1 + z² − 2 g(z)], g = (1 + z²) Φ(−z) − z
    φ(z): the largest k/m.
    """
    if not 0 < delta < 1:
        raise CompressionError(f"delta={delta}: the share of measurements lies between 0 and 1.")

    def value(z: float) -> float:
        g = (1 + z * z) * norm.cdf(-z) - z * norm.pdf(z)
        return (1 - 2 / delta * g) / (1 + z * z - 2 * g)

    return float(
        -optimize.minimize_scalar(lambda z: -value(z), bounds=(1e-3, 8), method="bounded").fun
    )


def least_l1(A: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Argmin ‖x‖₁ with A x = y, as a linear program in x = u − v, u, v ≥ 0."""
    m, n = A.shape
    found = optimize.linprog(
        np.ones(2 * n), A_eq=np.concatenate([A, -A], 1), b_eq=y, bounds=(0, None), method="highs"
    )
    if not found.success:
        raise CompressionError(
            f"least_l1: the linear program failed ({found.message}); A must be able to give y."
        )
    return found.x[:n] - found.x[n:]


def recovery_rate(n: int, m: int, k: int, trials: int = 20, seed: int = 0) -> float:
    """The share of trials in which ℓ₁ finds a random k-sparse vector of n from m Gaussian
    measurements.
    """
    rng, right = np.random.default_rng(seed), 0
    for _ in range(trials):
        x = np.zeros(n)
        x[rng.choice(n, k, replace=False)] = rng.standard_normal(k)
        A = rng.standard_normal((m, n))
        right += np.abs(least_l1(A, A @ x) - x).max() < 1e-4
    return right / trials
