"""A small student learns from a large teacher: losses, one trainer, students that start well,
variants.
"""

from . import (
    across,
    cache,
    compare,
    compounding,
    digits,
    directions,
    fit,
    losses,
    narrow,
    objectives,
    on_policy,
    parallel,
    students,
    trainer,
    variants,
    views,
    votes,
)  # fmt: skip
from .fit import Diverged
from .trainer import Result, train

__all__ = [
    "Diverged", "Result", "across", "cache", "compare", "compounding", "digits", "directions",
    "fit", "losses", "narrow", "objectives", "on_policy", "parallel", "students", "train",
    "trainer", "variants", "views", "votes",
]  # fmt: skip
