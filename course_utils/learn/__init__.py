"""What a learner meets in every lesson: checks, hints, questions, controls, progress.

`plots` loads matplotlib and `labs` what labs need; they are imported where they are asked for.
"""

import importlib
from typing import Any

from .checks.checking import check
from .checks.hints import hint
from .checks.solution import solution
from .page import progress
from .page.card import overview
from .questions import ask, predict
from .widgets import explore

__all__ = [
    "ask",
    "check",
    "explore",
    "hint",
    "labs",
    "native",
    "overview",
    "plots",
    "predict",
    "progress",
    "solution",
]

LATE = {"plots": "plots", "labs": "checks.labs", "native": "native"}


def __getattr__(name: str) -> Any:
    if name in LATE:
        return importlib.import_module(f"{__name__}.{LATE[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
