"""Bits for each layer by search: policies that learn from tries, to be measured against the exact
optimum of `allocation`.

Every method samples one option for each layer, repairs choices that exceed the budget, and learns
from the damage:

- `reinforce` (Williams, 1992; HAQ, Wang et al., 2019, allocates bits so): π(o | l) = softmax of a
  row of logits,
  θ ← θ + η mean[(R − mean R) / std R · ∇ log π(repaired choice)], R = −log damage. The repair moves
  it away from what was drawn, so that this is not quite the gradient of the mean reward;
- `cross_entropy` (Rubinstein, 1999): frequencies of each layer's options among the best tenth of a
  round;
- `Prior` learns over many tables (meta-learning): a small network from a layer's damages and size,
  and the budget, to its
  logits, trained as in `reinforce` on random tables. A new table then costs no try at all.

Repair: while a choice is too large, layers in random order take their next smaller option, in turns
as in HAQ. It looks at sizes alone; what a choice costs is known only from trying it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError

Table = Mapping[str, Mapping[Any, float]]


@dataclass(frozen=True)
class Found:
    """`chosen` {layer: option}; `damage` of it; `tries`: tables looked up; `best` (rounds,): the
    least damage so far.
    """

    chosen: dict[str, Any]
    damage: float
    tries: int
    best: Tensor


@dataclass(frozen=True)
class Tables:
    """damage and size (layers, options) with options in rising size, and the budget."""

    damage: Tensor
    size: Tensor
    budget: float

    @classmethod
    def of(cls, damage: Table, size: Table, budget: float) -> "Tables":
        """Raises CompressionError for tables that do not name the same options, or a budget that
        nothing fits into.
        """
        if not damage or {k: set(v) for k, v in damage.items()} != {
            k: set(v) for k, v in size.items()
        }:
            raise CompressionError(
                "damage, size: name the same layers and the same options in "
                "both, at least one of each."
            )
        if len({len(v) for v in damage.values()}) != 1:
            raise CompressionError(
                "damage: search needs as many options for every layer; "
                "leave some out, or use `allocation.allocate`."
            )
        orders = {name: sorted(options, key=options.__getitem__) for name, options in size.items()}
        made = cls(
            torch.tensor([[damage[n][o] for o in orders[n]] for n in damage], dtype=torch.float64),
            torch.tensor([[size[n][o] for o in orders[n]] for n in damage], dtype=torch.float64),
            float(budget),
        )
        if (least := float(made.size[:, 0].sum())) > budget:
            raise CompressionError(
                f"budget={budget:,}: the smallest options take {least:,.0f} already; "
                "raise it, or offer smaller ones."
            )
        return made

    def names(self, damage: Table, size: Table, choice: Tensor) -> dict[str, Any]:
        """The chosen option of each layer, by name: `choice` counts from the smallest."""
        return {
            n: sorted(size[n], key=size[n].__getitem__)[int(i)]
            for n, i in zip(damage, choice, strict=True)
        }

    def of_choice(self, table: Tensor, choice: Tensor) -> Tensor:
        """Σ_l table[l, choice_l] of choices (tries, layers)."""
        return table.expand(len(choice), -1, -1).gather(2, choice[..., None]).squeeze(-1).sum(1)

    def repaired(self, choice: Tensor, rng: torch.Generator) -> Tensor:
        """Choices (tries, layers) brought within the budget: in each, one layer after the other in
        random order steps down, round by round.
        """
        choice = choice.clone()
        rows, (layers, options) = torch.arange(len(choice)), self.size.shape
        taken = self.of_choice(self.size, choice)
        for _ in range(options - 1):
            for at in torch.rand(len(choice), layers, generator=rng).argsort(1).T:
                now = choice[rows, at]
                lower = torch.where((taken > self.budget * (1 + 1e-12)) & (now > 0), now - 1, now)
                taken += self.size[at, lower] - self.size[at, now]
                choice[rows, at] = lower
        return choice

    def at_a_price(self, logits: Tensor) -> Tensor:
        """Argmax of logits − λ · size with the least λ ≥ 0 (by bisection) at which the total fits:
        one choice (layers,).
        """

        def at(price: float) -> Tensor:
            return (logits - price * self.size).argmax(-1)

        low, high = 0.0, 1.0
        if float(self.of_choice(self.size, at(0.0)[None])) <= self.budget:
            return at(0.0)
        while float(self.of_choice(self.size, at(high)[None])) > self.budget:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (low, middle)
                if float(self.of_choice(self.size, at(middle)[None])) <= self.budget
                else (middle, high)
            )
        return at(high)


def _sampled(logits: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """(n, layers) options drawn from softmax(logits) (layers, options)."""
    return torch.multinomial(logits.detach().softmax(-1), n, replacement=True, generator=rng).T


def _search(
    damage: Table, size: Table, budget: float, logits: Tensor, rounds: int, batch: int,
    rng: torch.Generator,
    learn: Callable[[Tensor, Tensor], None],
) -> Found:  # fmt: skip
    tables, least, chosen, curve = Tables.of(damage, size, budget), torch.inf, None, []
    for _ in range(rounds):
        choice = tables.repaired(_sampled(logits, batch, rng), rng)
        found = tables.of_choice(tables.damage, choice)
        if float(found.min()) < least:
            least, chosen = float(found.min()), choice[int(found.argmin())]
        curve.append(least)
        learn(choice, found)
    assert chosen is not None
    return Found(tables.names(damage, size, chosen), least, rounds * batch, torch.tensor(curve))


def reinforce(
    damage: Table,
    size: Table,
    budget: float,
    *,
    rounds: int = 60,
    batch: int = 32,
    rate: float = 0.1,
    seed: int = 0,
) -> Found:
    """Policy gradient with independent layers; see the head.

    Raises CompressionError as `Tables.of`.
    """
    shape = Tables.of(damage, size, budget).size.shape
    logits = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=rate)

    def learn(choice: Tensor, found: Tensor) -> None:
        optimizer.zero_grad()
        log_p = (
            logits.log_softmax(-1)
            .expand(len(choice), -1, -1)
            .gather(2, choice[..., None])
            .sum((1, 2))
        )
        (-(_advantage(found) * log_p).mean()).backward()
        optimizer.step()

    return _search(
        damage, size, budget, logits, rounds, batch, torch.Generator().manual_seed(seed), learn
    )


def cross_entropy(
    damage: Table,
    size: Table,
    budget: float,
    *,
    rounds: int = 60,
    batch: int = 32,
    elite: float = 0.1,
    keep: float = 0.7,
    seed: int = 0,
) -> Found:
    """The cross-entropy method: p ← keep · p + (1 − keep) · frequencies among the best `elite` of a
    round.
    """
    shape = Tables.of(damage, size, budget).size.shape
    p = torch.full(shape, 1 / shape[1], dtype=torch.float64)
    logits = p.log()

    def learn(choice: Tensor, found: Tensor) -> None:
        best = choice[found.argsort()[: max(2, round(elite * len(found)))]]
        share = torch.nn.functional.one_hot(best, shape[1]).double().mean(0)
        p.mul_(keep).add_((1 - keep) * share)
        logits.copy_(p.clamp(min=1e-6).log())

    return _search(
        damage, size, budget, logits, rounds, batch, torch.Generator().manual_seed(seed), learn
    )


def _advantage(found: Tensor) -> Tensor:
    reward = -found.clamp(min=1e-300).log()
    return (reward - reward.mean(-1, keepdim=True)) / reward.std(-1, keepdim=True).clamp(min=1e-9)


class Prior(nn.Module):
    """A policy learned over many tables: logits of a layer's options from what is known of it, no
    try on the new table.

    Features of a layer: log damage of each option and log size of the steps between them, less
    their means over all layers;
    and the share of the way from the smallest to the largest total that the budget allows.
    """

    def __init__(self, options: int, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(2 * options, width), nn.Tanh(), nn.Linear(width, options)
            ).double()

    def forward(self, tables: Tables) -> Tensor:
        log_damage = tables.damage.clamp(min=1e-300).log()
        log_steps = tables.size.diff(dim=1).log()
        low, high = tables.size[:, 0].sum(), tables.size[:, -1].sum()
        share = ((tables.budget - low) / (high - low)).expand(len(log_damage), 1)
        return self.net(
            torch.cat(
                [log_damage - log_damage.mean(), log_steps - log_steps.mean(), share * 4 - 2], 1
            )
        )

    def choose(self, damage: Table, size: Table, budget: float) -> Found:
        """The likeliest option of each layer, at a price that meets the budget.

        Nothing is tried.
        """
        tables = Tables.of(damage, size, budget)
        with torch.no_grad():
            choice = tables.at_a_price(self(tables))[None]
        total = float(tables.of_choice(tables.damage, choice))
        return Found(tables.names(damage, size, choice[0]), total, 0, torch.tensor([total]))


def random_tables(layers: int, options: int, rng: torch.Generator) -> Tables:
    """Damages α_l 4^−b with α and sizes log-normal and a factor of chance for each option; a budget
    on the way.
    """
    alpha = torch.randn(layers, 1, generator=rng, dtype=torch.float64)
    steps = torch.arange(options, dtype=torch.float64) + 0.15 * torch.randn(
        layers, options, generator=rng, dtype=torch.float64
    )
    damage = (1.2 * alpha - 1.2 * steps).exp().cummin(1).values
    size = (0.5 * torch.randn(layers, 1, generator=rng, dtype=torch.float64)).exp() * torch.arange(
        2, options + 2
    )
    share = 0.1 + 0.7 * float(torch.rand((), generator=rng))
    low, high = float(size[:, 0].sum()), float(size[:, -1].sum())
    return Tables(damage, size, low + share * (high - low))


def learn_prior(
    options: int,
    *,
    tasks: int = 200,
    layers: int = 12,
    batch: int = 32,
    rate: float = 0.02,
    seed: int = 0,
) -> Prior:
    """A `Prior` trained by policy gradient on `tasks` random tables, `batch` tries on each."""
    prior, rng = Prior(options, seed=seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(prior.parameters(), lr=rate)
    for _ in range(tasks):
        tables = random_tables(layers, options, rng)
        logits = prior(tables)
        choice = tables.repaired(_sampled(logits, batch, rng), rng)
        found = tables.of_choice(tables.damage, choice)
        log_p = (
            logits.log_softmax(-1).expand(batch, -1, -1).gather(2, choice[..., None]).sum((1, 2))
        )
        optimizer.zero_grad()
        (-(_advantage(found) * log_p).mean()).backward()
        optimizer.step()
    return prior
