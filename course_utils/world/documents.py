"""Endless seeded documents, in three splits that share no document."""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .kinds import KINDS, WRITERS
from .people import World, default_world
from .tape import Tape

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """`nats` is -ln p(text) under the generator: the least any reader can pay for it on average."""

    kind: str
    text: str
    nats: float


def split_of(text: str) -> str:
    """The split a text belongs to, decided by its hash: 80 % train, 10 % validation, 10 % test."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def write(kind: str, rng: random.Random, world: World) -> tuple[Document, Tape]:
    """One document of a kind, from any split, and the choices behind it."""
    tape = Tape(rng)
    text = WRITERS[kind][1](tape, world)
    return Document(kind, text, tape.nats), tape


def documents(
    split: str, *, kinds: Sequence[str] | None = None, seed: int = 0, world: World | None = None
) -> Iterator[Document]:
    """Endless documents of a split. Kinds appear in the proportions of WRITERS.

    A document's `nats` includes the choice of its kind. Raises ValueError for an unknown split or
    kind.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}.")
    chosen = tuple(KINDS if kinds is None else kinds)
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown or not chosen:
        raise ValueError(f"kinds={list(chosen)}: choose from {', '.join(KINDS)}.")
    return _stream(split, chosen, random.Random(f"{split}-{seed}"), world or default_world())


def _stream(
    split: str, kinds: tuple[str, ...], rng: random.Random, world: World
) -> Iterator[Document]:
    weights = [WRITERS[kind][0] for kind in kinds]
    total = sum(weights)
    while True:
        kind = rng.choices(kinds, weights)[0]
        document, _ = write(kind, rng, world)
        if split_of(document.text) == split:
            cost = document.nats - math.log(WRITERS[kind][0] / total)
            yield Document(kind, document.text, cost)
