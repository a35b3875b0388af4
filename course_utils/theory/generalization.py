"""Why a compressed model can be trusted on new data, and what a wide network does when it is
trained.

Occam's bound. A model that some prefix-free code names in ℓ bits, with training error ê on n
independent examples, has with probability 1 − δ a true error e with

    kl(ê ‖ e) ≤ (ℓ ln 2 + ln(1/δ)) / n,       kl(a ‖ b) = a ln(a/b) + (1 − a) ln((1 − a)/(1 − b))

(Langford, 2005). The bound counts bits after compression, not parameters. Everything that was
chosen by looking at the data must be paid for in ℓ: the number of dimensions, of bits, the scale,
the best of several runs.

Neural tangent kernel Θ(x, x′) = J(x) J(x′)ᵀ, J the gradient of the output by the parameters (Jacot
et al., 2018). For a wide layer of ReLUs it becomes constant; finite networks come near it at the
rate 1/√width.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from course_utils.errors import CompressionError


def bernoulli_kl(a: float, b: float) -> float:
    """kl(a ‖ b) in nats; infinite where b denies what a has."""
    total = 0.0
    for p, q in ((a, b), (1 - a, 1 - b)):
        if p > 0:
            total += math.inf if q <= 0 else p * math.log(p / q)
    return total


def kl_inverse(error: float, budget: float) -> float:
    """The largest b with kl(error ‖ b) ≤ budget, by bisection to 1e-12."""
    if not (0 <= error <= 1 and budget >= 0):
        raise CompressionError(
            f"error={error}, budget={budget}: a share from 0 to 1, and a "
            "budget that is not negative."
        )
    low, high = error, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if bernoulli_kl(error, middle) <= budget else (low, middle)
    return low


def occam_bound(error: float, n: int, bits: float, delta: float = 0.05) -> float:
    """The true error is below this with probability 1 − δ, for a model named in `bits` bits before
    its data were seen.

    `error`: on the n training examples. Below Hoeffding's ê + √((ℓ ln 2 + ln 1/δ) / 2n) always
    (Pinsker).
    """
    if not (n >= 1 and bits >= 0 and 0 < delta < 1):
        raise CompressionError(
            f"n={n}, bits={bits}, delta={delta}: give n ≥ 1 examples, bits ≥ 0 and 0 < delta < 1."
        )
    return kl_inverse(error, (bits * math.log(2) + math.log(1 / delta)) / n)


def prefix_free_bits(n: int) -> float:
    """Bits that name a whole number n ≥ 1 without knowing its size:
    2 ⌊log₂ n⌋ + 1 (Elias, 1975).
    """
    if n < 1:
        raise CompressionError(f"n={n}: choose at least 1.")
    return 2 * math.floor(math.log2(n)) + 1


def tangent_kernel(model: nn.Module, x: Tensor, other: Tensor | None = None) -> Tensor:
    """Θ (n, n′) of a network with one output a row: inner products of the gradients of the outputs
    by all parameters.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def gradient(row: Tensor) -> Tensor:
        jacobian = jacrev(lambda p: functional_call(model, p, (row[None],)).reshape(()))(parameters)
        return torch.cat([j.reshape(-1) for j in jacobian.values()])

    J = vmap(gradient)(x)
    return J @ (J if other is None else vmap(gradient)(other)).T


class WideRelu(nn.Module):
    """f(x) = (scale / √n) Σ_i a_i relu(w_i·x), w_i ~ N(0, I), a_i = ±1: the net of the
    lazy-training theory.

    A large `scale` makes training lazy, a small one lets features move (Chizat et al., 2019).
    """

    def __init__(self, inputs: int, width: int, *, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(width, inputs, generator=rng))
        self.a = nn.Parameter(torch.randint(0, 2, (width,), generator=rng) * 2.0 - 1)
        self.factor = scale / math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * torch.relu(x @ self.W.T) @ self.a


def limit_kernel(x: Tensor, other: Tensor | None = None) -> Tensor:
    """Θ of `WideRelu` (scale 1) at infinite width: (x·x′) κ₀ / 2 from W and |x||x′| κ₁ / 2 from a,
    with the arc-cosine kernels κ₀ = (π − φ)/π and κ₁ = (sin φ + (π − φ) cos φ)/π of the angle φ
    (Cho and Saul, 2009).
    """
    other = x if other is None else other
    norms = x.norm(dim=1)[:, None] * other.norm(dim=1)[None]
    inner = x @ other.T
    angle = torch.arccos((inner / norms).clamp(-1, 1))
    k0 = (math.pi - angle) / math.pi
    k1 = (angle.sin() + (math.pi - angle) * angle.cos()) / math.pi
    return inner * k0 / 2 + norms * k1 / 2


def random_features_fit(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, features: int, seed: int = 0
) -> Tensor:
    """Scores (tests, classes) of least squares of least norm on relu(x W), W random: the model of
    double descent.

    With fewer features than examples it is the least-squares fit; with more, the interpolating one
    of least norm.
    """
    rng = torch.Generator().manual_seed(seed)
    W = torch.randn(train_x.shape[1], features, generator=rng, dtype=torch.float64) / math.sqrt(
        train_x.shape[1]
    )
    classes = int(train_y.max()) + 1
    goal = nn.functional.one_hot(train_y, classes).double()
    A = torch.relu(train_x.double() @ W)
    return torch.relu(test_x.double() @ W) @ (torch.linalg.pinv(A) @ goal)
