"""Which smaller networks a larger one holds: a subnet is a choice of blocks, of MLP channels and of
key-value heads.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import anatomy


@dataclass(frozen=True, order=True)
class Subnet:
    """The numbers of the blocks that are run, in order; how many of the first MLP channels and
    key-value heads each of them has.
    """

    blocks: tuple[int, ...]
    channels: int
    heads: int


@dataclass(frozen=True)
class Space:
    """All subnets that can be made of these choices.

    Raises CompressionError for an empty one, or one given twice.
    """

    blocks: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    heads: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            choices = getattr(self, field.name)
            if not choices or len(set(choices)) != len(choices):
                raise CompressionError(
                    f"{field.name}={choices}: give at least one choice, each once."
                )

    def __len__(self) -> int:
        return len(self.blocks) * len(self.channels) * len(self.heads)

    def __iter__(self) -> Iterator[Subnet]:
        return (
            Subnet(*chosen) for chosen in itertools.product(self.blocks, self.channels, self.heads)
        )

    @property
    def largest(self) -> Subnet:
        """The largest subnet of the space."""
        return Subnet(max(self.blocks, key=len), max(self.channels), max(self.heads))

    @property
    def smallest(self) -> Subnet:
        """The smallest subnet of the space."""
        return Subnet(min(self.blocks, key=len), min(self.channels), min(self.heads))

    def draw(self, rng: random.Random) -> Subnet:
        """Each choice by chance, all alike."""
        return Subnet(rng.choice(self.blocks), rng.choice(self.channels), rng.choice(self.heads))

    def mutated(self, subnet: Subnet, rng: random.Random, rate: float = 0.4) -> Subnet:
        """The subnet with each of its choices drawn anew with probability `rate`."""
        drawn = self.draw(rng)
        return replace(
            subnet,
            **{f.name: getattr(drawn, f.name) for f in fields(subnet) if rng.random() < rate},
        )

    @staticmethod
    def crossed(one: Subnet, other: Subnet, rng: random.Random) -> Subnet:
        """Each choice from one of the two."""
        return Subnet(*(getattr(rng.choice((one, other)), f.name) for f in fields(one)))

    def narrowed(self, *free: str) -> "Space":
        """The space in which only these choices are free and the others are the largest: a stage of
        progressive shrinking.
        """
        known = [f.name for f in fields(self)]
        if unknown := [name for name in free if name not in known]:
            raise CompressionError(f"free={unknown[0]!r}: choose from {', '.join(known)}.")
        whole = self.largest
        return Space(*((getattr(self, n) if n in free else (getattr(whole, n),)) for n in known))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shape:
    """How many blocks, MLP channels, key-value heads, query heads for each of these, and numbers in
    a head a model has.
    """

    parts: anatomy.Anatomy
    blocks: int
    channels: int
    heads: int
    ratio: int
    size: int
    elastic_heads: bool


def shape_of(model: PreTrainedModel) -> Shape:
    """Raises CompressionError for a model whose blocks are not known (`anatomy.of`) or not all
    alike.
    """
    parts, found = anatomy.of(model), walk.blocks(model)
    shapes = [
        [tuple(walk.weight_of(m).shape) for m in walk.linears(block).values()] for block in found
    ]
    if any(shape != shapes[0] for shape in shapes):
        raise CompressionError(
            f"model: the blocks of {type(model).__name__} differ in shape; "
            "a supernet needs blocks that are alike."
        )
    config: Any = model.config
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    inner = walk.weight_of(found[0].get_submodule(parts.attention_out)).shape[1]
    channels = walk.weight_of(found[0].get_submodule(parts.mlp_out)).shape[1]
    # OPT and GPT-2: a head is hidden size / heads wide, and none can go
    elastic = hasattr(config, "num_key_value_heads")
    if elastic:
        anatomy.check_heads(model, parts, inner // heads)
    return Shape(parts, len(found), channels, kv, heads // kv, inner // heads, elastic)


def check(shape: Shape, subnet: Subnet) -> None:
    """Raises CompressionError for a subnet that a model of this shape does not hold."""
    blocks = list(subnet.blocks)
    if not blocks or blocks != sorted(set(blocks)) or blocks[0] < 0 or blocks[-1] >= shape.blocks:
        raise CompressionError(
            f"blocks={subnet.blocks}: choose some of 0 to {shape.blocks - 1}, ascending, each once."
        )
    for name, most in (("channels", shape.channels), ("heads", shape.heads)):
        if not isinstance(count := getattr(subnet, name), int) or not 1 <= count <= most:
            raise CompressionError(f"{name}={count}: choose a whole number from 1 to {most}.")
    if subnet.heads != shape.heads and not shape.elastic_heads:
        raise CompressionError(
            f"heads={subnet.heads}: this model's config has no head size, so all {shape.heads} "
            "heads stay; make channels and blocks elastic."
        )


def space(
    model: PreTrainedModel,
    *,
    depths: Sequence[Sequence[int]] | None = None,
    channels: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Space:
    """A space of subnets of this model; what is not given stays whole.

    Raises CompressionError for what the model does not hold.
    """
    shape = shape_of(model)
    whole = tuple(range(shape.blocks))
    made = Space(
        tuple(tuple(d) for d in depths) if depths is not None else (whole,),
        tuple(channels or (shape.channels,)),
        tuple(heads or (shape.heads,)),
    )
    for subnet in made:
        check(shape, subnet)
    return made
