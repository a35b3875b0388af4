"""What lesson 5.4 measures: masks of one small row, pixels chosen by gates, widths that share
weights, a space of subnets.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.evaluation.comparison import plain
from course_utils.pruning import (
    concrete,
    gumbel,
    masks,
    slimmable,
    subnets,
    supernet,
    supernet_training,
)
from course_utils.pruning.budget import Lagrangian
from course_utils.pruning.subnets import Space, Subnet

# --- one row of weights, all of whose masks can be tried ---


@dataclass(frozen=True)
class Row:
    """A row of weights (n,) and the second moments H (n, n) of its inputs, which are correlated."""

    weight: Tensor
    H: Tensor

    def error(self, mask: Tensor) -> float:
        """What the outputs lose, (w − m w)ᵀ H (w − m w), relative to wᵀ H w."""
        gone = self.weight * (1 - mask.double())
        return float(gone @ self.H @ gone / (self.weight @ self.H @ self.weight))

    def scores(self) -> dict[str, Tensor]:
        """What magnitude and Wanda say of each weight."""
        return {
            "magnitude": self.weight.abs(),
            "Wanda": self.weight.abs() * self.H.diagonal().sqrt(),
        }


def row(seed: int, n: int = 8) -> Row:
    """A made row of `n` weights with the Hessian of its inputs."""
    rng = torch.Generator().manual_seed(seed)
    X = torch.randn(64, n, generator=rng, dtype=torch.float64) @ torch.randn(
        n, n, generator=rng, dtype=torch.float64
    )
    return Row(torch.randn(n, generator=rng, dtype=torch.float64), X.T @ X / 64)


def all_masks(n: int) -> Tensor:
    """Every 2:4 mask of a row of n weights: (6^(n/4), n)."""
    kept = gumbel.patterns(2, 4)
    found = torch.cartesian_prod(*[torch.arange(6)] * (n // 4)).view(-1, n // 4)
    return kept[found].flatten(1)


def learned(
    one: Row, *, steps: int = 150, seed: int = 0, noise: float = 1.0, rate: float = 0.1
) -> Tensor:
    """The 2:4 mask of a row by gradient descent on the logits of its patterns, all equal at the
    start; τ from 1 to .05.
    """
    kept, n = gumbel.patterns(2, 4).double(), len(one.weight)
    rng = torch.Generator().manual_seed(seed)
    patterns = torch.zeros(1, n // 4, 6, dtype=torch.float64, requires_grad=True)
    optimizer, whole = torch.optim.Adam([patterns], lr=rate), one.weight @ one.H @ one.weight
    for step in range(steps):
        g = noise * gumbel.noise(patterns.shape, rng, torch.float64)
        gone = one.weight * (
            1 - gumbel.as_mask(gumbel.relaxed(patterns, 0.05 ** (step / steps), g), kept)[0]
        )
        optimizer.zero_grad()
        (gone @ one.H @ gone / whole).backward()
        optimizer.step()
    return gumbel.best(patterns.detach(), kept)[0]


# --- which pixels of the digits to keep ---

PIXELS, HIDDEN, STEPS = 64, 32, 300
STRICT = 0.25  # the weight of the size in the loss


def _trained(
    data: digits.Digits,
    gate: Callable[[], Tensor],
    penalty: Callable[[nn.Module], Tensor],
    own: Tensor,
    seed: int,
    after: Callable[[], None] = lambda: None,
) -> nn.Module:
    """A network 64-32-10 trained for 300 steps on inputs times gate(), with the gates' own numbers
    beside its weights.
    """
    net, rng = digits.network(PIXELS, HIDDEN, 10, seed=seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(
        [{"params": net.parameters(), "lr": 1e-2}, {"params": [own], "lr": 5e-2}]
    )
    for _ in range(STEPS):
        rows = torch.randint(len(data.train_x), (64,), generator=rng)
        loss = nn.functional.cross_entropy(
            net(data.train_x[rows] * gate()), data.train_y[rows]
        ) + penalty(net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
    return net


def hard_gates(
    seed: int, keep: int = 16, price: float | None = None
) -> tuple[Tensor, dict[str, list[float]]]:
    """α (64,) of hard concrete gates on the pixels, under the Lagrangian of `keep` open gates, or
    at a fixed price; its history.
    """
    data, rng = digits.load(seed), torch.Generator().manual_seed(seed + 50)
    alpha = torch.full((PIXELS,), 2.0, requires_grad=True)
    lagrangian = Lagrangian(rho=STRICT, multiplier=price or 0.0)
    told: dict[str, list[float]] = {"open": [], "price": []}

    def gate() -> Tensor:
        return concrete.hard(alpha, concrete.logistic_noise((64, PIXELS), rng))

    def excess() -> Tensor:
        return (concrete.open_probability(alpha).sum() - keep) / PIXELS

    def after() -> None:
        with torch.no_grad():
            found = float(excess())
        if price is None:
            lagrangian.update(found)
        told["open"].append(found * PIXELS + keep)
        told["price"].append(lagrangian.multiplier)

    def penalty(_: nn.Module) -> Tensor:
        share = excess()
        return lagrangian.penalty(share) if price is None else price * share

    _trained(data, gate, penalty, alpha, seed, after)
    return alpha.detach(), told


def dropout_rates(seed: int) -> Tensor:
    """The rate (64,) at which concrete dropout learns to drop each pixel."""
    data, rng = digits.load(seed), torch.Generator().manual_seed(seed + 50)
    logit = torch.full((PIXELS,), -2.0, requires_grad=True)

    def gate() -> Tensor:
        return concrete.drop_gate(logit, concrete.logistic_noise((64, PIXELS), rng)) / (
            1 - torch.sigmoid(logit)
        )

    def penalty(net: Any) -> Tensor:
        return concrete.dropout_penalty(
            torch.sigmoid(logit), net[0].weight, length=0.1, examples=len(data.train_x)
        )

    _trained(data, gate, penalty, logit, seed)
    return torch.sigmoid(logit).detach()


def pixel_scores(seed: int, keep: int = 16) -> dict[str, Tensor]:
    """What each way says of the 64 pixels, higher = keep.

    Each has trained a network for 300 steps, 'chance' none.
    """
    data, zero = digits.load(seed), torch.zeros(1, requires_grad=True)
    plain: Any = _trained(data, lambda: torch.ones(1), lambda _: zero.sum(), zero, seed)
    return {
        "by chance": torch.rand(PIXELS, generator=torch.Generator().manual_seed(seed)),
        "weights' size": plain[0].weight.detach().norm(dim=0),
        "concrete dropout": -dropout_rates(seed),
        "hard concrete": hard_gates(seed, keep)[0],
    }


def with_pixels(score: Tensor, seed: int, keep: int = 16) -> float:
    """Test accuracy of a new network that is trained for 300 steps with the best `keep` pixels
    alone.
    """
    data, zero = digits.load(seed), torch.zeros(1, requires_grad=True)
    mask = masks.top(score, keep).float()
    net = _trained(data, lambda: mask, lambda _: zero.sum(), zero, seed + 100)
    return digits.accuracy(net, data.test_x * mask, data.test_y)


# --- widths that share weights ---

WIDTHS = (4, 8, 16, 32, 64)


def slimmed(seed: int, way: str) -> list[float]:
    """Test accuracy at each of WIDTHS after 300 steps: 'plain' slices, 'labels' or 'in-place'
    together, or each width 'alone'.
    """
    data = digits.load(seed)

    def trained(widths: tuple[int, ...], distill: bool = True) -> nn.Module:
        return slimmable.train(
            digits.network(64, 64, 10, seed=seed),
            data.train_x,
            data.train_y,
            widths,
            distill=distill,
            seed=seed,
        )

    if way == "alone":
        return [slimmable.accuracy(trained((w,)), data.test_x, data.test_y, w) for w in WIDTHS]
    net = trained(WIDTHS[-1:] if way == "plain" else WIDTHS, distill=way == "in-place")
    return [slimmable.accuracy(net, data.test_x, data.test_y, w) for w in WIDTHS]


# --- subnets of a language model ---


def space_of(model: PreTrainedModel) -> Space:
    """Subnets of a causal language model: its first and last block and any of at most three
    between, eighths of the channels, some heads.
    """
    net = supernet.Supernet(model)
    shape, last = net.shape, net.shape.blocks - 1
    inner = (
        sorted({1 + round(i * (last - 2) / 2) for i in range(3)})
        if last > 2
        else list(range(1, last))
    )
    depths = [
        tuple(sorted({0, *some, last}))
        for k in range(len(inner) + 1)
        for some in itertools.combinations(inner, k)
    ]
    channels = sorted({max(1, shape.channels * eighths // 8) for eighths in (1, 2, 4, 6, 8)})
    heads = []
    for count in sorted({1, max(1, shape.heads // 2), shape.heads}):
        with contextlib.suppress(CompressionError):  # not every config allows every count
            net.config(Subnet(depths[0], channels[0], count))
            heads.append(count)
    return subnets.space(model, depths=list(dict.fromkeys(depths)), channels=channels, heads=heads)


@torch.no_grad()
def nats(net: supernet.Supernet, subnet: Subnet, ids: Tensor) -> float:
    """The mean loss of a subnet on token ids (windows, context), nats a token."""
    return float(supernet_training.text_loss(net.logits(subnet, ids.long()), ids.long()))


def trained_space() -> tuple[Space, dict[Subnet, dict[str, Any]], dict[str, Any]]:
    """What `benchmarks/supernet.py` has measured of a trained supernet: its space, each subnet's
    numbers and losses, and how.

    A subnet has `parameters`, `search` (nats a token on the windows that choose) and `test` (other
    windows; None where not measured).
    """
    told = plain("supernet-space")
    rows = {
        Subnet(tuple(row["blocks"]), row["channels"], row["heads"]): row
        for row in told.pop("subnets")
    }
    choices = [tuple(dict.fromkeys(getattr(s, name) for s in rows)) for name in ("blocks",
        "channels", "heads")]  # fmt: skip
    return Space(*choices), rows, told
