"""The least loss that any model can reach on the world's documents."""

import itertools
from collections.abc import Sequence

from .documents import documents
from .kinds import KINDS
from .people import World


def entropy_floor(
    split: str = "validation",
    kinds: Sequence[str] | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    world: World | None = None,
) -> dict[str, float]:
    """Mean of -ln p(text) over `n` documents of each kind, in nats per document.

    p is the generator's own probability, and it is exact for every kind because each random choice
    can be read off the text: the tests enumerate all `arithmetic` documents (their probabilities
    sum to 1) and look for two choice sequences with one text in the other kinds. Three things it
    leaves out, so that it is the floor of a reader who knows the world and its grammar: which kind
    comes next, the cost of learning the facts, and the knowledge of the split (a reader who knew
    which texts are held out could save at most -ln 0.1 nats each).
    """
    floor = {}
    for kind in KINDS if kinds is None else kinds:
        drawn = itertools.islice(documents(split, kinds=[kind], seed=seed, world=world), n)
        floor[kind] = sum(d.nats for d in drawn) / n
    return floor
