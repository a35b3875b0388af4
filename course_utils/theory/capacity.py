"""How many bits of fact a network holds.

A fact is a name and one attribute with n_a possible values. A model that gives the right value the
probability p, after normalizing over the attribute's values, has stored

    max(0, log₂ n_a + log₂ p)   bits

of it: log₂ n_a when sure and right, 0 when it guesses, and never less (a confident error stores
nothing, it costs its reader). Capacity is the sum over facts, divided by the number of parameters
(Allen-Zhu and Li, 2024).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError


def stored_bits(log_probabilities: Tensor, values: int) -> Tensor:
    """Bits of each fact from ln p of its right value among the attribute's `values` values."""
    if values < 1 or (log_probabilities > 1e-6).any():
        raise CompressionError(
            "log_probabilities are natural logarithms, at most 0, and values "
            "counts the possible ones."
        )
    return (math.log2(values) + log_probabilities.double() / math.log(2)).clamp(min=0)


@dataclass(frozen=True)
class Facts:
    """`first`, `second` (n,) name a person, `attribute` (n,) what is asked, `answer` (n,) the value
    out of `values`.
    """

    first: Tensor
    second: Tensor
    attribute: Tensor
    answer: Tensor
    values: int

    @property
    def bits(self) -> float:
        """The information in all answers: n log₂ values."""
        return len(self.answer) * math.log2(self.values)


def random_facts(
    count: int, *, names: int = 40, attributes: int = 5, values: int = 16, seed: int = 0
) -> Facts:
    """`count` different questions (first name, second name, attribute) with answers drawn by
    chance: no rule to find.
    """
    if not 1 <= count <= names * names * attributes:
        raise CompressionError(
            f"count={count}: choose 1 to {names * names * attributes}, the number of questions."
        )
    rng = torch.Generator().manual_seed(seed)
    which = torch.randperm(names * names * attributes, generator=rng)[:count]
    answer = torch.randint(values, (count,), generator=rng)
    return Facts(
        which // attributes // names,
        which // attributes % names,
        which % attributes,
        answer,
        values,
    )


class FactStore(nn.Module):
    """Embeddings of both names and of the attribute, summed, and one hidden layer: as small as a
    memory can be.
    """

    def __init__(
        self,
        *,
        names: int = 40,
        attributes: int = 5,
        values: int = 16,
        width: int = 16,
        hidden: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.second = nn.Embedding(names, width), nn.Embedding(names, width)
            self.attribute = nn.Embedding(attributes, width)
            self.up, self.out = nn.Linear(width, hidden), nn.Linear(hidden, values)

    def forward(self, facts: Facts) -> Tensor:
        seen = self.first(facts.first) + self.second(facts.second) + self.attribute(facts.attribute)
        return self.out(torch.relu(self.up(seen)))


def learn(store: nn.Module, facts: Facts, *, steps: int = 2000, peak: float = 1e-2) -> nn.Module:
    """Train in place on all facts at once (Adam, cosine to 0); returns it."""
    optimizer = torch.optim.Adam(store.parameters(), lr=peak)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(store(facts), facts.answer).backward()
        optimizer.step()
        schedule.step()
    return store.eval()


@torch.no_grad()
def held_bits(store: nn.Module, facts: Facts) -> float:
    """Bits of these facts that the store holds."""
    right = store(facts).log_softmax(-1).gather(1, facts.answer[:, None])[:, 0]
    return float(stored_bits(right, facts.values).sum())
