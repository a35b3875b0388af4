"""A small student learns from a large teacher: losses, one trainer, students that start well, variants."""

from . import cache, compare, digits, fit, losses, narrow, objectives, parallel, students, trainer, variants, views
from .fit import Diverged
from .trainer import Result, train

__all__ = [
    "Diverged", "Result", "cache", "compare", "digits", "fit", "losses", "narrow", "objectives", "parallel", "students",
    "train", "trainer", "variants", "views",
]  # fmt: skip
