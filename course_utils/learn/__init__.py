"""What a learner meets in every lesson: checks, hints, questions, controls, progress.

`plots` is a submodule that loads matplotlib; it is imported where it is asked for.
"""

import importlib
from typing import Any

from . import progress
from .checking import check
from .hints import hint
from .questions import ask
from .show import overview
from .widgets import explore

__all__ = ["ask", "check", "explore", "hint", "overview", "plots", "progress"]


def __getattr__(name: str) -> Any:
    if name == "plots":
        return importlib.import_module(f"{__name__}.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
