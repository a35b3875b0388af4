"""A random source that keeps account of how improbable its choices were."""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Tape:
    """Seeded choices, with `nats` = -ln p of all choices made so far.

    If every choice can be read off the finished text, -ln p(text) equals `nats` exactly.
    `log` holds the index of each choice, so that tests can verify that property.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.nats, self.log = rng, 0.0, []

    def index(self, n: int) -> int:
        """One of 0 … n-1, all equally likely."""
        i = self.rng.randrange(n)
        self.log.append(i)
        self.nats += math.log(n)
        return i

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.index(len(options))]

    def number(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + self.index(high - low + 1)

    def weighted(self, weights: Sequence[float]) -> int:
        """An index drawn with the given probabilities, which must sum to 1."""
        i = self.rng.choices(range(len(weights)), weights)[0]
        self.log.append(i)
        self.nats -= math.log(weights[i])
        return i

    def sample(self, options: Sequence[T], k: int) -> list[T]:
        """K different options in random order."""
        left = list(options)
        return [left.pop(self.index(len(left))) for _ in range(k)]
