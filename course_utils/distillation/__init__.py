"""A small student learns from a large teacher: losses, one trainer, students that start well, variants."""

from . import fit, losses, objectives, parallel, students, trainer, views
from .fit import Diverged
from .trainer import Result, train

__all__ = ["Diverged", "Result", "fit", "losses", "objectives", "parallel", "students", "train", "trainer", "views"]
