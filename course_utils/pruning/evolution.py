"""Search for the best subnet under a budget: by evolution, by chance, and by trying all (Real et
al., 2019; Guo et al., 2020).

`score(subnet)` is what should be small; `allowed(subnet)` says whether it keeps the budget. Each
subnet is scored once.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from course_utils.errors import CompressionError

from .subnets import Space, Subnet

Score = Callable[[Subnet], float]
Allowed = Callable[[Subnet], bool]


@dataclass
class Search:
    """What has been scored, in this order, and the best score after each."""

    score: Score
    scores: dict[Subnet, float] = field(default_factory=dict)
    best_after: list[float] = field(default_factory=list)

    def of(self, subnet: Subnet) -> float:
        """The score of a subnet, computed once."""
        if subnet not in self.scores:
            self.scores[subnet] = self.score(subnet)
            self.best_after.append(min(self.scores.values()))
        return self.scores[subnet]

    @property
    def best(self) -> Subnet:
        """The subnet with the lowest score; of equal ones the first in order."""
        return min(self.scores, key=lambda s: (self.scores[s], s))


def exhaustive(space: Space, score: Score, allowed: Allowed) -> Search:
    """Score every subnet that is allowed. Raises CompressionError where none is."""
    search = Search(score)
    for subnet in space:
        if allowed(subnet):
            search.of(subnet)
    if not search.scores:
        raise CompressionError(
            "allowed: no subnet of the space keeps the budget; raise it, or offer smaller choices."
        )
    return search


def drawn(
    space: Space,
    allowed: Allowed,
    rng: random.Random,
    known: dict[Subnet, float],
    make: Callable[[], Subnet],
) -> Subnet | None:
    """A subnet by `make` that is allowed and not known yet; after a hundred tries by chance from
    the space; at last None.
    """
    for attempt in range(600):
        subnet = make() if attempt < 100 else space.draw(rng)
        if allowed(subnet) and subnet not in known:
            return subnet
    return None


def by_chance(
    space: Space, score: Score, allowed: Allowed, *, evaluations: int, seed: int = 0
) -> Search:
    """The control: so many different subnets that are allowed, drawn by chance."""
    rng, search = random.Random(seed), Search(score)
    while len(search.scores) < evaluations:
        subnet = drawn(space, allowed, rng, search.scores, lambda: space.draw(rng))
        if subnet is None:
            break
        search.of(subnet)
    return _checked(search)


def evolve(
    space: Space,
    score: Score,
    allowed: Allowed,
    *,
    evaluations: int,
    population: int = 8,
    parents: int = 4,
    rate: float = 0.4,
    seed: int = 0,
) -> Search:
    """Begin with `population` draws; then again and again a child of the best `parents` so far,
    half of them mutants, half crossings.

    Ends after `evaluations` different subnets, or where no new one is found.
    Raises CompressionError for counts that make no sense, or where no subnet is allowed.
    """
    if not 1 <= parents <= population <= evaluations or not 0 < rate <= 1:
        raise CompressionError(
            f"parents={parents}, population={population}, evaluations={evaluations}, rate={rate}: "
            "each at most the next, rate above 0 and up to 1."
        )
    rng = random.Random(seed)
    search = by_chance(space, score, allowed, evaluations=population, seed=seed)

    def child() -> Subnet:
        best = sorted(search.scores, key=lambda s: (search.scores[s], s))[:parents]
        if rng.random() < 0.5 and len(best) > 1:
            one, other = rng.sample(best, 2)
            return space.crossed(one, other, rng)
        return space.mutated(rng.choice(best), rng, rate)

    while len(search.scores) < evaluations:
        subnet = drawn(space, allowed, rng, search.scores, child)
        if subnet is None:
            break
        search.of(subnet)
    return search


def _checked(search: Search) -> Search:
    if not search.scores:
        raise CompressionError(
            "allowed: no subnet that keeps the budget was found; "
            "raise it, or offer smaller choices."
        )
    return search
